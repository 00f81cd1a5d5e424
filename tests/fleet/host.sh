#!/bin/bash
# One host of a fleet: process 1 of its own process, mount, network, name and IPC namespaces. Its root is an overlay of
# the running system, what all hosts share (the seed), and memory of its own. It waits for its network card, starts sshd,
# and is gone with all its processes when standard input ends.
#
#   host.sh FOLDER NAME ADDRESS SIZE
set -eu
folder=$1 name=$2 address=$3 size=$4
own=$folder/hosts/$name
mkdir -p "$own"
mount -t tmpfs -o "size=$size,mode=755" tmpfs "$own"
mkdir "$own/upper" "$own/work" "$own/root"
mount -t overlay overlay -o "lowerdir=$folder/seed:/,upperdir=$own/upper,workdir=$own/work" "$own/root"
root=$own/root

mount -t proc proc "$root/proc"
mount --bind "$root/srv/sys" "$root/sys"   # the cards and the processors of a recorded workstation
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir "$root/run/sshd" "$root/run/lock"

hostname "$name"
echo "$name" > "$root/etc/hostname"
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" > "$root/etc/hosts"
printf '%s' "$name" | sha256sum | cut -c 1-32 > "$root/etc/machine-id"
ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$root/etc/ssh/ssh_host_ed25519_key"

# sshd goes into the background before it listens.
cat > "$root/usr/local/sbin/start-sshd" <<'END'
#!/bin/sh
/usr/sbin/sshd || exit
for try in $(seq 6000); do
    grep -q ':0016 00000000:0000 0A' /proc/net/tcp && exit
    sleep 0.01
done
exit 1
END
chmod 755 "$root/usr/local/sbin/start-sshd"

echo ready
read -r _   # its card is there
ip -batch - <<END
link set lo up
address add $address/16 dev eth0
link set eth0 up
END
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 /bin/bash -c '
/usr/local/sbin/start-sshd || exit
echo up
# bash takes in whatever becomes an orphan here, as a process 1 should
while read -r _; do :; done
'
