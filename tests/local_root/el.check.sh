set -eux
test "$(rpm -q vp-demo)" = vp-demo-2.0-1.el9.noarch
test "$(rpm -q vp-pinned)" = vp-pinned-1.0-1.el9.noarch
test "$(rpm -q vp-tool)" = vp-tool-0.9-1.el9.noarch
test "$(rpm -q vp-file)" = vp-file-3.0-1.el9.noarch
test "$(rpm -q vp-url)" = vp-url-4.0-1.el9.noarch
test "$(rpm -q kernel-ml | sort | tr '\n' ' ')" = 'kernel-ml-6.1.1-1.el9.elrepo.noarch kernel-ml-6.2.2-1.el9.elrepo.noarch '
rpm -q gpg-pubkey
# Signed by the key that was imported, and rpm says so.
rpm -q --qf '%{SIGPGP:pgpsig}\n' vp-demo | grep -q 'Key ID'
test "$(systemctl is-enabled vp-demo-2.0)" = enabled
grep -c '^\[' /etc/yum.repos.d/share.repo | grep -qx 2
id guest
