#!/usr/bin/env python3
"""Runs whose network the kernel limits: what they leave behind, whatever ends them.

PSGD_BIN names the command, PSGD_SOURCE the root of the tree. Root only; skipped otherwise.
"""
import os
import re
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.environ['PSGD_SOURCE'], 'tools'))
import tap_unittest  # noqa: E402
from shaped_support import (PROBE, Case, bursts, said_by, trainers_of,  # noqa: E402
                            without_bursts)

LIMITS = 'method: tc, egress_mbps: 10'
LIMITED = (r'network limited by tc on v{} \(method tc\): egress 10 Mbit/s, ingress 10 Mbit/s, '
           r'latency 0 ms, burst \d+ bytes\n')


class Runs(Case):
    def test_leaves_nothing(self):
        """The supervisor owns the limits while it runs, from before a worker is there."""
        self.write(LIMITS)
        first = self.waiting()
        shown = self.nodes[0].shown()
        self.assertEqual((shown['owner'], shown['owner_pid']), ('alive', first.pid))
        self.assertEqual((shown['egress_bps'], shown['ingress_bps']), (10**7, 10**7))
        second = self.start(self.nodes[1])
        for node, run in enumerate((first, second)):
            self.assertRegex(self.ends(run, 0), LIMITED.format(node))
        self.assertEqual(self.nodes[0].rows(), 4)
        self.clean()

    def test_smoke_and_batch(self):
        self.write(LIMITS)
        for command, words in (('run', ['--smoke']), ('batch', [])):
            for number, run in enumerate(self.start_all(*words, command=command)):
                self.assertRegex(self.ends(run, 0), LIMITED.format(number))
            self.clean()

    def test_signals(self):
        """Also while a trainer does not care: the second signal insists."""
        self.write(LIMITS)
        for number in (signal.SIGTERM, signal.SIGHUP):
            run = self.waiting()
            run.send_signal(number)
            self.ends(run, 128 + number)
            self.clean()
        run = self.waiting('--', 'sh', '-c', 'trap "" INT; while :; do sleep 1; done')
        time.sleep(0.5)  # for the trap
        begin = time.monotonic()
        run.send_signal(signal.SIGINT)
        time.sleep(0.2)
        self.assertIsNone(run.poll())
        self.assertTrue(self.nodes[0].shown()['limited'])
        run.send_signal(signal.SIGINT)
        self.ends(run, 130)
        self.assertLess(time.monotonic() - begin, 4)
        self.clean()
        self.no_process()

    def test_trainer_that_cannot_start(self):
        self.write(LIMITS)
        code, said = self.nodes[0].psgd('run', 'c.yaml', *self.place(self.nodes[0]), '--',
                                        './nothing')
        self.assertEqual(code, 5, said)
        self.clean()

    def test_second_run_is_refused(self):
        self.write(LIMITS)
        first = self.waiting()
        node, during = self.nodes[0], self.nodes[0].left()
        for method in ('tc', 'auto'):
            code, said = node.psgd('run', 'c.yaml', *self.place(node, 29700), 'save_dir=other',
                                   f'network_limits.method={method}')
            self.assertEqual(code, 5, said)
            self.assertEqual(said, f'psgd: v0 is limited by process {first.pid}, which is alive: '
                             'two runs cannot limit one interface\n')
        code, said = node.psgd('net', 'apply', '--interface=v0', '--egress=10')
        self.assertEqual(code, 5, said)
        self.assertIn(str(first.pid), said)
        code, said = node.psgd('net', 'clear', '--orphans')
        self.assertEqual((code, said), (0, 'there are no orphans to remove\n'))
        self.assertEqual(node.left(), during)
        self.assertFalse(os.path.exists(os.path.join(node.folder, 'other')))
        first.send_signal(signal.SIGINT)
        self.ends(first, 130)
        self.clean()

    def test_network_test(self):
        """As a run does: the same limits, and nothing left."""
        self.write(LIMITS)
        for command in ('run', 'net'):
            words = ['--network-test'] if command == 'run' else []
            tests = [node.start(command, *(['test'] if command == 'net' else []), 'c.yaml',
                                *self.place(node), *words) for node in self.nodes]
            said = [self.ends(test, 0) for test in tests]
            self.assertRegex(said[0], LIMITED.format(0))
            self.assertIn('# Configured           : latency 0.000 ms, egress 10 Mbit/s', said[0])
            part = float(re.search(r'# Measured of it +: ([\d.]+) %', said[0])[1])
            self.assertTrue(60 < part < 120, said[0])
            self.clean()
        test = self.waiting('--network-test')
        test.send_signal(signal.SIGINT)
        self.ends(test, 130)
        self.clean()
        self.no_process()


class Killed(Case):
    def kill(self, *what):
        """kill -9 on worker 0's node in mid-training; its supervisor, which is no more."""
        self.write(LIMITS)
        first, second = self.training()
        (trainer,) = trainers_of(first)
        for name, pid in (('supervisor', first.pid), ('trainer', trainer)):
            if name in what:
                os.kill(pid, signal.SIGKILL)
        self.ends(first, 128 + signal.SIGKILL)
        self.ends(second, 3)
        self.no_process()
        self.clean(self.nodes[1])
        return first.pid

    def orphan(self, pid):
        node = self.nodes[0]
        self.assertEqual((node.shown()['owner'], node.shown()['owner_pid']), ('orphan', pid))
        self.assertEqual(node.psgd('net', 'clear'),
                         (0, f'v0: removed the limits of process {pid}, which is gone\n'))
        self.clean()
        self.assertEqual(node.psgd('net', 'clear'), (0, 'there are no limits of psgd to remove\n'))

    def test_supervisor(self):
        self.orphan(self.kill('supervisor'))

    def test_both(self):
        self.orphan(self.kill('supervisor', 'trainer'))

    def test_next_run_removes_an_orphan(self):
        """One that limits nothing, and one that does."""
        self.write(LIMITS)
        for limits in ('network_limits.enable=false', 'network_limits.egress_mbps=20'):
            first = self.waiting('--overwrite')
            first.kill()
            self.no_process()
            self.assertEqual(self.nodes[0].shown()['owner'], 'orphan')
            runs = self.start_all(limits, '--overwrite')
            said = [self.ends(run, 0) for run in runs]
            line = f'v0: removed the limits that process {first.pid} left behind\n'
            self.assertEqual([text.count(line) for text in said], [1, 0])
            self.clean()

    def test_trainer(self):
        """The supervisor is alive and clears by itself."""
        self.write(LIMITS)
        first, second = self.training()
        (trainer,) = trainers_of(first)
        os.kill(trainer, signal.SIGKILL)
        self.ends(second, 3)
        first.wait()
        self.assertIn('was killed by signal 9', said_by(first))
        self.assertNotEqual(first.returncode, 0)
        self.no_process()
        self.clean()


class Refused(Case):
    def test_what_somebody_else_put_there(self):
        node = self.nodes[0]
        self.write(LIMITS)
        node.do('tc qdisc add dev v0 root tbf rate 10mbit burst 10k latency 50ms')
        before = node.left()
        for words in (('run', 'c.yaml', *self.place(node)),
                      ('run', 'c.yaml', '--network-test', *self.place(node)),
                      ('net', 'apply', '--interface=v0', '--egress=10'),
                      ('net', 'apply', '--interface=v0', 'c.yaml')):
            code, said = node.psgd(*words)
            self.assertEqual(code, 5, said)
            self.assertRegex(said, r'^psgd(?: net apply)?: .*v0.*\n$')
        code, said = node.psgd('run', 'c.yaml', *self.place(node), '--dry-run',
                               'network_limits.method=auto')
        self.assertEqual(code, 0, said)
        self.assertIn('\nnetwork limited by model, in each worker (method auto): egress 10 ', said)
        self.assertIn('\nnote: network_limits.method: auto is model here: ', said)
        self.assertEqual(node.psgd('net', 'clear')[0], 0)
        self.assertIn("somebody else's", node.psgd('net', 'show', 'v0')[1])
        self.assertTrue(node.shown()['foreign'])
        self.assertEqual(node.left(), before)
        self.assertFalse(os.path.exists(os.path.join(node.folder, 'run')))

    def test_ingress_of_somebody_else(self):
        node = self.nodes[0]
        node.do('tc qdisc add dev v0 handle ffff: ingress')
        before = node.left()
        code, said = node.psgd('net', 'apply', '--interface=v0', '--egress=10', '--ingress=10')
        self.assertEqual(code, 5, said)
        self.assertEqual(node.left(), before)

    def test_without_a_right(self):
        node = self.nodes[0]
        code, said = node.psgd('net', 'apply', '--interface=v0', '--egress=10', weak=True)
        self.assertEqual(code, 5, said)
        self.assertRegex(said, r'^psgd net apply: .*CAP_NET_ADMIN.*\n$')
        self.clean()

    def test_nodes_that_differ(self):
        """auto is tc on one and, without the right to, model on the other."""
        self.write('method: auto, egress_mbps: 10')
        first = self.waiting()
        code, said = self.nodes[1].psgd('run', 'c.yaml', *self.place(self.nodes[1]), weak=True)
        self.assertEqual(code, 2, said)
        self.assertRegex(said, r'\nnote: network_limits.method: auto is model here: no right ')
        self.assertIn('network_limits.method: worker 0 has tc, worker 1 has model', said)
        self.ends(first, 2)
        self.clean()

    def test_without_netem(self):
        """auto leaves delays to the model, and says so; tc stops."""
        if PROBE.netem:
            self.skipTest('the kernel has netem')
        self.write('method: tc, egress_mbps: 10, latency_ms: 1')
        for node in self.nodes:
            code, said = node.psgd('run', 'c.yaml', *self.place(node))
            self.assertEqual(code, 5, said)
            self.assertRegex(said, r'^psgd: network_limits.method: .*netem.*\n$')
            self.assertFalse(os.path.exists(os.path.join(node.folder, 'run')))
        for number, run in enumerate(self.start_all('network_limits.method=auto')):
            said = self.ends(run, 0)
            self.assertIn(f'network limited by tc on v{number}, delay and losses by model, in each '
                          'worker (method auto): egress 10 Mbit/s, ingress 10 Mbit/s, latency 1 '
                          'ms, burst ', said)
            self.assertRegex(said, 'note: network_limits.method: auto is tc.model here: .*netem')
        self.clean()
        tests = [node.start('net', 'test', 'c.yaml', *self.place(node), '-e64K',
                            'network_limits.method=auto') for node in self.nodes]
        said = [self.ends(test, 0) for test in tests][0]
        part, late = re.search(r'# Measured of it +: ([\d.]+) % of the bandwidth, ([+-][\d.]+) ms',
                               said).groups()
        self.assertTrue(60 < float(part) < 120 and -0.1 < float(late) < 3, said)
        self.clean()


class ByHand(Case):
    RATES = ('--interface=v0', '--egress=20', '--ingress=5', '--unshaped-port=22')

    def test_apply_show_clear(self):
        node = self.nodes[0]
        self.assertEqual(node.psgd('net', 'show'), (0, 'psgd limits no interface\n'))
        self.assertIn('v0: not limited by psgd; the queue of the system is there\n',
                      node.psgd('net', 'show', 'v0')[1])
        code, said = node.psgd('net', 'apply', *self.RATES)
        self.assertEqual(code, 0, said)
        shown = node.shown()
        self.assertEqual([shown[key] for key in ('limited', 'owner', 'owner_pid', 'egress_bps',
                                                 'ingress_bps', 'delay_ns', 'loss_ppm')],
                         [True, 'nobody', 0, 20 * 10**6, 5 * 10**6, 0, 0])
        burst = re.match(r'v0: egress 20 Mbit/s, ingress 5 Mbit/s, latency 0 ms, burst (\d+) bytes',
                         said)
        self.assertIsNotNone(burst, said)
        self.assertEqual(shown['burst_bytes'], int(burst[1]))
        self.assertIn('\n  owner: none, set by hand\n', node.psgd('net', 'show', weak=True)[1])
        self.assertEqual(node.psgd('net', 'clear', '--orphans'),
                         (0, 'there are no orphans to remove\n'))
        self.assertTrue(node.shown()['limited'])
        # another link in its place, and one direction less
        self.assertEqual(node.psgd('net', 'apply', '--interface=v0', '--egress=3')[0], 0)
        self.assertEqual([node.shown()[key] for key in ('egress_bps', 'ingress_bps')],
                         [3 * 10**6, 0])
        self.assertEqual(node.psgd('net', 'clear', 'v0'),
                         (0, 'v0: removed the limits set by hand\n'))
        self.clean()

    def test_info(self):
        node = self.nodes[0]
        found = r'\n  tc +found, with CAP_NET_ADMIN; rates: yes; delay and loss: '
        self.assertRegex(node.psgd('info')[1], found + ('yes\n' if PROBE.netem else '.*netem'))
        self.assertRegex(node.psgd('info', weak=True)[1],
                         r'\n  tc +found, no CAP_NET_ADMIN; rates: no right ')
        self.clean()

    def test_a_run_replaces_them(self):
        """It says so; nobody can put back what they were."""
        self.write(LIMITS)
        self.assertEqual(self.nodes[0].psgd('net', 'apply', *self.RATES)[0], 0)
        said = [self.ends(run, 0) for run in self.start_all()]
        line = "v0: these limits take the place of those of `psgd net apply'"
        self.assertEqual([text.count(line) for text in said], [1, 0])
        self.clean()

    def test_of_a_configuration(self):
        node = self.nodes[0]
        self.write('method: model, egress_mbps: 7, interface: v0')
        self.assertEqual(node.psgd('net', 'apply', 'c.yaml', '--ingress=9')[0], 0)
        self.assertEqual([node.shown()[key] for key in ('egress_bps', 'ingress_bps')],
                         [7 * 10**6, 9 * 10**6])
        self.assertEqual(node.psgd('net', 'clear')[0], 0)
        self.clean()

    def test_printed_commands_do_the_same(self):
        """By tc itself, which rounds bursts; printing needs no right, and does nothing."""
        node = self.nodes[0]
        code, script = node.psgd('net', 'apply', *self.RATES, '--print-tc', weak=True)
        self.assertEqual(code, 0, script)
        self.clean()
        self.assertEqual(node.psgd('net', 'apply', *self.RATES)[0], 0)
        ours = node.left()
        self.assertEqual(node.psgd('net', 'clear')[0], 0)
        self.clean()
        node.script(script)
        self.assertEqual(*map(without_bursts, (node.left(), ours)))
        for theirs, own in zip(*map(bursts, (node.left(), ours))):
            self.assertAlmostEqual(theirs, own, delta=own / 500)
        self.assertEqual(node.psgd('net', 'clear')[0], 0)
        self.clean()

    def test_dry_run_prints_them(self):
        node = self.nodes[0]
        self.write(LIMITS)
        code, said = node.psgd('run', 'c.yaml', '--dry-run', *self.place(node))
        self.assertEqual(code, 0, said)
        _, script = node.psgd('net', 'apply', '--interface=v0', 'c.yaml', '--print-tc',
                              f'--unshaped-port={self.port}')
        lines = ''.join(f'  {line}\n' for line in script.splitlines())
        self.assertIn(f'\nnetwork of this node:\n{lines}worker 0:\n', said)
        self.assertIn('\n  method: tc\n', said)
        self.assertIn('\n  interface: v0\n', said)
        # NCCL goes by sockets of that interface, also to a node that is a namespace beside this one
        for variable in ('NET=Socket', 'IB_DISABLE=1', 'SOCKET_IFNAME==v0', 'HOSTID=psgd-0',
                         'P2P_DISABLE=1', 'SHM_DISABLE=1'):
            self.assertIn(f'\n    NCCL_{variable}\n', said)
        self.clean()


if __name__ == '__main__':
    tap_unittest.main()
