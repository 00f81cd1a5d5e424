//! Can GRUB write to a file? What boots once must be struck out before it boots, or it boots for ever.

use crate::host::{Host, Result};

/// File systems whose files GRUB can write into: it asks where a file's blocks are and writes those (`save_env`, GRUB
/// manual). Others move, pack or check what is written.
const PLAIN: &[&str] = &["ext2", "ext3", "ext4", "xfs", "vfat", "msdos"];

/// Why GRUB can't write files in this folder; `None` when it can, or when the machine does not say what it is on. It
/// reads LVM and RAID, and can't write to them (`diskfilter writes are not supported`).
///
/// # Errors
/// When the machine can't be read.
pub fn obstacle(host: &dyn Host, folder: &str) -> Result<Option<String>> {
    let folder = host.real_path(folder)?;
    let text = host.read_text("/proc/self/mountinfo")?.unwrap_or_default();
    let inside = |target: &str| target == "/" || folder == target || folder.starts_with(&format!("{target}/"));
    // The last of several mounts at one place is the one that is seen.
    let mut found: Option<(&str, &str, &str)> = None;
    for (target, numbers, kind) in text.lines().filter_map(mount).filter(|(target, ..)| inside(target)) {
        if found.is_none_or(|(longest, ..)| target.len() >= longest.len()) {
            found = Some((target, numbers, kind));
        }
    }
    let Some((target, numbers, kind)) = found else { return Ok(None) };
    if !PLAIN.contains(&kind) {
        return Ok(Some(format!("{folder} is on {kind} (mounted at {target})")));
    }
    let link = format!("/sys/dev/block/{numbers}");
    if !host.exists(&link)? {
        return Ok(None);
    }
    let device = host.real_path(&link)?;
    Ok(layer(host, &device)?.map(|layer| format!("{folder} is on {layer} (mounted at {target})")))
}

/// LVM or RAID below a block device, with its name.
fn layer(host: &dyn Host, device: &str) -> Result<Option<String>> {
    const DEEPEST: usize = 8;
    let mut todo = vec![device.to_string()];
    for _ in 0..DEEPEST {
        let Some(path) = todo.pop() else { break };
        // A partition has what its disk has.
        let disk = if host.exists(&format!("{path}/partition"))? {
            path.rsplit_once('/').map_or(path.clone(), |(disk, _)| disk.to_string())
        } else {
            path
        };
        let name = disk.rsplit('/').next().unwrap_or_default().to_string();
        if host.exists(&format!("{disk}/md"))? {
            return Ok(Some(format!("software RAID ({name})")));
        }
        let uuid = host.read_line(&format!("{disk}/dm/uuid"))?.unwrap_or_default();
        if uuid.starts_with("LVM-") {
            let volume = host.read_line(&format!("{disk}/dm/name"))?.unwrap_or(name);
            return Ok(Some(format!("LVM ({volume})")));
        }
        if uuid.starts_with("DMRAID-") {
            return Ok(Some(format!("firmware RAID ({name})")));
        }
        for slave in host.list(&format!("{disk}/slaves"))? {
            todo.push(host.real_path(&format!("{disk}/slaves/{slave}"))?);
        }
    }
    Ok(None)
}

/// Mount point, `major:minor` and file system of a line of mountinfo (proc_pid_mountinfo(5)).
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (numbers, _root, target) = (left.next()?, left.next()?, left.next()?);
    Some((target, numbers, right.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    const ROOT: &str = "25 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/cl-root rw\n";
    const BOOT: &str = "30 25 8:1 / /boot rw - xfs /dev/sda1 rw\n";
    const SDA1: (&str, &str) = ("/sys/dev/block/8:1", "-> ../../devices/pci0000:00/ata1/block/sda/sda1");
    const PARTITION: (&str, &str) = ("/sys/devices/pci0000:00/ata1/block/sda/sda1/partition", "1\n");
    const LV: (&str, &str) = ("/sys/dev/block/253:0", "-> ../../devices/virtual/block/dm-0");

    fn said(files: &[(&str, &str)]) -> Option<String> {
        let mut all = vec![("/boot/grub2/grub.cfg", "x")];
        all.extend(files);
        obstacle(&machine(&all), "/boot/grub2").unwrap()
    }

    #[test]
    fn a_partition_for_boot_is_fine_whatever_the_root_is_on() {
        let mounts = format!("{ROOT}{BOOT}");
        let uuid = ("/sys/devices/virtual/block/dm-0/dm/uuid", "LVM-abc\n");
        let name = ("/sys/devices/virtual/block/dm-0/dm/name", "cl-root\n");
        assert_eq!(said(&[("/proc/self/mountinfo", &mounts), SDA1, PARTITION, LV, uuid, name]), None);
        let why = said(&[("/proc/self/mountinfo", ROOT), LV, uuid, name]).unwrap();
        assert_eq!(why, "/boot/grub2 is on LVM (cl-root) (mounted at /)");
        assert_eq!(said(&[]), None, "a machine that does not say");
        assert_eq!(said(&[("/proc/self/mountinfo", "broken\n25 1\n")]), None);
    }

    #[test]
    fn raid_and_file_systems_that_move_blocks_are_not() {
        let why = said(&[("/proc/self/mountinfo", "25 1 0:33 /@ / rw - btrfs /dev/sda2 rw\n")]).unwrap();
        assert_eq!(why, "/boot/grub2 is on btrfs (mounted at /)");
        // A partition of a RAID, and LVM on top of one.
        let md = ("/sys/devices/virtual/block/md0/md/level", "raid1\n");
        let part = ("/sys/devices/virtual/block/md0/md0p1/partition", "1\n");
        let link = ("/sys/dev/block/259:1", "-> ../../devices/virtual/block/md0/md0p1");
        let line = ("/proc/self/mountinfo", "25 1 259:1 / /boot rw - ext4 /dev/md0p1 rw\n");
        assert_eq!(said(&[line, md, part, link]).unwrap(), "/boot/grub2 is on software RAID (md0) (mounted at /boot)");
        // LUKS can be written by GRUB, what is below it decides.
        let crypt = ("/sys/devices/virtual/block/dm-0/dm/uuid", "CRYPT-LUKS2-1\n");
        let slave = ("/sys/devices/virtual/block/dm-0/slaves/md0", "-> ../../md0");
        let ext4 = ("/proc/self/mountinfo", "25 1 253:0 / / rw - ext4 /dev/mapper/x rw\n");
        assert_eq!(said(&[ext4, LV, crypt]), None);
        assert!(said(&[ext4, LV, crypt, slave, md]).unwrap().contains("software RAID (md0)"));
        // The mount that was put over another one counts.
        let over = "25 1 0:33 / / rw - btrfs /dev/sda2 rw\n30 25 8:1 / /boot rw - ext4 /dev/sda1 rw\n";
        assert_eq!(said(&[("/proc/self/mountinfo", over), SDA1, PARTITION]), None);
    }
}
