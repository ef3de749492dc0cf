#!/usr/bin/env python3
"""The comparison of the trainer's ResNet-18 with PyTorch's: that they are the same, and that it
would notice if not. Times are for people, and not judged here. IMAGE_STEPS names our side."""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.environ['PSGD_SOURCE']
sys.path.insert(0, os.path.join(SOURCE, 'tools'))
import tap_unittest  # noqa: E402

SCRIPT = os.path.join(SOURCE, 'tools', 'bench', 'compare_torch_resnet')
MISSING = next((f'{sys.executable} has no module {name} (Debian: python3-{name})'
                for name in ('torch', 'numpy') if not importlib.util.find_spec(name)), None)


@unittest.skipIf(MISSING, MISSING)
class Compare(unittest.TestCase):
    def compare(self, *arguments):
        """Exit code, output and what was measured."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'seen.json')
            done = subprocess.run([sys.executable, '-B', SCRIPT, '--json', path, *arguments],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)
            self.assertTrue(os.path.exists(path), done.stdout)
            with open(path, encoding='utf-8') as file:
                return done.returncode, done.stdout, json.load(file)

    def test_training_agrees(self):
        code, output, seen = self.compare()
        for line in output.splitlines()[-3:]:
            print('#', line)
        self.assertEqual(code, 0, output)
        self.assertEqual(len(seen['steps']), 20)
        for name in ('loss_deviation', 'mean_deviation', 'variance_deviation'):
            self.assertGreaterEqual(seen[name], 0.0)
            self.assertLess(seen[name], 1e-3)

    def assert_noticed(self, rule, measure):
        code, output, seen = self.compare('--alter', rule, '--batch', '8', '--steps', '8')
        self.assertEqual(code, 1, output)
        self.assertGreater(seen[measure], 1e-3)

    def test_another_momentum_of_batch_norm_is_noticed(self):
        self.assert_noticed('bn-momentum', 'variance_deviation')

    def test_a_missing_weight_decay_is_noticed(self):
        self.assert_noticed('weight-decay', 'params_deviation')

    def test_another_place_of_the_stride_is_noticed(self):
        self.assert_noticed('stride', 'loss_deviation')


if __name__ == '__main__':
    tap_unittest.main()
