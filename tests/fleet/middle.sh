#!/bin/bash
# The namespace that a fleet hangs on: a bridge, an address for controllers, a home that is not this machine's, and
# memory for everything. To be started by `unshare --mount --net --uts`; all of it is gone when standard input ends.
#
#   middle.sh FOLDER
set -eu
folder=$1
mount -t tmpfs -o size=90%,mode=755 tmpfs "$folder"
mkdir "$folder/seed" "$folder/hosts"

# Controllers may write at home, and find nothing of whoever runs the tests.
mkdir "$folder/home" "$folder/home/upper" "$folder/home/work"
mount -t overlay overlay -o "lowerdir=/root,upperdir=$folder/home/upper,workdir=$folder/home/work" /root
rm -rf /root/.ssh /root/.cache/vfio-provision /root/.config/vfio-provision
mkdir -m 700 /root/.ssh

hostname controller
ip link set lo up
# Without an address of its own a bridge takes the lowest of its cards', another one when hosts come and go, and whoever
# talks to it then talks to nobody for a while.
ip link add br0 address 02:00:0a:4d:00:01 type bridge forward_delay 0
ip address add 10.77.0.1/16 dev br0
ip link set br0 up

echo ready
# Until the test process is gone, however it went.
while read -r _; do :; done
