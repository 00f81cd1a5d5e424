#!/bin/sh
# mmdebstrap's customize hook for the machine `el`: a workstation of the Enterprise Linux shape, from Debian's parts. rpm and
# dnf, dracut, NetworkManager, GRUB with grub2's names, a partition for /boot, and repositories below /srv/rpm (made by
# rpms.sh): an ELRepo-shaped one with kernel-ml, and the distribution's with QEMU, libvirt and UEFI firmware.
set -eu
root=$1
. "$LAB_RECIPE/common.sh"

# QEMU, libvirt and the firmware come as RPMs; the libraries that they need are there from the start.
packed='qemu-system-x86 qemu-system-common qemu-system-data qemu-utils seabios ipxe-qemu ovmf libvirt-clients
    libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-daemon-system-systemd
    libvirt-daemon-config-network libvirt-daemon-config-nwfilter'
names() { sed -n 's/^Inst \([^ ]*\) .*/\1/p'; }
# shellcheck disable=SC2086
all=$(inside apt-get install --simulate --yes --no-install-recommends $packed dnsmasq-base | names)
libraries=
for name in $all; do
    case " $(echo $packed) " in *" $name "*) ;; *) libraries="$libraries $name" ;; esac
done
# shellcheck disable=SC2086
inside apt-get install --yes --no-install-recommends $libraries
old=$(inside apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p')
new=$(inside apt-cache depends linux-image-6.12-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p')
mkdir "$root/srv/debs"
# shellcheck disable=SC2086
inside sh -c "cd /srv/debs && apt-get download $(echo $packed) $old $new"
rm -rf "$LAB_OUT/debs"
mv "$root/srv/debs" "$LAB_OUT/debs"
sh "$LAB_RECIPE/rpms.sh" "$LAB_OUT/debs" "$LAB_OUT/top" "$root/srv/rpm" "$LAB_PROGRAM" "$new"

# The distribution's kernel: no package, as nothing here asks for it.
dpkg -x "$LAB_OUT"/debs/"$old"_*.deb "$LAB_OUT/old"
cp -a "$LAB_OUT/old/boot/." "$root/boot/"
cp -a "$LAB_OUT/old/lib/modules/." "$root/usr/lib/modules/"
release=${old#linux-image-}
inside depmod "$release"

# dracut's settings as the distribution has them (01-dist.conf), and no microcode of the machine that builds.
put /usr/lib/dracut/dracut.conf.d/01-dist.conf <<'END'
hostonly="yes"
hostonly_cmdline="no"
early_microcode="no"
# Fast under emulation, and small enough.
compress="zstd"
END
# The first image is made where there is no machine yet to be fitted to.
inside dracut --force --no-hostonly --no-hostonly-cmdline --add-drivers 'virtio_blk virtio_pci ext4' \
    --omit 'network network-manager network-legacy nfs iscsi lvm mdraid crypt multipath btrfs plymouth' \
    "/boot/initramfs-$release.img" "$release"
cp "$root/boot/vmlinuz-$release" "$LAB_OUT/vmlinuz"
cp "$root/boot/initramfs-$release.img" "$LAB_OUT/initrd"

rm -f "$root/etc/os-release"
put /etc/os-release <<'END'
NAME="Rocky Linux"
VERSION="9.4 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.4"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.4 (Blue Onyx)"
END
echo 'Rocky Linux release 9.4 (Blue Onyx)' | put /etc/rocky-release
ln -sf rocky-release "$root/etc/system-release"
ln -sf rocky-release "$root/etc/redhat-release"
rm -f "$root/etc/debian_version"
mkdir -p "$root/etc/dnf/vars"
echo 9 | put /etc/dnf/vars/releasever
put /etc/dnf/dnf.conf <<'END'
[main]
gpgcheck=1
installonly_limit=3
clean_requirements_on_remove=True
best=True
skip_if_unavailable=False
END
put /etc/yum.repos.d/rocky.repo <<'END'
[appstream]
name=Rocky Linux 9 - AppStream
baseurl=file:///srv/rpm/appstream
enabled=1
gpgcheck=0
END
inside rpm --install --nodeps /srv/rpm/release/rocky-release-9.4-1.el9.noarch.rpm \
    /srv/rpm/release/elrepo-release-9.5-2.el9.elrepo.noarch.rpm

# grub2's names and places.
mkdir -p "$root/boot/grub2"
rm -rf "$root/boot/grub"
ln -s grub2 "$root/boot/grub"
for tool in install mkconfig set-default reboot editenv probe; do
    for folder in usr/sbin usr/bin; do
        if [ -e "$root/$folder/grub-$tool" ]; then ln -s "grub-$tool" "$root/$folder/grub2-$tool"; fi
    done
done
ln -s ../boot/grub2/grub.cfg "$root/etc/grub2.cfg"
put /etc/default/grub <<'END'
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR="$(sed 's, release .*$,,g' /etc/system-release)"
GRUB_DEFAULT=saved
GRUB_DISABLE_SUBMENU=true
GRUB_TERMINAL="console serial"
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0 crashkernel=no no_timer_check mitigations=off"
GRUB_DISABLE_RECOVERY="true"
END
mkdir -p "$root/etc/sysconfig"
ln -s ../default/grub "$root/etc/sysconfig/grub"

rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
common ws-el
put /etc/fstab <<END
UUID=$LAB_ROOT_UUID / ext4 defaults 0 0
UUID=$LAB_BOOT_UUID /boot ext4 defaults 0 0
END
put /etc/NetworkManager/system-connections/enp1s0.nmconnection 600 <<'END'
[connection]
id=enp1s0
uuid=6a1cf1ae-5b0e-4b5c-8a0a-1b1f0e0f7a01
type=ethernet
autoconnect-priority=-999
interface-name=enp1s0

[ethernet]

[ipv4]
method=auto

[ipv6]
addr-gen-mode=eui64
method=ignore

[proxy]
END
put /etc/NetworkManager/conf.d/lab.conf <<'END'
[main]
plugins=keyfile
dns=none
END
rm -f "$root/etc/network/interfaces"
first_boot grub2-install --target=i386-pc /dev/vda '&&' grub2-mkconfig -o /boot/grub2/grub.cfg '&&' \
    grub2-set-default 0
