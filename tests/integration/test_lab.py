#!/usr/bin/env python3
"""psgd lab: nodes on one machine, what they can do, and that nothing of them stays."""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.environ['PSGD_SOURCE'], 'tools'))
import tap_unittest  # noqa: E402
from lab_support import (CONFIG, DELAYED, LIMITED, LONG, PSGD, Case, entries,  # noqa: E402
                         inside, losses, namespace, rows, unavailable, until, write_idx)

WITHOUT = unavailable()


@unittest.skipIf(WITHOUT, WITHOUT)
class Nodes(Case):
    def by_ip(self, node, *command):
        """What a command says on a node, by `ip netns`."""
        return subprocess.run(['ip', 'netns', 'exec', f'{self.name}{node}', *command],
                              stdout=subprocess.PIPE, text=True, check=True).stdout

    def test_up_and_down(self):
        self.lab('up')
        self.assertEqual(sorted({os.path.basename(entry) for entry in entries(self.name)}),
                         [self.name + ending for ending in ('-hub', '0', '1')])
        # by other tools too
        self.assertIn(' 10.77.0.2/24 ', self.by_ip(1, 'ip', '-o', '-4', 'address', 'show', 'eth0'))
        self.assertEqual(self.send(0, 1, '10.77.0.2', 1000)[1], '1000 from 10.77.0.1')
        # one route, and with Linux's default congestion control whatever the host's is
        for node in (0, 1):
            routes = self.by_ip(node, 'ip', '-4', 'route', 'show').splitlines()
            self.assertEqual([line.split()[:3] for line in routes],
                             [['10.77.0.0/24', 'dev', 'eth0']])
            self.assertIn(f' src 10.77.0.{node + 1} ', routes[0])
            self.assertIn(' congctl cubic', routes[0])
        self.assertIn('is up with 2 nodes', self.lab('up', code=2))
        self.lab('down')
        self.gone()
        self.assertIn('nothing to do', self.lab('down'))
        self.gone()

    def test_exec(self):
        self.lab('up', '-n', '2', '--range', '192.168.5.16/28')
        for seen in (('ls', '/sys/class/net'), ('cat', '/sys/class/net/eth0/address')):
            self.assertEqual(self.on(0, *seen), self.by_ip(0, *seen))
        self.assertEqual(self.on(self.name + '1', 'sh', '-c', 'echo "$0" "$@"', 'a', '--', 'b c'),
                         'a -- b c\n')
        self.lab('exec', '1', '--', 'sh', '-c', 'exit 37', code=37)
        self.assertEqual(self.lab('exec', '1', '--', '/nowhere/at/all', code=5).count('\n'), 1)
        process = self.start('exec', '--name', self.name, '0', '--', 'sleep', '1000')
        until(lambda: self.status()['nodes'][0]['processes'], 'sleep')
        node = self.status()['nodes'][0]
        self.assertEqual(node['processes'], [{'pid': process.pid, 'name': 'sleep'}])
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(LONG), -signal.SIGTERM)

    def test_status(self):
        self.lab('up', '-n', '3', '--range', '192.168.5.16/28')
        lab = self.status()
        self.assertEqual((lab['n'], lab['complete'], lab['for_a_run']), (3, True, False))
        self.assertEqual([(node['name'], node['address'], node['shaped'], node['processes'])
                          for node in lab['nodes']],
                         [(f'{self.name}{i}', f'192.168.5.{17 + i}/28', False, [])
                          for i in range(3)])
        self.send(2, 0, '192.168.5.17', 1000000)
        moved = [(new['tx_bytes'] - old['tx_bytes'], new['rx_bytes'] - old['rx_bytes'])
                 for new, old in zip(self.status()['nodes'], lab['nodes'])]
        self.assertGreater(moved[2][0], 1000000)
        self.assertGreater(moved[0][1], 1000000)
        self.assertLess(max(moved[1]), 10000)
        said = self.lab('status')
        self.assertIn(f'{self.name}: 3 nodes\n', said)
        self.assertRegex(said, rf'\n  {self.name}2 +192\.168\.5\.19/28 +not limited\n')
        self.lab('down')
        self.assertEqual(self.lab('status'), 'no lab is up\n')

    def test_all_pairs(self):
        for way in ((), ('--macvlan',)):
            self.lab('up', '-n', '3', *way)
            for source in range(3):
                for target in range(3):
                    if source != target:
                        said = self.send(source, target, f'10.77.0.{target + 1}', 10000)[1]
                        self.assertEqual(said, f'10000 from 10.77.0.{source + 1}')
            self.lab('down')
            self.gone()

    def test_side_by_side(self):
        other = self.name + 'b'
        self.lab('up')
        self.lab('up', name=other)
        self.send(0, 1, '10.77.0.2')
        self.assertEqual(self.on(0, 'cat', '/sys/class/net/eth0/address') ==
                         self.on(0, 'cat', '/sys/class/net/eth0/address', name=other), False)
        self.lab('down', name=other)
        self.assertEqual(entries(other), [])
        self.send(0, 1, '10.77.0.2')
        self.lab('down')
        self.gone()

    def test_limited(self):
        """No more than a limit gets through, and not much less, each way."""
        arguments = ('--egress', '40', '--ingress', '20')
        process = self.start('up', '--name', self.name, *arguments)
        err = process.communicate(timeout=LONG)[1]
        if process.returncode == 5:
            self.gone()
            self.skipTest(err.strip())
        self.assertEqual(process.returncode, 0, err)
        for node in self.status()['nodes']:
            self.assertEqual((node['shaped'], node['egress_mbps'], node['ingress_mbps'],
                              node['latency_ms']), (True, 40, 20, 0))
        seconds, _ = self.send(0, 1, '10.77.0.2', 2500000)
        self.assertGreater(seconds, 0.9)
        self.assertLess(seconds, 3)
        self.lab('down')
        # asked of one node, the other's ingress is not the narrow place
        self.lab('up', '--mbps', '40')
        seconds, _ = self.send(1, 0, '10.77.0.1', 2500000)
        self.assertGreater(seconds, 0.45)
        self.assertLess(seconds, 1.5)
        self.lab('down')
        self.gone()

    def test_latency(self):
        process = self.start('up', '--name', self.name, '--latency', '20')
        err = process.communicate(timeout=LONG)[1]
        if process.returncode:
            # half a lab is none
            self.assertEqual(process.returncode, 5)
            self.assertEqual(err.count('\n'), 1, err)
            self.gone()
            self.skipTest(err.strip())
        self.assertGreater(self.send(0, 1, '10.77.0.2')[0], 0.04)


@unittest.skipIf(WITHOUT, WITHOUT)
class Refused(Case):
    def refused(self, text, word, *arguments, code=2, prefix=()):
        said = self.lab(word, *arguments, code=code, prefix=prefix)
        self.assertIn(text, said.splitlines()[0])
        self.gone()

    def test_flags(self):
        self.refused("-n: '1' is not a whole number from 2 to 64", 'up', '-n', '1')
        self.refused('has addresses for 2 nodes, not for 3', 'up', '-n', '3', '--range',
                     '10.0.0.0/30')
        self.refused('has bits of a host', 'up', '--range', '10.0.0.1/24')
        self.refused('is not ADDRESS/BITS', 'up', '--range', '10.0.0.0')
        self.refused('is not an IPv4 address', 'up', '--range', '10.0.0/24')
        self.refused("--mbps: '0' is not a number", 'up', '--mbps', '0')
        self.refused("--latency: 'x' is not a number", 'up', '--latency', 'x')
        self.refused('give either', 'up', '--mbps', '5', '--egress', '5')
        self.refused("'b/c' is not 1 to 32 letters", 'up', '--name', 'b/c')
        self.refused("'around' is none of", 'around')
        self.refused("there is no node '0'", 'exec', '0', '--', 'true')
        self.refused('the command is missing', 'exec', '0')
        self.refused('none.yaml: ', 'run', 'none.yaml')

    def test_a_name_that_is_taken(self):
        taken = self.name + '1'
        subprocess.run(['ip', 'netns', 'add', taken], check=True)
        self.addCleanup(subprocess.run, ['ip', 'netns', 'delete', taken], check=True)
        was = namespace(taken)
        self.assertIn(f'the name {taken} is taken', self.lab('up', code=2))
        self.assertIn('nothing to do', self.lab('down'))
        self.assertIn('there is no node', self.lab('exec', '1', '--', 'true', code=2))
        self.assertEqual(set(map(os.path.basename, entries(self.name))), {taken})
        self.assertEqual(namespace(taken), was)

    def test_without_rights(self):
        ways = [('setpriv', '--bounding-set', '-net_admin,-sys_admin')]
        nobody = ('setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups')
        if subprocess.run([*nobody, PSGD, '--version'], capture_output=True).returncode == 0:
            ways.append(nobody)
        self.write('a.yaml', CONFIG)
        for prefix in ways:
            for arguments in (('up',), ('down',), ('status',), ('exec', '0', '--', 'true')):
                said = self.lab(*arguments, code=5, prefix=prefix)
                self.assertRegex(said, r'^psgd lab: needs root .*--standalone.*\n$')
            if prefix != nobody:
                self.assertIn('needs root', self.lab('run', 'a.yaml', code=5, prefix=prefix))
        self.gone()


@unittest.skipIf(WITHOUT, WITHOUT)
class Killed(Case):
    def test_up(self):
        """At any moment: down takes away what there is, and so does the next up."""
        nodes = ('-n', '8')
        begin = time.monotonic()
        self.lab('up', *nodes)
        whole = time.monotonic() - begin
        self.lab('down')
        left = 0
        for part in range(12):
            process = self.start('up', '--name', self.name, *nodes)
            time.sleep(whole * part / 12)
            self.kill(process)
            left += bool(entries(self.name))
            if part % 3 == 2:
                there = json.loads(self.lab('status', '--json'))['labs']
                self.lab('up', *nodes, code=2 if there and there[0]['complete'] else 0)
                self.send(0, 7, '10.77.0.8')
            self.lab('down')
            self.gone()
        self.assertGreater(left, 3)

    def test_up_and_asked_to_end(self):
        """All of a lab, or nothing."""
        for part in range(8):
            process = self.start('up', '--name', self.name, '-n', '8')
            time.sleep(0.02 * part)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=LONG)
            if process.returncode == -signal.SIGTERM:
                self.gone()
            else:
                self.assertEqual(process.returncode, 0)
                self.assertTrue(self.status()['complete'])
                self.lab('down')

    def test_processes_that_do_not_end(self):
        self.lab('up')
        stubborn = "trap '' TERM; echo ready; while :; do sleep 1; done"
        process = self.start('exec', '--name', self.name, '1', '--', 'setsid', 'sh', '-c', stubborn)
        self.assertEqual(process.stdout.readline(), 'ready\n')
        # another's, in a namespace of its own
        other = self.start('exec', '--name', self.name, '0', '--', 'unshare', '--net', 'sleep',
                           '1000')
        spaces = {namespace(self.name + number) for number in '01'}
        ours = os.stat('/proc/self/ns/net').st_ino
        until(lambda: os.stat(f'/proc/{other.pid}/ns/net').st_ino not in spaces | {ours},
              'a namespace of its own')
        self.lab('down')
        self.gone()
        self.assertEqual(inside(spaces), [])
        self.assertEqual(process.wait(LONG), -signal.SIGKILL)
        self.assertIsNone(other.poll())


@unittest.skipIf(WITHOUT, WITHOUT)
class Runs(Case):
    def setUp(self):
        super().setUp()
        write_idx(os.path.join(self.root, 'files'), 512)
        self.write('a.yaml', CONFIG)

    def begin(self, *arguments):
        """A run that is in its middle, and its namespaces."""
        process = self.start('run', '--name', self.name, '--dir', 'out', 'a.yaml',
                             'training.max_iterations=1000000', *arguments)
        until(lambda: rows(os.path.join(self.root, 'out/node0')) > 3 or process.poll() is not None,
              'iterations')
        if process.poll() is not None:
            self.fail(''.join(process.communicate()))
        return process, {namespace(self.name + number) for number in '01'}

    def can_limit(self):
        """The kernel has what limits need."""
        process = self.start('up', '--name', self.name, '--mbps', '100')
        process.communicate(timeout=LONG)
        self.lab('down')
        return process.returncode == 0

    def same_as_emulated(self, n, *arguments, limits=LIMITED):
        self.write('a.yaml', CONFIG + limits)
        said = self.lab('run', 'a.yaml', '--dir', 'out', *arguments)
        self.gone()
        # as seen from the folder where it was called
        place = re.search(r'^finished: (\S+), ', said, re.M)[1]
        self.assertRegex(place, '^out/node0/')
        self.assertTrue(os.path.exists(os.path.join(self.root, place, 'status.json')), place)
        if self.can_limit():
            # delays need more of the kernel than rates do
            self.assertRegex(said, r'limited by tc on eth0(, delay and losses by model, in each '
                             r'worker)? \(method auto\): egress 50 Mbit/s')
        emulated = subprocess.run([PSGD, 'run', '--standalone', '--nproc-per-node', str(n),
                                   'a.yaml'], cwd=self.root, capture_output=True, text=True)
        self.assertEqual(emulated.returncode, 0, emulated.stdout + emulated.stderr)
        got = losses(os.path.join(self.root, 'out/node0'))
        self.assertEqual(len(got), 12)
        self.assertEqual(got, losses(self.root))

    def test_two_nodes_train_as_emulated(self):
        self.same_as_emulated(2)
        # nothing is shared: each node has what is its own
        for node, other in ((0, 1), (1, 0)):
            run = os.path.join(self.root, f'out/node{node}/results')
            logs = [name for _, _, names in os.walk(run) for name in names
                    if re.match(r'worker\d+\.log', name)]
            self.assertEqual(logs, [f'worker{node}.log'])
        with open(os.path.join(self.root, 'out/node1.log')) as file:
            self.assertIn('worker 1 of 2', file.read())

    def test_three_nodes_train_as_emulated(self):
        self.same_as_emulated(3, '-n', '3')

    def test_nodes_with_delays_train_as_emulated(self):
        self.same_as_emulated(2, limits=DELAYED)
        with open(self.only('out/node0/results/*/a/events.jsonl')) as file:
            self.assertEqual([(event['iteration'], event['latency_ms'])
                              for event in map(json.loads, file) if event['event'] == 'link'],
                             [(6, 20)])

    def test_two_workers_a_node(self):
        self.same_as_emulated(4, '--nproc-per-node', '2')

    def test_a_lab_that_is_up(self):
        self.lab('up')
        process, _ = self.begin()
        self.assertIn('another run is in', self.lab('run', 'a.yaml', code=5))
        self.assertEqual({one['name'] for node in self.status()['nodes']
                          for one in node['processes']} & {'psgd'}, {'psgd'})
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(LONG), 130)
        self.assertIn('flags that say what it should be',
                      self.lab('run', 'a.yaml', '-n', '3', code=2))
        self.assertEqual([node['processes'] for node in self.status()['nodes']], [[], []])
        self.send(0, 1, '10.77.0.2')

    def test_ended_by_signal(self):
        process, spaces = self.begin()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(LONG), 143)
        self.gone()
        self.assertEqual(inside(spaces), [])

    def test_killed(self):
        process, spaces = self.begin()
        self.kill(process)
        self.assertNotEqual(entries(self.name), [])
        self.lab('down')
        self.gone()
        self.assertEqual(inside(spaces), [])

    def test_killed_and_run_again(self):
        process, spaces = self.begin()
        self.kill(process)
        shutil.rmtree(os.path.join(self.root, 'out'))
        self.lab('run', 'a.yaml', '--dir', 'out')
        self.gone()
        self.assertEqual(inside(spaces), [])

    def test_killed_and_resumed(self):
        process, _ = self.begin('checkpoint.every_iters=5')
        until(lambda: rows(os.path.join(self.root, 'out/node0')) > 20, 'a checkpoint')
        self.kill(process)
        more = rows(os.path.join(self.root, 'out/node0')) + 20
        self.lab('run', 'a.yaml', '--dir', 'out', '--resume', 'auto',
                 f'training.max_iterations={more}')
        self.assertEqual(rows(os.path.join(self.root, 'out/node0')), more)
        with open(self.only('out/node0/results/*/a/events.jsonl')) as file:
            self.assertEqual([event['event'] for event in map(json.loads, file)].count('resume'), 1)
        self.gone()

    def test_smoke(self):
        self.assertIn('finished: smoke test', self.lab('run', 'a.yaml', '--smoke'))
        self.assertEqual(glob.glob(f'{self.root}/{self.name}/node*/results/*/*'), [])
        self.gone()

    def only(self, pattern):
        found = glob.glob(os.path.join(self.root, pattern))
        self.assertEqual(len(found), 1, found)
        return found[0]

    def test_a_killed_trainer(self):
        process, spaces = self.begin()
        trainers = [pid for pid in inside({namespace(self.name + '1')})
                    if 'psgd-train-image' in self.program(pid)]
        self.assertEqual(len(trainers), 1)
        os.kill(trainers[0], signal.SIGKILL)
        out, err = process.communicate(timeout=LONG)
        self.assertEqual(process.returncode, 1, out + err)
        self.assertIn('node 1 exited with code 1 (first failure); last lines of out/node1.log', err)
        self.assertIn('was killed by signal 9', err)
        self.gone()
        self.assertEqual(inside(spaces), [])

    @staticmethod
    def program(pid):
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            return file.read().split(b'\0')[0].decode()

    def test_first_failure(self):
        script = 'test $RANK = 0 || { echo broken >&2; exit 4; }; exec sleep 1000'
        said = self.lab('run', 'a.yaml', '--', 'sh', '-c', script, code=4)
        self.assertIn(f'node 1 exited with code 4 (first failure); last lines of '
                      f'{self.name}/node1.log:\n', said)
        self.assertIn('broken', said)
        self.gone()

    def test_own_trainer_and_data(self):
        """A command by its place, and the folder data, are the caller's."""
        os.mkdir(os.path.join(self.root, 'data'))
        self.write('data/here', 'seen\n')
        self.write('own', '#!/bin/sh\ncat data/here >seen; cat /sys/class/net/eth0/operstate\n')
        os.chmod(os.path.join(self.root, 'own'), 0o755)
        self.lab('run', 'a.yaml', '--', './own')
        for node in '01':
            with open(os.path.join(self.root, self.name, 'node' + node, 'seen')) as file:
                self.assertEqual(file.read(), 'seen\n')
        self.gone()


if __name__ == '__main__':
    tap_unittest.main()
