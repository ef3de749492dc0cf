#!/usr/bin/env python3
"""Which calls mutate_cuda.py takes away, and what it leaves in their place."""
import unittest

import mutate_cuda
import tap_unittest

KERNEL = '''
/* __syncthreads() in a comment */
static __global__ void __launch_bounds__(256)
\tadd_up(float *data)
{
\t__syncthreads();
\t__syncwarp(lanes(data,
\t\t1));
}
'''
HOST = '''
static psgd_status stream_wait(void *self, int event)
{
\treturn check(cudaStreamWaitEvent(self, event, 0), "cudaStreamWaitEvent(");
}

psgd_status join(struct session *s)
{
\treturn s->device.ops->stream_wait(s->device.self, s->event);
}
static const struct ops ops = {.stream_wait = stream_wait};
'''


class Mutants(unittest.TestCase):
    def taken(self, text, pattern, kernel):
        return [(m.key, m.apply(text)) for m in
                mutate_cuda.find_in('x.cu', text, pattern, kernel, ([], [{}]))]

    def test_kernels(self):
        (first, without), (second, other) = self.taken(KERNEL, mutate_cuda.KERNEL_CALL, True)
        self.assertEqual(first, 'x.cu add_up __syncthreads 1')
        self.assertEqual(second, 'x.cu add_up __syncwarp 1')
        self.assertEqual(without, KERNEL.replace('\t__syncthreads();', '\t(void)0;'))
        # Lines keep their numbers.
        self.assertEqual(other, KERNEL.replace('__syncwarp(lanes(data,\n\t\t1))', '(void)0\n'))

    def test_host(self):
        (first, without), (second, other) = self.taken(HOST, mutate_cuda.HOST_CALL, False)
        self.assertEqual(first, 'x.cu stream_wait cudaStreamWaitEvent 1')
        self.assertEqual(second, 'x.cu join stream_wait 1')
        self.assertIn('return check(cudaSuccess, "cudaStreamWaitEvent(");', without)
        self.assertIn('return PSGD_OK;', other)
        self.assertIn('psgd_status stream_wait(void *self', other)

    def test_list(self):
        reasons = mutate_cuda.read_redundant(mutate_cuda.REDUNDANT)
        self.assertTrue(all(reasons.values()))
        known = {m.key for m in mutate_cuda.find_mutants(mutate_cuda.ROOT)}
        self.assertGreater(len(known), 20)
        self.assertEqual(set(reasons) - known, set())


if __name__ == '__main__':
    tap_unittest.main()
