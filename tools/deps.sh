#!/bin/bash
# Installs by apt what the build and the quickstart use, with `tests` also what the tests use, and
# with `vm` what tests/slow/netem_vm.sh needs beside: a virtual machine, and the kernel for it in the
# folder PSGD_VM_KERNEL (psgd/vm-kernel in the user's cache), which is not installed here.
# Does nothing when all is there.
# usage: tools/deps.sh [tests | vm]
set -euo pipefail
what=${1:-}
case $#-$what in
0- | 1-tests | 1-vm) ;;
*)
    echo "usage: tools/deps.sh [tests | vm]" >&2
    exit 2
    ;;
esac

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
    # numbers where the decimal point is a comma
    locales
    # what shaping leaves on an interface, against what tc and ip say
    iproute2
    # the hook for PyTorch
    python3-torch python3-numpy
    # figures of runs
    python3-matplotlib
)
vm_packages=(qemu-system-x86 busybox-static cpio)
[ -z "$what" ] || packages+=("${test_packages[@]}")
[ "$what" != vm ] || packages+=("${vm_packages[@]}")

if ! command -v dpkg-query >/dev/null; then
    echo "deps: this is not Debian; these packages, or what they are called here, must be there:"
    printf '  %s\n' "${packages[*]}"
    exit 0
fi

# Unpacks the kernel that Debian would install, if there is none yet.
fetch_kernel() {
    local folder=${PSGD_VM_KERNEL:-${XDG_CACHE_HOME:-$HOME/.cache}/psgd/vm-kernel} package work
    [ ! -d "$folder/boot" ] || return 0
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: //p')
    echo "deps: unpacking $package in $folder"
    work=$(mktemp -d)
    (cd "$work" && apt-get -q download "$package")
    dpkg-deb -x "$work"/*.deb "$work/files"
    mkdir -p "$folder"
    mv "$work"/files/* "$folder"
    rm -rf "$work"
}

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    [ "$what" != vm ] || fetch_kernel
    exit 0
fi

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
[ "$what" != vm ] || fetch_kernel
