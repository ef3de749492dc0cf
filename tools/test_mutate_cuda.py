#!/usr/bin/env python3
"""Which calls mutate_cuda.py takes away, and what it leaves in their place."""
import os
import sys
import tempfile
import time
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

    def test_copy(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ('tree/build/meson-private', 'tree/.git', 'tree/lib/build'):
                os.makedirs(os.path.join(folder, name))
            mutate_cuda.copy_tree(os.path.join(folder, 'tree'), os.path.join(folder, 'copy'))
            self.assertEqual(os.listdir(os.path.join(folder, 'copy')), ['lib'])
            self.assertEqual(os.listdir(os.path.join(folder, 'copy/lib')), ['build'])


class FewPrograms(mutate_cuda.Build):
    """Test programs that are there without a build."""

    def __init__(self, folder, texts):
        self.tree, self.folder, self.seconds = folder, folder, {}
        self.texts = texts
        for name, text in texts.items():
            with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
                os.fchmod(file.fileno(), 0o755)
                file.write(f'#!/bin/sh\n{text}\n')

    def programs(self, patterns):
        return [name for name in self.texts if name in patterns]


class Noticing(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        with open(os.path.join(self.temporary.name, 'x.cu'), 'w', encoding='utf-8') as file:
            file.write(KERNEL)

    def noticed(self, *texts, environments=None):
        """What notices that the first barrier is gone, of programs a, b and so on."""
        builds = [FewPrograms(self.temporary.name, dict(zip('abc', texts)))]
        first = next(mutate_cuda.find_in('x.cu', KERNEL, mutate_cuda.KERNEL_CALL, True,
                                         ('abc', environments or [{}])))
        builds[0].check_untouched([first])
        by = mutate_cuda.try_out(first, builds)
        with open(os.path.join(self.temporary.name, 'x.cu'), encoding='utf-8') as file:
            self.assertEqual(file.read(), KERNEL)
        return by

    LOOKS = "grep -q '^.__syncthreads' x.cu"

    def test_noticed(self):
        self.assertEqual(self.noticed('true', self.LOOKS), 'b (fails)')
        self.assertEqual(self.noticed(f'test "$CUDA_SHIM_LAZY" != 1 || {self.LOOKS}',
                                      environments=[{}, {'CUDA_SHIM_LAZY': '1'}]),
                         'a lazy=1 (fails)')

    def test_survives(self):
        self.assertIsNone(self.noticed('true', 'exit 77'))

    def test_fails_as_it_is(self):
        with self.assertRaises(RuntimeError):
            self.noticed('true', 'false')

    def test_stops_at_the_first(self):
        begun = time.monotonic()
        by = self.noticed(f'{self.LOOKS} || {{ echo not ok 1; exec sleep 60; }}',
                          f'{self.LOOKS} || exec sleep 60')
        self.assertEqual(by, 'a (fails)')
        self.assertLess(time.monotonic() - begun, 50)

    def test_what_was_forked_ends(self):
        begun = time.monotonic()
        forks = (f'exec {sys.executable} -c "import os, time\n'
                 'os.fork() or os.setpgid(0, 0)\n'
                 'time.sleep(60)"')
        by = self.noticed(f'{self.LOOKS} || {{ sleep 1; false; }}', f'{self.LOOKS} || {forks}')
        self.assertEqual(by, 'a (fails)')
        self.assertLess(time.monotonic() - begun, 50)

    def test_hangs(self):
        for name, value in (('HANGS_AFTER', 0), ('AND_SECONDS', 1)):
            self.addCleanup(setattr, mutate_cuda, name, getattr(mutate_cuda, name))
            setattr(mutate_cuda, name, value)
        self.assertEqual(self.noticed(f'{self.LOOKS} || exec sleep 60'), 'a (hangs)')


if __name__ == '__main__':
    tap_unittest.main()
