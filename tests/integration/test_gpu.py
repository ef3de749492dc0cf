#!/usr/bin/env python3
"""Whole runs on CUDA, NCCL and cuDNN, which are a CPU here: beside the same runs on the CPU device.

PSGD_BIN is the program, CONFIGS the folder configs/, MODULES the folders of modules (by ':'), of which
the first with a module counts, SHIM the folder of the library that they are built on.
"""
import csv
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

CONFIGS, PSGD = os.environ['CONFIGS'], os.environ['PSGD_BIN']
sys.path.insert(0, os.path.join(os.path.dirname(CONFIGS), 'tools'))
import tap_unittest  # noqa: E402

LONG = 600
# What says something to psgd or to NCCL, or would choose devices.
SAYS_SOMETHING = re.compile(r'(RANK|WORLD_SIZE|LOCAL_RANK|MASTER_ADDR|MASTER_PORT)$|'
                            r'PSGD_(?!BIN$)|NCCL_|CUDA_|OMPI_|PMI_')
SMALL = '''model: {name: mlp}
dataset: {name: synthetic, batch_size: 8, train_limit: 64, test_limit: 40}
training: {epochs: 3, learning_rate: 0.05}
compression: {start_power_iterations: 2, use_fixed_rank: true, fixed_rank_value: 2}
communication: {measure: false}
seed: 7
'''
# The quickstart with smaller batches and fewer images: plain loops compute it here. Small steps, and
# r=1 where losses are compared: rounding grows tenfold in ten steps of r=4, on two kinds of CPU too.
SHORT = ['training.max_iterations=50', 'dataset.batch_size=32', 'dataset.test_limit=200',
         'training.learning_rate=0.004',
         'network_limits.enable=false', 'communication.measure=false']


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Gpu(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='psgd-gpu-')
        self.addCleanup(shutil.rmtree, self.folder)
        os.mkdir(self.at('modules'))
        for folder in os.environ['MODULES'].split(':'):
            for path in glob.glob(os.path.join(folder, 'psgd-*.so')):
                link = self.at('modules', os.path.basename(path))
                if not os.path.exists(link):
                    os.symlink(path, link)
        self.write('small.yaml', SMALL)

    def at(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, name, text):
        with open(self.at(name), 'w', encoding='utf-8') as file:
            file.write(text)

    def start(self, *arguments, command='run', **variables):
        environment = {k: v for k, v in os.environ.items() if not SAYS_SOMETHING.match(k)}
        environment.update({'PSGD_MODULE_PATH': self.at('modules'), 'CUDA_SHIM_DEVICES': '2',
                            'LD_LIBRARY_PATH': os.environ['SHIM']}, **variables)
        return subprocess.Popen([PSGD, command, *arguments], cwd=self.folder, env=environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def end(self, process):
        try:
            said = process.communicate(timeout=LONG)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.fail('it did not end')
        return process.returncode, said

    def run_two(self, config, name, *arguments, **variables):
        """Exit code and output of two workers of this machine; the records are in `name`."""
        return self.end(self.start('--standalone', '--nproc-per-node', '2', config,
                                   f'save_dir={name}', *arguments, **variables))

    def must(self, *arguments, **variables):
        code, said = self.run_two(*arguments, **variables)
        self.assertEqual(code, 0, said + self.log(arguments[1]))
        return said

    def log(self, name):
        texts = []
        for path in sorted(glob.glob(self.at(name, 'worker*.log'))):
            with open(path, encoding='utf-8') as file:
                texts.append(f'{path}:\n{file.read()}')
        return '\n'.join(texts)

    def rows(self, name):
        (path,) = glob.glob(self.at(name, 'benchmark', '*', 'csv', 'powerSGD_*.csv'))
        with open(path, encoding='utf-8', newline='') as file:
            return list(csv.DictReader(file))

    def losses(self, name):
        return [float(row['loss']) for row in self.rows(name)]

    def params(self, name):
        """The hash of the parameters at the end, which all workers were found to share."""
        with open(self.at(name, 'events.jsonl'), encoding='utf-8') as file:
            events = [json.loads(line) for line in file]
        agree = [event for event in events if event['event'] == 'agree']
        return re.search(r'hash (\w+)', agree[-1]['text'])[1]

    def manifest(self, name):
        with open(self.at(name, 'manifest.json'), encoding='utf-8') as file:
            return json.load(file)

    def assert_close(self, one, other, within):
        self.assertEqual(len(one), len(other))
        for i, (a, b) in enumerate(zip(one, other)):
            self.assertLessEqual(abs(a - b), within, f'iteration {i}')

    # ---- training ----

    def test_quickstart_as_on_the_cpu(self):
        config = os.path.join(CONFIGS, 'quickstart', 'fixed_r1.yaml')
        said = self.must(config, 'cuda', *SHORT, 'device=cuda', 'training.tf32=none')
        self.must(config, 'cpu', *SHORT, 'device=cpu')
        self.assertIn('device: cuda 0, ', said)
        self.assertEqual(len(self.losses('cuda')), 50)
        self.assert_close(self.losses('cuda'), self.losses('cpu'), 1e-4)
        self.assertRegex(self.params('cuda'), '^[0-9a-f]{16}$')
        self.assertEqual(*[[row['payload_bytes'] for row in self.rows(name)]
                           for name in ('cuda', 'cpu')])
        manifest = self.manifest('cuda')
        self.assertEqual(manifest['device']['kind'], 'cuda')
        self.assertEqual(manifest['transport'], 'nccl')
        self.assertEqual(manifest['environment']['NCCL_DEBUG'], 'WARN')
        self.assertGreater(float(self.rows('cuda')[-1]['gpu_memory_usage_mb']), 7)
        self.assertEqual(self.manifest('cpu')['device'], {'kind': 'cpu'})

    def test_the_same_twice(self):
        """To the bit, also with threads in another order, and streams that do nothing too early."""
        self.must('small.yaml', 'first', 'device=cuda')
        self.must('small.yaml', 'random', 'device=cuda', CUDA_SHIM_ORDER='random')
        self.must('small.yaml', 'lazy', 'device=cuda', CUDA_SHIM_LAZY='1')
        for name in ('random', 'lazy'):
            self.assertEqual(self.params(name), self.params('first'))
            self.assertEqual(self.losses(name), self.losses('first'))

    def test_live_and_epochnorm(self):
        self.must(os.path.join(CONFIGS, 'quickstart', 'adaptive.yaml'), 'adaptive', *SHORT,
                  'training.max_iterations=14', 'network_limits.enable=true', 'device=cuda',
                  'compression.start_power_iterations=2', 'communication.measure=true')
        rows = self.rows('adaptive')
        self.assertEqual(len(rows), 14)
        self.assertTrue({int(row['current_rank']) for row in rows[2:]} <= {2, 4, 8, 16})
        self.assertTrue(all(row['rank_cap'] for row in rows[1:]))
        self.assertTrue(glob.glob(self.at('adaptive', 'env_metrics_rank0_*.txt')))

    def test_one_worker_alone(self):
        code, said = self.end(self.start('small.yaml', 'save_dir=alone', 'device=cuda'))
        self.assertEqual(code, 0, said + self.log('alone'))
        self.assertEqual(self.manifest('alone')['transport'], 'local')

    def test_a_convolutional_net(self):
        for device in ('cuda', 'cpu'):
            self.must('small.yaml', device, f'device={device}', 'model.name=resnet8',
                      'training.max_iterations=6', 'training.tf32=none')
        self.assert_close(self.losses('cuda'), self.losses('cpu'), 1e-4)

    # ---- going on ----

    def test_a_run_goes_on_to_the_bit(self):
        parts = ['small.yaml', 'parts', 'device=cuda', 'checkpoint.every_iters=5']
        self.must('small.yaml', 'whole', 'device=cuda', 'checkpoint.every_iters=5')
        self.must(*parts, 'training.max_iterations=7')
        self.must(*parts, '--resume=auto')
        self.assertEqual(self.params('parts'), self.params('whole'))
        self.assertEqual(self.losses('parts'), self.losses('whole'))

    def test_a_run_goes_on_on_another_device(self):
        parts = ['small.yaml', 'parts', 'training.tf32=none']
        self.must('small.yaml', 'whole', 'device=cpu')
        self.must(*parts, 'device=cuda', 'training.max_iterations=7')
        self.must(*parts, 'device=cpu', '--resume=auto')
        self.assert_close(self.losses('parts'), self.losses('whole'), 1e-4)

    # ---- what is not there ----

    def test_no_device(self):
        code, said = self.run_two('small.yaml', 'none', 'device=cuda', CUDA_SHIM_DEVICES='0')
        self.assertEqual(code, 5, said)
        self.assertRegex(said, r'\npsgd: device: cuda: \S')
        self.assertFalse(glob.glob(self.at('none', 'worker*.log')))

    def test_no_driver(self):
        code, said = self.run_two('small.yaml', 'none', 'device=cuda', CUDA_SHIM_DEVICES='-1')
        self.assertEqual(code, 5, said)

    def test_auto_falls_back_with_one_line(self):
        for devices in ('0', '1', '-1'):
            said = self.must('small.yaml', f'run{devices}', CUDA_SHIM_DEVICES=devices)
            self.assertEqual(said.count('device: cpu, not cuda: '), 1, said)
            self.assertEqual(self.manifest(f'run{devices}')['device']['kind'], 'cpu')
            self.assertEqual(self.manifest(f'run{devices}')['transport'], 'gloo')

    def test_auto_takes_what_is_there(self):
        self.assertIn('device: cuda 0, ', self.must('small.yaml', 'auto'))
        self.assertEqual(self.manifest('auto')['device']['kind'], 'cuda')

    # ---- other commands ----

    def test_bench_compress(self):
        code, said = self.end(self.start(
            'compress', '--device', 'cuda', '--ordinal', '1', '--model', 'mlp', '--ranks',
            'dense,2', '--iterations', '1', '--json', 'out.json', command='bench'))
        self.assertEqual(code, 0, said)
        with open(self.at('out.json'), encoding='utf-8') as file:
            said = json.load(file)
        self.assertRegex(said['device'], '^cuda 1: ')
        self.assertGreater(said['copy_gb_per_s'], 0)
        self.assertEqual([row['rank'] for row in said['results']], [0, 2])
        for row in said['results']:
            self.assertGreater(row['floor_ms'], 0)
            self.assertAlmostEqual(sum(row['phases'].values()), row['total_ms'], delta=1e-6)
        code, said = self.end(self.start('compress', '--device', 'cuda', '--ordinal', '2',
                                         command='bench'))
        self.assertEqual((code, said),
                         (5, 'psgd bench: --device cuda: no CUDA device 2: there are 2\n'))

    # ---- peers ----

    def start_pair(self, *arguments, **variables):
        """Two workers started by hand; {0} in a variable is the worker's number."""
        port = free_port()
        return [self.start('--rank', str(rank), '--world-size', '2', '--master-port', str(port),
                           'small.yaml', f'save_dir=node{rank}',
                           *(argument.format(rank) for argument in arguments),
                           **{name: text.format(rank) for name, text in variables.items()})
                for rank in (0, 1)]

    def test_two_workers_on_one_device(self):
        """As two nodes on one machine; or as tasks that a launcher shows the same device."""
        for tasks in ({}, {'CUDA_SHIM_DEVICES': '1', 'CUDA_VISIBLE_DEVICES': '0'}):
            local = ['--local-rank={0}'] if tasks else []
            for process in self.start_pair('device=cuda', *local, **tasks):
                code, said = self.end(process)
                self.assertEqual(code, 5, said)
                self.assertIn('workers 0 and 1 are both on CUDA device ', said)
                shutil.rmtree(self.at('node0'), ignore_errors=True)
        for process in self.start_pair():
            code, said = self.end(process)
            self.assertEqual(code, 0, said)
            self.assertIn('device: cpu, not cuda: workers 0 and 1 are both on CUDA device ', said)

    def test_each_task_sees_its_own_device(self):
        tasks = {'CUDA_SHIM_DEVICES': '1', 'CUDA_VISIBLE_DEVICES': '{0}'}
        for process in self.start_pair('device=cuda', '--local-rank={0}', **tasks):
            code, said = self.end(process)
            self.assertEqual(code, 0, said)
            self.assertIn('device: cuda 0, ', said)

    def test_workers_of_one_run_see_too_few(self):
        one = {'CUDA_SHIM_DEVICES': '1', 'CUDA_VISIBLE_DEVICES': '0'}
        code, said = self.run_two('small.yaml', 'few', 'device=cuda', **one)
        self.assertEqual(code, 5, said)
        self.assertRegex(said, 'CUDA_VISIBLE_DEVICES shows too few devices for 2 workers')
        said = self.must('small.yaml', 'auto', **one)
        self.assertEqual(said.count('device: cpu, not cuda: '), 1, said)

    def test_a_peer_that_is_killed(self):
        process = self.start('--standalone', '--nproc-per-node', '2', 'small.yaml',
                             'save_dir=killed', 'device=cuda', 'training.epochs=100000',
                             'communication.timeout_s=20')
        deadline = time.monotonic() + LONG
        while not glob.glob(self.at('killed', 'benchmark', '*', 'csv', 'powerSGD_*.csv')) or \
                len(self.rows('killed')) < 3:
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(process.poll(), self.log('killed'))
            time.sleep(0.05)
        with open(f'/proc/{process.pid}/task/{process.pid}/children', encoding='ascii') as file:
            children = file.read().split()
        for child in children:
            with open(f'/proc/{child}/environ', encoding='utf-8') as file:
                if '\0RANK=1\0' in '\0' + file.read():
                    os.kill(int(child), signal.SIGKILL)
        begin = time.monotonic()
        code, said = self.end(process)
        self.assertEqual(code, 3, said + self.log('killed'))
        self.assertLess(time.monotonic() - begin, 60)


if __name__ == '__main__':
    tap_unittest.main()
