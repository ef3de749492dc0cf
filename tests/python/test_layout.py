#!/usr/bin/env python3
"""The Python binding against the headers: structs, constants and functions as a C compiler sees
them. PSGD_SOURCE names the root of the tree, PSGD_LIBRARY the library, CC the compiler."""
import ctypes
import os
import re
import shlex
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

SOURCE = os.environ['PSGD_SOURCE']
sys.path[:0] = [os.path.join(SOURCE, 'tools'), os.path.join(SOURCE, 'examples', 'python')]
import tap_unittest  # noqa: E402
import psgd  # noqa: E402

CONSTANTS = sorted(name for name in vars(psgd) if re.match(r'PSGD_[A-Z]', name))
STRUCTS = sorted(
    (value for name, value in vars(psgd).items()
     if name.startswith('psgd_') and issubclass(value, ctypes.Structure)),
    key=lambda struct: struct.__name__)


def compile_and_run(text):
    """The lines that a C program prints, without spaces at their ends."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, 'layout.c'), os.path.join(folder, 'layout')
        with open(source, 'w', encoding='utf-8') as file:
            file.write(text)
        subprocess.run([*shlex.split(os.environ.get('CC', 'cc')), '-I',
                        os.path.join(SOURCE, 'include'), source, '-o', program], check=True)
        return subprocess.run([program], check=True, stdout=subprocess.PIPE,
                              text=True).stdout.splitlines()


def program(lines):
    return '\n'.join(['#include <stdio.h>', '#include <psgd/psgd.h>', '#include <psgd/exchange.h>',
                      'int main(void)', '{', *lines, 'return 0;', '}', ''])


def headers():
    """The public headers of the library, without comments."""
    folder = os.path.join(SOURCE, 'include', 'psgd')
    texts = []
    for name in sorted(os.listdir(folder)):
        if name.endswith('.h'):
            with open(os.path.join(folder, name), encoding='utf-8') as file:
                texts.append(re.sub(r'/\*.*?\*/', '', file.read(), flags=re.S))
    return '\n'.join(texts)


def fields_in_headers(struct):
    """The names of a struct's members, in the order of the header."""
    found = re.search(r'struct %s \{(.*?)\n\};' % struct, headers(), re.S)
    return [member for line in found.group(1).split(';') for member in members(line)]


def members(declaration):
    """The names that one declaration declares."""
    function = re.search(r'\(\*(\w+)\)', declaration)
    if function:
        return [function.group(1)]
    parts = [re.sub(r'\[.*?\]', '', part).strip() for part in declaration.split(',')]
    return [re.search(r'(\w+)$', part).group(1) for part in parts if part]


C_TYPES = {'void': None, 'psgd_status': ctypes.c_int, 'uint32_t': ctypes.c_uint32,
           'int64_t': ctypes.c_int64, 'uint64_t': ctypes.c_uint64, 'size_t': ctypes.c_size_t,
           'psgd_ticket': ctypes.c_uint64, 'psgd_stream': ctypes.c_void_p}


def kind_of(argument):
    """A type of the binding: a number, a pointer to a struct, or any other pointer."""
    target = getattr(argument, '_type_', None)
    if isinstance(target, type):
        return f'{target.__name__} *' if issubclass(target, ctypes.Structure) else 'pointer'
    return 'pointer' if argument in (ctypes.c_void_p, ctypes.c_char_p) else argument


def prototype(name):
    """The same of the declaration in the headers: result and arguments."""
    found = re.search(r'PSGD_API ([^;(]*?)\b%s\(([^;]*)\);' % name, headers(), re.S)
    result, arguments = found.groups()
    kinds = []
    # The result has no name of its own.
    for declaration in [result + ' it', *([] if arguments == 'void' else arguments.split(','))]:
        struct = re.search(r'struct (\w+) \*\w+\s*$', declaration)
        if '*' in declaration:
            kinds.append(f'{struct.group(1)} *' if struct else 'pointer')
        else:
            kinds.append(kind_of(C_TYPES[declaration.split()[-2]]))
    return kinds


class Layout(unittest.TestCase):
    maxDiff = None

    def test_structs(self):
        lines, mine = [], []
        for struct in STRUCTS:
            name = struct.__name__
            lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
            mine.append(f'{name} {ctypes.sizeof(struct)}')
            for field, *_ in struct._fields_:
                lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof(struct {name}, '
                             f'{field}), sizeof(((struct {name} *)0)->{field}));')
                place = getattr(struct, field)
                mine.append(f'{name}.{field} {place.offset} {place.size}')
        self.assertGreater(len(STRUCTS), 9)
        self.assertEqual(mine, compile_and_run(program(lines)))

    def test_no_field_is_missing(self):
        for struct in STRUCTS:
            self.assertEqual([field for field, *_ in struct._fields_],
                             fields_in_headers(struct.__name__), struct.__name__)

    def test_sized_structs_know_their_size(self):
        for struct in STRUCTS:
            if struct._fields_[0][0] == 'size' and struct is not psgd.psgd_decision:
                self.assertEqual(struct().size, ctypes.sizeof(struct), struct.__name__)

    def test_constants(self):
        lines = [f'printf("{name} %lld\\n", (long long){name});' for name in CONSTANTS]
        self.assertEqual([f'{name} {getattr(psgd, name)}' for name in CONSTANTS],
                         compile_and_run(program(lines)))

    def test_functions(self):
        for name, (result, *arguments) in psgd.FUNCTIONS.items():
            mine, theirs = [kind_of(result), *map(kind_of, arguments)], prototype(name)
            self.assertEqual(len(mine), len(theirs), name)
            for one, other in zip(mine, theirs):
                # What the binding always leaves NULL, or keeps opaque, has no struct in it.
                self.assertTrue(one == other or (one == 'pointer' and str(other).endswith('*')),
                                f'{name}: {one}, in the header {other}')

    def test_another_version_is_refused(self):
        with mock.patch.object(psgd, 'PSGD_VERSION_MINOR', psgd.PSGD_VERSION_MINOR + 1):
            with self.assertRaisesRegex(ImportError, 'is of another version'):
                psgd.load(os.environ['PSGD_LIBRARY'])

    def test_a_library_that_is_not_there(self):
        with self.assertRaisesRegex(ImportError, 'no-such.so.*PSGD_LIBRARY names the library'):
            psgd.load('no-such.so')


if __name__ == '__main__':
    tap_unittest.main()
