set -eux
installed() { test "$(dpkg-query -W -f '${db:Status-Abbrev}${Version}' "$1")" = "ii $2"; }
installed vp-demo 2.0-1
installed vp-pinned 1.0-1
installed vp-tool 1:0.9~rc1-1
installed vp-file 3.0-1
installed vp-url 4.0-1
! dpkg -s dnf | grep -q '^Status: install ok installed'
test "$(cat /etc/vp-demo.conf)" = 'from = the administrator'
test "$(systemctl is-enabled vp-demo)" = enabled
test "$(systemctl is-enabled vp-tool || true)" = masked
test "$(getent group passthrough | cut -d: -f3)" = 4242
id -Gn guest | grep -qw disk
test "$(getent passwd guest | cut -d: -f5,6,7)" = 'Runs the guests:/home/guest:/bin/bash'
getent shadow guest | grep -qF ':$6$salt$'
test "$(id -u guestd)" -lt 1000
test ! -e /var/lib/guestd
test "$(cat /proc/sys/net/ipv4/ip_forward)" = 1
grep -qx 'net.ipv4.ip_forward = 1' /etc/sysctl.d/99-vfio-provision.conf
test "$(cat /etc/hostname)" = ws1.example.org
test "$(uname -n)" = ws1.example.org
test "$(stat -c '%U:%G %a' /home/guest/notes)" = 'guest:passthrough 640'
test "$(cat /etc/modules-load.d/dummy.conf /etc/modprobe.d/dummy.conf)" = 'dummy
options dummy numdummies=2'
