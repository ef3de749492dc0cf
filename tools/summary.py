#!/usr/bin/env python3
"""One table over run folders: speed, bytes, accuracy, and why the matrix rank changed.

usage: tools/summary.py FOLDER METHOD...

Reads FOLDER/METHOD for each method, prints the table, writes FOLDER/summary.csv, and tells the
rank changes of each run in words. Means leave out the first iteration, which connects the workers,
and the dense start phase of a compressed run (compression.start_power_iterations).
"""
import csv
import glob
import json
import math
import os
import re
import sys

COLUMNS = ('method', 'iterations_per_s', 'wire_bytes_per_iteration', 'compression_ratio',
           'exposed_ms', 'test_accuracy', 'rank_changes', 'seconds')
DIGITS = {'iterations_per_s': 2, 'wire_bytes_per_iteration': 0, 'compression_ratio': 1,
          'exposed_ms': 1, 'test_accuracy': 2, 'rank_changes': 0, 'seconds': 1}
EXPOSED = ('communication_time', 'compression_time', 'decompression_time')

# What the library's regimes mean; {value} and {threshold} are the numbers that were compared.
REGIMES = {
    'force_max': 'the largest rank at the start, and after a drop of the learning rate',
    'critical': 'the gradient sum changes much ({value} of itself, critical from {threshold})',
    'not_critical': 'the gradient sum changes little ({value} of itself, critical from '
                    '{threshold})',
    'rank_cooldown': 'held after the last change',
    'insufficient_history': 'nothing to compare with yet',
    'lr_drop': 'all layers, after a drop of the learning rate',
    'ema_critical': 'the gradient is large: {value} of its average, critical from {threshold}',
    'ema_relaxed': 'the gradient is small: {value} of its average, relaxed to {threshold}',
    'ema_hold': 'the gradient is {value} of its average',
    'lgreco_start': 'base_rank for all layers at first',
    'lgreco': 'the cheapest ranks of the layers that leave an error of {value}, at most '
              '{threshold}',
    'lgreco_over_budget': 'no ranks of the layers leave an error of at most {threshold}',
    'lgreco_hold': 'held: the errors of the layers are not known',
    'entropy': 'the entropy of the gradient changed by {value}, at first by {threshold}',
    'entropy_slew': 'on the way, as far as one window allows',
    'link_down': 'on this link {value} of the step would be exposed, at most {threshold} may be',
    'link_up': 'the link carries more: {value} of the step would be exposed, at most {threshold} '
               'may be',
    'link_hold': 'the link carries no more',
    'link_prior': 'by what was known of the link: {value} of the step would be exposed, at most '
                  '{threshold} may be',
    'calibrated': 'the best measured candidate: {value} of the step is exposed, at most '
                  '{threshold} may be',
}


class Unreadable(Exception):
    """A run folder that cannot be summed up; the text says why."""


def rows_of(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def number(row, column, path):
    try:
        return float(row[column])
    except (KeyError, TypeError, ValueError):
        raise Unreadable(f'{path}: no number in column {column}') from None


def benchmark_of(folder):
    """The newest per-iteration CSV of a run: its path and rows."""
    paths = glob.glob(os.path.join(folder, 'benchmark', '**', 'csv',
                                   'powerSGD_benchmark_*.csv'), recursive=True)
    if not paths:
        raise Unreadable(f'{folder}: no benchmark/**/csv/powerSGD_benchmark_*.csv')
    path = max(paths, key=lambda name: (os.path.getmtime(name), name))
    return path, rows_of(path)


def start_phase(folder):
    """Iterations left out of the means."""
    path = os.path.join(folder, 'resolved.yaml')
    if os.path.exists(path):
        with open(path, encoding='utf-8') as file:
            keys = dict(re.findall(r'^\s*(\w+):\s*(\S+)\s*$', file.read(), re.M))
        if keys.get('enable_powerSGD') != 'false':
            return max(1, int(keys.get('start_power_iterations', 0)))
    return 1


def workers_of(folder):
    """How many workers a run had, as it said when it began; None if it did not."""
    path = os.path.join(folder, 'events.jsonl')
    if not os.path.exists(path):
        return None
    with open(path, encoding='utf-8') as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get('event') == 'start':
                return event.get('workers')
    return None


def check_alike(first, folder):
    """Refuses to take runs with several numbers of workers for one method's."""
    known, count = workers_of(first), workers_of(folder)
    if count != known:
        raise Unreadable(f'{folder} has workers: {count}, but {first} has {known}: runs of one '
                         'method need as many; look at the others apart')


def reason(error, name=None):
    """An error of a file, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f'{name or error.filename}: {error.strerror}'
    return str(error)


def rank_events(folder):
    """The decisions in events.jsonl that changed the rank. The one for step 0 is none."""
    path = os.path.join(folder, 'events.jsonl')
    changes, previous = [], None
    if not os.path.exists(path):
        return changes
    with open(path, encoding='utf-8') as file:
        for count, line in enumerate(file, 1):
            try:
                event = json.loads(line)
            except ValueError:
                raise Unreadable(f'{path}:{count}: not a line of JSON') from None
            if not isinstance(event, dict) or event.get('event') != 'rank':
                continue
            if 'rank' not in event or 'step' not in event:
                raise Unreadable(f'{path}:{count}: a rank event without rank or step')
            if event['step'] > 0 and event['rank'] != previous:
                changes.append({**event, 'previous': previous})
            previous = event['rank']
    return changes


def summarize(folder, method):
    """The row of one run, and its rank changes."""
    path, rows = benchmark_of(folder)
    rows = rows[start_phase(folder):]
    if not rows:
        raise Unreadable(f'{path}: no iteration after the start phase')

    def total(column):
        return sum(number(row, column, path) for row in rows)

    seconds = total('iteration_total_time')
    payload = total('payload_bytes')
    if seconds <= 0 or payload <= 0:
        raise Unreadable(f'{path}: no time or no bytes')
    changes = rank_events(folder)
    row = {
        'method': method,
        'iterations_per_s': len(rows) / seconds,
        'wire_bytes_per_iteration': total('sent_bytes') / len(rows),
        'compression_ratio': total('raw_bytes') / payload,
        'exposed_ms': sum(map(total, EXPOSED)) / len(rows) * 1000,
        'test_accuracy': None,
        'rank_changes': len(changes),
        'seconds': sum(number(r, 'iteration_total_time', path) for r in rows_of(path)),
    }
    path = os.path.join(folder, 'accuracy', 'accuracy_results.csv')
    epochs = rows_of(path) if os.path.exists(path) else []
    if epochs:
        row['test_accuracy'] = number(epochs[-1], 'accuracy', path)
        row['seconds'] = number(epochs[-1], 'elapsed_time', path)
    return row, changes


def cell(row, column):
    value = row[column]
    if column == 'method':
        return value
    if value is None or math.isnan(value):
        return ''
    return f'{value:.{DIGITS[column]}f}'


def table(rows):
    cells = [COLUMNS] + [[cell(row, column) or '-' for column in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return '\n'.join('  '.join(text.ljust(width) if i == 0 else text.rjust(width)
                               for i, (text, width) in enumerate(zip(line, widths)))
                     for line in cells)


def spell_rank(rank):
    if rank is None:
        return 'the first rank'
    return 'dense' if rank in (0, 'dense') else f'r={rank}'


def spell_number(value):
    return f'{value:.3g}' if isinstance(value, (int, float)) else 'unknown'


def spell_change(event):
    regime = str(event.get('regime') or 'no reason recorded')
    reason = REGIMES.get(regime, '').format(value=spell_number(event.get('value')),
                                            threshold=spell_number(event.get('threshold')))
    return (f'iteration {event["step"]}: {spell_rank(event["previous"])} -> {spell_rank(event["rank"])}, '
            f'{regime}' + (f': {reason}' if reason else ''))


def main(arguments):
    if len(arguments) < 2:
        print('usage: tools/summary.py FOLDER METHOD...', file=sys.stderr)
        return 2
    folder, methods = arguments[0], arguments[1:]
    rows, told = [], []
    try:
        for method in methods:
            row, changes = summarize(os.path.join(folder, method), method)
            rows.append(row)
            if changes:
                told.append(f'rank changes of {method}:')
                told += ['  ' + spell_change(event) for event in changes]
    except Unreadable as error:
        print(f'summary: {error}', file=sys.stderr)
        return 1
    path = os.path.join(folder, 'summary.csv')
    with open(path + '.new', 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        writer.writerows([cell(row, column) for column in COLUMNS] for row in rows)
    os.replace(path + '.new', path)
    print(table(rows))
    print('\n'.join([''] + told if told else []))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
