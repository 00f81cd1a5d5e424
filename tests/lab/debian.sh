#!/bin/sh
# mmdebstrap's customize hook for the machine `debian`: Debian 12 as its installer leaves it, and a repository of its own
# below /srv/repository (the machine asks no other), made of the configured mirror's packages.
set -eu
root=$1
. "$LAB_RECIPE/common.sh"

# What the site will ask for, with all that it depends on. They are only fetched.
inside apt-get install --yes --no-install-recommends --download-only \
    qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-clients dnsmasq-base ovmf
mkdir -p "$root/srv/repository"
mv "$root"/var/cache/apt/archives/*.deb "$root/srv/repository/"
(
    cd "$root/srv/repository"
    dpkg-scanpackages --multiversion . > Packages 2> /dev/null
    printf 'Origin: lab\nSuite: lab\nArchitectures: amd64\nSHA256:\n %s %s Packages\n' \
        "$(sha256sum < Packages | cut -d ' ' -f 1)" "$(stat -c %s Packages)" > Release
)
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/*_*
echo 'deb [trusted=yes] file:/srv/repository ./' | put /etc/apt/sources.list
inside apt-get update --quiet

common ws-debian
put /etc/fstab <<END
UUID=$LAB_ROOT_UUID / ext4 errors=remount-ro 0 1
END
# As the installer writes it.
put /etc/network/interfaces <<'END'
# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).

source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
allow-hotplug enp1s0
iface enp1s0 inet dhcp
END
# Debian's own, but for the serial console and the waiting time.
put /etc/default/grub <<'END'
# If you change this file, run 'update-grub' afterwards to update
# /boot/grub/grub.cfg.
# For full documentation of the options in this file, see:
#   info -f grub -n 'Simple configuration'

GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT=""
# A starved emulator may look as if it had no timer; and it pays dearly for what guards against real processors' leaks: with
# page tables of the kernel's own it throws away its translations twice in every system call.
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0 no_timer_check mitigations=off"
GRUB_TERMINAL="console serial"
END
# The installer's choice "targeted": an initramfs for this machine, which emulation makes and loads in a tenth of the time.
echo 'MODULES=dep' | put /etc/initramfs-tools/conf.d/driver-policy
first_boot update-initramfs -u '&&' grub-install --target=i386-pc /dev/vda '&&' update-grub
# The kernel and its initramfs by names that do not change.
cp "$root"/boot/vmlinuz-* "$LAB_OUT/vmlinuz"
cp "$root"/boot/initrd.img-* "$LAB_OUT/initrd"
