"""Labs of the built command for test_lab.py. PSGD_BIN names the command."""
import glob
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

PSGD = os.environ['PSGD_BIN']
FOLDER = '/run/netns'
LONG = 120 * int(os.environ.get('CK_TIMEOUT_MULTIPLIER', '1'))

# Trains on the files in files/, beside it; steps with a floor by the link.
CONFIG = '''seed: 7
model: {name: mlp}
dataset: {name: idx, root: files, batch_size: 16}
training: {epochs: 1000, max_iterations: 12, learning_rate: 0.05}
compression: {use_fixed_rank: true, fixed_rank_value: 2, max_rank: 4, start_power_iterations: 1}
'''
LIMITED = 'network_limits: {enable: true, bandwidth_mbps: 50}\n'
DELAYED = ('network_limits: {enable: true, bandwidth_mbps: 50, latency_ms: 5, '
           'schedule: [{at_iteration: 6, egress_mbps: 50, latency_ms: 20}]}\n')

# A server that says how many bytes it got, to where the client waits for it.
SERVER = '''
import socket, sys
s = socket.create_server(('', int(sys.argv[1])))
print('ready', flush=True)
c, peer = s.accept()
n = 0
while True:
    got = c.recv(65536)
    if not got:
        break
    n += len(got)
c.sendall(('%d from %s' % (n, peer[0])).encode())
'''
CLIENT = '''
import socket, sys, time
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
begin = time.monotonic()
c.sendall(bytes(int(sys.argv[3])))
c.shutdown(socket.SHUT_WR)
said = c.recv(100).decode()
print(time.monotonic() - begin, said)
'''


def unavailable():
    """Why there can be no lab here, as the system's own tools see it; None: there can."""
    if os.geteuid() != 0:
        return 'needs root'
    for tool in ('ip', 'unshare', 'setpriv'):
        if not shutil.which(tool):
            return f'{tool} is not installed'
    for what in ('br0 type bridge', 'pa0 type veth peer name pb0',
                 'pa0 type veth peer name pb0 && ip link add mv0 link pa0 type macvlan'):
        done = subprocess.run(['unshare', '--net', 'sh', '-c', 'ip link add ' + what],
                              stderr=subprocess.PIPE, text=True)
        if done.returncode:
            return f'no {what.split(" type ")[-1]}: {done.stderr.strip()}'
    done = subprocess.run([PSGD, 'lab', 'status'], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True)
    return done.stderr.strip() if 'without libnl' in done.stderr else None


def until(condition, what, seconds=LONG):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError('not in time: ' + what)
        time.sleep(0.02)


def interfaces():
    """Of the machine itself."""
    return sorted(os.listdir('/sys/class/net'))


def entries(name):
    """What is in the folder of namespaces of a lab, and mounted there."""
    found = [entry for entry in (os.listdir(FOLDER) if os.path.isdir(FOLDER) else [])
             if entry.startswith(name)]
    with open('/proc/self/mountinfo') as file:
        found += [line.split()[4] for line in file if f'{FOLDER}/{name}' in line]
    return sorted(found)


def namespace(file):
    """What names a namespace in /proc."""
    return os.stat(os.path.join(FOLDER, file)).st_ino


def inside(namespaces):
    """Processes in some namespaces."""
    found = []
    for path in glob.glob('/proc/[0-9]*/ns/net'):
        try:
            if os.stat(path).st_ino in namespaces:
                found.append(int(path.split('/')[2]))
        except OSError:
            pass
    return found


def write_idx(folder, count):
    """Four idx files of images of 28 x 28 pixels, in ten classes."""
    os.makedirs(folder)
    for split, n in (('train', count), ('t10k', count // 4)):
        with open(f'{folder}/{split}-images-idx3-ubyte', 'wb') as file:
            file.write(struct.pack('>iiii', 0x803, n, 28, 28))
            file.write(bytes((i * 7 + k * k) % 251 for i in range(n) for k in range(784)))
        with open(f'{folder}/{split}-labels-idx1-ubyte', 'wb') as file:
            file.write(struct.pack('>ii', 0x801, n) + bytes(i % 10 for i in range(n)))


def losses(folder):
    """The loss of each iteration of the one run in a folder, as it was written."""
    found = glob.glob(f'{folder}/results/*/*/benchmark/*/csv/powerSGD_benchmark_*.csv')
    assert len(found) == 1, found
    with open(found[0]) as file:
        rows = [line.split(',') for line in file.read().splitlines()]
    return [row[rows[0].index('loss')] for row in rows[1:]]


def rows(folder):
    """How many iterations the one run in a folder has recorded."""
    try:
        return len(losses(folder))
    except (AssertionError, IndexError, ValueError):
        return 0


class Case(unittest.TestCase):
    """Each test has a folder and a name for its labs, of which nothing may stay."""

    count = 0

    def setUp(self):
        Case.count += 1
        self.name = f'psgdtest{os.getpid()}x{Case.count}'
        self.root = tempfile.mkdtemp(prefix='psgd-test-')
        self.before = interfaces()
        self.started = []
        self.addCleanup(shutil.rmtree, self.root)
        self.addCleanup(self.leave_nothing)

    def leave_nothing(self):
        """Also after a test that failed."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for name in (self.name, self.name + 'b'):
            if entries(name):
                subprocess.run([PSGD, 'lab', 'down', '--name', name], stdout=subprocess.DEVNULL)

    def gone(self):
        """Nothing of this test's labs is there, and the machine's interfaces are as before."""
        self.assertEqual(entries(self.name), [])
        self.assertEqual(interfaces(), self.before)

    def write(self, path, text):
        path = os.path.join(self.root, path)
        with open(path, 'w') as file:
            file.write(text)

    def start(self, *arguments, prefix=(), **options):
        """`psgd lab` in the test's folder."""
        process = subprocess.Popen([*prefix, PSGD, 'lab', *arguments], cwd=self.root,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, **options)
        self.started.append(process)
        return process

    def lab(self, word, *arguments, code=0, name=None, prefix=()):
        """What it says on stdout, or on stderr when another code is expected."""
        named = [] if '--help' in arguments else ['--name', name or self.name]
        process = self.start(word, *named, *arguments, prefix=prefix)
        out, err = process.communicate(timeout=LONG)
        self.assertEqual(process.returncode, code, out + err)
        return err if code else out

    def on(self, node, *command, name=None):
        """What a command says on a node."""
        return self.lab('exec', str(node), '--', *command, name=name)

    def send(self, source, target, address, count=1, port=5001):
        """Bytes by TCP from a node to another: seconds, and what the other saw."""
        server = self.start('exec', '--name', self.name, str(target), '--', 'python3', '-c',
                            SERVER, str(port))
        self.assertEqual(server.stdout.readline(), 'ready\n')
        seconds, said = self.on(source, 'python3', '-c', CLIENT, address, str(port),
                                str(count)).split(' ', 1)
        self.assertEqual(server.wait(LONG), 0)
        return float(seconds), said.strip()

    def status(self):
        labs = json.loads(self.lab('status', '--json'))['labs']
        self.assertEqual([lab['name'] for lab in labs], [self.name])
        return labs[0]

    def kill(self, process):
        process.send_signal(signal.SIGKILL)
        process.wait()
