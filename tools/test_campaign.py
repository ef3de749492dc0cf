#!/usr/bin/env python3
"""Tests of campaign.py over run folders written by hand."""
import contextlib
import io
import os
import shutil
import tempfile
import unittest

import campaign
import summary
import tap_unittest

LIMITED = 'network_limits:\n  enable: true\n  method: "model"\n  egress_mbps: {}\n'
FREE = 'network_limits:\n  enable: false\n  egress_mbps: 20.0\n'


class Campaign(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)

    def write(self, path, text):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w') as file:
            file.write(text)

    def run_folder(self, name, epochs, link=20.0, rank=2):
        """epochs: pairs of elapsed time and accuracy."""
        limits = FREE if link is None else LIMITED.format(link)
        self.write(f'{name}/resolved.yaml', f'seed: 1\n{limits}communication:\n  overlap: true\n')
        self.write(f'{name}/status.json', '{"state": "finished"}')
        self.write(f'{name}/benchmark/benchmark_1/csv/powerSGD_benchmark_1.csv',
                   'iteration_total_time,sent_bytes,current_rank\n'
                   f'0.5,3000000,0\n0.5,1000000,{rank}\n')
        self.write(f'{name}/accuracy/accuracy_results.csv', 'epoch,accuracy,elapsed_time\n' +
                   ''.join(f'{i},{a},{t}\n' for i, (t, a) in enumerate(epochs)))

    def rows(self, target=50):
        return {(row['method'], row['mbps']): row for row in campaign.tabulate(self.root, target)}

    def test_seeds_are_taken_together(self):
        self.run_folder('a/fixed_r1_mbps20_seed0', [(10, 40), (20, 60)])
        self.run_folder('a/fixed_r1_mbps20_seed1', [(10, 50), (20, 64)])
        row = self.rows()['fixed_r1', '20']
        self.assertEqual(row['seeds'], 2)
        self.assertAlmostEqual(row['accuracy'], 62)
        self.assertAlmostEqual(row['accuracy_sd'], 8 ** 0.5)
        self.assertAlmostEqual(row['target_s'], (15 + 10) / 2)
        self.assertAlmostEqual(row['megabytes'], 4)
        self.assertAlmostEqual(row['iterations_per_s'], 2)
        self.assertAlmostEqual(row['mean_rank'], 2)

    def test_a_run_that_misses_the_target_is_not_averaged_away(self):
        self.run_folder('lgreco_seed0', [(10, 60)])
        self.run_folder('lgreco_seed1', [(10, 49)])
        row = self.rows()['lgreco', '20']
        self.assertEqual(row['reached'], '1/2')
        self.assertIsNone(row['target_s'])

    def test_best_fixed_rank_is_of_the_same_link(self):
        self.run_folder('fixed_r1_seed0', [(10, 50)])
        self.run_folder('fixed_r4_seed0', [(8, 50)])
        self.run_folder('fixed_r1_x_mbps5_seed0', [(100, 50)], link=5.0)
        self.run_folder('live_epochnorm_seed0', [(9, 50)])
        self.run_folder('fixed_r8_mbps5_seed0', [(2, 50)], link=5.0)
        rows = self.rows()
        self.assertAlmostEqual(rows['live_epochnorm', '20']['over_best_fixed'], 9 / 8)
        self.assertAlmostEqual(rows['fixed_r8', '5']['over_best_fixed'], 1)

    def test_links(self):
        self.run_folder('dense_seed0', [(10, 60)], link=None, rank=0)
        row = self.rows()['dense', 'no limit']
        self.assertIsNone(row['mean_rank'])
        self.assertIsNone(row['over_best_fixed'])

    def test_a_run_within_a_run_folder_is_not_one(self):
        self.run_folder('dense_seed0', [(10, 60)])
        self.run_folder('dense_seed0/copy_seed1', [(10, 60)])
        self.assertEqual(self.rows()['dense', '20']['seeds'], 1)

    def test_nothing_there(self):
        with self.assertRaisesRegex(summary.Unreadable, 'ends in _seed'):
            campaign.tabulate(self.root, 50)
        self.write('dense_seed0/resolved.yaml', FREE)
        self.write('dense_seed0/status.json', '{"state": "finished"}')
        with self.assertRaisesRegex(summary.Unreadable, 'accuracy_results.csv'):
            campaign.tabulate(self.root, 50)

    def test_unfinished_runs_are_refused(self):
        self.run_folder('dense_seed0', [(10, 60)])
        self.run_folder('dense_seed1', [(10, 60)])
        for text, said in (('{"state": "running"}', "dense_seed1: .*'running'"),
                           ('{"state": "failed"}', "dense_seed1: .*'failed'"),
                           ('[]', 'dense_seed1: .*None'), ('{', 'dense_seed1/status.json: ')):
            self.write('dense_seed1/status.json', text)
            with self.assertRaisesRegex(summary.Unreadable, said):
                campaign.tabulate(self.root, 50)
        os.remove(os.path.join(self.root, 'dense_seed1/status.json'))
        with self.assertRaisesRegex(summary.Unreadable, 'dense_seed1/status.json: '):
            campaign.tabulate(self.root, 50)

    def test_a_run_counts_once(self):
        self.run_folder('monday/dense_seed0', [(10, 60)])
        self.run_folder('monday/dense_seed1', [(10, 60)])
        self.run_folder('tuesday/dense_seed0', [(10, 60)], link=5.0)
        self.assertEqual(self.rows()['dense', '20']['seeds'], 2)
        self.run_folder('tuesday/dense_mbps20_seed0', [(10, 60)])
        with self.assertRaisesRegex(summary.Unreadable, 'tuesday/dense_mbps20_seed0: .*'
                                    'monday/dense_seed0 has the same method, link and seed'):
            campaign.tabulate(self.root, 50)

    def test_workers_are_not_mixed(self):
        for seed, workers in enumerate((2, 2, 1)):
            self.run_folder(f'dense_seed{seed}', [(10, 60)])
            self.write(f'dense_seed{seed}/events.jsonl',
                       f'{{"event": "start", "workers": {workers}}}\n')
        with self.assertRaisesRegex(summary.Unreadable,
                                    'dense_seed2 has workers: 1, but .*seed0 has 2: '):
            campaign.tabulate(self.root, 50)

    def test_a_table_that_cannot_be_written(self):
        self.run_folder('dense_seed0', [(10, 60)])
        out = os.path.join(self.root, 'none/x.csv')
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(campaign.main([self.root, '--target', '50', '--csv', out]), 1)
        self.assertEqual(said.getvalue(), f'campaign: {out}: No such file or directory\n')

    def test_the_command(self):
        self.run_folder('dense_seed0', [(10, 60)])
        out, path = io.StringIO(), os.path.join(self.root, 'table.csv')
        with contextlib.redirect_stdout(out):
            code = campaign.main([self.root, '--target', '50', '--csv', path])
        self.assertEqual(code, 0)
        self.assertIn('dense', out.getvalue())
        with open(path) as file:
            self.assertEqual(len(file.readlines()), 2)
        with contextlib.redirect_stderr(io.StringIO()) as error:
            self.assertEqual(campaign.main([os.path.join(self.root, 'no'), '--target', '5']), 1)
        self.assertIn('campaign: ', error.getvalue())


if __name__ == '__main__':
    tap_unittest.main()
