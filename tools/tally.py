#!/usr/bin/env python3
"""Counts the tests of a meson test run: prints "passed failed skipped" of testlog.json.

A TAP program counts by its subtests, any other test as one. A program that meson calls failed
has at least one failure, so that a crash after passing subtests is seen. Names of what failed
go to standard error.
"""
import json
import re
import sys

GOOD = {'OK', 'EXPECTEDFAIL'}
POINT = re.compile(r'^(not )?ok\b(?P<text>.*)$')
PLAN = re.compile(r'^1\.\.\d+')


def tap_points(output):
    """[(text, 'passed' | 'failed' | 'skipped')] of a TAP program; None if it is not one."""
    lines = output.splitlines()
    if not any(PLAN.match(line) for line in lines):
        return None
    points = []
    for match in filter(None, map(POINT.match, lines)):
        directive = re.search(r'#\s*(skip|todo)', match.group('text'), re.I)
        if directive and directive.group(1).lower() == 'skip':
            state = 'skipped'
        else:
            state = 'failed' if match.group(1) and not directive else 'passed'
        points.append((match.group('text').strip(), state))
    return points


def tally(tests):
    """Counts over the entries of testlog.json, and a line of text for each failure."""
    count = {'passed': 0, 'failed': 0, 'skipped': 0}
    failures = []
    for test in tests:
        name, result = test['name'], test['result']
        points = tap_points(test.get('stdout') or '')
        good = result in GOOD
        if points is None:
            state = 'skipped' if result == 'SKIP' else 'passed' if good else 'failed'
            points = [('', state)]
        elif result == 'SKIP' and not points:
            points = [('', 'skipped')]
        for text, state in points:
            count[state] += 1
            if state == 'failed':
                failures.append(f'{name}: {text or result}')
        if not good and result != 'SKIP' and not any(s == 'failed' for _, s in points):
            count['failed'] += 1
            failures.append(f'{name}: {result}')
    return count, failures


def main():
    with open(sys.argv[1], encoding='utf-8') as file:
        tests = [json.loads(line) for line in file if line.strip()]
    count, failures = tally(tests)
    for line in failures:
        print(f'failed: {line}', file=sys.stderr)
    print(count['passed'], count['failed'], count['skipped'])


if __name__ == '__main__':
    main()
