#!/bin/bash
# Installs what is missing, builds, checks the tree, runs the tests. Ends with
# "N passed, N failed, N skipped", and with 0 only if nothing failed and something passed.
# usage: tools/test.sh [--slow] [--sanitize] [--clang]
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tools/common.sh
. tools/common.sh

build="build-test"
slow=(--no-suite slow)
options=(--auto-features=enabled --buildtype=debugoptimized)
multiplier=2
for argument in "$@"; do
    case $argument in
    --slow)
        slow=()
        ;;
    --sanitize)
        build=$build-sanitize
        options+=("-Db_sanitize=address,undefined")
        multiplier=6
        ;;
    --clang)
        build=$build-clang
        export CC=clang-14 CXX=clang++-14
        ;;
    *)
        echo "usage: tools/test.sh [--slow] [--sanitize] [--clang]" >&2
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
rm -f "$log"
meson test -C "$build" --no-rebuild --print-errorlogs --timeout-multiplier $multiplier \
    "${slow[@]}" </dev/null
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
