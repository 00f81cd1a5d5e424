#!/bin/sh
# Packs Debian's packages as the RPMs that an Enterprise Linux has, and makes repositories of them.
#
#   rpms.sh DEBS TOP REPOSITORIES LAB-PROGRAM NEW-KERNEL-PACKAGE
#
# LAB-PROGRAM is the test program of the lab itself: `LAB-PROGRAM rename-kernel FROM TO NAME` gives a kernel another release.
set -eu
debs=$1 top=$2 repositories=$3 program=$4 new=$5
rm -rf "$top" "$repositories"
mkdir -p "$top" "$repositories/appstream" "$repositories/elrepo-kernel" "$repositories/release"

# Everything below /usr, as there.
merge() {
    for folder in bin sbin lib lib64; do
        if [ -d "$1/$folder" ]; then
            mkdir -p "$1/usr/$folder"
            cp -a "$1/$folder/." "$1/usr/$folder/"
            rm -rf "${1:?}/$folder"
        fi
    done
}

# unpack TREE PACKAGE…
unpack() {
    tree=$1
    shift
    for package; do dpkg -x "$debs/${package}"_*.deb "$tree"; done
    merge "$tree"
}

# pack NAME VERSION RELEASE ARCHITECTURE TREE REPOSITORY < lines of the spec between the header and the file list
pack() {
    spec=$top/$1.spec
    {
        printf 'Name: %s\nVersion: %s\nRelease: %s\nSummary: %s\nLicense: various\nBuildArch: %s\nAutoReqProv: no\n' \
            "$1" "$2" "$3" "$1 of the lab" "$4"
        echo '%global debug_package %{nil}'
        echo '%global __os_install_post %{nil}'
        echo '%global _binary_payload w1.zstdio'
        echo '%global _build_id_links none'
        cat
        printf '\n%%files\n'
        # Folders only where nothing is in them: the others belong to the system.
        (cd "$5" && find . -type d -empty -printf '%%dir "/%P"\n' && find . ! -type d -printf '"/%P"\n')
    } > "$spec"
    rpmbuild -bb --quiet --noclean "--define=_topdir $top" "--buildroot=$5" --define='_rpmdir %{_topdir}/out' \
        --define='__spec_install_pre %{nil}' --define='__spec_clean_cmd true' --target "$4" "$spec"
    mv "$top/out/$4/$1-$2-$3.$4.rpm" "$repositories/$6/"
}

mkdir -p "$top/release/etc/lab"
touch "$top/release/etc/lab/rocky-release"
pack rocky-release 9.4 1.el9 noarch "$top/release" release <<'END'
Provides: system-release = 9.4
Provides: system-release(releasever) = 9
Provides: redhat-release = 9.4
Provides: /bin/sh
Provides: /usr/bin/sh
%description
The system, for packages that ask for it.
END

mkdir -p "$top/elrepo/etc/yum.repos.d"
for section in elrepo:elrepo:1 elrepo-testing:testing:0 elrepo-kernel:kernel:0 elrepo-extras:extras:0; do
    id=${section%%:*} rest=${section#*:}
    printf '[%s]\nname=ELRepo.org Community Enterprise Linux Repository - el9 (%s)\nbaseurl=file:///srv/rpm/%s\n' \
        "$id" "${rest%:*}" "$id"
    printf 'enabled=%s\ngpgcheck=0\nskip_if_unavailable=%s\n\n' "${rest#*:}" \
        "$([ "$id" = elrepo-kernel ] && echo False || echo True)"
done > "$top/elrepo/etc/yum.repos.d/elrepo.repo"
pack elrepo-release 9.5 2.el9.elrepo noarch "$top/elrepo" release <<'END'
Requires: system-release >= 9
%description
ELRepo's repositories.
END

# The mainline kernel: its files with ELRepo's name for it, inside of the kernel too (`uname -r`).
version=${new#linux-image-}
short=${version%%+*}
release=$short-1.el9.elrepo.x86_64
unpack "$top/kernel" "$new"
rm -rf "$top/kernel/usr/share"
mv "$top/kernel/usr/lib/modules/$version" "$top/kernel/usr/lib/modules/$release"
rm -f "$top/kernel/usr/lib/modules/$release/build" "$top/kernel/usr/lib/modules/$release/source"
for file in System.map config; do mv "$top/kernel/boot/$file-$version" "$top/kernel/boot/$file-$release"; done
"$program" rename-kernel "$top/kernel/boot/vmlinuz-$version" "$top/kernel/boot/vmlinuz-$release" "$release"
rm "$top/kernel/boot/vmlinuz-$version"
chmod 755 "$top/kernel/boot/vmlinuz-$release"
pack kernel-ml "$short" 1.el9.elrepo x86_64 "$top/kernel" elrepo-kernel <<END
Provides: kernel = $short
Provides: installonlypkg(kernel)
Requires: system-release >= 9
%description
The mainline kernel.
%posttrans
depmod -a $release
dracut --force --kver $release /boot/initramfs-$release.img
grub2-mkconfig -o /boot/grub2/grub.cfg
%postun
rm -f /boot/initramfs-$release.img
grub2-mkconfig -o /boot/grub2/grub.cfg
END
createrepo_c --quiet "$repositories/elrepo-kernel"

unpack "$top/qemu" qemu-system-x86 qemu-system-common qemu-system-data qemu-utils seabios ipxe-qemu
rm -rf "$top/qemu/usr/share/doc" "$top/qemu/usr/share/man" "$top/qemu/usr/share/locale"
mkdir -p "$top/qemu/usr/libexec"
ln -sf ../bin/qemu-system-x86_64 "$top/qemu/usr/libexec/qemu-kvm"
pack qemu-kvm 7.2 1.el9 x86_64 "$top/qemu" appstream <<'END'
%description
QEMU.
END

unpack "$top/client" libvirt-clients
rm -rf "$top/client/usr/share/doc" "$top/client/usr/share/man"
pack libvirt-client 9.0.0 1.el9 x86_64 "$top/client" appstream <<'END'
%description
virsh.
END

unpack "$top/libvirt" libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-daemon-system-systemd \
    libvirt-daemon-config-network libvirt-daemon-config-nwfilter
rm -rf "$top/libvirt/usr/share/doc" "$top/libvirt/usr/share/man" "$top/libvirt/etc/apparmor.d" \
    "$top/libvirt/etc/init.d" "$top/libvirt/usr/share/bug"
pack libvirt 9.0.0 1.el9 x86_64 "$top/libvirt" appstream <<'END'
Requires: libvirt-client
%description
libvirt, with one daemon for everything.
%pre
getent group libvirt > /dev/null || groupadd --system libvirt
getent group kvm > /dev/null || groupadd --system kvm
getent group libvirt-qemu > /dev/null || groupadd --system libvirt-qemu
getent passwd libvirt-qemu > /dev/null || useradd --system --gid kvm --no-create-home --home-dir /var/lib/libvirt \
    --shell /usr/sbin/nologin libvirt-qemu
%post
mkdir -p /var/lib/libvirt/images /var/lib/libvirt/qemu /var/cache/libvirt/qemu /var/log/libvirt/qemu
chown libvirt-qemu:kvm /var/lib/libvirt/qemu /var/cache/libvirt/qemu
chmod 750 /var/lib/libvirt/qemu /var/cache/libvirt/qemu
systemctl daemon-reload || :
END

unpack "$top/ovmf" ovmf
rm -rf "$top/ovmf/usr/share/doc"
mkdir -p "$top/ovmf/usr/share/edk2"
mv "$top/ovmf/usr/share/OVMF" "$top/ovmf/usr/share/edk2/ovmf"
rm -rf "$top/ovmf/usr/share/ovmf"
sed -i 's,/usr/share/OVMF/,/usr/share/edk2/ovmf/,' "$top/ovmf/usr/share/qemu/firmware/"*.json
pack edk2-ovmf 20221207 1.el9 noarch "$top/ovmf" appstream <<'END'
%description
UEFI firmware for guests.
END
createrepo_c --quiet "$repositories/appstream"
rm -rf "$top"
