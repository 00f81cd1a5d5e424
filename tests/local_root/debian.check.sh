set -eux
# `!` would be exempt from -e.
fails() { if "$@"; then exit 1; fi; }
installed() { test "$(dpkg-query -W -f '${db:Status-Abbrev}${Version}' "$1")" = "ii $2"; }
installed vp-demo 1.0-1
installed vp-pinned 1.1-1
installed vp-late 1.0-1
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
grep '"task":"a package goes, with what needs it"' /srv/share/debian.yml.apply | grep -q '"path":"dnf"'

cmp /srv/share/files/large.bin /var/lib/large.bin
cmp /srv/share/files/large.bin /tmp/large.bin
test "$(stat -c '%U %a' /var/lib/large.bin /tmp/large.bin)" = 'nobody 640
nobody 644'
test -z "$(ls /var/lib/vfio-provision/spool)"

# Other users.
test "$(stat -c '%U %a' /var/lib/drop/note)" = 'nobody 600'
test "$(cat /var/lib/drop/note)" = 'from nobody
from root'
test -e /etc/made-by-a-command
test "$(cat /etc/answer)" = ws1.example.org
cmp /srv/share/files/vp-file_3.0-1_all.deb /var/lib/drop/vp-file_3.0-1_all.deb
test "$(cat /etc/motd)" = 'Debian: one, two'
test "$(cat /var/lib/drop/handled)" = handled
# What root did is in root's journal; what nobody did is in none.
grep -hq /var/lib/drop/handled /var/lib/vfio-provision/runs/*/journal.jsonl
fails grep -h 'in a folder that a dry run only foresees' /var/lib/vfio-provision/runs/*/journal.jsonl

vp() { /srv/bin/vfio-provision "$@"; }
# Ends with this exit code, having said this.
says() {
    want=$1 words=$2 code=0
    shift 2
    "$@" > /tmp/said 2>&1 || code=$?
    cat /tmp/said
    test "$code" = "$want"
    grep -qF -- "$words" /tmp/said
}

become() { # inventory's words, user
    echo "ws01 ansible_connection=local $1" > /tmp/inventory
    vp apply /srv/share/debian.become.yml -i /tmp/inventory -e "as=$2"
}
says 4 "can't become no-such-user by sudo" become '' no-such-user
grep -q 'unknown user' /tmp/said
# root needs no password, and sudo does not ask for it.
says 0 '1 added' become 'ansible_become_password=unused' nobody
says 0 'nothing to change' become 'ansible_become_method=su' nobody
says 1 'unknown `ansible_become_method`' become 'ansible_become_method=pbrun' nobody

useradd --create-home operator1
echo operator1:right | chpasswd
echo 'operator1 ALL=(ALL) ALL' > /etc/sudoers.d/operator1
by_operator() {
    echo "ws01 ansible_connection=local $1" > /tmp/inventory
    su operator1 -c "/srv/bin/vfio-provision apply /srv/share/debian.become.yml -i /tmp/inventory -e as=$2"
}
says 4 '-K asks for it' by_operator '' guest
says 4 'the password is wrong' by_operator ansible_become_password=mistyped guest
says 0 '1 added' by_operator ansible_become_password=right guest
test "$(stat -c %U /tmp/by-guest)" = guest
says 0 '1 added' by_operator ansible_become_password=right root
test "$(stat -c %U /tmp/by-root)" = root
echo 'operator1 ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/operator1
rm /tmp/by-guest
says 0 '1 added' by_operator ansible_become_password=right guest
says 0 'nothing to change' by_operator '' guest

# What was fetched without a hash is pinned, and nothing else is taken for it.
grep -q "^$(sha256sum < /var/lib/drop/downloaded | cut -d ' ' -f 1)  file:///srv/share/files/vp-url_4.0-1_all.deb\$" \
    /srv/share/vfio-provision.lock
cp /srv/share/vfio-provision.lock /tmp/lock
fetch() { vp apply /srv/share/debian.yml -i /srv/share/inventory --start-at-task 'a download without a hash'; }
rm /var/lib/drop/downloaded
says 0 '1 added' fetch
cp /srv/share/files/vp-file_3.0-1_all.deb /srv/share/files/vp-url_4.0-1_all.deb
says 0 'nothing to change' fetch
rm /var/lib/drop/downloaded
says 2 'is expected' fetch
test ! -e /var/lib/drop/downloaded
echo other > /var/lib/drop/downloaded
says 2 'but the lock file says' fetch
cmp /tmp/lock /srv/share/vfio-provision.lock
