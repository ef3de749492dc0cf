"""Campaigns of the built command in folders of their own. PSGD_BIN names the command."""
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

CONFIG = '''seed: 7
model: {name: mlp}
dataset: {name: synthetic, batch_size: 16, train_limit: 512, test_limit: 64}
training: {epochs: 1000, max_iterations: 4, learning_rate: 0.05}
compression: {use_fixed_rank: true, fixed_rank_value: 2, max_rank: 4, start_power_iterations: 2}
communication: {measure: false}
'''
# Steps of two workers have a floor, so that a run can be caught in its middle.
LIMITED = 'network_limits: {enable: true, method: model, latency_ms: 2}\n'
# What a launcher, an outer run, or the user says to psgd.
SAYS_SOMETHING = re.compile(r'(RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|MASTER_PORT_BASE|'
                            r'RESUME_FROM|NCCL_IFNAME)$|PSGD_(?!(BIN|SOURCE)$)|OMPI_|PMI_')
LONG = 120 * int(os.environ.get('CK_TIMEOUT_MULTIPLIER', '1'))


def free_ports(n):
    """The first of n ports in a row that were free a moment ago."""
    while True:
        with socket.socket() as first:
            first.bind(('127.0.0.1', 0))
            base = first.getsockname()[1]
        try:
            for port in range(base, base + n):
                with socket.socket() as probe:
                    probe.bind(('127.0.0.1', port))
            return base
        except (OSError, OverflowError):
            continue


class Node:
    """`psgd batch` in a folder; what it says goes to a file there."""

    def __init__(self, folder, *arguments, stdout=None, binary=None, **variables):
        self.path = os.path.join(folder, f'said.{time.monotonic_ns()}')
        environment = {k: v for k, v in os.environ.items() if not SAYS_SOMETHING.match(k)}
        environment.update(variables)
        with open(self.path, 'w') as out:
            self.process = subprocess.Popen([binary or os.environ['PSGD_BIN'], 'batch', *arguments],
                                            cwd=folder, env=environment,
                                            stdout=out if stdout is None else stdout, stderr=out,
                                            stdin=subprocess.DEVNULL)

    def said(self):
        with open(self.path) as file:
            return file.read()

    def end(self, timeout=LONG):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError('it did not end:\n' + self.said()) from None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def until(condition, what, seconds=LONG):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError('not in time: ' + what)
        time.sleep(0.02)


def run_of(folder, name):
    found = glob.glob(os.path.join(folder, 'results', '*', name))
    return found[0] if len(found) == 1 else None


def state_of(folder, name):
    made = run_of(folder, name)
    try:
        with open(os.path.join(made or '', 'status.json')) as file:
            return json.load(file)['state']
    except FileNotFoundError:
        return ''


def rows_of(folder, name):
    """Iterations in the records of a run."""
    made = run_of(folder, name)
    found = glob.glob(f'{made}/benchmark/*/csv/powerSGD_benchmark_*.csv')
    if not made or not found:
        return []
    with open(found[0]) as file:
        return file.read().splitlines()[1:]


def hash_of(folder, name):
    """Of the parameters, on which all workers agreed at the end."""
    with open(os.path.join(run_of(folder, name), 'events.jsonl')) as file:
        texts = [event['text'] for event in map(json.loads, file) if event['event'] == 'agree']
    assert 'bit-equal on all 2 workers' in texts[-1], texts
    return texts[-1]


def processes_in(folder):
    """Processes whose current folder is this one."""
    found = []
    for path in glob.glob('/proc/[0-9]*/cwd'):
        try:
            if os.path.realpath(os.readlink(path)) == os.path.realpath(folder):
                found.append(path)
        except OSError:
            pass
    return found


class Case(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix='psgd-test-')
        self.addCleanup(shutil.rmtree, self.root)
        self.nodes = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for node in self.nodes:
            if node.process.poll() is None:
                node.kill()

    def write(self, path, text=CONFIG):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w') as file:
            file.write(text)

    def start(self, folder, *arguments, **variables):
        node = Node(os.path.join(self.root, folder), *arguments, **variables)
        self.nodes.append(node)
        return node

    def batch(self, *arguments, **variables):
        """Exit code, and all that it said."""
        node = self.start('', *arguments, **variables)
        return node.end(), node.said()

    def at(self, *parts):
        return os.path.join(self.root, *parts)
