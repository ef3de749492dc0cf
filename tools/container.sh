#!/bin/bash
# The steps of the Dockerfile.
# usage: tools/container.sh build DIR    builds the tree and installs it below DIR, with this script
#        container.sh install            in the last stage: what the installed programs need, by apt
set -euo pipefail
share=/usr/local/share/psgd

# Packages of the shared libraries that the programs and modules below DIR load.
needed_packages() {
    local files library
    mapfile -t files < <(find "$1/usr/local" -type f \( -path '*/bin/*' -o -name '*.so*' \))
    # those of our own, which no package has, are found by their place or not at all
    { ldd "${files[@]}" 2>/dev/null || true; } |
        awk '$2 == "=>" && $3 ~ "^/" {print $3}' | sort -u |
        while read -r library; do
            # files may be known by the names that they had before /lib became a link
            dpkg-query -S "$library" 2>/dev/null || dpkg-query -S "/usr$library" 2>/dev/null ||
                dpkg-query -S "$(readlink -f "$library")" 2>/dev/null || true
        done | cut -d: -f1 | sort -u
}

build() {
    local stage=$1 here
    here=$(cd "$(dirname "$0")/.." && pwd)
    "$here/tools/deps.sh"
    meson setup "$here/build-container" "$here" --buildtype=release --prefix=/usr/local \
        --libdir=lib --strip --auto-features=enabled -Dtests=disabled
    ninja -C "$here/build-container"
    DESTDIR=$stage meson install -C "$here/build-container" --no-rebuild
    mkdir -p "$stage$share"
    cp -r "$here/configs" "$here/tools/container.sh" "$stage$share/"
    needed_packages "$stage" >"$stage$share/packages"
    grep -q gloo "$stage$share/packages"
    grep -q libnl-route "$stage$share/packages"
}

install() {
    local packages
    # and the data of the quickstart's configurations
    mapfile -t packages < <(cat "$share/packages" && echo dataset-fashion-mnist)
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${packages[@]}"
    rm -rf /var/lib/apt/lists/*
    ldconfig
    psgd info
}

case "${1:-} $#" in
'build 2') build "$2" ;;
'install 1') install ;;
*)
    echo "usage: container.sh build DIR | install" >&2
    exit 2
    ;;
esac
