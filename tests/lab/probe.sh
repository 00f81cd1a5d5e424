# What the machine is like, one key=value a line.
driver() { basename "$(readlink -f "/sys/bus/pci/devices/$1/driver" 2>/dev/null)" 2>/dev/null; }
echo "kernel=$(uname -r)"
echo "cmdline=$(cat /proc/cmdline)"
echo "gpu=$(driver 0000:82:00.0)"
echo "audio=$(driver 0000:82:00.1)"
echo "display=$(driver 0000:00:01.0)"
echo "boot_vga=$(cat /sys/bus/pci/devices/0000:00:01.0/boot_vga)"
echo "disk=$(driver 0000:00:03.0)"
echo "node=$(cat /sys/bus/pci/devices/0000:82:00.0/numa_node)"
echo "vfio=$(ls /dev/vfio 2>/dev/null | tr '\n' ' ')"
echo "group=$(basename "$(readlink /sys/bus/pci/devices/0000:82:00.0/iommu_group)")"
echo "route=$(ip -4 route show default | sed 's/ metric.*//' | head -n 1)"
for name in enp1s0 br0; do
    echo "$name.mac=$(cat /sys/class/net/$name/address 2>/dev/null)"
    echo "$name.address=$(ip -4 -o address show dev $name 2>/dev/null | sed -n 's,.* inet \([^/ ]*\).*,\1,p' | tr '\n' ' ' | sed 's/ $//')"
    echo "$name.state=$(cat /sys/class/net/$name/operstate 2>/dev/null)"
done
echo "ports=$(ls /sys/class/net/br0/brif 2>/dev/null | tr '\n' ' ' | sed 's/ $//')"
echo "libvirtd=$(systemctl is-active libvirtd.service libvirtd.socket 2>/dev/null | tr '\n' ' ')"
echo "guests=$(virsh --connect qemu:///system list --all --name 2>/dev/null | sort | tr '\n' ' ' | sed 's/^ *//;s/ *$//')"
echo "failed=$(systemctl --failed --plain --no-legend 2>/dev/null | awk '{print $1}' | tr '\n' ' ')"
