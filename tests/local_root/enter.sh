#!/bin/sh
# Runs a command as root inside a disposable copy of a root folder. To be started by
# `unshare --mount --pid --fork --uts --net --ipc`: whatever happens inside is gone when it ends.
#
#   enter.sh BASE SCRATCH SHARE BIN OS COMMAND…
#
# BASE is only read. SCRATCH is an empty folder to mount things on. SHARE is seen as /srv/share, BIN as /srv/bin.
# OS is `debian`, or `el` for the os-release of an Enterprise Linux.
set -eu
base=$1 scratch=$2 share=$3 bin=$4 os=$5
shift 5

mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
root=$scratch/root

mkdir -p "$root/srv/share" "$root/srv/bin"
mount --bind "$share" "$root/srv/share"
mount --bind "$bin" "$root/srv/bin"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
# No package may try to start something, and no repository but our own is asked.
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/*Release
hostname disposable
echo disposable > "$root/etc/hostname"

if [ "$os" = el ]; then
    rm -f "$root/etc/os-release"
    cat > "$root/etc/os-release" <<'END'
NAME="Rocky Linux"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.4"
PRETTY_NAME="Rocky Linux 9.4 (a disposable likeness)"
END
    mkdir -p "$root/etc/yum.repos.d" "$root/etc/pki/rpm-gpg"
fi

exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
