"""The first Q of libpsgd's PowerSGD, made here once more from its description: Philox4x32-10 under
the seed, at the counter (row, column, tensor, draw); a value is the sum of the eight 16-bit halves
of its output less their mean."""
import numpy

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = numpy.uint64(0xffffffff)
HALF = numpy.uint64(32)


def philox(key, counter):
    """Four arrays of 32-bit words, for four of them."""
    a, b, c, d = (numpy.asarray(word, dtype=numpy.uint64) for word in counter)
    keys = [key & 0xffffffff, key >> 32]
    for _ in range(10):
        first, second = numpy.uint64(MULTIPLIERS[0]) * a, numpy.uint64(MULTIPLIERS[1]) * c
        a, b, c, d = ((second >> HALF) ^ b ^ numpy.uint64(keys[0]), second & LOW,
                      (first >> HALF) ^ d ^ numpy.uint64(keys[1]), first & LOW)
        keys = [(word + step) & 0xffffffff for word, step in zip(keys, WEYL)]
    return a, b, c, d


def initial_q(tensor, rows, columns, seed=42, draw=0):
    """rows x columns, float32, not yet orthonormal."""
    row, column = numpy.meshgrid(numpy.arange(rows), numpy.arange(columns), indexing='ij')
    words = philox(seed, (row, column, numpy.full_like(row, tensor),
                          numpy.full_like(row, draw)))
    total = sum((word & numpy.uint64(0xffff)) + (word >> numpy.uint64(16)) for word in words)
    return (total.astype(numpy.int64) - 8 * 65535 // 2).astype(numpy.float32)
