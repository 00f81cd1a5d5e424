set -eux
# `!` would be exempt from -e.
fails() { if "$@"; then exit 1; fi; }
installed() { test "$(dpkg-query -W -f '${db:Status-Abbrev}${Version}' "$1")" = "ii $2"; }
installed vp-demo 1.0-1
installed vp-pinned 1.1-1
installed vp-tool 1:0.9~rc1-1
fails dpkg-query -W vp-file
installed vp-url 4.0-1
fails dpkg-query -W dnf
test "$(cat /etc/vp-demo.conf)" = 'from = the administrator'
test "$(systemctl is-enabled vp-demo)" = enabled
test "$(systemctl is-enabled vp-tool || true)" = masked
test "$(getent group passthrough | cut -d: -f3)" = 4242
test "$(id -Gn guest)" = 'guest passthrough'
test "$(getent passwd guest | cut -d: -f5,6,7)" = 'Runs the guests:/home/guest:/bin/bash'
getent shadow guest | grep -qF ':$6$salt$'
fails id guestd
test ! -e /var/lib/guestd
test "$(cat /proc/sys/net/ipv4/ip_forward)" = 1
test ! -s /etc/sysctl.d/99-vfio-provision.conf
test "$(cat /etc/hostname)" = ws1.example.org
test "$(uname -n)" = ws1.example.org
test "$(stat -c '%U:%G %a' /home/guest/notes)" = 'guest:passthrough 640'
test "$(cat /etc/modules-load.d/dummy.conf /etc/modprobe.d/dummy.conf)" = 'dummy
options dummy numdummies=2'
grep -qx 'a package goes, with what needs it: package dnf' /tmp/shown
