#!/usr/bin/env python3
"""What the quickstart shows, on three seeds and against theory. Minutes, so in the slow suite.

PSGD_BIN names the command, PSGD_SOURCE the root of the tree.
"""
import os
import statistics
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.environ['PSGD_SOURCE']
sys.path.insert(0, os.path.join(SOURCE, 'tools'))
import summary  # noqa: E402
import tap_unittest  # noqa: E402

SEEDS = (1, 2, 3)
FIXED = ('fixed_r1', 'fixed_r4', 'fixed_r8')


def run(folder, method, *overrides):
    """Runs a quickstart configuration; its run folder."""
    made = os.path.join(folder, method + '_' + str(len(os.listdir(folder))))
    command = [os.environ['PSGD_BIN'], 'run', '--standalone', '--nproc-per-node', '2',
               os.path.join(SOURCE, 'configs', 'quickstart', method + '.yaml'),
               'save_dir=' + made, *overrides]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise AssertionError(f'{method} ended with {done.returncode}:\n{done.stdout[-2000:]}')
    return made


def column(made, name, skip):
    path, rows = summary.benchmark_of(made)
    return [summary.number(row, name, path) for row in rows[skip:]]


def say(text):
    print('#', text, flush=True)


class Quickstart(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def accuracy(self, method, seed):
        made = run(self.folder.name, method, f'seed={seed}', f'powerSGD.random_seed={seed}')
        row, changes = summary.summarize(made, method)
        say(f'{method}, seed {seed}: {row["test_accuracy"]:.2f} %, {len(changes)} rank changes')
        return row['test_accuracy'], changes

    def test_adaptive_learns_as_well_as_fixed_ranks(self):
        best = max(statistics.mean(self.accuracy(method, seed)[0] for seed in SEEDS)
                   for method in FIXED)
        adaptive = []
        for seed in SEEDS:
            accuracy, changes = self.accuracy('adaptive', seed)
            adaptive.append(accuracy)
            self.assertGreaterEqual(len(changes), 2)
            for change in changes:
                self.assertIn(change['regime'], ('force_max', 'critical', 'not_critical',
                                                 'link_up', 'link_down', 'link_prior'))
        say(f'adaptive {statistics.mean(adaptive):.2f} %, best fixed rank {best:.2f} %')
        self.assertGreaterEqual(statistics.mean(adaptive), 87.0)
        self.assertGreaterEqual(statistics.mean(adaptive), best - 1.0)

    def test_network_costs_at_most_a_fifth(self):
        """Against the same ranks, replayed with no network; in turn, as machines are noisy."""
        ratios = []
        for _ in range(3):
            slow = run(self.folder.name, 'adaptive', 'training.epochs=7')
            fast = run(self.folder.name, 'adaptive', 'training.epochs=7',
                       'network_limits.enable=false', 'rank_control.cap=none',
                       'rank_control.choice=replay',
                       'rank_control.replay=' + os.path.join(slow, 'events.jsonl'))
            self.assertEqual(column(slow, 'loss', 0), column(fast, 'loss', 0))
            times = [statistics.mean(column(made, 'iteration_total_time', 10))
                     for made in (slow, fast)]
            ratios.append(times[0] / times[1])
            say(f'{times[0] * 1e3:.1f} ms and {times[1] * 1e3:.1f} ms without network')
        say(f'ratio {statistics.median(ratios):.3f}')
        self.assertLessEqual(statistics.median(ratios), 1.2)

    def test_dense_takes_what_theory_says(self):
        made = run(self.folder.name, 'dense')
        seconds = statistics.median(column(made, 'iteration_total_time', 2))
        compute = statistics.median(column(made, 'compute_time', 2))
        size = column(made, 'raw_bytes', 2)[0]
        theory = 2 * (2 - 1) / 2 * size * 8 / 100e6 + compute
        say(f'{seconds * 1e3:.1f} ms, theory {theory * 1e3:.1f} ms')
        self.assertAlmostEqual(seconds / theory, 1.0, delta=0.1)


if __name__ == '__main__':
    tap_unittest.main()
