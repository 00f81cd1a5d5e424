#!/bin/sh
# A private libvirtd: nothing outside of this mount, network and process namespace is touched. Runs the given command in it.
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
# libvirt asks QEMU anew what it can do, each time, as long as QEMU's user can't open this.
mknod /run/kvm c 10 232
chmod 666 /run/kvm
mount --bind /run/kvm /dev/kvm
for folder in /etc /var /usr/libexec; do
    at=/run/overlay$folder
    mkdir -p "$folder" "$at/upper" "$at/work"
    mount -t overlay overlay -o "lowerdir=$folder,upperdir=$at/upper,workdir=$at/work" "$folder"
done
# The seed's emulator has the path that Enterprise Linux gives it.
[ -e /usr/libexec/qemu-kvm ] || ln -s /usr/bin/qemu-system-x86_64 /usr/libexec/qemu-kvm
# QEMU as root and without what only a whole machine has: guests that are emulated really start.
mkdir -p /etc/libvirt /run/libvirt
controllers=
if [ -n "$VFIO_PROVISION_TEST_CGROUPS" ]; then
    # Groups are the whole machine's: only where somebody says so. Those of version 2 without a controller confuse libvirt.
    controllers='"cpu", "cpuset", "memory", "blkio"'
    umount /sys/fs/cgroup/unified 2>/dev/null || true
fi
printf '%s\n' 'user = "root"' 'group = "root"' 'namespaces = []' "cgroup_controllers = [$controllers]" \
    'security_driver = "none"' >>/etc/libvirt/qemu.conf
ip link set lo up
virtlogd -d
libvirtd -d
n=0
until virsh -c qemu:///system version >/dev/null 2>&1; do
    n=$((n + 1))
    [ "$n" -lt 150 ] || { echo "libvirtd does not answer" >&2; exit 1; }
    sleep 0.2
done
# Not in place of this shell, which is process 1 here and takes in whoever loses its parent: libvirt waits for a QEMU that
# nobody has taken in.
code=0
"$@" || code=$?
[ -z "$VFIO_PROVISION_TEST_CGROUPS" ] || rmdir /sys/fs/cgroup/*/machine 2>/dev/null || true
exit $code
