#!/usr/bin/env python3
"""One table over the runs of a campaign: accuracy, time to a target accuracy, bytes.

usage: tools/campaign.py FOLDER --target PERCENT [--csv FILE]

Looks below FOLDER for run folders, whose names end in _seed<N>, and takes together what differs in
the seed alone: runs of one method (the name without link and seed) over one link
(network_limits.egress_mbps). A run that is not finished is refused, and so is a second one of the
same method, link and seed, and one with more or fewer workers. iterations_per_s is iterations over
their time, waiting included, evaluation not, as in the table of `psgd batch`. Deviations are of the sample, over the seeds. The time to the target
is elapsed_time at the first epoch that reaches it, on the line between it and the epoch before.
"""
import argparse
import csv
import json
import math
import os
import re
import statistics
import sys

import summary

COLUMNS = ('method', 'mbps', 'seeds', 'accuracy', 'accuracy_sd', 'seconds', 'target_s',
           'target_sd', 'reached', 'iterations_per_s', 'megabytes', 'mean_rank', 'over_best_fixed')
DIGITS = {'accuracy': 2, 'accuracy_sd': 2, 'seconds': 1, 'target_s': 1, 'target_sd': 1,
          'iterations_per_s': 2, 'megabytes': 2, 'mean_rank': 2, 'over_best_fixed': 3}
NAME = re.compile(r'^(?P<method>.+?)(?:_(?:egress_|bandwidth_)?mbps[\d.]+)?_seed(?P<seed>\d+)$')
FIXED = re.compile(r'^fixed_r\d+$')


def run_folders(root):
    """Folders of runs below root, with their method and seed, in the order of names."""
    found = []
    for folder, subfolders, names in os.walk(root):
        match = NAME.match(os.path.basename(folder))
        subfolders.sort()
        if match and 'resolved.yaml' in names:
            found.append((folder, match['method'], int(match['seed'])))
            subfolders.clear()
    return found


def link_of(folder):
    """network_limits.egress_mbps of a run; None without a limit."""
    path = os.path.join(folder, 'resolved.yaml')
    with open(path, encoding='utf-8') as file:
        section = re.search(r'^network_limits:\n((?:[ \t].*\n)*)', file.read(), re.M)
    keys = dict(re.findall(r'^  (\w+): (\S+)$', section[1], re.M)) if section else {}
    if keys.get('enable') != 'true':
        return None
    return float(keys.get('egress_mbps', 0)) or None


def time_to(target, epochs, path):
    """Seconds until the accuracy is reached; None if it never is."""
    before = (0.0, 0.0)
    for row in epochs:
        seconds = summary.number(row, 'elapsed_time', path)
        accuracy = summary.number(row, 'accuracy', path)
        if accuracy >= target:
            part = (target - before[1]) / (accuracy - before[1]) if before[1] < target else 0
            return before[0] + part * (seconds - before[0])
        before = (seconds, accuracy)
    return None


def check_finished(folder):
    path = os.path.join(folder, 'status.json')
    try:
        with open(path, encoding='utf-8') as file:
            status = json.load(file)
    except (OSError, ValueError) as error:
        raise summary.Unreadable(f'{path}: {error}') from None
    state = status.get('state') if isinstance(status, dict) else None
    if state != 'finished':
        raise summary.Unreadable(f'{folder}: the run is not finished, status.json says {state!r}')


def measure(folder, target):
    """What one run came to."""
    check_finished(folder)
    path = os.path.join(folder, 'accuracy', 'accuracy_results.csv')
    epochs = summary.rows_of(path) if os.path.exists(path) else []
    if not epochs:
        raise summary.Unreadable(f'{folder}: no row in accuracy/accuracy_results.csv')
    table, rows = summary.benchmark_of(folder)
    time = sum(summary.number(row, 'iteration_total_time', table) for row in rows)
    ranks = [summary.number(row, 'current_rank', table) for row in rows]
    return {
        'accuracy': summary.number(epochs[-1], 'accuracy', path),
        'seconds': summary.number(epochs[-1], 'elapsed_time', path),
        'target_s': time_to(target, epochs, path),
        'iterations_per_s': len(rows) / time,
        'megabytes': sum(summary.number(row, 'sent_bytes', table) for row in rows) / 1e6,
        'mean_rank': statistics.mean([r for r in ranks if r > 0]) if any(ranks) else None,
    }


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else None


def mean(runs, column):
    values = [run[column] for run in runs if run[column] is not None]
    return statistics.mean(values) if values else None


def combine(method, link, runs):
    """The row of one method over one link."""
    reached = [run['target_s'] for run in runs if run['target_s'] is not None]
    row = {column: mean(runs, column) for column in runs[0]}
    row.update(method=method, mbps='no limit' if link is None else f'{link:g}', seeds=len(runs),
               accuracy_sd=deviation([run['accuracy'] for run in runs]),
               target_sd=deviation(reached), reached=f'{len(reached)}/{len(runs)}')
    if len(reached) < len(runs):  # a mean over those that did would flatter the method
        row['target_s'] = row['target_sd'] = None
    return row


def add_best_fixed(rows):
    """Time to the target over that of the best fixed rank on the same link, in hindsight."""
    for row in rows:
        best = [other['target_s'] for other in rows if other['mbps'] == row['mbps'] and
                FIXED.match(other['method']) and other['target_s'] is not None]
        row['over_best_fixed'] = (row['target_s'] / min(best)
                                  if best and row['target_s'] is not None else None)


def tabulate(root, target):
    groups, folders, alikes = {}, {}, {}
    for folder, method, seed in run_folders(root):
        link = link_of(folder)
        first = folders.setdefault((link, method, seed), folder)
        if first != folder:
            raise summary.Unreadable(f'{folder}: {first} has the same method, link and seed')
        summary.check_alike(alikes.setdefault((link, method), folder), folder)
        groups.setdefault((link, method), []).append(measure(folder, target))
    if not groups:
        raise summary.Unreadable(f'{root}: no run folder whose name ends in _seed<N>')
    order = sorted(groups, key=lambda key: (-(key[0] or math.inf), key[1]))
    rows = [combine(method, link, groups[link, method]) for link, method in order]
    add_best_fixed(rows)
    return rows


def cell(row, column):
    value = row[column]
    if value is None:
        return '-'
    return f'{value:.{DIGITS[column]}f}' if column in DIGITS else str(value)


def text_of(rows):
    cells = [COLUMNS] + [[cell(row, column) for column in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return '\n'.join('  '.join(text.ljust(width) if i == 0 else text.rjust(width)
                               for i, (text, width) in enumerate(zip(line, widths)))
                     for line in cells)


def main(arguments):
    parser = argparse.ArgumentParser(prog='tools/campaign.py', description=__doc__.split('\n')[0])
    parser.add_argument('folder', metavar='FOLDER')
    parser.add_argument('--target', metavar='PERCENT', type=float, required=True,
                        help='the test accuracy to reach')
    parser.add_argument('--csv', metavar='FILE', help='write the table there, too')
    options = parser.parse_args(arguments)
    try:
        rows = tabulate(options.folder, options.target)
    except (summary.Unreadable, OSError) as error:
        print(f'campaign: {summary.reason(error)}', file=sys.stderr)
        return 1
    try:
        if options.csv:
            with open(options.csv, 'w', newline='', encoding='utf-8') as file:
                writer = csv.writer(file, lineterminator='\n')
                writer.writerow(COLUMNS)
                writer.writerows([cell(row, column) for column in COLUMNS] for row in rows)
    except OSError as error:
        print(f'campaign: {summary.reason(error, options.csv)}', file=sys.stderr)
        return 1
    print(text_of(rows))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
