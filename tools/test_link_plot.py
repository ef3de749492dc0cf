#!/usr/bin/env python3
"""Tests of link_plot.py over a run folder written by hand."""
import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import unittest
import xml.etree.ElementTree as xml

import link_plot
import tap_unittest

SVG = '{http://www.w3.org/2000/svg}'


class LinkPlot(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        self.out = os.path.join(self.root, 'figure.svg')

    def write(self, path, text):
        path = os.path.join(self.root, 'run', path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)

    def run_folder(self, rows, events=(), workers=2):
        """Rows of rank, configured and measured."""
        lines = ['iteration,current_rank,configured_mbps,bandwidth_mbps']
        lines += [f'{i},' + ','.join(map(str, row)) for i, row in enumerate(rows)]
        self.write('benchmark/benchmark_1/csv/powerSGD_benchmark_1.csv', '\n'.join(lines) + '\n')
        self.write('manifest.json', json.dumps({'workers': workers}))
        self.write('events.jsonl', ''.join(json.dumps(event) + '\n' for event in events))

    def draw(self, *more):
        code = link_plot.main([os.path.join(self.root, 'run'), '-o', self.out, *more])
        self.assertEqual(code, 0)
        return xml.parse(self.out).getroot()

    def of_class(self, root, name):
        return [element for element in root.iter() if element.get('class') == name]

    def levels(self, root, name):
        """The heights of a line's level parts, in their order."""
        (path,) = self.of_class(root, name)
        return [float(y) for y in re.findall(r'(?:V|M[\d.]+ )([\d.]+)', path.get('d'))]

    def test_scales(self):
        """A factor of the bandwidth, or of the rank, is the same way wherever it is."""
        self.run_folder([(8, 200, 190)] * 5 + [(4, 20, 19)] * 5 + [(2, 2, 1.9)] * 5)
        root = self.draw('--title', 'a < b')
        first, second, third = self.levels(root, 'configured')
        self.assertLess(first, second)
        self.assertAlmostEqual(second - first, third - second, delta=0.2)
        first, second, third = self.levels(root, 'rank')
        self.assertAlmostEqual(second - first, third - second, delta=0.2)
        (line,) = self.of_class(root, 'measured')
        points = [tuple(map(float, point.split(','))) for point in line.get('points').split()]
        self.assertEqual(len(points), 15)
        self.assertLess(points[0][0], points[14][0])
        texts = [element.text for element in root.iter(SVG + 'text')]
        for text in ('a < b', 'iteration', 'matrix rank', 'Mbit/s (log scale)', 'configured',
                     'measured of messages', 'rank in force', '100', '8', '4', '2', '10'):
            self.assertIn(text, texts)

    def test_dense_is_above_every_rank(self):
        self.run_folder([(0, 200, 190), (16, 200, 190)])
        dense, most = self.levels(self.draw(), 'rank')
        self.assertLess(dense, most)

    def test_nothing_where_there_is_no_limit(self):
        self.run_folder([(1, '', 5), (1, 50, 5), (1, '', 5), (1, 50, 5)])
        (path,) = self.of_class(self.draw(), 'configured')
        self.assertEqual(path.get('d').count('M'), 2)
        self.run_folder([(1, '', 5)] * 4)
        self.assertFalse(self.of_class(self.draw(), 'configured'))

    def test_what_the_cap_knew(self):
        """Of a worker's link, without decisions that were undone or that knew nothing."""
        events = [{'event': 'start'}, {'event': 'rank', 'step': 0, 'link_mbps': None},
                  {'event': 'rank', 'step': 1, 'link_mbps': 75},
                  {'event': 'rank', 'step': 3, 'link_mbps': 7},
                  {'event': 'resume', 'iteration': 2}]
        self.run_folder([(1, 100, 100)] * 4, events, workers=3)
        root = self.draw()
        (circle,) = self.of_class(root, 'fitted')
        self.assertEqual(circle.get('cy'), f'{self.levels(root, "configured")[0]:.1f}')

    def test_many_iterations_are_medians(self):
        self.run_folder([(1, 100, 1000 if i % 7 == 0 else 90) for i in range(1600)])
        root = self.draw()
        (line,) = self.of_class(root, 'measured')
        points = line.get('points').split()
        self.assertEqual(len(points), 400)
        self.assertEqual(len({point.split(',')[1] for point in points}), 1)
        self.assertIn('measured of messages, medians of 4 iterations',
                      [element.text for element in root.iter(SVG + 'text')])

    def fails(self, words):
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            self.assertEqual(
                link_plot.main([os.path.join(self.root, 'run'), '-o', self.out]), 1)
        self.assertIn(words, error.getvalue())
        self.assertEqual(error.getvalue().count('\n'), 1)
        self.assertFalse(os.path.exists(self.out))

    def test_unreadable(self):
        self.fails('no benchmark')
        self.run_folder([])
        self.fails('no iteration')
        self.run_folder([(1, 100, 'x')])
        self.fails('no number in column bandwidth_mbps')
        self.run_folder([(1, '', '')])
        self.fails('no bandwidth in any iteration')
        self.run_folder([(1, 100, 90)])
        self.write('events.jsonl', '{"event": "ra')
        self.fails('events.jsonl:1: not an event')
        self.write('events.jsonl', '')
        self.write('manifest.json', '{}')
        self.fails('no number of workers')


if __name__ == '__main__':
    tap_unittest.main()
