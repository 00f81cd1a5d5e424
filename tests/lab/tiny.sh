# Makes a guest's operating system of what the machine has: its own kernel, and an initramfs of klibc's tools that says
# which PCI devices it sees. Nothing else fits into the time that emulation inside of emulation takes.
set -e
tree=$(mktemp -d)
mkdir -p "$tree/bin" "$tree/lib" "$tree/dev" "$tree/sys" /root/img
for tool in sh mount sleep; do cp "/usr/lib/klibc/bin/$tool" "$tree/bin/"; done
cp /lib/klibc-*.so "$tree/lib/"
mknod "$tree/dev/console" c 5 1
cat > "$tree/init" <<'END'
#!/bin/sh
mount -t sysfs sysfs /sys
for device in /sys/bus/pci/devices/*; do
    read vendor < "$device/vendor"
    read id < "$device/device"
    echo "LAB-PCI ${device##*/} $vendor $id"
done
echo LAB-PCI-END
while :; do sleep 60; done
END
chmod 755 "$tree/init"
(cd "$tree" && find . | cpio --quiet -o -H newc) > /root/img/tiny.cpio
cp "/boot/vmlinuz-$(uname -r)" /root/img/vmlinuz
rm -rf "$tree"
