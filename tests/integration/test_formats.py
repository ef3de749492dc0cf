#!/usr/bin/env python3
"""The files that powersgd-adaptive-rank's notebook reads, found by its globs in a campaign."""
import csv
import glob
import math
import os
import re
import statistics
import sys

sys.path.insert(0, os.path.join(os.environ['PSGD_SOURCE'], 'tools'))
import tap_unittest  # noqa: E402
from batch_support import Case  # noqa: E402

EPOCHS, ITERATIONS, WORKERS = 3, 8, 2
CONFIG = f'''model: {{name: mlp}}
dataset: {{name: synthetic, batch_size: 16, train_limit: 256, test_limit: 64}}
training: {{epochs: {EPOCHS}, learning_rate: 0.05}}
'''
METHODS = {
    'dense': 'compression: {enable_powerSGD: false}\n',
    'fixed_r1': 'compression: {use_fixed_rank: true, fixed_rank_value: 1, '
                'start_power_iterations: 2}\n',
    'adaptive': 'compression: {start_power_iterations: 2, min_rank: 1, max_rank: 4, '
                'calibration: {enable: true, warmup_iters: 1, measure_iters: 1, ranks: [1, 2, 4], '
                'use_fixed_rank_after_calibration: false}}\n'
                'accordion: {enable: true, stride_epochs: 1, force_max_epochs: 1}\n',
}
ACCURACY = ['epoch', 'epoch_loss', 'accuracy', 'elapsed_time', 'num_data_processed',
            'grad_norm_avg', 'grad_accum_norm', 'grad_change_rate']
BENCHMARK = ['epoch', 'iteration', 'communication_time', 'compression_time', 'decompression_time',
             'total_processing_time', 'iteration_total_time', 'compute_time', 'memory_usage_mb',
             'gpu_memory_usage_mb', 'compression_ratio', 'bandwidth_mbps', 'loss', 'accuracy',
             'powerSGD_active', 'current_rank']
CALIBRATION = ['rank', 't_nosync_s', 't_sync_s', 'comm_overhead_s', 'comm_ratio',
               'full_param_bytes', 'approx_comp_bytes']


def table(path):
    """Column names and rows."""
    with open(path, newline='', encoding='utf-8') as file:
        lines = list(csv.reader(file))
    return lines[0], [dict(zip(lines[0], line)) for line in lines[1:]]


def experiments_of(root):
    """As the notebook finds them: the folder three levels above that of the CSV."""
    found = {}
    for path in glob.glob(os.path.join(root, '*/benchmark/**/csv/powerSGD_benchmark_*.csv'),
                          recursive=True):
        folder = os.path.dirname(path)
        for _ in range(3):
            folder = os.path.dirname(folder)
        found.setdefault(folder, []).append(path)
    return found


def summary_of(experiments):
    """Method: seeds, and mean and deviation over them of accuracy, time and iterations/s."""
    runs = {}
    for folder, (path,) in experiments.items():
        method, seed = re.fullmatch(r'(.+)_seed(\d+)', os.path.basename(folder)).groups()
        _, epochs = table(os.path.join(folder, 'accuracy', 'accuracy_results.csv'))
        _, iterations = table(path)
        seconds = float(epochs[-1]['elapsed_time'])
        spent = sum(float(row['iteration_total_time']) for row in iterations)
        runs.setdefault(method, {})[int(seed)] = (
            float(epochs[-1]['accuracy']), seconds, len(iterations) / spent)
    return {method: (sorted(seeds), [(statistics.mean(v), statistics.stdev(v))
                                     for v in zip(*seeds.values())])
            for method, seeds in runs.items()}


class Formats(Case):
    """One campaign is looked at by all tests."""
    folder = said = None

    def setUp(self):
        super().setUp()
        for name, rest in METHODS.items():
            self.write(f'set/{name}.yaml', CONFIG + rest)
        code, self.said = self.batch('set', 'seed=0:2', '--standalone',
                                     f'--nproc-per-node={WORKERS}')
        self.assertEqual(code, 0, self.said)
        self.folder = glob.glob(self.at('results', '*'))[0]

    def check_benchmark(self, path, method):
        names, rows = table(path)
        self.assertEqual(names[:len(BENCHMARK)], BENCHMARK)
        self.assertRegex(path, r'/benchmark_(\d{8}_\d{6})/csv/powerSGD_benchmark_\1\.csv$')
        self.assertEqual([(int(row['epoch']), int(row['iteration'])) for row in rows],
                         [(i // ITERATIONS, i) for i in range(EPOCHS * ITERATIONS)])
        for row in rows:
            numbers = [float(row[name]) for name in BENCHMARK
                       if name not in ('powerSGD_active', 'gpu_memory_usage_mb')]
            self.assertTrue(all(map(math.isfinite, numbers)), row)
        active = {row['powerSGD_active'] for row in rows}
        self.assertEqual(active, {'False'} if method == 'dense' else {'False', 'True'})
        if method == 'fixed_r1':
            self.assertEqual([row['powerSGD_active'] for row in rows],
                             ['False'] * 2 + ['True'] * (len(rows) - 2))
            self.assertEqual({row['current_rank'] for row in rows[2:]}, {'1'})

    def check_others(self, folder, made, method):
        names, rows = table(os.path.join(folder, 'accuracy', 'accuracy_results.csv'))
        self.assertEqual(names[:len(ACCURACY)], ACCURACY)
        self.assertEqual([int(row['epoch']) for row in rows], list(range(EPOCHS)))
        self.assertEqual(int(rows[-1]['num_data_processed']), EPOCHS * 256)
        names, epochs = table(os.path.join(made, 'csv', 'epoch_accuracy.csv'))
        self.assertEqual(names, ['epoch', 'iteration', 'val_accuracy_pct'])
        self.assertEqual([float(row['val_accuracy_pct']) for row in epochs],
                         [float(row['accuracy']) for row in rows])
        for name in ('visualizations', 'configs'):
            self.assertTrue(os.path.isdir(os.path.join(made, name)))
        path = os.path.join(folder, 'calibration_rank_stats.csv')
        self.assertEqual(os.path.exists(path), method == 'adaptive')
        if method == 'adaptive':
            names, rows = table(path)
            self.assertEqual(names[:len(CALIBRATION)], CALIBRATION)
            self.assertEqual([row['rank'] for row in rows][:3], ['1', '2', '4'])
            sizes = [int(row['approx_comp_bytes']) for row in rows][:3]
            self.assertTrue(0 < sizes[0] < sizes[1] < sizes[2] < int(rows[0]['full_param_bytes']))

    def test_files_and_summary(self):
        experiments = experiments_of(self.folder)
        self.assertEqual(sorted(map(os.path.basename, experiments)),
                         sorted(f'{m}_seed{s}' for m in METHODS for s in (0, 1)))
        for folder, paths in experiments.items():
            self.assertEqual(len(paths), 1)
            method = os.path.basename(folder).rsplit('_seed', 1)[0]
            self.check_benchmark(paths[0], method)
            self.check_others(folder, os.path.dirname(os.path.dirname(paths[0])), method)
        summary = summary_of(experiments)
        self.assertEqual(sorted(summary), sorted(METHODS))
        for method, (seeds, values) in summary.items():
            self.assertEqual(seeds, [0, 1])
            # the campaign's own table says the same
            lines = [line.split() for line in self.said.splitlines()
                     if re.match(rf' *\d+  {method}_seed\d +finished', line)]
            accuracy, seconds = ([float(line[i]) for line in lines] for i in (3, 4))
            self.assertAlmostEqual(values[0][0], statistics.mean(accuracy), delta=0.01)
            self.assertAlmostEqual(values[0][1], statistics.stdev(accuracy), delta=0.02)
            self.assertAlmostEqual(values[1][0], statistics.mean(seconds), delta=1.0)
            self.assertGreater(values[2][0], 0)


if __name__ == '__main__':
    tap_unittest.main()
