#!/usr/bin/env python3
"""The comparison with PyTorch's hook: that both give the same, and that it would notice if not.
Times are for people, and not judged here. PSGD_SOURCE and PSGD_LIBRARY as in test_ddp.py."""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.environ['PSGD_SOURCE']
BENCH = os.path.join(SOURCE, 'tools', 'bench')
sys.path[:0] = [os.path.join(SOURCE, 'tools'), BENCH]
import tap_unittest  # noqa: E402

MISSING = next((f'{sys.executable} has no module {name} (Debian: python3-{name})'
                for name in ('torch', 'numpy') if not importlib.util.find_spec(name)), None)


@unittest.skipIf(MISSING, MISSING)
class Compare(unittest.TestCase):
    def compare(self, *arguments):
        """Exit code, output and rows."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'rows.json')
            done = subprocess.run(
                [sys.executable, '-B', os.path.join(BENCH, 'compare_pytorch'), '--json', path,
                 '--steps', '1', *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, check=False, timeout=600)
            self.assertTrue(os.path.exists(path), done.stdout)
            with open(path, encoding='utf-8') as file:
                return done.returncode, done.stdout, json.load(file)['rows']

    def assert_agreement(self, *arguments):
        code, output, rows = self.compare(*arguments)
        self.assertEqual(code, 0, output)
        for row in rows:
            print(f'# r = {row["rank"]}: {row["deviation"]:.1e}')
            for worker in row['workers']:
                self.assertEqual(len(worker['deviations']), 4)
                self.assertTrue(all(0.0 <= one <= 1e-4 for one in worker['deviations']), row)
        return rows

    def test_outputs_agree(self):
        rows = self.assert_agreement('--model', 'small')
        self.assertEqual([row['rank'] for row in rows], [1, 2, 4, 8])

    def test_outputs_of_resnet18_agree(self):
        row, = self.assert_agreement('--model', 'resnet18', '--ranks', '4')
        self.assertLess(row['memory_ratio'], 0.6)

    def test_outputs_in_several_buckets_agree(self):
        row, = self.assert_agreement('--model', 'resnet18', '--ranks', '2', '--bucket-mb', '8')
        self.assertGreater(row['report']['n_buckets'], 3)

    def test_a_difference_is_noticed(self):
        code, output, _ = self.compare('--model', 'small', '--ranks', '2', '--limit', '1e-12')
        self.assertEqual(code, 1)
        self.assertTrue(output.endswith('outputs differ by more than 1e-12 at r = 2\n'), output)


@unittest.skipIf(MISSING, MISSING)
class Philox(unittest.TestCase):
    def test_known_answers(self):
        """Those that come with Random123."""
        from compare_pytorch_philox import philox
        full = 0xffffffff
        for key, counter, answer in (
                (0, (0, 0, 0, 0), (0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8)),
                (full << 32 | full, (full,) * 4, (0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd)),
                (0x299f31d0 << 32 | 0xa4093822, (0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344),
                 (0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1))):
            self.assertEqual(tuple(int(word) for word in philox(key, counter)), answer)


if __name__ == '__main__':
    tap_unittest.main()
