#!/usr/bin/env python3
"""Delays, jitter and losses that the kernel makes (netem), by hand and in runs.

PSGD_BIN names the command, LINK_TRAINER a trainer that only sleeps and sends, PSGD_SOURCE the root
of the tree. Root only, and of a kernel with netem; skipped otherwise: tests/slow/netem_vm.sh has
such a kernel.
"""
import csv
import glob
import json
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.environ['PSGD_SOURCE'], 'tools'))
import tap_unittest  # noqa: E402
import lab_support  # noqa: E402
from batch_support import CONFIG, until  # noqa: E402
from shaped_support import (PROBE, Case, bursts, must, said_by, trainers_of,  # noqa: E402
                            without_bursts)

# Where nobody listens, a connection is refused after one round trip.
CONNECT = '''
import socket, sys, time
times = []
for i in range(7):
    with socket.socket() as s:
        begin = time.monotonic()
        s.connect_ex((sys.argv[1], int(sys.argv[2])))
        times.append(time.monotonic() - begin)
print(min(times))
'''
FREE_PORT = 22
RATES = ('--interface=v0', '--egress=20', '--ingress=5', f'--unshaped-port={FREE_PORT}')
DELAY = ('--latency=40.000007', '--jitter=2.000003', '--loss=1.2345')


class Delays(Case):
    def setUp(self):
        super().setUp()
        if not PROBE.netem:
            self.skipTest('the kernel has no netem')

    def apply(self, *words):
        code, said = self.nodes[0].psgd('net', 'apply', *words)
        self.assertEqual(code, 0, said)
        return said

    def clear(self):
        for node in self.nodes:
            self.assertEqual(node.psgd('net', 'clear')[0], 0)
        self.clean()

    def round_trip(self, port=9):
        """The shortest from node 0 to node 1 and back, in ms."""
        first, second = self.nodes
        return 1000 * float(must(*first.inside('python3', '-c', CONNECT, second.address,
                                               str(port))))

    def same_link(self, shown, tick=1):
        self.assertEqual([shown[key] for key in ('egress_bps', 'ingress_bps', 'loss_ppm')],
                         [20000000, 5000000, 12345])
        self.assertEqual([shown[key] for key in ('delay_ns', 'jitter_ns')],
                         [ns // tick * tick for ns in (40000007, 2000003)])


class ByHand(Delays):
    def test_apply_show_clear(self):
        node = self.nodes[0]
        text = 'v0: egress 20 Mbit/s, ingress 5 Mbit/s, latency 40 ms, jitter 2 ms, loss 1.2345 %'
        self.assertIn(text, self.apply(*RATES, *DELAY))
        self.same_link(node.shown())
        self.assertIn(text, node.psgd('net', 'show')[1])
        # another delay in its place, then none
        self.apply('--interface=v0', '--latency=3')
        self.assertEqual([node.shown()[key] for key in ('egress_bps', 'delay_ns', 'loss_ppm')],
                         [0, 3000000, 0])
        self.apply('--interface=v0', '--egress=3')
        self.assertEqual(node.shown()['delay_ns'], 0)
        self.clear()

    def test_printed_commands_do_the_same(self):
        """To the 64 ns in which tc counts, and the same share of losses."""
        node = self.nodes[0]
        code, script = node.psgd('net', 'apply', *RATES, *DELAY, '--print-tc')
        self.assertEqual(code, 0, script)
        self.clean()
        self.apply(*RATES, *DELAY)
        ours = node.left()
        self.clear()
        node.script(script)
        self.assertEqual(*map(without_bursts, (node.left(), ours)))
        for theirs, own in zip(*map(bursts, (node.left(), ours))):
            self.assertAlmostEqual(theirs, own, delta=own / 500)
        self.same_link(node.shown(), 64)
        self.clear()

    def test_round_trip(self):
        """What leaves is late, once on each node that delays; what arrives, or a free port, not."""
        self.assertLess(self.round_trip(), 100)
        for number, node in enumerate(self.nodes, 1):
            code, said = node.psgd('net', 'apply', f'--interface={node.interface}', '--latency=100',
                                   '--egress=20', '--ingress=20', f'--unshaped-port={FREE_PORT}')
            self.assertEqual(code, 0, said)
            times = self.round_trip(), self.round_trip(FREE_PORT)
            print('# 100 ms on {} of 2 nodes: {:.1f} ms, by the free port {:.1f} ms'.format(
                number, *times))
            self.assertGreaterEqual(times[0], 100 * number)
            self.assertLess(times[0], 100 * (number + 1))
            self.assertLess(times[1], 100)
        self.clear()

    def test_losses(self):
        """So many that a connection fails, though not all."""
        self.apply('--interface=v0', '--loss=99.9999')
        self.assertEqual(self.nodes[0].shown()['loss_ppm'], 999999)
        code, said = self.nodes[0].psgd('net', 'apply', '--interface=v0', '--loss=100')
        self.assertEqual(code, 2, said)
        self.assertEqual(self.nodes[0].shown()['loss_ppm'], 999999)
        before = self.nodes[0].shown()['drops']
        sent = 'import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\nfor i in range(500):\n' \
               f'    s.sendto(bytes(100), ("{self.nodes[1].address}", 9))'
        must('ip', '-n', self.nodes[0].name, 'neighbor', 'replace', self.nodes[1].address,
             'lladdr', '02:00:00:00:00:01', 'dev', 'v0')
        must(*self.nodes[0].inside('python3', '-c', sent))
        self.assertGreaterEqual(self.nodes[0].shown()['drops'] - before, 499)
        self.clear()


class Runs(Delays):
    def start(self, node, *words, command='run'):
        return super().start(node, *words, '--', os.environ['LINK_TRAINER'], command=command)

    def finished(self, runs, line):
        """All of them end well and say how they were limited, and nothing of it stays."""
        for number, run in enumerate(runs):
            self.assertIn(f'network limited by tc on v{number} {line}', self.ends(run, 0))
            self.assertNotIn('note: network_limits', said_by(run))
        self.clean()

    def table(self):
        (path,) = glob.glob(f'{self.nodes[0].folder}/run/benchmark/*/csv/powerSGD_benchmark_*.csv')
        with open(path, encoding='utf-8') as file:
            return list(csv.DictReader(file))

    def events(self, name):
        with open(f'{self.nodes[0].folder}/run/events.jsonl', encoding='utf-8') as file:
            return [event for event in map(json.loads, file) if event['event'] == name]

    def delays(self, runs, rows):
        """What both kernels have after so many iterations; the trainers wait meanwhile."""
        until(lambda: self.nodes[0].rows() >= rows or any(run.poll() is not None for run in runs),
              'iterations')
        trainers = [pid for run in runs for pid in trainers_of(run)]
        for pid in trainers:
            os.kill(pid, signal.SIGSTOP)
        found = [node.shown()['delay_ns'] for node in self.nodes]
        for pid in trainers:
            os.kill(pid, signal.SIGCONT)
        return found

    def test_latency_that_changes(self):
        """In the kernel as in the records, and each step waits for it."""
        self.write('method: tc, egress_mbps: 20, latency_ms: 10, schedule: ['
                   '{at_iteration: 6, egress_mbps: 10, latency_ms: 40}, '
                   '{at_iteration: 16, egress_mbps: 20, latency_ms: 0}]')
        runs = self.start_all('training.max_iterations=22')
        self.assertEqual(self.delays(runs, 7), [40000000] * 2)
        self.finished(runs, '(method tc): egress 20 Mbit/s, ingress 20 Mbit/s, latency 10 ms, burst'
                            ' 3278 bytes, changes at iteration 6, 16\n')
        self.assertEqual([(event['iteration'], event['egress_mbps'], event['latency_ms'])
                          for event in self.events('link')], [(6, 10, 40), (16, 20, 0)])
        times = [1000 * float(row['wire_time']) for row in self.table()]
        self.assertEqual(len(times), 22)
        least = [min(part) for part in (times[:6], times[6:16], times[16:])]
        print('# on the wire, ms a step at 10, 40 and 0 ms:', *(f'{ms:.1f}' for ms in least))
        self.assertGreaterEqual(least[0], 2 * 10)
        self.assertGreaterEqual(least[1], 2 * 40)
        self.assertLess(least[2], least[1])

    def test_jitter_and_losses(self):
        """TCP sends again what is lost, so that training does not see it; auto is all tc."""
        self.write('method: auto, egress_mbps: 20, latency_ms: 4, jitter_ms: 2, loss_pct: 1')
        self.finished(self.start_all(), '(method auto): egress 20 Mbit/s, ingress 20 Mbit/s, '
                      'latency 4 ms, jitter 2 ms, loss 1 %, burst 3278 bytes\n')
        self.assertEqual(len(self.table()), 4)

    def test_network_test(self):
        self.write('method: tc, egress_mbps: 20, latency_ms: 100')
        tests = [node.start('net', 'test', 'c.yaml', *self.place(node)) for node in self.nodes]
        said = self.ends(tests[0], 0)
        self.ends(tests[1], 0)
        (found,) = [line.split()[-4] for line in said.splitlines() if 'Measured of it' in line]
        print('# latency measured beside 100 ms:', found)
        self.assertTrue(0 <= float(found) < 100, said)
        self.clean()

    def test_killed(self):
        self.write('method: tc, egress_mbps: 20, latency_ms: 5, loss_pct: 0.1')
        first = self.waiting()
        first.send_signal(signal.SIGKILL)
        first.wait()
        self.no_process()
        self.assertEqual((self.nodes[0].shown()['owner'], self.nodes[0].shown()['loss_ppm']),
                         ('orphan', 1000))
        self.clear()


class Labs(lab_support.Case):
    def test_run(self):
        """With jitter no rate is asked for, so that the machine may be slow."""
        if PROBE.reason or not PROBE.netem:
            self.skipTest(PROBE.reason or 'the kernel has no netem')
        self.write('c.yaml', CONFIG + 'network_limits: {enable: true, method: tc, egress_mbps: 20, '
                   'latency_ms: 20, jitter_ms: 1, '
                   'schedule: [{at_iteration: 2, egress_mbps: 10, latency_ms: 5}]}')
        said = self.lab('run', '--dir', 'out', 'c.yaml', '--', os.environ['LINK_TRAINER'])
        self.gone()
        self.assertIn('limited by tc on eth0 (method tc): egress 20 Mbit/s, ingress 20 Mbit/s, '
                      'latency 20 ms, jitter 1 ms, burst 3278 bytes, changes at iteration 2\n',
                      said)
        (path,) = glob.glob(f'{self.root}/out/node0/**/csv/powerSGD_benchmark_*.csv',
                            recursive=True)
        with open(path, encoding='utf-8') as file:
            times = [1000 * float(row['wire_time']) for row in csv.DictReader(file)]
        self.assertEqual(len(times), 4)
        self.assertGreaterEqual(min(times[:2]), 2 * 19)
        self.assertGreaterEqual(min(times[2:]), 2 * 4)


if __name__ == '__main__':
    tap_unittest.main()
