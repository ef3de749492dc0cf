#!/bin/bash
# Installs what is missing, builds, checks the tree, runs the tests. Ends with
# "N passed, N failed, N skipped", and with 0 only if nothing failed and something passed.
# usage: tools/test.sh [--slow] [--sanitize] [--clang] [--core]
#        tools/test.sh --thread
# --sanitize: address and undefined behaviour. --core: the core library's suites alone.
# --thread: what has threads in it, under the thread sanitizer. Without Gloo, which synchronizes by
# atomics that were compiled without it, and without what is a matter of milliseconds.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tools/common.sh
. tools/common.sh

build="build-test"
suites=(--no-suite slow)
as_is=()
options=(--auto-features=enabled --buildtype=debugoptimized)
multiplier=2
for argument in "$@"; do
    case $argument in
    --slow)
        suites=()
        ;;
    --sanitize)
        build=$build-sanitize
        # Instrumented code makes the compiler warn of what cannot happen.
        options+=("-Db_sanitize=address,undefined" -Dwerror=false)
        # Undefined behaviour is only a remark otherwise.
        export UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1
        multiplier=6
        ;;
    --core)
        suites=(--suite unit --suite kernels --suite engine --no-suite timing)
        ;;
    --thread)
        build=$build-thread
        options=(--auto-features=disabled -Dtests=enabled --buildtype=debugoptimized
            "-Db_sanitize=thread" -Dwerror=false)
        suites=(--suite engine --suite conformance --suite kernels --no-suite timing)
        multiplier=6
        # Its map of memory does not fit what some kernels make of addresses.
        if setarch "$(uname -m)" -R true 2>/dev/null; then
            as_is=(setarch "$(uname -m)" -R)
        fi
        ;;
    --clang)
        build=$build-clang
        export CC=clang-14 CXX=clang++-14
        ;;
    *)
        echo "usage: tools/test.sh [--slow] [--sanitize] [--clang] [--core] | --thread" >&2
        exit 2
        ;;
    esac
done

begin_total "$build"

say "packages"
tools/deps.sh tests || exit 1

say "build in $build"
set_up "$build" "${options[@]}" || exit 1
ninja -C "$build" || exit 1

say "checks of the tree"
if python3 -B tools/check.py --build "$build"; then
    passed=$((passed + 1))
else
    fail "tools/check.py"
fi

say "tests"
log=$build/meson-logs/testlog.json
export CK_TIMEOUT_MULTIPLIER=$multiplier
rm -f "$log"
"${as_is[@]}" meson test -C "$build" --no-rebuild --print-errorlogs \
    --timeout-multiplier $multiplier "${suites[@]}" </dev/null
code=$?
before=$failed
if counts=$(python3 -B tools/tally.py "$log"); then
    read -r p f s <<<"$counts"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    [ "$p" -gt 0 ] || fail "no test passed"
else
    fail "no test results in $log"
fi
if [ $code -ne 0 ] && [ "$failed" -eq "$before" ]; then
    fail "meson test ended with $code"
fi
all_ran
