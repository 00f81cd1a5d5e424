# Every file that is somebody's configuration, or that the machine boots from: its path, what it is, what is in it. One
# line each.
set -- /etc /boot /root /home /usr/local /var/lib/vfio-provision /var/lib/libvirt
for folder; do
    shift
    [ -d "$folder" ] && set -- "$@" "$folder"
done
# Images of guests, what fills a disk for a test, and what the program keeps for itself are not looked into.
find "$@" -xdev \( -path /root/.cache -o -path /root/.rpmdb -o -path /var/lib/vfio-provision/runs -o -path /var/lib/vfio-provision/lock \
    -o -name '*.qcow2' -o -name filler \) -prune -o \
    \( -type f -o -type l \) ! -path /etc/machine-id -printf '%p mode %m %u:%g %l\n' > /tmp/manifest.1
find "$@" -xdev \( -path /root/.cache -o -path /root/.rpmdb -o -path /var/lib/vfio-provision/runs -o -path /var/lib/vfio-provision/lock \
    -o -name '*.qcow2' -o -name filler \) -prune -o \
    -type f ! -path /etc/machine-id -print0 | xargs -0 sha256sum | sed 's/^\(................\)[^ ]*  \(.*\)/\2 content \1/' > /tmp/manifest.2
sort /tmp/manifest.1 /tmp/manifest.2
rm /tmp/manifest.1 /tmp/manifest.2
