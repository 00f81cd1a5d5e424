//! What is mounted where (proc(5), mounts).

use serde_json::{Map, Value, json};

use super::unescape;
use crate::host::{Host, Result};

/// `ansible_mounts`: file systems on devices or servers, not those of the kernel itself.
///
/// # Errors
/// When the machine can't be read.
pub fn gather(host: &dyn Host) -> Result<Map<String, Value>> {
    let text = host.read_text("/proc/mounts")?.unwrap_or_default();
    let mut mounts: Vec<Value> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let mut next = || fields.next().map(unescape);
        let (Some(device), Some(mount), Some(kind), Some(options)) = (next(), next(), next(), next()) else { continue };
        if device.starts_with('/') || device.contains(":/") || kind == "zfs" {
            mounts.push(json!({"device": device, "mount": mount, "fstype": kind, "options": options}));
        }
    }
    Ok(Map::from_iter([("ansible_mounts".to_string(), mounts.into())]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn real_file_systems() {
        let m = machine(&[(
            "/proc/mounts",
            "proc /proc proc rw 0 0\n/dev/sda1 / xfs rw,relatime 0 0\nnas:/v /mnt/my\\040disk nfs4 ro 0 0\nbroken\n",
        )]);
        let facts = gather(&m).unwrap();
        assert_eq!(
            facts["ansible_mounts"][0],
            json!({"device": "/dev/sda1", "mount": "/", "fstype": "xfs", "options": "rw,relatime"})
        );
        assert_eq!(facts["ansible_mounts"][1]["mount"], "/mnt/my disk");
        assert_eq!(facts["ansible_mounts"].as_array().map(Vec::len), Some(2));
    }
}
