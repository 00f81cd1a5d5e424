#!/bin/sh
# Written by vfio-provision (libvirt_hooks); changes are overwritten.
#
# libvirt calls this for every guest: qemu GUEST OPERATION STEP EXTRA, with the guest's XML on standard input. It runs
# what is executable in qemu.d/GUEST/OPERATION/STEP, in the order of the names, with the same arguments and the same
# input. Where something begins, the first script that fails ends it, and libvirt does not go on; where something ends,
# all of them run. Scripts must never call libvirt: it waits for them.
set -u

guest=${1:-} operation=${2:-} step=${3:-}
for part in "$guest" "$operation" "$step"; do
	case $part in
	'' | . | .. | */*) exit 0 ;;
	esac
done
folder=$(dirname -- "$0")/qemu.d/$guest/$operation/$step
[ -d "$folder" ] || exit 0

xml=$(mktemp) || exit 1
trap 'rm -f -- "$xml"' EXIT
cat > "$xml"

result=0
for script in "$folder"/*; do
	[ -f "$script" ] && [ -x "$script" ] || continue
	"$script" "$@" < "$xml" || {
		result=$?
		echo "$script failed ($result)" >&2
		[ "$step" = begin ] && exit "$result"
	}
done
exit "$result"
