# What both machines of the lab have. Sourced by debian.sh and el.sh; $root is the folder that becomes the machine.

# Nothing here may ask or wait, and a boot under emulation need not do what nobody looks at.
units_off='apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer
    dpkg-db-backup.timer systemd-timesyncd.service systemd-pstore.service'

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive "$@"; }

# put PATH [MODE] < TEXT
put() {
    mkdir -p "$(dirname "$root$1")"
    cat > "$root$1"
    chmod "${2:-644}" "$root$1"
}

# common HOSTNAME DISTRIBUTION-OF-GRUB'S-FOLDER
common() {
    echo "$1" | put /etc/hostname
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$1" | put /etc/hosts
    # user-mode networking answers names here
    rm -f "$root/etc/resolv.conf"
    echo 'nameserver 10.0.2.3' | put /etc/resolv.conf
    # A machine-id of its own, as an installed machine has; every machine of the lab is alone in its network.
    echo 1ab01ab01ab01ab01ab01ab01ab01ab0 | put /etc/machine-id
    mkdir -p "$root/var/log/journal"

    mkdir -p -m 700 "$root/root/.ssh"
    printf '%s\n' "$LAB_PUBLIC_KEY" | put /root/.ssh/authorized_keys 600
    rm -f "$root"/etc/ssh/ssh_host_*
    inside ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
    put /etc/ssh/sshd_config.d/lab.conf <<END
UseDNS no
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
# Several short connections at once are usual here.
MaxStartups 100
END
    for unit in $units_off; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
    # The serial console is watched, and nobody types there.
    ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
    mkdir -p "$root/etc/systemd/system.conf.d"
    printf '[Manager]\nDefaultTimeoutStartSec=300\n' | put /etc/systemd/system.conf.d/lab.conf
}

# The first boot's process 1: the boot loader can only be installed on a disk that is one.
# first_boot COMMAND…
first_boot() {
    put /lab-first-boot 755 <<END
#!/bin/sh
# Process 1 of the very first boot, from outside (-kernel): installs the boot loader, then goes.
exec > /dev/console 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -o remount,rw /
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mount -a -t ext4
mount -t tmpfs tmpfs /tmp
if $*; then echo LAB-FIRST-BOOT-IS-DONE; fi
rm -f /lab-first-boot
sync
umount -a -t ext4
mount -o remount,ro /
exec systemctl poweroff -ff
END
}
