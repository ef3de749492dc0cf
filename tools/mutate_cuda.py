#!/usr/bin/env python3
"""Whether the tests notice it when CUDA code does not wait.

usage: tools/mutate_cuda.py [--only TEXT] [--list] [--work DIR] [--thread]

Takes away, one at a time and in a copy of the tree, each __syncthreads and __syncwarp of the
kernels and each record of an event, wait for one, and synchronization of the host code, builds the
modules on the CUDA that runs on a CPU (tests/cuda_shim) and runs their tests: kernels in three
orders of their threads, host code with streams that run only when something waits. What these do
not notice goes to the thread sanitizer as well with --thread. The test `cuda mutants`
of the suite slow.

Reports TAP, a line for each. What survives and is known to be redundant stands in
mutate_cuda_redundant.txt with the reason; ends with 1 when something else survives.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from check_text import blank, line_of

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REDUNDANT = os.path.join(ROOT, 'tools/mutate_cuda_redundant.txt')
KERNEL_CALL = re.compile(r'\b__sync(?:threads|warp)\s*\(')
HOST_CALL = re.compile(
    r'(?<![\w.>])(?:[\w\[\]]+(?:->|\.))*'
    r'(cuda(?:StreamWaitEvent|EventRecord|StreamSynchronize|EventSynchronize)'
    r'|stream_wait|stream_finish|event_record)\s*\(')
FUNCTION = re.compile(r'^(?![\s#/{}])[^;{}()#]*?([A-Za-z_]\w*)\s*\(', re.M)
ATTRIBUTE = re.compile(r'__launch_bounds__\s*\([^()]*\)')
DECLARATION = re.compile(
    r'(?:^|[;{}])\s*(?:static|inline|extern|typedef|psgd_status|cudaError_t|__\w+__)\b[^;{}()]*$')
ORDERS = [{'CUDA_SHIM_ORDER': order} for order in ('forward', 'reverse', 'random:5')]
LAZY = [{'CUDA_SHIM_LAZY': '1'}, {}]
DEVICE = r'tests/cuda/test_cuda_(kernels|device|order)'
IMAGE = r'tests/image/test_image_cuda\w*'
# Files, the test programs that are to notice, and the environments of these: some go through the
# orders by themselves.
KERNELS = {
    r'lib/device/cuda\w*\.(cu|h)$': ([DEVICE], [{}]),
    r'examples/image/cuda\w*\.(cu|h)$': ([IMAGE], ORDERS),
}
HOST = {
    r'lib/device/cuda\w*\.(c|h)$': ([DEVICE], LAZY),
    r'(lib/transport/(nccl\w*|streamed)\.c|include/psgd/(nccl\w*|streamed)\.h)$':
        ([r'tests/transport/test_nccl(_comm|_conformance|_memory)?'], LAZY),
    r'examples/image/cuda\w*\.(c|h)$': ([IMAGE], LAZY),
    r'lib/engine/\w+\.[ch]$':
        ([r'tests/engine/test_device\w*', r'tests/cuda/test_cuda_session'], LAZY),
}
# A test hangs that takes so much longer than it did, and some more.
HANGS_AFTER, AND_SECONDS = 20, 60


class Mutant:
    """One call taken away. `key` names it in a way that survives changes of other lines."""

    def __init__(self, path, start, end, call, function, number, kernel, tests):
        self.path, self.start, self.end, self.call = path, start, end, call
        self.kernel, (self.programs, self.environments) = kernel, tests
        self.key = f'{path} {function} {call} {number}'

    def apply(self, text):
        """The call is gone; what it returned is success."""
        stead = '(void)0' if self.kernel else \
            'cudaSuccess' if self.call.startswith('cuda') else 'PSGD_OK'
        taken = text[self.start:self.end]
        return text[:self.start] + stead + '\n' * taken.count('\n') + text[self.end:]


def end_of_call(text, position):
    """After the parenthesis that closes the one that opens at or after position."""
    depth = 0
    for at in range(text.index('(', position), len(text)):
        depth += {'(': 1, ')': -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    raise ValueError('a parenthesis is not closed')


def function_at(blanked, position):
    names = FUNCTION.findall(blanked, 0, position)
    return names[-1] if names else '-'


def find_in(path, text, pattern, kernel, tests):
    """The calls of one file as mutants."""
    blanked, seen = ATTRIBUTE.sub(lambda m: ' ' * len(m.group()), blank(text)), {}
    for match in pattern.finditer(blanked):
        if DECLARATION.search(blanked[:match.start()]):
            continue
        end = end_of_call(blanked, match.start())
        if re.match(r'\s*\{', blanked[end:]):
            continue  # a definition
        call = re.match(r'[\w]+', match.group(match.lastindex or 0)).group()
        function = function_at(blanked, match.start())
        number = seen[function, call] = seen.get((function, call), 0) + 1
        yield Mutant(path, match.start(), end, call, function, number, kernel, tests)


def find_mutants(root):
    found = []
    for top in ('lib', 'include', 'examples'):
        for folder, _, names in sorted(os.walk(os.path.join(root, top))):
            for name in sorted(names):
                path = os.path.relpath(os.path.join(folder, name), root)
                with open(os.path.join(root, path), encoding='utf-8') as file:
                    text = file.read()
                for table, pattern, kernel in ((KERNELS, KERNEL_CALL, True),
                                               (HOST, HOST_CALL, False)):
                    for files, tests in table.items():
                        if re.match(files, path):
                            found += find_in(path, text, pattern, kernel, tests)
    return found


def read_redundant(path):
    """{key: reason} of "key: reason" lines."""
    reasons = {}
    with open(path, encoding='utf-8') as file:
        for line in file:
            if line.strip() and not line.startswith('#'):
                key, reason = line.split(': ', 1)
                reasons[key] = reason.strip()
    return reasons


class Build:
    """A build folder of the copied tree."""

    def __init__(self, tree, folder, *options):
        self.tree, self.folder, self.seconds = tree, folder, {}
        self.run('meson', 'setup', folder, tree, '-Dwerror=false', '--buildtype=debugoptimized',
                 '-Dtests=enabled', *options)
        self.run('ninja', '-C', folder, 'build.ninja')
        listed = self.run('ninja', '-C', folder, '-t', 'targets', 'all')
        self.targets = [line.split(': ')[0] for line in listed.splitlines()]
        self.modules = [target for target in self.targets
                        if re.match(r'tests/cuda_shim/psgd-[\w-]+\.so$', target)]

    def run(self, *command):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(
                f'{" ".join(command)}:\n{result.stdout[-3000:]}{result.stderr[-3000:]}')
        return result.stdout

    def programs(self, patterns):
        """The test programs whose paths are like this, built anew with the modules."""
        found = [target for target in self.targets
                 if any(re.fullmatch(pattern, target) for pattern in patterns)]
        if not found:
            raise RuntimeError(f'no test program {" or ".join(patterns)}')
        self.run('ninja', '-C', self.folder, *self.modules, *found)
        return found

    def notices(self, mutant, environments):
        """What notices it; None: nothing does."""
        run = Run(self.folder, self.seconds)
        programs = sorted(self.programs(mutant.programs), key=lambda p: self.seconds.get(p, 0))
        jobs = [(p, e) for p in programs for e in environments]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in [pool.submit(run.judge, *job) for job in jobs]:
                done.result()
        return run.found

    def check_untouched(self, mutants):
        """With nothing taken away all is well. Learns how long that takes."""
        for program in self.programs(sorted({p for m in mutants for p in m.programs})):
            begun, run = time.monotonic(), Run(self.folder, {})
            run.judge(program, {})
            self.seconds[program] = time.monotonic() - begun
            if run.found:
                raise RuntimeError(f'{program} fails with nothing taken away')


def end_session(child):
    """A program with all that it has forked: each of Check's tests has a group of its own."""
    if child.poll() is not None:
        return
    child.kill()
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as file:
                session = int(file.read().rpartition(')')[2].split()[3])
            if session == child.pid:
                os.kill(int(pid), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass


class Run:
    """Test programs, until the first of them fails."""

    def __init__(self, folder, seconds):
        self.folder, self.seconds = folder, seconds
        self.found, self.lock, self.children = None, threading.Lock(), []

    def judge(self, program, environment):
        with self.lock:
            if self.found:
                return
            child = self.start(program, environment)
            self.children.append(child)
        limit = None
        if program in self.seconds:
            limit = threading.Timer(self.seconds[program] * HANGS_AFTER + AND_SECONDS,
                                    self.end, (program, environment, 'hangs'))
            limit.start()
        with child.stdout:
            failed = any(line.startswith(b'not ok') for line in child.stdout)
        if failed or child.wait() not in (0, 77):
            self.end(program, environment, 'fails')
        child.wait()
        if limit:
            limit.cancel()

    def start(self, program, environment):
        # The thread sanitizer needs it; the others do not mind.
        command = ['setarch', os.uname().machine, '-R', os.path.join('.', program)]
        return subprocess.Popen(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, 'CK_DEFAULT_TIMEOUT': '0', 'CK_TAP_LOG_FILE_NAME': '-',
                 'CK_VERBOSITY': 'silent', **environment,
                 'PSGD_MODULE_PATH': os.path.join(self.folder, 'tests/cuda_shim')})

    def end(self, program, environment, why):
        """This one is enough; the others stop."""
        with self.lock:
            if self.found:
                return
            shown = [f'{name[10:].lower()}={value}' for name, value in environment.items()]
            self.found = ' '.join((os.path.basename(program), *shown, f'({why})'))
            for child in self.children:
                end_session(child)


def copy_tree(root, to):
    """The files are of now, or a build that is kept would take older changes for built."""
    shutil.copytree(root, to, ignore=lambda folder, names: {
        name for name in names if name in ('.git', '__pycache__', 'results')
        or os.path.isdir(os.path.join(folder, name, 'meson-private'))}, symlinks=True,
        copy_function=shutil.copy)


def try_out(mutant, builds):
    path = os.path.join(builds[0].tree, mutant.path)
    with open(path, encoding='utf-8') as file:
        whole = file.read()
    try:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(mutant.apply(whole))
        first = builds[0].notices(mutant, mutant.environments)
        if first or len(builds) < 2:
            return first
        return builds[1].notices(mutant, mutant.environments[:1])
    finally:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(whole)


def prepare(work, thread):
    """A copy of the tree in the folder, and its builds."""
    tree = os.path.join(work, 'tree')
    shutil.rmtree(tree, ignore_errors=True)
    copy_tree(ROOT, tree)
    builds = [Build(tree, os.path.join(work, 'plain'))]
    if thread:
        builds.append(Build(tree, os.path.join(work, 'thread'), '-Db_sanitize=thread'))
    return builds


def show(number, mutant, builds, redundant):
    """Tries one out and prints its line; whether it is as it should be."""
    reason = redundant.get(mutant.key)
    try:
        by = try_out(mutant, builds)
    except RuntimeError as error:
        by, reason = None, None
        print(*(f'# {line}' for line in str(error).splitlines()), sep='\n')
    good = bool(by or reason)
    shown = f'noticed by {by}' if by else f'redundant: {reason}' if reason else 'SURVIVED'
    if by and reason:
        shown += ', though listed as redundant'
    print(f'{"ok" if good else "not ok"} {number} - {mutant.key:<70} {shown}', flush=True)
    return good


def run_all(mutants, stale, options, redundant):
    """How many are not as they should be."""
    print(f'1..{len(mutants) + len(stale)}')
    with tempfile.TemporaryDirectory() as temporary:
        builds = prepare(options.work or temporary, options.thread)
        for build in builds:
            build.check_untouched(mutants)
        wrong = sum(not show(i, m, builds, redundant) for i, m in enumerate(mutants, 1))
    for i, key in enumerate(stale, len(mutants) + 1):
        print(f'not ok {i} - {key:<70} is listed as redundant, and is not there')
    return wrong + len(stale)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--only', default='', help='mutants whose key has this in it')
    parser.add_argument('--list', action='store_true', help='show the mutants and stop')
    parser.add_argument('--work', help='folder for the copy and its builds, kept')
    parser.add_argument('--thread', action='store_true', help='the thread sanitizer as well')
    options = parser.parse_args()
    redundant = read_redundant(REDUNDANT)
    every = find_mutants(ROOT)
    mutants = [m for m in every if options.only in m.key]
    if options.list:
        for mutant in mutants:
            with open(os.path.join(ROOT, mutant.path), encoding='utf-8') as file:
                print(f'{mutant.key} (line {line_of(file.read(), mutant.start)})')
        return 0
    begun = time.monotonic()
    try:
        wrong = run_all(mutants, sorted(set(redundant) - {m.key for m in every}), options, redundant)
    except RuntimeError as error:
        print(*(f'# {line}' for line in str(error).splitlines()), sep='\n')
        print('Bail out! The tests of the tree as it is do not run')
        return 1
    minutes = (time.monotonic() - begun) / 60
    print(f'# {len(mutants)} taken away, {wrong} wrong, {minutes:.0f} minutes')
    return 1 if wrong or not mutants else 0


if __name__ == '__main__':
    sys.exit(main())
