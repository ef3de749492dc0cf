#!/usr/bin/env python3
"""Tests of figures.py, report.py and the notebook, over run folders written by hand."""
import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import tempfile
import types
import unittest
from unittest import mock

import report
import summary
import tap_unittest

THERE = importlib.util.find_spec('matplotlib') is not None
if THERE:
    CACHE = tempfile.TemporaryDirectory()
    os.environ.setdefault('MPLCONFIGDIR', CACHE.name)
    import figures
NOTEBOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'notebook',
                        'viz_seed_average_main.ipynb')
BENCHMARK = ('epoch,iteration,communication_time,compression_time,decompression_time,'
             'iteration_total_time,compute_time,current_rank,sync_time\n')


class Folders(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)

    def write(self, path, text):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)

    def run_folder(self, name, accuracies, ranks=(0, 4, 4, 1), link=20.0, ms=100):
        """Two iterations an epoch; the first one is left out of times."""
        self.write(f'{name}/resolved.yaml',
                   f'network_limits:\n  enable: true\n  egress_mbps: {link}\n' if link else '\n')
        self.write(f'{name}/events.jsonl', '')
        rows = ''.join(f'{i // 2},{i},{0.3 * ms / 1000},0.002,0.003,{(ms if i else 9000) / 1000},'
                       f'0.05,{rank},0\n' for i, rank in enumerate(ranks))
        self.write(f'{name}/benchmark/benchmark_1/csv/powerSGD_benchmark_1.csv', BENCHMARK + rows)
        self.write(f'{name}/accuracy/accuracy_results.csv',
                   'epoch,accuracy,elapsed_time,grad_change_rate\n' +
                   ''.join(f'{i},{a},{60 * (i + 1)},{0.25 * i if i else ""}\n'
                           for i, a in enumerate(accuracies)))

    def page(self, *more):
        out = os.path.join(self.root, 'page.html')
        with contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()) as error:
            code = report.main([*(more or [self.root]), '-o', out])
        if code:
            return code, error.getvalue()
        with open(out, encoding='utf-8') as file:
            return code, file.read()


@unittest.skipUnless(THERE, 'no matplotlib')
class Figures(Folders):
    def lines(self, figure):
        return {line.get_label(): line for line in figure.axes[0].get_lines()}

    def test_means_over_the_seeds(self):
        self.run_folder('a/fixed_seed0', [40, 60])
        self.run_folder('a/fixed_seed1', [50, 64, 70])
        runs = figures.load(self.root)
        figure = figures.accuracy_by_epoch(runs)
        line = self.lines(figure)['fixed']
        self.assertEqual(list(line.get_xdata()), [1, 2])
        self.assertEqual(list(line.get_ydata()), [45, 62])
        band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
        self.assertAlmostEqual(max(band) - 62, 8 ** 0.5)
        line = self.lines(figures.accuracy_by_minutes(runs))['fixed']
        self.assertEqual(list(line.get_xdata()), [1, 2])
        row, = figures.table(runs)
        self.assertEqual(row, ('fixed', '20 Mbit/s', '2', '65.00 ± 7.07', '65.00 ± 7.07',
                               '2.5 ± 0.7', '10.00 ± 0.00'))

    def test_one_seed_has_no_deviation(self):
        self.run_folder('dense_seed0', [40, 30])
        runs = figures.load(self.root)
        self.assertEqual(figures.table(runs)[0][3:], ('40.00', '30.00', '2.0', '10.00'))
        self.assertFalse(figures.accuracy_by_epoch(runs).axes[0].collections)

    def test_speed(self):
        self.run_folder('x_seed0', [40], ms=100)
        self.run_folder('x_seed1', [40], ms=50)
        point = figures.speed_and_accuracy(figures.load(self.root)).axes[0].containers[0]
        self.assertAlmostEqual(point.lines[0].get_xdata()[0], 15)
        self.assertAlmostEqual(point.lines[0].get_ydata()[0], 40)

    def test_parts_of_an_iteration(self):
        self.run_folder('a_seed0', [40])
        self.run_folder('b_seed0', [40], ms=200)
        axes = figures.time_breakdown(figures.load(self.root)).axes[0]
        bars = {bar.get_label(): [b.get_height() for b in bar] for bar in axes.containers}
        self.assertEqual(sorted(bars), ['communication', 'compression', 'compute',
                                        'decompression'])
        self.assertAlmostEqual(bars['communication'][1], 60)
        self.assertEqual([text.get_text() for text in axes.texts], ['85.0', '115.0'])

    def test_ranks(self):
        self.run_folder('adaptive_seed0', [40, 50, 60], ranks=(0, 4, 4, 1, 1, 1))
        self.run_folder('fixed_seed0', [40, 50], ranks=(0, 4, 4, 4))
        run, = figures.changing(figures.load(self.root))
        self.assertEqual(run.method, 'adaptive')
        self.assertEqual(run.ranks, [(0, 0), (0.5, 4), (1.5, 1)])
        rank, change = (axes.get_lines()[0] for axes in figures.rank_over_time(run).axes)
        self.assertEqual(list(rank.get_xdata()), [0, 0.5, 1.5, 3])
        self.assertEqual(list(rank.get_ydata()), [0, 4, 1, 1])
        self.assertEqual(list(change.get_xdata()), [2, 3])
        self.assertEqual(list(change.get_ydata()), [0.25, 0.5])

    def test_links_are_apart(self):
        self.run_folder('a_mbps20_seed0', [40])
        self.run_folder('a_mbps5_seed0', [40], link=5.0)
        self.run_folder('a_seed0', [40], link=None)
        runs = figures.load(self.root)
        self.assertEqual(figures.links(runs), [None, 20, 5])
        self.assertEqual([row[1] for row in figures.table(runs)],
                         ['no limit', '20 Mbit/s', '5 Mbit/s'])

    def test_a_run_counts_once(self):
        self.run_folder('monday/a_seed0', [40])
        self.run_folder('tuesday/a_seed0', [40])
        with self.assertRaisesRegex(summary.Unreadable, 'tuesday/a_seed0: .*monday/a_seed0'):
            figures.load(self.root)

    def test_workers_are_not_mixed(self):
        for seed, workers in enumerate((2, 2, 1)):
            self.run_folder(f'a_seed{seed}', [40])
            self.write(f'a_seed{seed}/events.jsonl',
                       f'{{"event": "start", "workers": {workers}}}\n')
        code, said = self.page()
        self.assertEqual(code, 1)
        self.assertRegex(said, r'^report: \S+/a_seed2 has workers: 1, but \S+/a_seed0 has 2: .*\n$')
        shutil.rmtree(os.path.join(self.root, 'a_seed2'))
        self.assertEqual(self.page()[0], 0)

    def test_a_page_that_cannot_be_written(self):
        self.run_folder('a_seed0', [40])
        out = os.path.join(self.root, 'none/x.html')
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(report.main([self.root, '-o', out]), 1)
        self.assertEqual(said.getvalue(), f'report: {out}: No such file or directory\n')

    def test_the_page(self):
        self.run_folder('<b>_seed0', [40, 50])
        self.run_folder('dense_seed0', [40, 50], ranks=(0, 0, 0, 0), link=None)
        code, text = self.page()
        self.assertEqual(code, 0)
        self.assertEqual(text.count('<svg'), 2 * 4 + 1)
        self.assertIn('<td>&lt;b&gt;</td>', text)
        self.assertNotIn('<script', text)
        self.assertFalse(re.search(r'(?:src|href)="(?!#|http://www.w3.org/)', text))

    def test_nothing_to_show(self):
        self.write('a_seed0/resolved.yaml', '')
        self.write('a_seed0/events.jsonl', '')
        code, said = self.page()
        self.assertEqual(code, 1)
        self.assertIn('no run folder with a finished epoch', said)
        self.run_folder('a_seed0', [40], ranks=())
        self.assertIn('no iteration', self.page()[1])
        self.run_folder('a_seed0', ['forty'])
        self.assertIn('accuracy_results.csv: no number in column accuracy', self.page()[1])

    def test_the_notebook(self):
        self.run_folder('adaptive_seed0', [40, 50])
        shown = []
        display = types.ModuleType('IPython.display')
        display.display = shown.append
        with open(NOTEBOOK, encoding='utf-8') as file:
            cells = json.load(file)['cells']
        names, results, here = {}, [], os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(os.path.dirname(NOTEBOOK))
        with mock.patch.dict(os.environ, RESULT_ROOTS=self.root), \
                mock.patch.dict(sys.modules, {'IPython.display': display}), \
                contextlib.redirect_stdout(io.StringIO()) as said:
            for cell in cells:
                text = ''.join(cell['source'])
                if cell['cell_type'] == 'code':
                    self.assertEqual((cell['outputs'], cell['execution_count']), ([], None))
                    lines = re.sub(r'^%.*$', '', text, flags=re.M).rstrip().split('\n')
                    # What a cell ends with is shown.
                    if lines[-1].startswith('figures.'):
                        lines[-1] = '_ = ' + lines[-1]
                    exec('\n'.join(lines), names)
                    results.append(names.pop('_', None))
        self.assertIn('1 runs over 20 Mbit/s', said.getvalue())
        self.assertIn('adaptive | 20 Mbit/s | 1 | 50.00', said.getvalue())
        self.assertEqual(sum(result is not None for result in results), 4)
        self.assertEqual(len(shown), 1)


class Without(Folders):
    def test_no_matplotlib(self):
        with mock.patch.dict(sys.modules, {'figures': None}):
            code, said = self.page()
        self.assertEqual(code, 1)
        self.assertRegex(said, r'^report: .* in \S+: .*matplotlib|tools/report.py\n$')

    def test_another_python_may_have_it(self):
        for code, said in ((0, ' has it, run '), (1, 'install python3-matplotlib')):
            other = os.path.join(self.root, f'python{code}')
            self.write(other, f'#!/bin/sh\nexit {code}\n')
            os.chmod(other, 0o755)
            self.assertIn(said, report.remedy(other))
        self.assertEqual(report.remedy(sys.executable), 'install python3-matplotlib')


if __name__ == '__main__':
    tap_unittest.main()
