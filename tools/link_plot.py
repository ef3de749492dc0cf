#!/usr/bin/env python3
"""A figure of one run: the matrix rank, and the bandwidth of its link, over the iterations.

usage: tools/link_plot.py RUN_FOLDER -o FILE.svg [--title TEXT]

Above the rank in force; below what network_limits allows (configured_mbps), what the messages of
the iterations had (bandwidth_mbps, medians where there are many), and what the cap took the link
for when it changed the rank (link_mbps of the rank events, as of one worker's link).
"""
import argparse
import html
import json
import math
import os
import statistics
import sys

from summary import Unreadable, benchmark_of, number

WIDTH, HEIGHT = 960, 600
LEFT, RIGHT = 86, 24
RANK_PANEL, LINK_PANEL = (76, 236), (286, 540)  # top and bottom
MAX_POINTS = 400
INK, GRID = '#222222', '#dddddd'
COLORS = {'rank': '#117733', 'configured': '#222222', 'measured': '#3377bb', 'fitted': '#cc4411'}


def optional(row, column, path):
    """A number, or None where the row has none."""
    if row.get(column) == '':
        return None
    return number(row, column, path)


def rank_events(folder):
    """The rank events that hold: those after the point from which a run went on were undone."""
    path = os.path.join(folder, 'events.jsonl')
    events = []
    if not os.path.exists(path):
        return events
    with open(path, encoding='utf-8') as file:
        for count, line in enumerate(file, 1):
            try:
                event = json.loads(line)
                if event['event'] == 'resume':
                    events = [e for e in events if e['step'] < event['iteration']]
                elif event['event'] == 'rank':
                    events.append({'step': event['step'], 'mbps': event.get('link_mbps')})
            except (KeyError, TypeError, ValueError):
                raise Unreadable(f'{path}:{count}: not an event') from None
    return [event for event in events if event['mbps']]


def workers(folder):
    path = os.path.join(folder, 'manifest.json')
    try:
        with open(path, encoding='utf-8') as file:
            return int(json.load(file)['workers'])
    except (OSError, KeyError, TypeError, ValueError):
        raise Unreadable(f'{path}: no number of workers') from None


def read(folder):
    """(iteration, value) pairs by name; a value may be None."""
    path, rows = benchmark_of(folder)
    if not rows:
        raise Unreadable(f'{path}: no iteration')
    series = {name: [(number(row, 'iteration', path), optional(row, column, path))
                     for row in rows]
              for name, column in (('rank', 'current_rank'), ('configured', 'configured_mbps'),
                                   ('measured', 'bandwidth_mbps'))}
    n = workers(folder)
    # link_mbps is of an all-reduce; of its bytes a worker sends 2 (n - 1) / n by its link.
    series['fitted'] = [(event['step'], event['mbps'] * 2 * (n - 1) / n)
                        for event in rank_events(folder)] if n > 1 else []
    return series


def medians(points):
    """At most MAX_POINTS of them, and how many each stands for."""
    points = [point for point in points if point[1]]
    each = max(1, math.ceil(len(points) / MAX_POINTS))
    return [(statistics.median(x for x, _ in points[i:i + each]),
             statistics.median(y for _, y in points[i:i + each]))
            for i in range(0, len(points), each)], each


def steps(points):
    """Runs of equal values as (from, to, value); those without one are left out."""
    runs = []
    for x, y in points:
        if runs and runs[-1][2] == y and runs[-1][1] == x:
            runs[-1][1] = x + 1
        else:
            runs.append([x, x + 1, y])
    return [tuple(run) for run in runs if run[2] is not None]


def ticks(low, high):
    """1, 2 and 5 times the powers of ten from low to high."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [m * 10.0 ** e for e in range(first, last + 1) for m in (1, 2, 5)
            if low <= m * 10.0 ** e <= high]


def whole_ticks(high):
    """About eight round numbers from 0 to high."""
    step = 10 ** math.floor(math.log10(max(high, 1) / 8)) if high > 8 else 1
    step = next(step * m for m in (1, 2, 5, 10) if high / (step * m) <= 8)
    return [step * i for i in range(int(high // step) + 1)]


class Figure:
    def __init__(self, n_iterations, link_low, link_high, most_rank, any_dense):
        self.parts = []
        self.n = n_iterations
        self.low, self.high = math.log10(link_low), math.log10(link_high)
        self.dense_level = math.log2(most_rank) + 1 if any_dense else None
        self.rank_high = (self.dense_level or math.log2(most_rank)) + 0.4

    def x(self, iteration):
        return LEFT + (WIDTH - LEFT - RIGHT) * iteration / self.n

    def link_y(self, mbps):
        top, bottom = LINK_PANEL
        return bottom - (bottom - top) * (math.log10(mbps) - self.low) / (self.high - self.low)

    def rank_y(self, rank):
        top, bottom = RANK_PANEL
        level = math.log2(rank) if rank else self.dense_level
        return bottom - (bottom - top) * (level + 0.4) / (self.rank_high + 0.4)

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, words, anchor='middle', size=14, more=''):
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{more}>'
                 f'{html.escape(words)}</text>')

    def line(self, x1, y1, x2, y2, color, width=1.0, more=''):
        self.add(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                 f'stroke="{color}" stroke-width="{width}"{more}/>')

    def frame(self, panel, label):
        top, bottom = panel
        self.add(f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" '
                 f'height="{bottom - top}" fill="none" stroke="{INK}"/>')
        middle = (top + bottom) / 2
        self.text(22, middle, label, more=f' transform="rotate(-90 22 {middle:.1f})"')

    def grid_y(self, y, words):
        self.line(LEFT, y, WIDTH - RIGHT, y, GRID)
        self.text(LEFT - 8, y + 5, words, anchor='end')

    def stairs(self, name, runs, y_of, width):
        """A level line for each run, and upright ones where the next begins."""
        path, end = '', None
        for first, last, value in runs:
            y = y_of(value)
            path += (f'V{y:.1f}' if end == first else f'M{self.x(first):.1f} {y:.1f}')
            path += f'H{self.x(last):.1f}'
            end = last
        if path:
            self.add(f'<path class="{name}" d="{path}" fill="none" stroke="{COLORS[name]}" '
                     f'stroke-width="{width}"/>')

    def legend(self, y, entries):
        x = LEFT
        for name, words in entries:
            color = COLORS[name]
            if name == 'fitted':
                self.add(f'<circle cx="{x + 12}" cy="{y - 5}" r="5" fill="{color}"/>')
            else:
                self.line(x, y - 5, x + 24, y - 5, color, 3)
            self.text(x + 30, y, words, anchor='start')
            x += 52 + 7.4 * len(words)

    def svg(self):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
                f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" fill="{INK}">\n'
                f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
                + '\n'.join(self.parts) + '\n</svg>\n')


def axes(figure, changes, ranks):
    for rank in ranks:
        figure.grid_y(figure.rank_y(rank), str(int(rank)) if rank else 'dense')
    for mbps in ticks(10 ** figure.low, 10 ** figure.high):
        figure.grid_y(figure.link_y(mbps), f'{mbps:g}')
    for iteration in whole_ticks(figure.n):
        x = figure.x(iteration)
        figure.line(x, LINK_PANEL[1], x, LINK_PANEL[1] + 5, INK)
        figure.text(x, LINK_PANEL[1] + 21, f'{iteration:g}')
    for panel in (RANK_PANEL, LINK_PANEL):
        for iteration in changes:
            x = figure.x(iteration)
            figure.line(x, panel[0], x, panel[1], '#999999', 1, ' stroke-dasharray="4 4"')
    figure.frame(RANK_PANEL, 'matrix rank')
    figure.frame(LINK_PANEL, 'Mbit/s (log scale)')
    figure.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, 'iteration')


def rank_ticks(values):
    """Those that occur; of many the powers of two, and dense."""
    ranks = sorted({value for value in values if value})
    if len(ranks) > 8:
        ranks = [2 ** i for i in range(int(math.log2(ranks[-1])) + 1)]
    return ranks + ([0] if 0 in values else [])


def draw(series, title):
    ranks = {rank for _, rank in series['rank']}
    configured = steps(series['configured'])
    measured, each = medians(series['measured'])
    values = [y for _, y in measured + series['fitted']] + [y for _, _, y in configured]
    if not values:
        raise Unreadable('no bandwidth in any iteration')
    figure = Figure(max(x for x, _ in series['rank']) + 1, min(values) / 1.5, max(values) * 1.5,
                    max([rank for rank in ranks if rank] or [1]), 0 in ranks)
    axes(figure, [first for first, _, _ in configured[1:]], rank_ticks(ranks))
    figure.text(WIDTH / 2, 28, title, size=18, more=' font-weight="bold"')
    figure.legend(RANK_PANEL[0] - 12, [('rank', 'rank in force')])
    figure.stairs('rank', steps(series['rank']), figure.rank_y, 3)
    points = ' '.join(f'{figure.x(x + 0.5):.1f},{figure.link_y(y):.1f}' for x, y in measured)
    figure.add(f'<polyline class="measured" points="{points}" fill="none" '
               f'stroke="{COLORS["measured"]}" stroke-width="1.5" stroke-opacity="0.8"/>')
    figure.stairs('configured', configured, figure.link_y, 3)
    for x, y in series['fitted']:
        figure.add(f'<circle class="fitted" cx="{figure.x(x):.1f}" cy="{figure.link_y(y):.1f}" '
                   f'r="5" fill="{COLORS["fitted"]}"/>')
    entries = [('measured', 'measured of messages' +
                (f', medians of {each} iterations' if each > 1 else ''))]
    if configured:
        entries.insert(0, ('configured', 'configured'))
    if series['fitted']:
        entries.append(('fitted', 'as the cap knew it at a decision'))
    figure.legend(LINK_PANEL[0] - 12, entries)
    return figure.svg()


def main(arguments):
    parser = argparse.ArgumentParser(
        prog='tools/link_plot.py',
        description='Draws the rank and the bandwidth of a run over its iterations.')
    parser.add_argument('folder', metavar='RUN_FOLDER')
    parser.add_argument('-o', metavar='FILE.svg', dest='out', required=True)
    parser.add_argument('--title', help='default: the name of the folder')
    options = parser.parse_args(arguments)
    try:
        text = draw(read(options.folder),
                    options.title or os.path.basename(os.path.abspath(options.folder)))
    except Unreadable as error:
        print(f'link_plot: {error}', file=sys.stderr)
        return 1
    with open(options.out + '.new', 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(options.out + '.new', options.out)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
