# Where the memory and the processors of the guest `paged` are, one key=value a line.
for node in 0 1; do
    echo "pages$node=$(cat /sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages)"
done
echo "state=$(virsh --connect qemu:///system domstate paged | head -n 1)"
echo "vcpupin=$(virsh --quiet --connect qemu:///system vcpupin paged | tr -s ' \n' ' ')"
pid=$(cat /run/libvirt/qemu/paged.pid)
for node in 0 1; do
    echo "on$node=$(sed -n "/kernelpagesize_kB=2048/s/.* N$node=\([0-9]*\).*/\1/p" "/proc/$pid/numa_maps" |
        awk '{sum += $1} END {print sum + 0}')"
done
echo "cpus=$(for task in /proc/"$pid"/task/*; do
    case $(cat "$task/comm") in CPU*) sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$task/status" ;; esac
done | tr '\n' ' ')"
