#!/bin/bash
# Trains on Fashion-MNIST with two workers of this machine over a modelled 100 Mbit/s link: dense,
# three fixed matrix ranks, and the rank chosen while it runs. Ends with one table.
# usage: tools/quickstart.sh
set -euo pipefail
if [ $# -ne 0 ]; then
    echo "usage: tools/quickstart.sh" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

methods=(dense fixed_r1 fixed_r4 fixed_r8 adaptive)
results="results/quickstart"
trap 'give_back build results' EXIT
began=$SECONDS

say "packages"
tools/deps.sh
echo "all packages are there"

say "build in build/"
log=$(set_up build --auto-features=enabled -Dtests=disabled --buildtype=release) || {
    echo "$log"
    exit 1
}
ninja -C build

rm -f "$results/summary.csv"
count=0
for method in "${methods[@]}"; do
    count=$((count + 1))
    say "$method ($count of ${#methods[@]}): configs/quickstart/$method.yaml"
    code=0
    build/cli/psgd run --standalone --nproc-per-node 2 --overwrite \
        "configs/quickstart/$method.yaml" </dev/null || code=$?
    if [ $code -ne 0 ]; then
        echo "quickstart: the run $method ended with exit code $code;" \
            "its records are in $results/$method" >&2
        exit 1
    fi
done

say "two workers, Fashion-MNIST, 100 Mbit/s"
python3 -B tools/summary.py "$results" "${methods[@]}"
echo
echo "The table is also in $results/summary.csv; each run's records are in $results/<method>."
echo "It took $((SECONDS - began)) s in all."
