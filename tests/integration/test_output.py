#!/usr/bin/env python3
"""What psgd prints: lines of progress, and what becomes of output that cannot be written."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.environ['PSGD_SOURCE'], 'tools'))
import tap_unittest  # noqa: E402

PSGD = os.environ['PSGD_BIN']
CONFIG = '''
model: {name: mlp}
dataset: {name: synthetic, batch_size: 8, train_limit: 64, test_limit: 40}
training: {epochs: 1, learning_rate: 0.1}
'''
STEP = {'epoch': 1, 'epochs': 2, 'iteration': 3, 'total': 8, 'accuracy': 50, 'loss': 1.5, 'rank': 4,
        'ms': 45.2, 'compute_ms': 20.5, 'compress_ms': 1, 'comm_ms': 2, 'decompress_ms': 1,
        'sent_bytes': 1000, 'eta_s': 4}


class Case(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        self.write('a.yaml', CONFIG)

    def write(self, path, text):
        with open(os.path.join(self.root, path), 'w', encoding='utf-8') as file:
            file.write(text)

    def psgd(self, *arguments, out=subprocess.PIPE):
        """Exit code, stdout and stderr."""
        done = subprocess.run([PSGD, *arguments], cwd=self.root, stdin=subprocess.DEVNULL,
                              stdout=out, stderr=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


class Progress(Case):
    def lines_of(self, step, script='tell'):
        """What is printed of a trainer that tells this step."""
        self.write('trainer.sh',
                   f"tell() {{ echo '{json.dumps(step)}' >&$PSGD_PROGRESS_FD; }}\n{script}\n")
        code, said, error = self.psgd('run', 'a.yaml', 'save_dir=s', '--standalone',
                                      '--overwrite', '--', 'bash', 'trainer.sh')
        self.assertEqual((code, error), (0, ''))
        return re.findall(r'^epoch .*', said, re.M)

    def test_parts_add_up(self):
        line, = self.lines_of({**STEP, 'sync_ms': 20.7})
        self.assertIn('45 ms/it (compute 20 | compress 1.0 | comm 2.0 | decompress 1.0 | sync 21)',
                      line)

    def test_no_sums_within_the_step(self):
        for step in (STEP, {**STEP, 'sync_ms': 0}):
            line, = self.lines_of(step)
            self.assertIn('| decompress 1.0)', line)

    def test_no_line_twice(self):
        # A line of its own comes after 10 s at the earliest.
        self.assertEqual(len(self.lines_of(STEP, 'sleep 10.2; tell; sleep 0.3; tell')), 1)


class Words(Case):
    def test_help(self):
        code, top, error = self.psgd('--help')
        self.assertEqual((code, error), (0, ''))
        for asked in (['help'], ['-h'], ['help', 'help'], ['help', '-h']):
            self.assertEqual(self.psgd(*asked), (0, top, ''), asked)
        for command in (['run'], ['net'], ['net', 'apply'], ['bench', 'compress'], ['lab', 'run']):
            told = self.psgd(*command, '--help')
            self.assertIn('Usage: psgd ' + ' '.join(command), told[1])
            self.assertEqual(self.psgd('help', *command), told)
            self.assertEqual(self.psgd(*command, '-h'), told)
        self.assertEqual(self.psgd('help', 'rum'),
                         (2, '', "psgd: unknown command 'rum'; did you mean 'run'?\n"))
        # what a trainer is given is the trainer's
        code, said, error = self.psgd('run', 'a.yaml', '--standalone', '--dry-run', '--',
                                      'sh', '-h')
        self.assertEqual((code, error), (0, ''))
        self.assertIn('command: sh -h\n', said)

    def test_places(self):
        code, said, _ = self.psgd('info', '--json')
        self.assertEqual(code, 0)
        self.assertNotIn('/../', json.loads(said)['trainer'])

    def test_numbers_of_things(self):
        self.write('a.yaml', CONFIG + 'compression: {start_power_iterations: 1}\n')
        code, said, _ = self.psgd('validate', 'a.yaml', '--world-size=1')
        self.assertEqual(code, 0)
        self.assertIn('\n  1 worker,', said)
        self.assertIn('\n  the first step is dense\n', said)
        self.assertNotRegex(said, r'\b1 [a-z]+s\b')

    def test_what_was_not_tested(self):
        """Only worker 0 knows the accuracy on the test images."""
        self.write('trainer.sh', f"echo '{json.dumps(STEP)}' >&$PSGD_PROGRESS_FD\n")
        code, said, _ = self.psgd('run', 'a.yaml', 'save_dir=s', '--standalone', '--', 'bash',
                                  'trainer.sh')
        self.assertEqual(code, 0)
        self.assertIn(', training accuracy of its last batch 50.00 %, ', said)


class Elsewhere(Case):
    """What is not on this machine is a note: it may be on those of the run."""

    def notes(self, *overrides):
        code, said, error = self.psgd('validate', 'a.yaml', *overrides)
        self.assertEqual((code, error), (0, ''))
        return re.findall(r'^  note: (.*)$', said, re.M)

    def test_all_is_here(self):
        self.assertEqual(self.notes(), [])

    def test_data_sets(self):
        for name, there in (('fashion-mnist', 'train-images-idx3-ubyte'),
                            ('cifar10', 'data_batch_1.bin'), ('cifar100', 'train.bin'),
                            ('imagenet', '')):
            os.mkdir(os.path.join(self.root, name))
            size = ['dataset.image_size=32'] if name == 'imagenet' else []
            given = [f'dataset.name={name}', 'model.num_classes=100', *size]
            note, = self.notes(*given, 'dataset.root=no "where"')
            self.assertTrue(note.startswith('no "where"'), note)
            if there:
                self.assertEqual(len(self.notes(*given, f'dataset.root={name}')), 1)
                self.write(f'{name}/{there}', '')
            self.assertEqual(self.notes(*given, f'dataset.root={name}'), [])

    def test_weights(self):
        given = ['model.pretrained=true', 'model.weights=w']
        self.assertEqual(self.notes(*given), ['model.weights: w: No such file or directory'])
        self.write('w', '')
        self.assertEqual(self.notes(*given), [])


class Unwritable(Case):
    def refused(self, *arguments):
        with open('/dev/full', 'w', encoding='utf-8') as full:
            code, _, said = self.psgd(*arguments, out=full)
        self.assertRegex(said, r'(?:\A|\n)psgd: standard output: .*\n\Z', arguments)
        self.assertEqual(code, 5, arguments)

    def test_standard_output(self):
        for arguments in (['info'], ['info', '--json'], ['validate', 'a.yaml'], ['--help'],
                          ['validate', '--json', 'a.yaml'], ['batch', 'a.yaml', '--list'],
                          ['--version'], ['run', '--help'], ['run', 'a.yaml', '--dry-run'],
                          ['net', 'test', '--standalone', '--nproc-per-node=2', '-e', '8'],
                          ['bench', 'compress', '--model=mlp', '--ranks=1', '--iterations=1']):
            self.refused(*arguments)

    def test_a_failure_keeps_its_code(self):
        with open('/dev/full', 'w', encoding='utf-8') as full:
            code, _, said = self.psgd('validate', 'a.yaml', 'none.yaml', out=full)
        self.assertEqual(code, 2, said)

    def test_a_reader_may_go_away(self):
        read, write = os.pipe()
        os.close(read)
        self.addCleanup(os.close, write)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        done = subprocess.run([PSGD, 'info'], stdout=write, stderr=subprocess.PIPE, text=True,
                              restore_signals=False, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ''))

    def test_no_output_is_no_failure(self):
        done = subprocess.run(['bash', '-c', f'{PSGD} validate none.yaml >&-'], cwd=self.root,
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertNotIn('standard output', done.stderr)

    def test_results_before_they_are_measured(self):
        os.mkdir(os.path.join(self.root, 'folder'))
        for path in ('folder', 'nowhere/a.json'):
            for bench in ('compress', 'allreduce'):
                code, out, said = self.psgd('bench', bench, '--json', path)
                self.assertEqual((code, out), (5, ''))
                self.assertRegex(said, rf'\Apsgd.* {path}: .*\n\Z')
        self.assertEqual(sorted(os.listdir(self.root)), ['a.yaml', 'folder'])


if __name__ == '__main__':
    tap_unittest.main()
