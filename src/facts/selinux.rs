//! SELinux: is it there, does it enforce.

use serde_json::{Map, Value, json};

use super::line;
use crate::host::{Host, Result};

/// `ansible_selinux`, as selinuxfs and `/etc/selinux/config` tell it.
///
/// # Errors
/// When the machine can't be read.
pub fn gather(host: &dyn Host) -> Result<Map<String, Value>> {
    let config = host.read_text("/etc/selinux/config")?.unwrap_or_default();
    let setting = |key: &str| {
        config
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_string())
    };
    let value = match line(host, "/sys/fs/selinux/enforce")? {
        None => json!({"status": "disabled"}),
        Some(enforce) => json!({
            "status": "enabled",
            "mode": if enforce == "1" { "enforcing" } else { "permissive" },
            "config_mode": setting("SELINUX").unwrap_or_else(|| "unknown".into()),
            "type": setting("SELINUXTYPE").unwrap_or_else(|| "unknown".into()),
            "policyvers": line(host, "/sys/fs/selinux/policyvers")?.and_then(|text| text.parse::<u32>().ok()),
        }),
    };
    Ok(Map::from_iter([("ansible_selinux".to_string(), value)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn enforcing_and_none() {
        let m = machine(&[
            ("/sys/fs/selinux/enforce", "1"),
            ("/sys/fs/selinux/policyvers", "31"),
            ("/etc/selinux/config", "# c\nSELINUX=permissive\nSELINUXTYPE=targeted\n"),
        ]);
        let facts = gather(&m).unwrap();
        assert_eq!(
            facts["ansible_selinux"],
            json!({"status": "enabled", "mode": "enforcing", "config_mode": "permissive", "type": "targeted", "policyvers": 31})
        );
        assert_eq!(gather(&machine(&[])).unwrap()["ansible_selinux"]["status"], "disabled");
    }
}
