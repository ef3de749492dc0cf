#!/usr/bin/env python3
"""Rules of the source tree that no compiler checks.

usage: tools/check.py [--root DIR] [--build DIR] [--write-map]

Prints one line "file:line: message" for each breach and ends with 1 when there is one.
Lines with "warning:" do not count. --build also looks at the libraries in a build folder,
--write-map writes the symbol maps anew from the public headers.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys

import check_symbols
from check_text import blank, line_of, Report

SKIPPED_FOLDERS = {'.git', '__pycache__', 'results', '.cache', '.vscode', '.idea'}
CODE = ('.c', '.h', '.cc', '.cu')
INDENTED_BY_SPACES = ('.py', '.sh', '.yaml', '.build')
SOFT_LINES, HARD_LINES, HEADER_LINES = 400, 600, 200
COLUMNS = 100

# The ladder: a room includes itself and rooms of a lower level, so siblings never meet.
LEVEL = {
    'base': 1,
    'device': 2, 'compress': 2, 'control': 2, 'shape': 2, 'transport': 2,
    'engine': 3,
    'experiment': 4,
}
C_HEADERS = {'stdarg.h', 'stdbool.h', 'stddef.h', 'stdint.h', 'stdlib.h', 'string.h', 'limits.h'}
ADAPTERS = {'include/psgd/nccl_calls.h': {'nccl.h'}, 'include/psgd/mpi_calls.h': {'mpi.h'}}

# A library reports by status: it does not print, end the process, or read the environment.
BANNED = {
    'exit': 'ends the process', '_exit': 'ends the process', 'abort': 'ends the process',
    'quick_exit': 'ends the process', 'atexit': 'acts on the whole process',
    'printf': 'prints', 'vprintf': 'prints', 'puts': 'prints', 'putchar': 'prints',
    'perror': 'prints',
    'fprintf': 'prints', 'vfprintf': 'prints',
    'system': 'runs a shell', 'popen': 'runs a shell',
    'strcpy': 'has no bound', 'strcat': 'has no bound', 'sprintf': 'has no bound',
    'vsprintf': 'has no bound', 'gets': 'has no bound', 'alloca': 'has no bound',
    'strtok': 'keeps hidden state',
    'atoi': 'reports no error', 'atol': 'reports no error', 'atof': 'reports no error',
    'signal': 'acts on the whole process', 'sigaction': 'acts on the whole process',
    'getenv': 'reads the environment', 'secure_getenv': 'reads the environment',
    'setenv': 'changes the environment', 'putenv': 'changes the environment',
}
READ_ENVIRONMENT = {'lib/experiment/launch.c', 'lib/experiment/launch_cuda.c',
                    'lib/experiment/run_manifest.c', 'lib/experiment/stack.c'}
ENVIRONMENT = re.compile(r'(?<![\w.>])(?:environ|__environ)\b')
CALL = re.compile(r'(?<![\w.>])(%s)\s*\(' % '|'.join(sorted(BANNED, key=len, reverse=True)))
# A decision follows from what was observed alone, so that it can be repeated.
PURE = ('lib/control/',)
IMPURE = re.compile(
    r'(?<![\w.>])(psgd__now_ns|psgd__philox\w*|(?:clock|time|sleep|nanosleep|usleep|gettimeofday)'
    r'|clock_\w+|s?rand(?:om|_r)?|[dlm]rand48|getrandom|f?open|openat|f?read|f?write|fgets|fputs'
    r'|fputc|socket|ioctl)\s*\(')
STANDARD_STREAM = re.compile(r'\b(stdout|stderr|cout|cerr|clog)\b')

UNFINISHED = re.compile(r'\b(TO' r'DO|FIX' r'ME|XX' r'X|HA' r'CK)\b')
MACHINE_PATH = re.compile(r'(?<![\w.$}/])/(?:work|tmp|root|home)/')
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)


def list_files(root):
    """Every file of the project, as paths with / from the root; build folders are left out."""
    found = []
    for folder, subfolders, names in os.walk(root):
        at_root = os.path.samefile(folder, root)
        subfolders[:] = sorted(
            name for name in subfolders
            if name not in SKIPPED_FOLDERS and not (at_root and name.startswith('build')))
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                found.append(os.path.relpath(path, root).replace(os.sep, '/'))
    return sorted(found)


def read_text(root, path, report):
    """The text of a file; None for a binary one."""
    with open(os.path.join(root, path), 'rb') as file:
        data = file.read()
    if b'\0' in data[:8192] or data.startswith(b'\x1f\x8b'):
        return None
    try:
        return data.decode('utf-8')
    except UnicodeDecodeError as error:
        report.error(path, data.count(b'\n', 0, error.start) + 1, 'not UTF-8')
        return None


def is_test(path):
    return path.startswith('tests/') or os.path.basename(path).startswith('test_')


# Layout

def check_layout(path, text, report):
    """What .editorconfig says, file lengths, and words that do not stay in the tree."""
    lines = text.split('\n')
    if text and not text.endswith('\n'):
        report.error(path, len(lines), 'no newline at the end of the file')
    if text.endswith('\n\n'):
        report.error(path, len(lines) - 1, 'empty line at the end of the file')
    for number, line in enumerate(lines, 1):
        check_line(path, number, line, report)
    if path.endswith(CODE + ('.py', '.sh')):
        check_length(path, len(lines) - 1, report)
    if path.startswith('include/') and path.endswith('.h'):
        if 'SPDX-License-Identifier: MIT' not in '\n'.join(lines[:6]):
            report.error(path, 1, 'no "SPDX-License-Identifier: MIT" in the first lines')


def check_line(path, number, line, report):
    if line.endswith('\r'):
        report.error(path, number, 'line ends with a carriage return')
    elif line != line.rstrip():
        report.error(path, number, 'space at the end of the line')
    if path.endswith(INDENTED_BY_SPACES) and '\t' in line:
        report.error(path, number, 'tab in a file that is indented by spaces')
    if path.endswith(CODE):
        if len(line.expandtabs(8)) > COLUMNS:
            report.error(path, number, f'longer than {COLUMNS} columns')
        if re.match(r'\t* {8} *[^ \\]', line):
            report.error(path, number, 'indented by spaces, not by tabs')
    if UNFINISHED.search(line):
        report.error(path, number, f'"{UNFINISHED.search(line).group()}": finish it or leave it out')
    if not is_test(path) and MACHINE_PATH.search(line):
        report.error(path, number, 'path of one machine')


def check_length(path, count, report):
    limit = HEADER_LINES if path.startswith('include/') else HARD_LINES
    if count > limit:
        report.error(path, count, f'{count} lines, the limit is {limit}')
    elif count > SOFT_LINES:
        report.warn(path, count, f'{count} lines; split it before it reaches {HARD_LINES}')


# The ladder

def room_of(path):
    """Which room a file belongs to: ('lib', 'engine'), ('include', ''), ('tests', 'image') ..."""
    parts = path.split('/')
    if path.startswith('include/psgd/experiment/'):
        return 'include', 'experiment'
    if parts[0] in ('lib', 'examples', 'tests') and len(parts) > 2:
        return parts[0], parts[1]
    return parts[0], ''


def allowed(user, used):
    """Whether a file of room `user` may include one of room `used`."""
    (top, room), (used_top, used_room) = user, used
    if top == 'include':
        return used_top == 'include' and (used_room == '' or room == 'experiment')
    if top == 'lib':
        if used_top == 'include':
            return used_room == '' or room == 'experiment'
        return used_top == 'lib' and (used_room == room or LEVEL[used_room] < LEVEL[room])
    if top in ('cli', 'examples'):
        return used_top == 'include' or used == user
    # A test may see what it tests.
    return used_top in ('include', 'lib', 'tests') or (used_top, used_room) == (
        'cli', '') and room == 'cli' or used_top == 'examples' and used_room == room


def find_include(files, path, quoted, name):
    """The file of the tree that an include means; None: not in the tree."""
    folders = ['include', 'lib', 'tests', '']
    if path.startswith('tests/image/'):
        folders.append('examples/image')
    if quoted:
        folders.insert(0, os.path.dirname(path))
    for folder in folders:
        candidate = os.path.normpath(os.path.join(folder, name)).replace(os.sep, '/')
        if candidate in files and (folder or '/' in name):
            return candidate
    return None


def check_includes(files, path, text, report):
    top, room = room_of(path)
    if top not in ('include', 'lib', 'cli', 'examples', 'tests'):
        return
    if top == 'lib' and room not in LEVEL:
        report.error(path, 1, f'lib/{room} is not a room of the ladder')
        return
    for match in INCLUDE.finditer(text):
        quoted, name = match.group(1) == '"', match.group(2)
        number = line_of(text, match.start())
        target = find_include(files, path, quoted, name)
        if target is None:
            if quoted or name.startswith('psgd/'):
                report.error(path, number, f'no file for #include "{name}" in the tree')
            elif top == 'include' and name not in C_HEADERS | ADAPTERS.get(path, set()):
                report.error(path, number, f'public header includes <{name}>; only libc is allowed')
            continue
        used = room_of(target)
        if used[0] == 'lib' and used[1] not in LEVEL:
            continue
        if not allowed((top, room), used):
            report.error(path, number, f'{spell(top, room)} may not include {target}')
        elif used[0] == 'include' and quoted and top != 'include':
            report.error(path, number, f'write <{target[len("include/"):]}> for a public header')


def spell(top, room):
    return f'{top}/{room}' if room else top


# Calls

def check_calls(path, text, report):
    if not path.startswith('lib/'):
        return
    for match in CALL.finditer(text):
        name = match.group(1)
        if name in ('getenv', 'secure_getenv') and path in READ_ENVIRONMENT:
            continue
        if name in ('fprintf', 'vfprintf') and path.startswith('lib/experiment/'):
            continue  # records are written so; the standard streams are found below
        report.error(path, line_of(text, match.start()), f'{name}() {BANNED[name]}: not in a library')
    for match in IMPURE.finditer(text) if path.startswith(PURE) else ():
        report.error(path, line_of(text, match.start()),
                     f'{match.group(1)}(): a decision has no clock, no I/O and no random numbers')
    for match in STANDARD_STREAM.finditer(text):
        report.error(path, line_of(text, match.start()),
                     f'{match.group(1)}: a library does not print')
    for match in ENVIRONMENT.finditer(text) if path not in READ_ENVIRONMENT else ():
        report.error(path, line_of(text, match.start()),
                     f'{match.group()} reads the environment: not in a library')


# Formatting

def check_format(root, paths, report):
    tool = shutil.which('clang-format-14')
    if not tool:
        print('clang-format-14 is not installed: formatting was not checked')
        return
    if not paths or not os.path.exists(os.path.join(root, '.clang-format')):
        return
    result = subprocess.run([tool, '--dry-run', '-Werror', '--style=file', *paths], cwd=root,
                            capture_output=True, text=True, check=False)
    seen = set()
    for match in re.finditer(r'^(.+?):(\d+):\d+: error: (.*)$', result.stderr, re.M):
        path, number, message = match.groups()
        if path not in seen:  # one line a file; the tool itself names all places
            seen.add(path)
            report.error(path, int(number), f'{message}; run clang-format-14 -i {path}')
    if result.returncode and not seen:
        report.error('.clang-format', 1, result.stderr.strip().split('\n')[0])


def check_tree(root, report, build=None, with_format=True):
    """All checks over the tree at root."""
    files = list_files(root)
    present = set(files)
    texts = {}
    for path in files:
        text = read_text(root, path, report)
        if text is not None:
            texts[path] = text
            check_layout(path, text, report)
    code = [path for path in texts if path.endswith(CODE)]
    for path in code:
        check_includes(present, path, blank(texts[path], keep_includes=True), report)
        check_calls(path, blank(texts[path]), report)
    check_symbols.check_maps(root, texts, report)
    if with_format:
        check_format(root, code, report)
    if build:
        check_symbols.check_build(root, texts, build, report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--root', default=os.path.dirname(os.path.dirname(
        os.path.abspath(__file__))), help='the source tree')
    parser.add_argument('--build', help='also check the libraries in this build folder')
    parser.add_argument('--write-map', action='store_true',
                        help='write the symbol maps from the public headers')
    options = parser.parse_args()
    report = Report()
    if options.write_map:
        check_symbols.write_maps(options.root)
    check_tree(options.root, report, options.build)
    report.print()
    return 1 if report.errors else 0


if __name__ == '__main__':
    sys.exit(main())
