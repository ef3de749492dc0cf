#!/bin/bash
# Installs by apt what the build and the quickstart use, and with `tests` also what the tests use.
# Does nothing when all is there.
# usage: tools/deps.sh [tests]
set -euo pipefail
if [ $# -gt 1 ] || [ "${1:-tests}" != tests ]; then
    echo "usage: tools/deps.sh [tests]" >&2
    exit 2
fi

packages=(
    # build
    meson ninja-build pkg-config gcc g++
    # transport between processes, the example trainer's layers
    libgloo-dev libdnnl-dev
    # shaping by the kernel
    libnl-route-3-dev
    # configuration, records, rendezvous, random numbers, parameter hash, packed data
    libcyaml-dev libyaml-dev libjansson-dev libssl-dev librandom123-dev libxxhash-dev zlib1g-dev
    # image files of data sets
    libturbojpeg0-dev libpng-dev
    # the quickstart: its data, its table
    dataset-fashion-mnist python3
)
test_packages=(
    # framework, checks of the tree, the second compiler
    check clang-14 clang-format-14
    # what shaping leaves on an interface, against what tc and ip say
    iproute2
    # the hook for PyTorch
    python3-torch python3-numpy
)
[ $# -eq 0 ] || packages+=("${test_packages[@]}")

if ! command -v dpkg-query >/dev/null; then
    echo "deps: this is not Debian; these packages, or what they are called here, must be there:"
    printf '  %s\n' "${packages[*]}"
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "deps: not root, and there is no sudo. As root, run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "deps: installing by apt: ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo "deps: apt could not install: ${missing[*]}" >&2
    exit 1
fi
echo "deps: installed ${#missing[@]} packages"
