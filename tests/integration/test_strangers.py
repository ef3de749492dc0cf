#!/usr/bin/env python3
"""Somebody else's program: the examples, in the build and outside of it.

Installs the library into an empty folder, and builds the examples there as a stranger would: by
the command in README.md, as C11 and as C++17, by gcc and by clang.

PSGD_BUILD is the build folder, PSGD_SOURCE the root of the tree, PSGD_SANITIZE meson's b_sanitize,
PSGD_GLOO whether the module is built.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = os.environ['PSGD_SOURCE'], os.environ['PSGD_BUILD']
SANITIZE, HAVE_GLOO = os.environ['PSGD_SANITIZE'], os.environ['PSGD_GLOO'] == 'true'
sys.path.insert(0, os.path.join(SOURCE, 'tools'))
import tap_unittest  # noqa: E402

EXAMPLES = ('quick_start', 'processes', 'own_collectives', 'own_compressor', 'own_controller')
WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Wshadow', '-Werror', '-O2']
COMPILERS = {
    'gcc': ['gcc', '-std=c11'],
    'clang': ['clang-14', '-std=c11'],
    'gcc_cxx': ['g++', '-std=c++17', '-x', 'c++'],
    'clang_cxx': ['clang++-14', '-std=c++17', '-x', 'c++'],
}
LIBC = re.compile(r'^(libc|libm|libpthread|libdl|ld-linux[\w-]*)\.so[.\d]*$')


def run(command, **options):
    """What a command printed; fails with it when the command fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, timeout=120, **options)
    if done.returncode:
        raise AssertionError(f'{command} ended with {done.returncode}:\n{done.stdout[-3000:]}')
    return done.stdout


def bytes_at(rank):
    """P and Q of the weight, and the bias as it is."""
    return 4 * (rank * (40 + 60) + 40)


def check_numbers(test, name, output):
    """The loss has fallen, and the bytes are those of the shapes: 40 by 60, and 40."""
    steps = re.findall(r'^step +(\d+) +loss +([\d.]+) .*sent as (\d+)', output, re.M)
    losses = [float(loss) for _, loss, _ in steps]
    sent = [int(count) for _, _, count in steps]
    test.assertGreater(losses[0], 100)
    test.assertLess(losses[-1], 0.02)
    test.assertEqual(losses, sorted(losses, reverse=True))
    if name in ('quick_start', 'processes'):
        test.assertEqual(set(sent), {bytes_at(2)})
    elif name == 'own_collectives':  # r=1 before the middle, then r=2
        middle = (int(steps[-1][0]) + 1) // 2
        test.assertEqual(sent, [bytes_at(1 + (int(step) >= middle)) for step, _, _ in steps])
    elif name == 'own_controller':  # every step has the rank that was decided last
        test.assertEqual(re.findall(r'halve to r=(\d+)', output), ['4', '2', '1'])
        decided = {int(step): int(rank)
                   for step, rank in re.findall(r'^step +(\d+) +halve to r=(\d+)', output, re.M)}
        for step, count in zip((int(step) for step, _, _ in steps), sent):
            rank = min([8] + [r for at, r in decided.items() if at <= step])
            test.assertEqual(count, bytes_at(rank), f'step {step}')
    else:  # a tenth of the values, each with its place
        test.assertEqual(set(sent), {8 * (240 + 4)})
        off, waits = re.search(r'off by (\S+) at most, errors up to (\S+) wait', output).groups()
        test.assertLess(float(off), 1e-4)
        test.assertGreater(float(waits), 10 * float(off))


def readme():
    with open(os.path.join(SOURCE, 'README.md'), encoding='utf-8') as file:
        return file.read()


def split_line(line):
    step, loss, rest = re.match(r'step +(\d+)  loss +([\d.]+)  (.*)', line).groups()
    return int(step), float(loss), rest


def need_gloo(test, name):
    if name == 'processes' and not HAVE_GLOO:
        test.skipTest('built without Gloo')


class InTheBuild(unittest.TestCase):
    def check(self, name):
        need_gloo(self, name)
        program = os.path.join(BUILD, 'examples', 'example-' + name.replace('_', '-'))
        output = run([program])
        check_numbers(self, name, output)
        return output

    def test_quick_start(self):
        output = self.check('quick_start')
        shown = re.findall(r'^    (step +\d+ .*)', readme(), re.M)
        printed = [split_line(line) for line in output.splitlines()]
        self.assertEqual(len(shown), len(printed))
        for step, loss, rest in map(split_line, shown):
            # Another instruction set rounds in other places.
            self.assertTrue([line for line in printed if (line[0], line[2]) == (step, rest)
                             and abs(line[1] - loss) <= 0.01 * loss + 2e-5], f'step {step}')

    def test_processes(self):
        self.check('processes')

    def test_own_collectives(self):
        self.check('own_collectives')

    def test_own_compressor(self):
        self.check('own_compressor')

    def test_own_controller(self):
        self.check('own_controller')


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        run(['meson', 'install', '-C', BUILD, '--no-rebuild', '--quiet', '--destdir', cls.root])
        cls.files = glob.glob(cls.root + '/**/psgd.pc', recursive=True)
        libraries = glob.glob(cls.root + '/**/libpsgd.so.0', recursive=True)
        cls.library = libraries[0] if len(libraries) == 1 else None

    def setUp(self):
        if SANITIZE != 'none':
            self.skipTest('a sanitized library needs a program that is sanitized too')
        if not shutil.which('pkg-config'):
            self.skipTest('no pkg-config')

    def pkg_config(self, *options):
        self.assertEqual(len(self.files), 1, 'one psgd.pc is installed')
        environment = dict(os.environ, PKG_CONFIG_PATH='', PKG_CONFIG_SYSROOT_DIR=self.root,
                           PKG_CONFIG_LIBDIR=os.path.dirname(self.files[0]))
        return run(['pkg-config', *options, 'psgd'], env=environment).split()

    def test_pkg_config_says_nothing_else(self):
        flags = self.pkg_config('--cflags')
        self.assertTrue(flags)
        self.assertTrue(all(flag.startswith('-I' + self.root) for flag in flags), flags)
        flags = self.pkg_config('--libs')
        self.assertEqual([flag for flag in flags if not flag.startswith('-L' + self.root)],
                         ['-lpsgd'])
        self.assertEqual(self.pkg_config('--print-requires'), [])

    def test_library_needs_libc_only(self):
        self.assertIsNotNone(self.library, 'one libpsgd.so.0 is installed')
        needed = re.findall(r'\(NEEDED\).*\[(.*)\]', run(['readelf', '-d', self.library]))
        self.assertIn('libc.so.6', needed)
        self.assertEqual([name for name in needed if not LIBC.match(name)], [])

    def check(self, key, name):
        compiler = COMPILERS[key]
        if not shutil.which(compiler[0]):
            self.skipTest('no ' + compiler[0])
        need_gloo(self, name)
        # Alone in a folder, so that nothing of the tree is found by accident.
        folder = tempfile.mkdtemp(dir=self.root)
        for file in (name + '.c', 'tiny.h', 'pipes.h'):
            shutil.copy(os.path.join(SOURCE, 'examples', file), folder)
        line = re.search(r'^    cc trainer\.c \$\(pkg-config (.*) psgd\)(.*)', readme(), re.M)
        run([*compiler, *WARNINGS, name + '.c', '-o', name,
             *self.pkg_config(*line.group(1).split()), *line.group(2).split()], cwd=folder)
        environment = dict(os.environ, LD_LIBRARY_PATH=os.path.dirname(self.library))
        check_numbers(self, name, run(['./' + name], cwd=folder, env=environment))


def add_tests():
    """A test for each compiler and example, so that each is counted, and skipped, by itself."""
    for key in COMPILERS:
        for name in EXAMPLES:
            def test(self, key=key, name=name):
                self.check(key, name)
            setattr(Installed, f'test_{name}_by_{key}', test)


add_tests()

if __name__ == '__main__':
    tap_unittest.main()
