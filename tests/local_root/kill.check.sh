set -eu
inventory=/srv/share/inventory
vp() { /srv/bin/vfio-provision "$@" -i $inventory; }
die() { echo "$at: $*" >&2; cat /tmp/said >&2; exit 1; }

files='/etc/kept /etc/login.defs /etc/vp-file.conf /etc/folder/link /etc/folder/download'
sums() {
    for file in $files; do
        if [ -L $file ]; then echo "$file link $(readlink $file)"
        elif [ -e $file ]; then echo "$file $(stat -c '%U:%G %a' $file) $(sha256sum < $file)"
        else echo "$file none"; fi
    done
}
# Names that begin with a dot are temporaries: Debian has two such files of its own.
temporaries() { find /etc /srv/share -maxdepth 3 -name '.*' -not -name .pwd.lock -not -path '/etc/skel/*'; }
cp -p /etc/login.defs /tmp/login.defs
reset() {
    dpkg --purge vp-file > /tmp/said 2>&1 || die 'dpkg'
    rm -rf /etc/kept /etc/folder /etc/vp-file.conf /var/cache/vfio-provision
    cp -p /tmp/login.defs /etc/login.defs
}
again() { # until it is as one whole run leaves it
    vp apply "$1" > /tmp/said 2>&1 || die 'the next run failed'
    vp apply "$1" > /tmp/said 2>&1 || die 'the run after that failed'
    grep -q 'nothing to change' /tmp/said || die 'it does not converge'
}

at='not killed'
sums > /tmp/states
dpkg --unpack /srv/share/files/vp-file_3.0-1_all.deb > /tmp/said 2>&1
dpkg --configure vp-file >> /tmp/said 2>&1
sums >> /tmp/states
reset
again /srv/share/kill.yml
sums > /tmp/new
cat /tmp/new >> /tmp/states
test -z "$(temporaries)" || die "temporaries: $(temporaries)"

for at in 1:before 1:written 1:renamed 2:written 2:renamed 3:after 4:after 5:before 5:after 6:written 6:renamed \
    7:written 7:renamed 7:after; do
    reset
    code=0
    (export VFIO_PROVISION_FAILPOINT=$at; vp apply /srv/share/kill.yml > /tmp/said 2>&1) || code=$?
    test $code = 137 || die "it was not killed but ended with $code"
    sums | while read -r line; do
        grep -qxF -- "$line" /tmp/states || die "neither old nor new: $line"
    done
    again /srv/share/kill.yml
    sums | cmp -s - /tmp/new || die "it is not as after one whole run: $(sums | diff - /tmp/new)"
    test -z "$(temporaries)" || die "temporaries: $(temporaries)"
done

# And while dpkg is at work.
at='while dpkg configures a package'
mkdir -p /tmp/slow/DEBIAN
cat > /tmp/slow/DEBIAN/control <<'END'
Package: vp-slow
Version: 1.0-1
Architecture: all
Maintainer: Test <test@example.org>
Description: kills whoever installs it
END
cat > /tmp/slow/DEBIAN/postinst <<'END'
#!/bin/sh
if [ -e /tmp/victim ]; then
    echo "configuring"
    kill -9 "$(cat /tmp/victim)"
    rm /tmp/victim
    sleep 1
    echo "configured"
fi
END
chmod 755 /tmp/slow/DEBIAN/postinst
dpkg-deb --build /tmp/slow /srv/share/vp-slow_1.0-1_all.deb > /tmp/said
cat > /srv/share/slow.yml <<'END'
- hosts: all
  gather_facts: false
  tasks:
    - package:
        name: /srv/share/vp-slow_1.0-1_all.deb
END
code=0
sh -c 'echo $$ > /tmp/victim; exec /srv/bin/vfio-provision apply /srv/share/slow.yml -i /srv/share/inventory' > /tmp/said 2>&1 ||
    code=$?
test $code = 137 || die "it was not killed but ended with $code"
again /srv/share/slow.yml
test "$(dpkg-query -W -f '${db:Status-Abbrev}' vp-slow)" = 'ii ' || die "$(dpkg-query -W vp-slow)"
