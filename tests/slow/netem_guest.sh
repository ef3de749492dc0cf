#!/bin/bash
# In the virtual machine of netem_vm.sh, as its first process: runs tests and switches it off.
# usage: netem_guest.sh SOURCE BUILD TEST...
exec </dev/null >/dev/ttyS1 2>&1 # the console is the kernel's
source=$1 build=$2
shift 2
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TMPDIR=/tmp
export CK_TAP_LOG_FILE_NAME=- CK_VERBOSITY=silent CK_TIMEOUT_MULTIPLIER=10
export PSGD_SOURCE=$source PSGD_BIN=$build/cli/psgd
export LINK_TRAINER=$build/tests/integration/link_trainer

code=0
run() {
    echo "# $*"
    "$@" || code=1
}

cd /tmp || code=1
ip link set lo up
echo "# Linux $(uname -r)"
run tc qdisc add dev lo root netem delay 1ms
run tc qdisc del dev lo root
for test in "$@"; do
    case $test in
    state | owner | rates) run "$build/tests/net/test_net_$test" ;;
    *)
        IFS=/ read -r file name <<<"$test"
        # shellcheck disable=SC2086 # no name: all of them
        run python3 -B "$source/tests/integration/test_$file.py" $name
        ;;
    esac
done
echo "# the virtual machine ends with $code"
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
