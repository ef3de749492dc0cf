"""Figures over run folders, for report.py and the notebook. Needs matplotlib.

Runs that differ in the seed alone are taken together: a method, which is the folder's name without
link and seed, over a link. Bands and bars are deviations of the sample over the seeds; one seed has
none. Times and speeds leave out what summary.py leaves out.
"""
import math
import os
import statistics
from collections import namedtuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import campaign
import summary

Run = namedtuple('Run', 'folder method seed link epochs parts rate ranks')
# What an iteration's time is made of.
PARTS = ('compute_time', 'communication_time', 'compression_time', 'decompression_time',
         'sync_time')
STYLES = ('-', '--', '-.', ':')


def numbers(row, columns, path):
    """The columns of a row; NaN for one that is empty."""
    return [math.nan if row.get(column) == '' else summary.number(row, column, path)
            for column in columns]


def epochs_of(folder):
    """Epoch, minutes, test accuracy and change of the gradient, a row an epoch."""
    path = os.path.join(folder, 'accuracy', 'accuracy_results.csv')
    rows = summary.rows_of(path) if os.path.exists(path) else []
    columns = ('epoch', 'elapsed_time', 'accuracy', 'grad_change_rate')
    found = [numbers(row, columns, path) for row in rows]
    return [(epoch, seconds / 60, accuracy, change) for epoch, seconds, accuracy, change in found]


def ranks_of(rows, path):
    """Epoch, with its fraction, and the rank in force from there on."""
    changes, per_epoch = [], {}
    for row in rows:
        per_epoch.setdefault(summary.number(row, 'epoch', path), []).append(
            summary.number(row, 'current_rank', path))
    for epoch, ranks in per_epoch.items():
        for i, rank in enumerate(ranks):
            if not changes or rank != changes[-1][1]:
                changes.append((epoch + i / len(ranks), rank))
    return changes


def run_of(folder):
    match = campaign.NAME.match(os.path.basename(folder))
    method = match['method'] if match else os.path.basename(folder)
    path, rows = summary.benchmark_of(folder)
    steady = rows[summary.start_phase(folder):] or rows
    if not steady:
        raise summary.Unreadable(f'{path}: no iteration')
    seconds = sum(summary.number(row, 'iteration_total_time', path) for row in steady)
    parts = {part: 1000 * sum(summary.number(row, part, path) for row in steady) / len(steady)
             for part in PARTS if part in steady[0]}
    return Run(folder, method, int(match['seed']) if match else None, campaign.link_of(folder),
               epochs_of(folder), parts, len(steady) / seconds, ranks_of(rows, path))


def load(*roots):
    """The runs below some folders that have finished an epoch; each counts once."""
    runs, folders, alikes = [], {}, {}
    for root in roots:
        for folder, subfolders, names in os.walk(root):
            subfolders.sort()
            if 'resolved.yaml' in names and 'events.jsonl' in names:
                subfolders.clear()
                if not epochs_of(folder):
                    continue
                run = run_of(os.path.abspath(folder))
                first = folders.setdefault((run.link, run.method, run.seed), run.folder)
                if first != run.folder:
                    raise summary.Unreadable(
                        f'{run.folder}: {first} has the same method, link and seed')
                alike = alikes.setdefault((run.link, run.method), run.folder)
                summary.check_alike(alike, run.folder)
                runs.append(run)
    if not runs:
        raise summary.Unreadable(f'{", ".join(roots)}: no run folder with a finished epoch')
    return runs


def links(runs):
    """The links, the fastest first; None is no limit."""
    return sorted({run.link for run in runs}, key=lambda link: -(link or math.inf))


def link_name(link):
    return 'no limit' if link is None else f'{link:g} Mbit/s'


def on_link(runs, link):
    return [run for run in runs if run.link == link]


def methods(runs):
    """Method: its runs, in the order of names."""
    found = {}
    for run in sorted(runs, key=lambda run: (run.method, run.folder)):
        found.setdefault(run.method, []).append(run)
    return found


def spread(values):
    """Mean and deviation; None: of one value there is no deviation."""
    values = list(values)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def best(run):
    return max(accuracy for _, _, accuracy, _ in run.epochs)


TABLE = ('method', 'link', 'seeds', 'best accuracy %', 'last accuracy %', 'minutes',
         'iterations/s')


def spell(values, digits):
    mean, deviation = spread(values)
    return f'{mean:.{digits}f}' + ('' if deviation is None else f' ± {deviation:.{digits}f}')


def table(runs):
    """Rows of texts, under TABLE."""
    return [(method, link_name(link), str(len(some)), spell(map(best, some), 2),
             spell((run.epochs[-1][2] for run in some), 2),
             spell((run.epochs[-1][1] for run in some), 1), spell((run.rate for run in some), 2))
            for link in links(runs) for method, some in methods(on_link(runs, link)).items()]


def axes_of(title, x, y):
    figure = Figure(figsize=(7.2, 4.2), layout='constrained')
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def accuracy(runs, title, by_time):
    """Test accuracy by epochs or minutes: the mean over the seeds, and its deviation as a band."""
    figure, axes = axes_of(title, 'minutes' if by_time else 'epoch', 'test accuracy, %')
    for number, (method, some) in enumerate(methods(runs).items()):
        last = min(len(run.epochs) for run in some)
        x, mean, low, high = [], [], [], []
        for rows in zip(*(run.epochs[:last] for run in some)):
            middle, deviation = spread(row[2] for row in rows)
            x.append(statistics.mean(row[1] if by_time else row[0] + 1 for row in rows))
            mean.append(middle)
            low.append(middle - (deviation or 0))
            high.append(middle + (deviation or 0))
        line, = axes.plot(x, mean, STYLES[number % len(STYLES)], label=method)
        axes.plot(x[-1:], mean[-1:], 'o', color=line.get_color())
        if len(some) > 1:
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    if not by_time:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize='small')
    return figure


def accuracy_by_epoch(runs, title='Accuracy by epochs'):
    return accuracy(runs, title, False)


def accuracy_by_minutes(runs, title='Accuracy by time'):
    return accuracy(runs, title, True)


def speed_and_accuracy(runs, title='Speed and accuracy'):
    """A point a method, with the deviations of both."""
    figure, axes = axes_of(title, 'iterations/s', 'best test accuracy, %')
    for method, some in methods(runs).items():
        (x, across), (y, up) = spread(run.rate for run in some), spread(map(best, some))
        axes.errorbar([x], [y], xerr=across, yerr=up, fmt='o', capsize=3, label=method)
    axes.legend(fontsize='small')
    return figure


def rank_over_time(run, title=None):
    """The rank, and how much the gradient changed at the end of each epoch."""
    figure, axes = axes_of(title or os.path.basename(run.folder), 'epoch',
                           'matrix rank (0: dense)')
    changes = run.ranks + [(run.epochs[-1][0] + 1, run.ranks[-1][1])]
    axes.step([epoch for epoch, _ in changes], [rank for _, rank in changes], where='post')
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    known = [(row[0] + 1, row[3]) for row in run.epochs if not math.isnan(row[3])]
    other = axes.twinx()
    other.set_ylabel('change of the gradient sum')
    other.plot([epoch for epoch, _ in known], [change for _, change in known], 'x--', color='C1')
    return figure


def changing(runs):
    """A run of each method whose rank changes after it has begun to compress."""
    firsts = [some[0] for some in methods(runs).values()]
    return [run for run in firsts if len({rank for _, rank in run.ranks if rank}) > 1]


def time_breakdown(runs, title='Time of an iteration'):
    """Stacked: the parts of an iteration that the trainer spends, means over the seeds."""
    figure, axes = axes_of(title, '', 'ms')
    groups = methods(runs)
    below = [0.0] * len(groups)
    for part in PARTS:
        heights = [statistics.mean(run.parts.get(part, 0.0) for run in some)
                   for some in groups.values()]
        if any(heights):
            axes.bar(list(groups), heights, bottom=below, label=part.replace('_time', ''))
        below = [a + b for a, b in zip(below, heights)]
    for x, total in enumerate(below):
        axes.text(x, total, f'{total:.1f}', ha='center', va='bottom', fontsize='small')
    axes.tick_params(axis='x', rotation=30)
    axes.legend(fontsize='small')
    return figure
