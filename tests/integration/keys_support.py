"""Runs of the built command for test_keys.py, and what may be asked of them.

PSGD_BIN is the program, CONFIGS the folder configs/.
"""
import csv
import glob
import json
import math
import os
import re
import struct
import subprocess
import threading
import zlib

CONFIGS, PSGD = os.environ['CONFIGS'], os.environ['PSGD_BIN']


def all_keys():
    """The keys of the tables in README.md; those of a list's entries with []."""
    keys, section = [], None
    entries = {'compression.rank_schedule.ranges', 'adaptive_training.stages',
               'network_limits.schedule'}
    with open(os.path.join(CONFIGS, 'README.md'), encoding='utf-8') as file:
        for line in file:
            if line.startswith('## '):
                section = line[3:].strip()
            row = re.match(r'\| `(\w+)` \|', line)
            if row and section == 'top':
                keys.append(row[1])
            elif row and ' ' not in section:
                keys.append(f'{section}{"[]" if section in entries else ""}.{row[1]}')
    return keys


class Run:
    """One `psgd run` of two workers, in the working folder; file=F is for another than base.yaml."""

    def __init__(self, number, arguments):
        self.name = f'run{number}'
        self.folder = os.path.join('results', 'keys', self.name)
        given = {argument.split('=')[0] for argument in arguments}
        file = 'base.yaml'
        if 'file' in given:
            file, arguments = arguments[0].split('=')[1], arguments[1:]
        own = [] if 'save_dir' in given else [f'save_dir={self.folder}']
        command = [PSGD, 'run', '--standalone', '--nproc-per-node', '2', file,
                   *own, *arguments]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True) as process:
            watch = threading.Thread(target=self.count_threads, args=(process,))
            self.most_threads = 0
            watch.start()
            try:
                self.output = process.communicate(timeout=300)[0]
            finally:
                if process.poll() is None:
                    process.kill()
            watch.join()
            self.code = process.returncode
        for argument in arguments:
            if argument.startswith('save_dir='):
                self.folder = argument.split('=')[1]
        self.arguments = arguments

    def count_threads(self, process):
        """The most threads that a trainer of this run has had."""
        while process.poll() is None:
            try:
                with open(f'/proc/{process.pid}/task/{process.pid}/children',
                          encoding='ascii') as file:
                    for child in file.read().split():
                        n = len(os.listdir(f'/proc/{child}/task'))
                        self.most_threads = max(self.most_threads, n)
            except OSError:
                pass
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                pass

    def file(self, name):
        with open(os.path.join(self.folder, name), encoding='utf-8') as file:
            return file.read()

    def events(self, kind):
        events = [json.loads(line) for line in self.file('events.jsonl').splitlines()]
        return [event for event in events if event['event'] == kind]

    def table(self, pattern='benchmark/*/csv/powerSGD_*.csv'):
        (path,) = glob.glob(os.path.join(self.folder, pattern))
        with open(path, encoding='utf-8', newline='') as file:
            return list(csv.DictReader(file))

    def column(self, name):
        return [row[name] for row in self.table()]

    def total(self, name):
        return sum(float(row[name] or 0) for row in self.table())

    @property
    def params(self):
        (agree,) = self.events('agree')
        return re.search(r'hash (\w+)', agree['text'])[1]

    @property
    def ranks(self):
        return [int(rank) for rank in self.column('current_rank')]

    @property
    def rates(self):
        return [float(rate) for rate in self.column('learning_rate')]


class Plan:
    """What `psgd validate` says."""

    def __init__(self, _, arguments):
        done = subprocess.run([PSGD, 'validate', '--json', 'base.yaml', *arguments],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        self.code = done.returncode
        (entry,) = json.loads(done.stdout)['files']
        self.error = entry.get('error', '')
        self.plan = entry.get('plan')


class Entry:
    """Runs of a key, and what must hold for them."""

    def __init__(self, judge, *runs, make=Run, alone=False):
        self.judge = judge
        self.alone = alone  # its runs are timed: nothing else may run then
        self.runs = [tuple(run.split(';')) if run else () for run in runs]
        self.make = make


def differ(what, *runs):
    """A property of two runs differs."""
    def judge(test, *results):
        values = [what(result) for result in results]
        test.assertEqual(len(set(map(str, values))), len(values), values)
    return Entry(judge, *runs)


def params(*runs):
    return differ(lambda run: run.params, *runs)


def ranks(*runs):
    return differ(lambda run: run.ranks, *runs)


def rates(*runs):
    return differ(lambda run: run.rates, *runs)


def column(name, *runs):
    return differ(lambda run: run.column(name), *runs)


def refused(argument, message):
    def judge(test, plan):
        test.assertEqual(plan.code, 2)
        test.assertIn(message, plan.error)
    return Entry(judge, argument, make=Plan)


def plan_differs(key, *runs):
    def judge(test, *plans):
        values = [plan.plan[key] for plan in plans]
        test.assertEqual(len(set(values)), len(values), values)
    return Entry(judge, *runs, make=Plan)


def fails(*runs, code, message):
    """The first run goes well; the second fails, and says why."""
    def judge(test, good, bad):
        test.assertEqual(good.code, 0, good.output)
        test.assertEqual(bad.code, code, bad.output)
        test.assertRegex(bad.output, message)
    return Entry(judge, *runs)


def more(what, *runs, by=1.0, alone=False):
    """What the second run has is more than `by` times what the first one has."""
    def judge(test, first, second):
        test.assertGreater(what(second), by * what(first))
    return Entry(judge, *runs, alone=alone)


def longer(time, *runs, by=1.0):
    """more() of a time, measured while no other run goes on."""
    return more(time, *runs, by=by, alone=True)


def exists(pattern, *runs):
    """A file of the run is there; {} is its folder."""
    def judge(test, run):
        test.assertEqual(run.code, 0, run.output)
        test.assertTrue(glob.glob(pattern.format(run.folder)), pattern)
    return Entry(judge, *runs)


def notice(key, *runs):
    """With the first run nothing is said, with the second that the key does nothing."""
    def judge(test, quiet, told):
        test.assertFalse([e for e in quiet.events('notice') if e['text'].startswith(key)])
        test.assertEqual(len([e for e in told.events('notice') if e['text'].startswith(key)]), 1)
    return Entry(judge, *runs)


def wire(run):
    return run.total('wire_time')


def write_idx(folder, seed):
    """The four files of an idx data set: 64 training and 16 test images of ten classes."""
    os.makedirs(folder)
    for part, count in (('train', 64), ('t10k', 16)):
        pixels = bytes((i * i * seed + i // 7) % 251 for i in range(count * 28 * 28))
        labels = bytes(i % 10 for i in range(count))
        with open(f'{folder}/{part}-images-idx3-ubyte', 'wb') as file:
            file.write(struct.pack('>IIII', 0x803, count, 28, 28) + pixels)
        with open(f'{folder}/{part}-labels-idx1-ubyte', 'wb') as file:
            file.write(struct.pack('>II', 0x801, count) + labels)


def png(side, shade):
    """A grey-blue image whose shade changes along its rows."""
    def chunk(kind, data):
        return (struct.pack('>I', len(data)) + kind + data +
                struct.pack('>I', zlib.crc32(kind + data)))
    rows = b''.join(b'\0' + bytes((shade * 40 + y + 3 * x, 90, (x * y) % 256)[c] % 256
                                  for x in range(side) for c in range(3)) for y in range(side))
    return (b'\x89PNG\r\n\x1a\n' +
            chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)) +
            chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


def write_folders(root, damaged=False):
    """train/ and val/ of two classes, PNG by another name, as one or two of ImageNet's are.

    One training image may be damaged.
    """
    for part, count in (('train', 16), ('val', 4)):
        for shade in range(2):
            folder = f'{root}/{part}/class{shade}'
            os.makedirs(folder)
            for i in range(count):
                data = png(40 + i, shade + i)
                if damaged and part == 'train' and shade == 0 and i == 0:
                    data = data[:60]
                with open(f'{folder}/{i:03}.jpeg', 'wb') as file:
                    file.write(data)


def write_weights(path, shade, trainer, *arguments):
    """A safetensors file of the trainer's tensors, with the statistics that batch norms have."""
    done = subprocess.run([trainer, '--tensors', 'base.yaml', *arguments], check=True, text=True,
                          stdout=subprocess.PIPE)
    shapes = {tensor['name']: tensor['dims'] for tensor in json.loads(done.stdout)['tensors']}
    for name, dims in list(shapes.items()):
        if name.endswith('.weight') and len(dims) == 1:
            shapes[name[:-6] + 'running_mean'] = shapes[name[:-6] + 'running_var'] = dims
    header, body = {}, b''
    for name, dims in shapes.items():
        count = math.prod(dims)
        data = struct.pack(f'<{count}f', *((i * shade % 17 + 1) / 100 for i in range(count)))
        header[name] = {'dtype': 'F32', 'shape': dims,
                        'data_offsets': [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + body)
