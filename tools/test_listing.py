#!/usr/bin/env python3
"""The program in both READMEs is the one that is built: that marked in examples/quick_start.c."""
import os
import re
import unittest

import tap_unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BEGIN, END = '/* listing */\n', '/* end of listing */\n'
FENCE = re.compile(r'^```c\n(.*?)^```$', re.M | re.S)


def read(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as file:
        return file.read()


def listing(source):
    """The marked part, with spaces for tabs: what README.md shows."""
    if source.count(BEGIN) != 1 or source.count(END) != 1:
        raise ValueError('the marks of the listing must be there once each')
    part = source.split(BEGIN)[1].split(END)[0]
    return ''.join(indent(line) for line in part.splitlines(True))


def indent(line):
    bare = line.lstrip('\t')
    return ' ' * 4 * (len(line) - len(bare)) + bare


class Listing(unittest.TestCase):
    def test_readmes_show_the_example(self):
        for name in ('README.md', 'README.ja.md'):
            shown = FENCE.findall(read(name))
            self.assertEqual(len(shown), 1, f'{name} has one listing in C')
            self.assertEqual(shown[0], listing(read('examples/quick_start.c')))

    def test_four_calls(self):
        text = listing(read('examples/quick_start.c'))
        for call in ('open', 'submit', 'finish_step', 'close'):
            self.assertEqual(text.count(f'psgd_session_{call}('), 1, call)

    def test_marks(self):
        self.assertEqual(listing('a\n' + BEGIN + 'b\n\tc\td\n' + END + 'e\n'), 'b\n    c\td\n')
        for text in ('', BEGIN, END, BEGIN + END + BEGIN + END):
            with self.assertRaises(ValueError):
                listing(text)


if __name__ == '__main__':
    tap_unittest.main()
