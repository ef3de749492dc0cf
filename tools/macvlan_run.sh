#!/bin/bash
# Starts a detached container with an address of its own in the network of a network interface
# (macvlan), so that containers on several machines reach each other without forwarded ports.
# usage: [VARIABLE=VALUE ...] tools/macvlan_run.sh [--dry-run]
#   PARENT_IF     network interface of the machine, for example eth0
#   SUBNET        its network, for example 192.168.10.0/24
#   GATEWAY       the network's gateway
#   CONTAINER_IP  address of the container: in SUBNET, and nobody else's
#   NAME          of the container; another one on each machine
#   IMAGE         image (libpsgd:cpu)
#   MOUNT         folder of the machine that the container sees as WORKDIR (the current one)
#   WORKDIR       (/workspace)
#   GPUS          all, or a number; "" for none ("")
#   NET_NAME      name of the container network, made if it is not there (psgd_macvlan)
#   ENGINE        docker or podman (the one that is installed)
# --dry-run prints the commands, also the one that makes the network. Ends with 2 when a variable is missing or wrong.
set -euo pipefail

die() {
    echo "macvlan_run: $*" >&2
    exit 2
}

# address TEXT: the number of an IPv4 address in $number.
address() {
    local IFS=. part parts
    [[ $1 =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]] || return 1
    read -r -a parts <<<"$1"
    number=0
    for part in "${parts[@]}"; do
        ((10#$part <= 255)) || return 1
        number=$((number * 256 + 10#$part))
    done
}

# read_subnet: SUBNET as $network, its first number, $last and $bits.
read_subnet() {
    [[ $SUBNET =~ ^[0-9.]+/[0-9]{1,2}$ ]] && address "${SUBNET%/*}" || return 1
    bits=$((10#${SUBNET#*/}))
    ((bits >= 1 && bits <= 30)) || return 1
    network=$number
    last=$((network | ((1 << (32 - bits)) - 1)))
}

# in_subnet NAME: the variable of that name is a host's address in SUBNET.
in_subnet() {
    address "${!1}" || die "$1 is '${!1}', expected an IPv4 address"
    ((number >> (32 - bits) == network >> (32 - bits))) ||
        die "$1 ${!1} is not in SUBNET $SUBNET"
    ((number != network && number != last)) ||
        die "$1 ${!1} is the network's own or its broadcast address in SUBNET $SUBNET"
}

# run COMMAND...: does it, or prints it in a form that a shell reads.
run() {
    if [ "$dry_run" = yes ]; then
        printf '%q ' "$@" | sed 's/ $/\n/'
    else
        "$@"
    fi
}

dry_run=no
case "$*" in
'') ;;
--dry-run) dry_run=yes ;;
*) die "usage: tools/macvlan_run.sh [--dry-run]; all else is said by variables" ;;
esac

for name in PARENT_IF SUBNET GATEWAY CONTAINER_IP NAME; do
    [ -n "${!name:-}" ] || die "$name is not set"
done
IMAGE=${IMAGE:-libpsgd:cpu}
MOUNT=${MOUNT:-$PWD}
WORKDIR=${WORKDIR:-/workspace}
GPUS=${GPUS:-}
NET_NAME=${NET_NAME:-psgd_macvlan}

read_subnet || die "SUBNET is '$SUBNET', expected ADDRESS/BITS such as 192.168.10.0/24"
((network & ((1 << (32 - bits)) - 1))) &&
    die "SUBNET $SUBNET has bits of a host; expected the network's address"
in_subnet GATEWAY
in_subnet CONTAINER_IP
[ "$CONTAINER_IP" != "$GATEWAY" ] || die "CONTAINER_IP $CONTAINER_IP is the gateway's"
# shellcheck disable=SC2153 # not the loop's name
[[ $NAME =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] ||
    die "NAME is '$NAME', expected letters, digits, '_', '.' and '-'"
[[ $NET_NAME =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] ||
    die "NET_NAME is '$NET_NAME', expected letters, digits, '_', '.' and '-'"
[[ -z $GPUS || $GPUS == all || $GPUS =~ ^[1-9][0-9]*$ ]] ||
    die "GPUS is '$GPUS', expected all, a number, or nothing"
[[ $WORKDIR == /* && $WORKDIR != *:* ]] ||
    die "WORKDIR is '$WORKDIR', expected a path from / without ':'"
[ -d "$MOUNT" ] || die "MOUNT '$MOUNT' is no folder"
MOUNT=$(cd "$MOUNT" && pwd)
[[ $MOUNT != *:* ]] || die "MOUNT '$MOUNT' has a ':', which separates the parts of a mount"

if [ -z "${ENGINE:-}" ]; then
    ENGINE=docker
    if ! command -v docker >/dev/null && command -v podman >/dev/null; then
        ENGINE=podman
    fi
fi
case $ENGINE in
docker | podman) ;;
*) die "ENGINE is '$ENGINE', expected docker or podman" ;;
esac

gpus=()
if [ -n "$GPUS" ] && [ "$ENGINE" = docker ]; then
    gpus=(--gpus "$GPUS")
elif [ "$GPUS" = all ]; then
    gpus=(--device nvidia.com/gpu=all)
elif [ -n "$GPUS" ]; then
    for ((i = 0; i < GPUS; i++)); do
        gpus+=(--device "nvidia.com/gpu=$i")
    done
fi

if [ "$dry_run" = no ]; then
    command -v "$ENGINE" >/dev/null || die "$ENGINE is not installed"
    [ -d "/sys/class/net/$PARENT_IF" ] || die "PARENT_IF '$PARENT_IF' is no network interface here"
fi
if [ "$dry_run" = yes ] || ! "$ENGINE" network inspect "$NET_NAME" >/dev/null 2>&1; then
    run "$ENGINE" network create -d macvlan --subnet "$SUBNET" --gateway "$GATEWAY" \
        -o "parent=$PARENT_IF" "$NET_NAME"
fi
# NET_ADMIN: so that tc can limit the network of the container
run "$ENGINE" run -d --name "$NAME" --network "$NET_NAME" --ip "$CONTAINER_IP" \
    --cap-add NET_ADMIN "${gpus[@]}" -v "$MOUNT:$WORKDIR" -w "$WORKDIR" "$IMAGE" sleep infinity
