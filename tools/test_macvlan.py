#!/usr/bin/env python3
"""Tests of macvlan_run.sh: what it would do, and what it refuses."""
import os
import shlex
import stat
import subprocess
import tempfile
import unittest

import tap_unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'macvlan_run.sh')
GOOD = {'PARENT_IF': 'lo', 'SUBNET': '192.168.10.0/24', 'GATEWAY': '192.168.10.1',
        'CONTAINER_IP': '192.168.10.20', 'NAME': 'dl-node-master', 'ENGINE': 'docker'}
FAKE = '''#!/bin/sh
for word; do printf '%s\\n' "$word" >>"$SAID"; done
echo --- >>"$SAID"
case "$*" in "network inspect"*) exit "$KNOWN" ;; esac
'''


class Macvlan(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)

    def script(self, *arguments, **variables):
        environment = {'PATH': os.environ['PATH'], **GOOD, **variables}
        environment = {k: v for k, v in environment.items() if v is not None}
        done = subprocess.run([SCRIPT, *arguments], env=environment, cwd=self.folder, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        return done.returncode, done.stdout, done.stderr

    def commands(self, **variables):
        code, out, err = self.script('--dry-run', **variables)
        self.assertEqual((code, err), (0, ''))
        return [shlex.split(line) for line in out.splitlines()]

    def test_commands(self):
        network, container = self.commands()
        self.assertEqual(network, [
            'docker', 'network', 'create', '-d', 'macvlan', '--subnet', '192.168.10.0/24',
            '--gateway', '192.168.10.1', '-o', 'parent=lo', 'psgd_macvlan'])
        self.assertEqual(container, [
            'docker', 'run', '-d', '--name', 'dl-node-master', '--network', 'psgd_macvlan', '--ip',
            '192.168.10.20', '--cap-add', 'NET_ADMIN', '-v', f'{self.folder}:/workspace', '-w',
            '/workspace', 'libpsgd:cpu', 'sleep', 'infinity'])

    def test_variables(self):
        """Also values that a shell would take apart, or run."""
        odd = os.path.join(self.folder, 'a $(touch bad) b;c')
        os.mkdir(odd)
        network, container = self.commands(
            IMAGE='img; touch bad', MOUNT=odd, WORKDIR='/w s', GPUS='all', NET_NAME='n1')
        self.assertEqual(network[-1], 'n1')
        text = ' '.join(container)
        self.assertIn(f'--gpus all -v {odd}:/w s -w /w s img; touch bad sleep', text)
        self.assertEqual(container[-3], 'img; touch bad')
        self.assertEqual(os.listdir(odd), [])
        self.assertEqual(sorted(os.listdir(self.folder)), [os.path.basename(odd)])
        _, container = self.commands(ENGINE='podman', GPUS='2')
        self.assertEqual([w for w in container if w.startswith('nvidia')],
                         ['nvidia.com/gpu=0', 'nvidia.com/gpu=1'])

    def test_network_is_made_once(self):
        fake = os.path.join(self.folder, 'docker')
        with open(fake, 'w') as file:
            file.write(FAKE)
        os.chmod(fake, os.stat(fake).st_mode | stat.S_IXUSR)
        for known, calls in (('1', ['inspect', 'create', '-d']), ('0', ['inspect', '-d'])):
            said = os.path.join(self.folder, 'said' + known)
            code, _, err = self.script(KNOWN=known, SAID=said, MOUNT=self.folder,
                                       PATH=self.folder + ':' + os.environ['PATH'])
            self.assertEqual((code, err), (0, ''))
            with open(said) as file:
                made = [call.strip('\n').split('\n') for call in file.read().split('---\n')[:-1]]
            self.assertEqual([call[1] for call in made], calls)

    def refused(self, text, *arguments, **variables):
        code, out, err = self.script(*(arguments or ('--dry-run',)), **variables)
        self.assertEqual((code, out, err), (2, '', f'macvlan_run: {text}\n'))

    def test_refusals(self):
        for name in ('PARENT_IF', 'SUBNET', 'GATEWAY', 'CONTAINER_IP', 'NAME'):
            self.refused(f'{name} is not set', **{name: None})
            self.refused(f'{name} is not set', **{name: ''})
        for subnet in ('192.168.10.0', '192.168.10/24', '300.1.1.0/24', '192.168.10.0/33', 'x'):
            self.refused(f"SUBNET is '{subnet}', expected ADDRESS/BITS such as 192.168.10.0/24",
                         SUBNET=subnet)
        self.refused("SUBNET 192.168.10.5/24 has bits of a host; expected the network's address",
                     SUBNET='192.168.10.5/24')
        for name in ('GATEWAY', 'CONTAINER_IP'):
            self.refused(f"{name} is '192.168.10.256', expected an IPv4 address",
                         **{name: '192.168.10.256'})
            self.refused(f'{name} 192.168.11.7 is not in SUBNET 192.168.10.0/24',
                         **{name: '192.168.11.7'})
        for end in ('0', '255'):
            self.refused(f"CONTAINER_IP 192.168.10.{end} is the network's own or its broadcast "
                         'address in SUBNET 192.168.10.0/24', CONTAINER_IP=f'192.168.10.{end}')
        self.refused("CONTAINER_IP 192.168.10.1 is the gateway's", CONTAINER_IP='192.168.10.1')
        self.refused("NAME is '-x', expected letters, digits, '_', '.' and '-'", NAME='-x')
        self.refused("GPUS is '-1', expected all, a number, or nothing", GPUS='-1')
        self.refused("MOUNT '/nowhere' is no folder", MOUNT='/nowhere')
        for path in ('w', '/w:ro'):
            self.refused(f"WORKDIR is '{path}', expected a path from / without ':'", WORKDIR=path)
        self.refused("ENGINE is 'lxc', expected docker or podman", ENGINE='lxc')
        self.refused('usage: tools/macvlan_run.sh [--dry-run]; all else is said by variables',
                     '--help')

    def test_edges_of_a_small_network(self):
        small = {'SUBNET': '10.0.0.8/30', 'GATEWAY': '10.0.0.9'}
        self.assertEqual(len(self.commands(CONTAINER_IP='10.0.0.10', **small)), 2)
        self.refused('CONTAINER_IP 10.0.0.12 is not in SUBNET 10.0.0.8/30',
                     CONTAINER_IP='10.0.0.12', **small)


if __name__ == '__main__':
    tap_unittest.main()
