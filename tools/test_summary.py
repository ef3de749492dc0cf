#!/usr/bin/env python3
"""Tests of summary.py over run folders written by hand."""
import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
import unittest

import summary
import tap_unittest

COLUMNS = ['communication_time', 'compression_time', 'decompression_time',
           'iteration_total_time', 'raw_bytes', 'payload_bytes', 'sent_bytes']
START = [9, 9, 9, 100, 1000, 1000, 1000]
STEADY = [[0.010, 0.002, 0.003, 0.1, 1000, 100, 110], [0.020, 0.002, 0.003, 0.3, 1000, 300, 330]]


class Summary(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)

    def write(self, path, text):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w') as file:
            file.write(text)

    def run_folder(self, name, rows, start=2, events=(), accuracy=True,
                   compressed='true'):
        lines = [COLUMNS] + rows
        self.write(f'{name}/benchmark/benchmark_1/csv/powerSGD_benchmark_1.csv',
                   ''.join(','.join(map(str, line)) + '\n' for line in lines))
        self.write(f'{name}/resolved.yaml', f'compression:\n  enable_powerSGD: {compressed}\n'
                   f'  start_power_iterations: {start}\n')
        self.write(f'{name}/events.jsonl', ''.join(json.dumps(e) + '\n' for e in events))
        if accuracy:
            self.write(f'{name}/accuracy/accuracy_results.csv',
                       'epoch,accuracy,elapsed_time\n0,70.5,6.5\n1,88.25,12.5\n')

    def summarize(self, name):
        return summary.summarize(os.path.join(self.root, name), name)

    def test_means_leave_the_start_phase_out(self):
        self.run_folder('a', [START, START] + STEADY)
        row, _ = self.summarize('a')
        self.assertAlmostEqual(row['iterations_per_s'], 5)
        self.assertAlmostEqual(row['wire_bytes_per_iteration'], 220)
        self.assertAlmostEqual(row['compression_ratio'], 5)
        self.assertAlmostEqual(row['exposed_ms'], 20)
        self.assertAlmostEqual(row['test_accuracy'], 88.25)
        self.assertAlmostEqual(row['seconds'], 12.5)

    def test_first_iteration_is_always_left_out(self):
        self.run_folder('a', [START] + STEADY, start=0)
        self.assertAlmostEqual(self.summarize('a')[0]['iterations_per_s'], 5)

    def test_dense_run_has_no_start_phase(self):
        self.run_folder('a', [START] + STEADY, start=100, compressed='false')
        self.assertAlmostEqual(self.summarize('a')[0]['iterations_per_s'], 5)

    def test_no_accuracy(self):
        self.run_folder('a', [START] + STEADY, start=0, accuracy=False)
        row, _ = self.summarize('a')
        self.assertEqual(summary.cell(row, 'test_accuracy'), '')
        self.assertAlmostEqual(row['seconds'], 100.4)

    def test_rank_changes(self):
        ranks = [(0, 8, 'force_max'), (40, 1, 'not_critical'), (60, 1, 'rank_cooldown'),
                 (80, 8, 'critical')]
        events = [{'event': 'rank', 'step': i, 'rank': r, 'regime': why, 'value': 0.75,
                   'threshold': 0.5} for i, r, why in ranks]
        events.insert(1, {'event': 'epoch', 'iteration': 1})
        self.run_folder('a', [START] + STEADY, start=0, events=events)
        row, changes = self.summarize('a')
        self.assertEqual(row['rank_changes'], 2)
        text = summary.spell_change(changes[1])
        self.assertIn('iteration 80: r=1 -> r=8, critical', text)
        self.assertIn('0.75', text)

    def test_first_change_without_a_decision_before(self):
        self.run_folder('a', [START] + STEADY, start=0,
                        events=[{'event': 'rank', 'step': 7, 'rank': 2, 'regime': 'critical'}])
        self.assertEqual(self.summarize('a')[0]['rank_changes'], 1)

    def test_dense_is_spelled(self):
        event = {'event': 'rank', 'step': 5, 'rank': 'dense', 'previous': 4, 'regime': 'x'}
        self.assertEqual(summary.spell_change(event), 'iteration 5: r=4 -> dense, x')

    def test_file_and_table(self):
        self.run_folder('a', [START, START] + STEADY)
        self.run_folder('b', [START, START] + STEADY, accuracy=False)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(summary.main([self.root, 'a', 'b']), 0)
        with open(os.path.join(self.root, 'summary.csv'), newline='') as file:
            rows = list(csv.reader(file))
        self.assertEqual(rows[0], list(summary.COLUMNS))
        self.assertEqual(rows[1], ['a', '5.00', '220', '5.0', '20.0', '88.25', '0', '12.5'])
        self.assertEqual(rows[2][5], '')
        self.assertEqual(out.getvalue().split('\n')[1].split(), rows[1])

    def fails(self, words):
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            self.assertEqual(summary.main([self.root, 'a']), 1)
        self.assertIn(words, error.getvalue())
        self.assertFalse(os.path.exists(os.path.join(self.root, 'summary.csv')))

    def test_no_run(self):
        self.fails('no benchmark')

    def test_nothing_after_the_start_phase(self):
        self.run_folder('a', [START])
        self.fails('no iteration after the start phase')

    def test_broken_number(self):
        self.run_folder('a', [START, START, STEADY[0][:-1] + ['x']])
        self.fails('no number in column sent_bytes')

    def test_broken_event(self):
        self.run_folder('a', [START, START] + STEADY)
        self.write('a/events.jsonl', '{"event": "rank", "ra')
        self.fails('events.jsonl:1: not a line of JSON')


if __name__ == '__main__':
    tap_unittest.main()
