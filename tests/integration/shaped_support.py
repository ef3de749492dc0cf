"""Two nodes that are network namespaces, each with one interface that leads to the other.

PSGD_BIN names the command. Nothing outside of the namespaces is touched.
"""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from batch_support import CONFIG, LONG, SAYS_SOMETHING, processes_in, until

os.environ['PATH'] += os.pathsep + '/usr/sbin' + os.pathsep + '/sbin'


def call(*words, **options):
    """Exit code, and all that a command said."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, timeout=LONG,
                          **options)
    return done.returncode, done.stdout


def must(*words):
    code, said = call(*words)
    if code:
        raise AssertionError(f'{" ".join(words)} ended with {code}: {said}')
    return said


def default_signals():
    """Whatever the tests themselves were started by."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Probe:
    """What this machine has for these tests, found in a namespace that is removed at once."""
    needed = (('veth', 'ip link add va type veth peer name vb'),
              ('ifb', 'ip link add vi type ifb'),
              ('htb', 'tc qdisc add dev va root handle 1: htb'),
              ('the ingress qdisc', 'tc qdisc add dev va handle ffff: ingress'),
              ('u32 and mirred', 'tc filter add dev va parent ffff: u32 match u32 0 0 '
                                 'action mirred egress redirect dev vi'))

    def __init__(self):
        self.netem = False
        self.reason = self.look()

    def look(self):
        """Why the tests cannot be made here; '' if they can."""
        if os.geteuid() != 0:
            return 'needs root, for network namespaces'
        for tool in ('ip', 'tc', 'setpriv'):
            if not shutil.which(tool):
                return f'needs {tool}'
        name = f'psgd-probe-{os.getpid()}'
        code, said = call('ip', 'netns', 'add', name)
        if code:
            return f'no network namespaces: {said.strip()}'
        try:
            inside = ('ip', 'netns', 'exec', name)
            for what, command in self.needed:
                code, said = call(*inside, *command.split())
                if code:
                    return f'no {what}: {" ".join(said.split())}'
            self.netem = call(*inside, *'tc qdisc add dev vb root netem delay 1ms'.split())[0] == 0
        finally:
            must('ip', 'netns', 'del', name)
        return ''


PROBE = Probe()


class Node:
    """Commands on one of the two, in a folder of its own."""

    def __init__(self, number, root):
        self.number = number
        self.name = f'psgd-test-{os.getpid()}-{number}'
        self.interface = f'v{number}'
        self.address = f'10.77.0.{number + 1}'
        self.folder = os.path.join(root, str(number))
        self.started = []
        os.mkdir(self.folder)
        must('ip', 'netns', 'add', self.name)

    def inside(self, *words):
        return ('ip', 'netns', 'exec', self.name, *words)

    def do(self, text):
        return must(*self.inside(*text.split()))

    def script(self, text):
        must(*self.inside('sh', '-e', '-c', text))

    def environment(self):
        return {k: v for k, v in os.environ.items() if not SAYS_SOMETHING.match(k)}

    def psgd(self, *words, weak=False):
        """Exit code, and all that the command said; weak: without the right to limit."""
        drop = ('setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin') if weak else ()
        return call(*self.inside(*drop, os.environ['PSGD_BIN'], *words), cwd=self.folder,
                    env=self.environment())

    def start(self, *words):
        """The process is psgd itself; what it says goes to process.path."""
        path = os.path.join(self.folder, f'said.{len(self.started)}')
        with open(path, 'w', encoding='utf-8') as out:
            process = subprocess.Popen(self.inside(os.environ['PSGD_BIN'], *words), stdout=out,
                                       stderr=out, stdin=subprocess.DEVNULL, cwd=self.folder,
                                       env=self.environment(), preexec_fn=default_signals)
        process.path = path
        self.started.append(process)
        return process

    def shown(self):
        """What `psgd net show` says of the interface."""
        code, said = self.psgd('net', 'show', '--json', self.interface)
        if code:
            raise AssertionError(said)
        (entry,) = json.loads(said)['interfaces']
        return entry

    def left(self):
        """What is there beside addresses: interfaces and what limits them, as tc has it."""
        names = sorted(link['ifname'] for link in json.loads(self.do('ip -j link show')))
        limits = self.do('tc qdisc show')
        for name in names:
            for what in ('class show dev {}', 'filter show dev {}', 'filter show dev {} ingress'):
                limits += self.do('tc ' + what.format(name))
        return names, re.sub(r' direct_packets_stat \d+', '', limits)

    def rows(self, run='run'):
        """Iterations in the records of a run."""
        found = glob.glob(f'{self.folder}/{run}/benchmark/*/csv/powerSGD_benchmark_*.csv')
        if not found:
            return 0
        with open(found[0], encoding='utf-8') as file:
            return len(file.readlines()) - 1

    def remove(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for pid in must('ip', 'netns', 'pids', self.name).split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        must('ip', 'netns', 'del', self.name)


def said_by(process):
    with open(process.path, encoding='utf-8') as file:
        return file.read()


def trainers_of(process):
    with open(f'/proc/{process.pid}/task/{process.pid}/children', encoding='ascii') as file:
        return [int(pid) for pid in file.read().split()]


BURST = re.compile(r'(?<=burst )(\d+)([KM]?)b')


def without_bursts(left):
    return left[0], BURST.sub('', left[1])


def bursts(left):
    return [int(number) * {'': 1, 'K': 1024, 'M': 1024**2}[unit]
            for number, unit in BURST.findall(left[1])]


class Case(unittest.TestCase):
    port = 29600

    def setUp(self):
        if PROBE.reason:
            self.skipTest(PROBE.reason)
        self.root = tempfile.mkdtemp(prefix='psgd-test-')
        self.addCleanup(shutil.rmtree, self.root)
        self.nodes = []
        for number in (0, 1):
            self.nodes.append(Node(number, self.root))
            self.addCleanup(self.nodes[-1].remove)
        first, second = self.nodes
        must('ip', '-n', first.name, 'link', 'add', first.interface, 'type', 'veth', 'peer', 'name',
             second.interface, 'netns', second.name)
        for node in self.nodes:
            node.do('ip link set lo up')
            node.do(f'ip addr add {node.address}/24 dev {node.interface}')
            node.do(f'ip link set {node.interface} up')
        self.before = [node.left() for node in self.nodes]

    def write(self, limits):
        """The same configuration on both nodes."""
        text = CONFIG.replace('start_power_iterations: 2', 'start_power_iterations: 0')
        text += f'save_dir: run\nnetwork_limits: {{enable: true, {limits}}}\n'
        for node in self.nodes:
            with open(os.path.join(node.folder, 'c.yaml'), 'w', encoding='utf-8') as file:
                file.write(text)

    def place(self, node, port=None):
        return ('--nnodes=2', f'--node-rank={node.number}',
                f'--rdzv-endpoint={self.nodes[0].address}:{port or self.port}')

    def start(self, node, *words, command='run'):
        return node.start(command, 'c.yaml', *self.place(node), *words)

    def start_all(self, *words, command='run'):
        return [self.start(node, *words, command=command) for node in self.nodes]

    def ends(self, process, code):
        try:
            process.wait(LONG)
        except subprocess.TimeoutExpired:
            self.fail('it did not end:\n' + said_by(process))
        found = process.returncode
        self.assertEqual(found if found >= 0 else 128 - found, code, said_by(process))
        return said_by(process)

    def waiting(self, *words, command='run'):
        """A run that limits its interface and waits for the other node."""
        first = self.start(self.nodes[0], *words, command=command)
        until(lambda: first.poll() is not None or self.nodes[0].shown()['limited'], 'limits')
        self.assertIsNone(first.poll(), said_by(first))
        return first

    def training(self):
        """Runs on both nodes that would not end by themselves."""
        runs = self.start_all('training.max_iterations=1000000')
        until(lambda: self.nodes[0].rows() > 2 or any(run.poll() is not None for run in runs),
              'training')
        for run in runs:
            self.assertIsNone(run.poll(), said_by(run))
        return runs

    def no_process(self):
        until(lambda: not any(processes_in(node.folder) for node in self.nodes), 'no process')

    def clean(self, *nodes):
        """Interfaces and limits are what they were."""
        for node in nodes or self.nodes:
            self.assertEqual(node.left(), self.before[node.number])
