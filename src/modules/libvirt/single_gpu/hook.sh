#!/bin/sh
# Written by vfio-provision (single_gpu); changes are overwritten.
#
# The guest @GUEST@ gets the card that this machine's own screen is on. libvirt runs this before the guest starts
# (prepare begin): the screen is given up, and libvirt gives the card to the guest. And after the guest has ended (release
# end): the card is the host's again, and so is the screen. While the guest runs, this machine can only be reached over
# its network.
set -u

devices='@DEVICES@'
patience=@PATIENCE@
# Tests put another root before these.
root=${VFIO_PROVISION_HOOK_ROOT:-}
pci=$root/sys/bus/pci
state=$root/run/vfio-provision/single-gpu-'@GUEST@'

say() {
	echo "single-gpu: $*" >&2
	logger -t single-gpu -- "$*" 2>/dev/null || :
}

# The device nodes of the cards and of what hangs on them: screens, sound.
nodes() {
	for device in $devices; do
		find "$pci/devices/$device/" -name uevent 2>/dev/null
	done | while IFS= read -r file; do
		sed -n "s|^DEVNAME=|$root/dev/|p" "$file"
	done
}

# Who still has one of them open? Taking a card from under a program can hang the kernel.
busy() {
	for node in $(nodes); do
		for open in "$root"/proc/[0-9]*/fd/*; do
			[ "$(readlink "$open" 2>/dev/null)" = "$node" ] || continue
			holder=${open%/fd/*}
			echo "${holder##*/} ($(cat "$holder/comm" 2>/dev/null)) has $node"
			return 0
		done
	done
	return 1
}

driver_of() {
	link=$(readlink "$pci/devices/$1/driver" 2>/dev/null) || return 0
	echo "${link##*/}"
}

take() {
	mkdir -p "$state" || return 1
	if systemctl is-active --quiet display-manager.service; then
		: > "$state/display-manager"
		systemctl stop display-manager.service || return 1
	fi
	waited=0
	while holder=$(busy); do
		if [ "$waited" -ge "$patience" ]; then
			say "$holder: the card is in use, so the guest is not started"
			return 1
		fi
		sleep 1
		waited=$((waited + 1))
	done
	# The text consoles let go of the screen ...
	for console in "$root"/sys/class/vtconsole/vtcon*; do
		grep -q 'frame buffer' "$console/name" 2>/dev/null || continue
		[ "$(cat "$console/bind")" = 1 ] || continue
		echo "${console##*/}" >> "$state/consoles"
		echo 0 > "$console/bind" || return 1
	done
	# ... and so does the screen that the firmware left behind.
	for name in efi-framebuffer simple-framebuffer vesa-framebuffer; do
		[ -e "$root/sys/bus/platform/drivers/$name/$name.0" ] || continue
		echo "$name" >> "$state/framebuffers"
		echo "$name.0" > "$root/sys/bus/platform/drivers/$name/unbind" || return 1
	done
	for device in $devices; do
		echo "$device $(driver_of "$device")" >> "$state/drivers"
	done
	# NVIDIA's own driver never lets go of a card that its other modules hold.
	if grep -q ' nvidia$' "$state/drivers"; then
		for module in nvidia_drm nvidia_modeset nvidia_uvm nvidia; do
			[ -d "$root/sys/module/$module" ] || continue
			echo "$module" >> "$state/modules"
			modprobe -r "$module" || return 1
		done
	fi
	modprobe vfio-pci
}

# Each step whatever became of the one before: a screen that is half back is better than none.
give_back() {
	[ -d "$state" ] || return 0
	if [ -f "$state/modules" ]; then
		modprobe nvidia || say "nvidia can't be loaded"
		! grep -q '^nvidia_drm$' "$state/modules" || modprobe nvidia_drm || say "nvidia_drm can't be loaded"
	fi
	if [ -f "$state/drivers" ]; then
		while read -r device driver; do
			[ -n "$driver" ] && [ "$(driver_of "$device")" != "$driver" ] || continue
			now=$(driver_of "$device")
			[ -z "$now" ] || echo "$device" > "$pci/drivers/$now/unbind"
			echo > "$pci/devices/$device/driver_override"
			modprobe "$driver" || say "$driver can't be loaded"
			[ -n "$(driver_of "$device")" ] || echo "$device" > "$pci/drivers_probe" || say "$device stays without a driver"
		done < "$state/drivers"
	fi
	if [ -f "$state/framebuffers" ]; then
		while read -r name; do
			echo "$name.0" > "$root/sys/bus/platform/drivers/$name/bind" || say "$name does not come back"
		done < "$state/framebuffers"
	fi
	if [ -f "$state/consoles" ]; then
		while read -r console; do
			echo 1 > "$root/sys/class/vtconsole/$console/bind" || say "$console does not come back"
		done < "$state/consoles"
	fi
	[ ! -f "$state/display-manager" ] || systemctl start --no-block display-manager.service || say "no display manager"
	rm -rf -- "$state"
}

case "${2:-} ${3:-}" in
'prepare begin')
	take || {
		give_back
		exit 1
	}
	;;
'release end') give_back ;;
esac
exit 0
