#!/usr/bin/env python3
"""Campaigns: what is run, in which order, on one node and on two that share nothing."""
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.environ['PSGD_SOURCE'], 'tools'))
import campaign  # noqa: E402
import tap_unittest  # noqa: E402
from batch_support import (Case, CONFIG, LIMITED, free_ports, hash_of, processes_in,  # noqa: E402
                           rows_of, run_of, state_of, until)

NAMES = ['a_seed7', 'b_seed7', 'c_seed7', 'd_seed7']
ITERATIONS = 40  # of two nodes, one of which is ended in the middle
TWO_WORKERS = ('--standalone', '--nproc-per-node=2')


def items_of(text):
    """Index, name and the rest of each line of a table."""
    return re.findall(r'^ *(\d+)  (\S+) +(.*?)\s*$', text, re.M)


def begun(text):
    return re.findall(r'^item (\d+) \(', text, re.M)


class OneNode(Case):
    def test_grid(self):
        self.write('base.yaml')
        code, said = self.batch('base.yaml', 'compression.fixed_rank_value=[1,2]', 'seed=0:2',
                                '--master-port=4000', '--list')
        self.assertEqual(code, 0, said)
        self.assertEqual(items_of(said), [('0', 'base_r1_seed0', '4000  new'),
                                          ('1', 'base_r1_seed1', '4001  new'),
                                          ('2', 'base_r2_seed0', '4002  new'),
                                          ('3', 'base_r2_seed1', '4003  new')])
        # the last one turns fastest, but a name ends in its seed
        code, said = self.batch('base.yaml', 'seed=[3,1]', 'training.learning_rate=[1e-1,0.2]',
                                '--list')
        self.assertEqual([name for _, name, _ in items_of(said)],
                         ['base_learning_rate1e-1_seed3', 'base_learning_rate0.2_seed3',
                          'base_learning_rate1e-1_seed1', 'base_learning_rate0.2_seed1'])
        # a key that ends in seed is not the seed, and a name may tell another
        code, said = self.batch('base.yaml', 'powerSGD.random_seed=[1,2]', '--list')
        self.assertEqual([name for _, name, _ in items_of(said)],
                         ['base_random_seed1_seed7', 'base_random_seed2_seed7'])
        for name, expected in (('x_seed7', 'x_seed7'), ('x_seed3', 'x_seed7')):
            code, said = self.batch('base.yaml', f'name={name}', '--list')
            self.assertEqual([name for _, name, _ in items_of(said)], [expected])
        # lists as values
        code, said = self.batch('base.yaml', 'training.milestones=[[1, 2],[3]]', '--list')
        self.assertEqual([name for _, name, _ in items_of(said)],
                         ['base_milestones-1--2-_seed7', 'base_milestones-3-_seed7'])
        self.assertEqual(os.listdir(self.root).count('results'), 0)

    def test_grid_takes_folders_apart(self):
        self.write('base.yaml', CONFIG + 'save_dir: out/base_seed3\nbenchmark_save_dir: shared\n')
        code, said = self.batch('base.yaml', 'seed=0:2', '--standalone')
        self.assertEqual(code, 0, said)
        self.assertEqual(sorted(os.listdir(self.at('out'))), ['base_seed0', 'base_seed1'])
        self.assertFalse(os.path.exists(self.at('shared')))
        for seed in (0, 1):
            with open(self.at('out', f'base_seed{seed}', 'resolved.yaml')) as file:
                text = file.read()
            self.assertIn(f'\nseed: {seed}\n', text)
            self.assertIn(f'name: base_seed{seed}\n', text)

    def test_list_and_folder(self):
        self.write('set/b.yaml')
        self.write('set/a.yaml', CONFIG + 'name: other_seed1\n')
        self.write('set/notes.txt', 'no configuration')
        self.write('lists/of.txt', '# first b\n../set/b.yaml   # and so on\n\n'
                   '../set/a.yaml seed=0:2 training.epochs=2\n')
        code, said = self.batch('set', '--list')
        self.assertEqual([name for _, name, _ in items_of(said)], ['other_seed7', 'b_seed7'])
        code, said = self.batch('lists/of.txt', 'training.max_iterations=2', '--list')
        self.assertEqual([name for _, name, _ in items_of(said)],
                         ['b_seed7', 'other_seed0', 'other_seed1'])

    def refused(self, text, *arguments, code=2, **variables):
        got, said = self.batch(*arguments, **variables)
        self.assertEqual((got, said), (code, text + '\n'))
        self.assertFalse(os.path.exists(self.at('results')))

    def test_refusals(self):
        self.write('a.yaml')
        self.write('list', 'a.yaml\nb.yaml\n')
        self.write('twice', 'a.yaml\na.yaml\n')
        self.write('word', 'a.yaml b.yaml\n')
        self.write('empty', '# nothing\n')
        self.refused('list:2: b.yaml: cannot read: No such file or directory', 'list')
        self.refused('psgd: lists: No such file or directory', 'lists')
        self.refused('psgd: empty: no configuration in it', 'empty')
        self.refused("psgd: word:1: 'b.yaml' is not key=value", 'word')
        self.refused('psgd: items 0 (a.yaml) and 1 (a.yaml) have the same folder, a_seed7',
                     'twice')
        self.refused('psgd: seed=3:3: expected FROM:TO with 1 to 4096 values; TO is not one of '
                     'them', 'a.yaml', 'seed=3:3')
        self.refused('psgd: seed=[1,,2]: expected values between commas', 'a.yaml', 'seed=[1,,2]')
        self.refused("psgd: --start-from: no item is 'x'; --list shows the 1 items", 'a.yaml',
                     '--start-from=x')
        self.refused('psgd: --master-port 65535: 2 items take the ports 65534 to 65536, of 1 to '
                     '65535', 'a.yaml', 'seed=0:2', '--master-port=65535')
        self.refused("psgd: MASTER_PORT_BASE is 'many', expected a port from 1 to 65535",
                     'a.yaml', MASTER_PORT_BASE='many')

    def test_start_from(self):
        for name in 'abc':
            self.write(f'set/{name}.yaml')
        self.write('list', 'set/a.yaml\nset/b.yaml seed=0:2\nset/c.yaml\n')
        for start, first in (('2', 2), ('b_seed1', 2), ('b.yaml', 1), ('set/c.yaml', 3),
                             ('b', 1)):
            code, said = self.batch('list', '--standalone', '--smoke', '--start-from', start)
            self.assertEqual(code, 0, said)
            self.assertEqual(begun(said), [str(i) for i in range(first, 4)], start)
        code, said = self.batch('list', '--standalone', '--smoke', RESUME_FROM='c.yaml')
        self.assertEqual(begun(said), ['3'])
        # the script that had these: worker's number, then where to begin
        code, said = self.batch('list', '0', 'c.yaml', '--smoke', WORLD_SIZE='1',
                                MASTER_PORT_BASE=str(free_ports(6) + 1))
        self.assertEqual((code, begun(said)), (0, ['3']), said)

    def test_finished_items_are_kept(self):
        self.write('a.yaml')
        code, said = self.batch('a.yaml', 'seed=0:1', '--standalone')
        self.assertEqual(code, 0, said)
        made = run_of(self.root, 'a_seed0')
        code, said = self.batch('a.yaml', 'seed=0:2', '--standalone')
        self.assertEqual((code, said), (2, f'psgd: item 0: {os.path.relpath(made, self.root)} '
                                        'holds a finished run; --resume skips it, --overwrite '
                                        'replaces it\n'))
        code, said = self.batch('a.yaml', 'seed=0:2', '--standalone', '--resume')
        self.assertEqual((code, begun(said)), (0, ['1']), said)
        table = items_of(said)
        self.assertRegex(table[0][2], r'^skipped +\d+\.\d\d +\d+\.\d +\d+\.\d\d$')
        self.assertRegex(table[1][2], r'^finished +\d+\.\d\d +\d+\.\d +\d+\.\d\d$')
        code, said = self.batch('a.yaml', 'seed=0:2', '--list')
        self.assertEqual([rest for _, _, rest in items_of(said)],
                         ['29500  finished', '29501  finished'])

    def test_numbers_are_of_this_campaign(self):
        self.write('a.yaml')
        code, said = self.batch('a.yaml', '--standalone')
        self.assertRegex(items_of(said)[0][2], r'^finished +\d+\.\d\d')
        # without evaluation: as tools/campaign.py has it
        made = run_of(self.root, 'a_seed7')
        row = campaign.measure(made, 0)
        self.assertEqual(items_of(said)[0][2].split()[-1], f'{row["iterations_per_s"]:.2f}')
        code, said = self.batch('a.yaml', '--standalone', '--smoke')
        self.assertEqual((code, items_of(said)[0][2].split()),
                         (0, ['finished', '-', '-', '-']), said)
        made = run_of(self.root, 'a_seed7')
        code, said = self.batch('a.yaml', '--standalone', '--overwrite', PSGD_CPU='none')
        self.assertEqual((code, items_of(said)[0][2].split()),
                         (2, ['failed', '(2)', '-', '-', '-']), said)
        self.assertEqual(run_of(self.root, 'a_seed7'), made)

    def test_reader_goes_away(self):
        """Of a campaign's output: it does not take the campaign with it."""
        self.write('a.yaml')
        ours, theirs = os.pipe()
        os.close(ours)
        node = self.start('', 'a.yaml', 'seed=0:2', '--standalone', stdout=theirs)
        os.close(theirs)
        self.assertEqual(node.end(), 0, node.said())
        self.assertEqual([state_of(self.root, f'a_seed{seed}') for seed in (0, 1)],
                         ['finished'] * 2)

    def test_campaign_keeps_its_date(self):
        self.write('a.yaml')
        self.write('results/20200102/a_seed1/status.json', '{"state": "finished"}')
        self.write('results/20200101/a_seed0/status.json', '{"state": "finished"}')
        code, said = self.batch('a.yaml', 'seed=0:2', '--standalone', '--resume')
        self.assertEqual((code, begun(said)), (0, ['0']), said)
        self.assertEqual(sorted(os.listdir(self.at('results', '20200102'))),
                         ['a_seed0', 'a_seed1'])

    def test_failing_item(self):
        self.write('a.yaml')
        self.write('b.yaml', CONFIG.replace('synthetic', 'idx, root: nowhere'))
        self.write('c.yaml')
        self.write('list', 'a.yaml\nb.yaml\nc.yaml\n')
        code, said = self.batch('list', '--standalone')
        self.assertEqual((code, begun(said)), (2, ['0', '1']), said)
        self.assertEqual([rest.split()[0] for _, _, rest in items_of(said)],
                         ['finished', 'failed', 'not'])
        code, said = self.batch('list', '--standalone', '--overwrite', '--keep-going')
        self.assertEqual((code, begun(said)), (1, ['0', '1', '2']), said)
        self.assertRegex(items_of(said)[1][2], r'^failed \(2\)')
        self.assertRegex(items_of(said)[2][2], r'^finished')

    def test_nohup(self):
        """A terminal that hangs up ends a campaign, but not one that was started by nohup."""
        self.write('a.yaml', CONFIG.replace('iterations: 4', 'iterations: 30') + LIMITED)
        for handler, ends in ((signal.SIG_DFL, 129), (signal.SIG_IGN, 0)):
            before = signal.signal(signal.SIGHUP, handler)
            node = self.start('', 'a.yaml', 'seed=0:2', *TWO_WORKERS, '--overwrite')
            signal.signal(signal.SIGHUP, before)
            until(lambda: len(rows_of(self.root, 'a_seed0')) > 5, 'the first item')
            for path in processes_in(self.root):
                with contextlib.suppress(ProcessLookupError):  # ended with one before it
                    os.kill(int(path.split('/')[2]), signal.SIGHUP)
            self.assertEqual(node.end(), ends, node.said())
            self.assertEqual(begun(node.said()), ['0'] if ends else ['0', '1'])
            self.end_all()
            os.rename(self.at('results'), self.at(f'results.{ends}'))

    def test_interrupted_without_checkpoints(self):
        self.write('a.yaml', CONFIG.replace('iterations: 4', 'iterations: 30') + LIMITED)
        node = self.start('', 'a.yaml', 'seed=0:2', *TWO_WORKERS)
        until(lambda: len(rows_of(self.root, 'a_seed0')) > 5, 'the first item')
        node.kill()
        until(lambda: not processes_in(self.root), 'the end of its run')
        code, said = self.batch('a.yaml', 'seed=0:2', *TWO_WORKERS, '--resume')
        self.assertEqual((code, begun(said)), (0, ['0', '1']), said)
        self.assertEqual([len(rows_of(self.root, f'a_seed{seed}')) for seed in (0, 1)], [30, 30])

    def test_port_in_use(self):
        self.write('a.yaml')
        base = free_ports(4) + 1
        for port, text, place in (
                (base - 1, f'psgd: cannot listen on 127.0.0.1:{base - 1}: Address already in use',
                 ('--rank=0', '--world-size=2')),
                (base + 1, f'psgd: item 1 (a_seed1): port {base + 1} is in use',
                 ('--nnodes=1', '--nproc-per-node=2'))):
            with socket.socket() as taken:
                taken.bind(('127.0.0.1', port))
                taken.listen()
                code, said = self.batch('a.yaml', 'seed=0:2', *place, f'--master-port={base}',
                                        '--start-from=1')
                self.assertEqual((code, said.split('\n')[0]), (5, text))
                self.assertEqual(begun(said), [])


class TwoNodes(Case):
    def setUp(self):
        super().setUp()
        self.base = free_ports(6) + 1
        for host in 'AB':
            for name in 'abcd':
                self.write(f'{host}/set/{name}.yaml',
                           CONFIG.replace('iterations: 4', f'iterations: {ITERATIONS}') +
                           LIMITED + 'checkpoint: {every_iters: 10}\n')

    def node(self, worker, *arguments):
        return self.start('AB'[worker], 'set', f'--rank={worker}', '--world-size=2',
                          f'--master-port={self.base}', *arguments)

    def follower_by_variables(self, *arguments):
        return self.start('B', 'set', '1', *arguments, MASTER_ADDR='127.0.0.1', WORLD_SIZE='2',
                          MASTER_PORT_BASE=str(self.base))

    def check_complete(self, *nodes):
        for node in nodes:
            self.assertEqual(node.end(), 0, ''.join(n.said() for n in self.nodes))
            self.assertEqual([rest.split()[0] in ('finished', 'skipped')
                              for _, _, rest in items_of(node.said())], [True] * 4)
        for name in NAMES:
            self.assertEqual(state_of(self.at('A'), name), 'finished')
            self.assertEqual(len(rows_of(self.at('A'), name)), ITERATIONS)
        self.assertRegex(''.join(node.said() for node in nodes),
                         'b_seed7: the run goes on from its checkpoint of iteration [1-9]')
        # the configurations are the same, and so are the results, resumed or not
        self.assertEqual(len({hash_of(self.at('A'), name) for name in NAMES}), 1)
        until(lambda: not processes_in(self.at('A')) + processes_in(self.at('B')), 'the ends')

    def in_the_second_item(self):
        until(lambda: len(rows_of(self.at('A'), NAMES[1])) > 12, 'the second item')

    def test_killed_follower_comes_back(self):
        leader = self.node(0)
        time.sleep(0.5)
        follower = self.follower_by_variables()
        self.in_the_second_item()
        follower.kill()
        until(lambda: not processes_in(self.at('B')), 'the end of the run of a killed campaign')
        again = self.follower_by_variables('--resume')
        self.check_complete(leader, again)
        self.assertEqual(begun(leader.said()), ['0', '1', '1', '2', '3'])
        self.assertEqual(begun(again.said()), ['1', '2', '3'])

    def test_killed_leader_comes_back(self):
        follower = self.follower_by_variables()
        time.sleep(0.5)
        leader = self.node(0)
        self.in_the_second_item()
        leader.kill()
        careless = self.node(0, '--start-from=1')
        self.assertEqual(careless.end(), 2)
        self.assertRegex(careless.said(), r'^psgd: item 1: results/\d{8}/b_seed7 holds checkpoints '
                         'of an unfinished run; --resume goes on with it, --overwrite replaces it$')
        again = self.node(0, '--resume')
        self.check_complete(again, follower)
        self.assertEqual(begun(again.said()), ['1', '2', '3'])
        self.assertIn('skipped', again.said())

    def test_interrupt_ends_both(self):
        for worker in (0, 1):
            nodes = [self.node(0, '--start-from=1', '--keep-going'), self.node(1)]
            self.in_the_second_item()
            nodes[worker].process.send_signal(signal.SIGINT)
            self.assertEqual([node.end() for node in nodes], [130, 130])
            self.assertEqual(begun(nodes[0].said()), ['1'])
            self.assertRegex(items_of(nodes[0].said())[1][2], r'^failed \(130\)')
            until(lambda: not processes_in(self.at('A')) + processes_in(self.at('B')), 'the ends')
            os.rename(run_of(self.at('A'), NAMES[1]), self.at('A', str(worker)))

    def test_replaced_run_is_not_resumed(self):
        """A node is lost before the new run has begun: what is there is the old run."""
        for host in 'AB':
            self.write(f'{host}/one.yaml', CONFIG + 'checkpoint: {every_iters: 2}\n')
        self.write('slow/psgd-train-image', '#!/bin/sh\nexec sleep 1000\n')
        slow = shutil.copy(os.environ['PSGD_BIN'], self.at('slow'))
        os.chmod(self.at('slow/psgd-train-image'), 0o755)

        def node(worker, *arguments, **rest):
            return self.start('AB'[worker], 'one.yaml', f'--rank={worker}', '--world-size=2',
                              f'--master-port={self.base}', '--rdzv-timeout=4', *arguments, **rest)
        for one in [node(0), node(1)]:
            self.assertEqual(one.end(), 0, one.said())
        leader = node(0, '--overwrite')
        built = os.path.join(os.path.dirname(os.environ['PSGD_BIN']), '..', 'lib')
        lost = node(1, binary=slow, LD_LIBRARY_PATH=f'{built}:{built}/experiment')
        until(lambda: len(processes_in(self.at('B'))) == 3, 'a trainer that does nothing', 30)
        lost.kill()
        again = node(1)
        for one in (leader, again):
            self.assertEqual(one.end(), 0, one.said())
        self.assertEqual(begun(leader.said()), ['0', '0'])
        self.assertNotIn('resumed', leader.said())
        self.assertRegex(items_of(leader.said())[0][2], r'^finished +\d+\.\d\d')

    def test_lists_are_compared(self):
        for text, said in (
                (CONFIG.replace('0.05', '0.06'), r'item 2 \(c_seed7\): node 1 has another '
                 r'configuration than node 0 \(hash [0-9a-f]{16}, not [0-9a-f]{16}\)'),
                (CONFIG + 'name: z_seed7\n', 'item 2 is c_seed7 on node 0, z_seed7 on node 1'),
                (None, 'item 2 is c_seed7 on node 0, d_seed7 on node 1')):
            if text:
                self.write('B/set/c.yaml', text)
            else:
                os.remove(self.at('B/set/c.yaml'))
            nodes = [self.node(0), self.node(1)]
            for node in nodes:
                self.assertEqual(node.end(), 2)
                self.assertRegex(node.said(), said)
        self.assertIsNone(run_of(self.at('A'), NAMES[0]))

    def test_places_may_differ(self):
        """Two workers on each node, who show each other that they have the token."""
        for host, rest in (('A', 'save_dir: here\nthreads: 1\n'),
                           ('B', 'save_dir: there\nthreads: 2\n')):
            self.write(f'{host}/one.yaml', CONFIG + 'name: one\n' + rest)
            self.write(f'{host}/token', '0123456789abcdef0123456789abcdef')
            os.chmod(self.at(host, 'token'), 0o600)
        nodes = [self.start('AB'[node], 'one.yaml', '--nnodes=2', f'--node-rank={node}',
                            '--nproc-per-node=2', f'--rdzv-endpoint=127.0.0.1:{self.base}',
                            '--token-file=token') for node in (0, 1)]
        for node in nodes:
            self.assertEqual(node.end(), 0, node.said())
            self.assertIn(' of 4 (flags)', node.said())
        self.assertEqual([os.path.isfile(self.at(path)) for path in (
            'A/here/status.json', 'A/here/worker1.log', 'B/there/worker2.log',
            'B/there/worker3.log')], [True] * 4)
        self.write('B/token', 'fedcba9876543210')
        nodes = [self.start('AB'[worker], 'one.yaml', f'--rank={worker}', '--world-size=2',
                            f'--master-port={self.base}', '--overwrite', '--rdzv-timeout=2',
                            PSGD_TOKEN_FILE='token') for worker in (0, 1)]
        self.assertEqual(nodes[1].end(), 5)
        self.assertEqual(begun(nodes[1].said()), [])
        self.assertIn('refused this worker', nodes[1].said())
        nodes[0].kill()


if __name__ == '__main__':
    tap_unittest.main()
