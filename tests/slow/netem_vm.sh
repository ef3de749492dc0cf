#!/bin/bash
# Runs the tests of shaping where the kernel has netem: in a virtual machine with a Debian kernel,
# whose root is that of this machine, what it writes being its own. `tools/deps.sh vm` gets what this
# needs; without, it says what is missing and ends with 77. The processor is emulated, which works
# anywhere; PSGD_VM_ACCEL=kvm is faster where it can be.
# usage: netem_vm.sh SOURCE BUILD [TEST...]
# TEST: owner, state or rates of tests/net; shaped, netem or lab of tests/integration, or one test of
# them, as lab/Nodes.test_latency.
set -euo pipefail

source=$(realpath "$1") build=$(realpath "$2")
shift 2
tests=("$@")
[ $# -gt 0 ] || tests=(state owner netem lab/Nodes.test_up_and_down lab/Nodes.test_latency)
kernel=${PSGD_VM_KERNEL:-${XDG_CACHE_HOME:-$HOME/.cache}/psgd/vm-kernel}

skip() {
    echo "1..0 # SKIP $*"
    exit 77
}

for tool in qemu-system-x86_64 busybox cpio; do
    command -v $tool >/dev/null || skip "no $tool: tools/deps.sh vm"
done
shopt -s nullglob
images=("$kernel"/boot/vmlinuz-*)
[ ${#images[@]} -gt 0 ] || skip "no kernel in $kernel: tools/deps.sh vm"
image=${images[-1]}
release=${image##*/vmlinuz-}
modules=$kernel/lib/modules/$release

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the root of this machine is seen by, and what shaping and labs need.
wanted=(virtio_pci 9pnet_virtio 9p overlay
    veth bridge macvlan ifb sch_htb sch_netem sch_ingress sch_tbf cls_u32 act_mirred)
ram=$work/ram/lib/modules/$release
mkdir -p "$work"/ram/{bin,dev,proc,new,lower,upper} "$ram"
[ -f "$modules/modules.dep" ] || busybox depmod -b "$kernel" "$release"
cp "$modules/modules.dep" "$ram"
for module in "${wanted[@]}"; do
    sed -n "s|:||; \|/$module\.ko |p; \|/$module\.ko\$|p" "$modules/modules.dep" | tr ' ' '\n' |
        while read -r file; do install -D -m 644 "$modules/$file" "$ram/$file"; done
done
cp "$(command -v busybox)" "$work/ram/bin/busybox"

cat >"$work/ram/init" <<END
#!/bin/busybox sh
# Nothing of this ends by itself: a kernel whose first process ends stops the machine.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox --install -s /bin
set -e
mount -t proc none /proc
for module in ${wanted[*]}; do modprobe \$module; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /lower
mount -t tmpfs none /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work none /new
mount -t proc none /new/proc
mount -t sysfs none /new/sys
mount -t devtmpfs none /new/dev
mount -t tmpfs none /new/run
mkdir /new/dev/shm /new/dev/pts
mount -t tmpfs none /new/dev/shm
mount -t devpts none /new/dev/pts
exec switch_root /new /bin/bash "$source/tests/slow/netem_guest.sh" "$source" "$build" ${tests[*]}
END
chmod 755 "$work/ram/init"
(cd "$work/ram" && find . | cpio --quiet -o -H newc) >"$work/ram.cpio"

qemu-system-x86_64 -accel "${PSGD_VM_ACCEL:-tcg}" -cpu max -smp 1 -m 1500 -no-reboot -nodefaults \
    -no-user-config -display none -serial "file:$work/console" -serial stdio \
    -kernel "$image" -initrd "$work/ram.cpio" \
    -append "console=ttyS0 panic=-1" -nic none \
    -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
    </dev/null | sed -u 's/\r//' | tee "$work/said"
code=$(sed -n 's/^# the virtual machine ends with //p' "$work/said")
if [ -z "$code" ]; then
    echo "# the virtual machine did not end by itself; its console:"
    sed 's/^/# /' "$work/console" | tail -n 40
fi
exit "${code:-1}"
