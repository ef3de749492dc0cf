#!/usr/bin/env python3
"""`psgd selftest` on the machine's own device, with the modules of the build.

PSGD_BIN is the program. Ends with 77, which is a test that was skipped, where there is no device;
the reason is printed.
"""
import os
import subprocess
import sys

SKIPPED, NO_DEVICE = 77, 5

done = subprocess.run([os.environ['PSGD_BIN'], 'selftest', '--device', 'cuda', '--groups', '64'],
                      stdin=subprocess.DEVNULL, check=False)
if done.returncode == NO_DEVICE:
    print('skipped: there is no CUDA device to test')
    sys.exit(SKIPPED)
sys.exit(done.returncode)
