set -eux
# `!` would be exempt from -e.
fails() { if "$@"; then exit 1; fi; }
test "$(rpm -q vp-demo)" = vp-demo-1.0-1.el9.noarch
test "$(rpm -q vp-pinned)" = vp-pinned-1.1-1.el9.noarch
test "$(rpm -q vp-tool)" = vp-tool-0.9-1.el9.noarch
test "$(grep -c '^\[' /etc/yum.repos.d/share.repo)" = 1
fails rpm -q vp-file
fails rpm -q vp-url
test "$(rpm -q kernel-ml | sort | tr '\n' ' ')" = 'kernel-ml-6.1.1-1.el9.elrepo.noarch kernel-ml-6.2.2-1.el9.elrepo.noarch '
rpm -q gpg-pubkey
# Signed by the key that was imported, and rpm says so.
rpm -qi vp-pinned | grep '^Signature' | grep -q 'Key ID'
test "$(systemctl is-enabled kernel-ml-6.2.2)" = enabled
id guest
grep -qx 'a package goes, with what needs it: package vp-url' /tmp/shown
