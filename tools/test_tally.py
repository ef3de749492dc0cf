#!/usr/bin/env python3
"""Tests of tally.py and of the totals in common.sh: no failure may be lost."""
import os
import subprocess
import unittest

import tap_unittest
from tally import tally


def entry(result, stdout=''):
    return {'name': 'x', 'result': result, 'stdout': stdout}


class Tally(unittest.TestCase):
    def counts(self, passed, failed, skipped, *entries):
        count, failures = tally(entries)
        self.assertEqual(count, {'passed': passed, 'failed': failed, 'skipped': skipped})
        self.assertEqual(len(failures), failed)

    def test_nothing(self):
        self.counts(0, 0, 0)

    def test_plain_programs(self):
        self.counts(1, 3, 1, entry('OK'), entry('FAIL'), entry('TIMEOUT'), entry('SKIP'),
                    entry('ERROR'))

    def test_subtests(self):
        self.counts(2, 1, 1, entry('FAIL', '1..4\nok 1 - a\nnot ok 2 - b\nok 3 - c\n'
                                   'ok 4 - d # SKIP no device\n'))

    def test_crash_after_passing_subtests(self):
        self.counts(2, 1, 0, entry('ERROR', '1..5\nok 1 - a\nok 2 - b\n'))

    def test_nonzero_exit_of_passing_subtests(self):
        self.counts(1, 1, 0, entry('FAIL', '1..1\nok 1 - a\n'))

    def test_crash_before_the_first_subtest(self):
        self.counts(0, 1, 0, entry('ERROR', '1..3\n'))

    def test_whole_program_skipped(self):
        self.counts(0, 0, 1, entry('SKIP', '1..0 # SKIP no device\n'))

    def test_interrupted(self):
        self.counts(0, 1, 0, entry('INTERRUPT'))

    def test_output_that_looks_like_tap(self):
        self.counts(1, 0, 0, entry('OK', 'ok then\nnot ok\n'))


class Totals(unittest.TestCase):
    def ends(self, code, last, script):
        common = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'common.sh')
        done = subprocess.run(['bash', '-c', f'. {common}; begin_total; {script}'],
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout.split('\n')[-2]), (code, last), done)

    def test_passed(self):
        self.ends(0, '3 passed, 0 failed, 1 skipped', 'passed=3 skipped=1; all_ran')

    def test_failed(self):
        self.ends(1, '3 passed, 1 failed, 0 skipped', 'passed=3; fail x; all_ran; true')

    def test_stopped_early(self):
        self.ends(1, '3 passed, 1 failed, 0 skipped', 'passed=3; exit 0; all_ran')

    def test_killed(self):
        self.ends(1, '3 passed, 1 failed, 0 skipped', 'passed=3; kill -TERM $$; all_ran')

    def test_nothing_ran(self):
        self.ends(1, '0 passed, 1 failed, 0 skipped', 'all_ran')

    def test_all_skipped(self):
        self.ends(1, '0 passed, 1 failed, 5 skipped', 'skipped=5; all_ran')


if __name__ == '__main__':
    tap_unittest.main()
