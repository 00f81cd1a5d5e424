//! Facts: what a machine is, read through `Host` only.
//!
//! What changes by itself (free memory, uptime, the time of day) is left out, so that two runs see the same.

pub mod cpu;
pub mod iommu;
pub mod memory;
pub mod mounts;
pub mod network;
pub mod os;
pub mod pci;
pub mod selinux;

use serde_json::{Map, Value};

use crate::host::{Error, Host, Result};

/// The parts that can be asked for.
pub const PARTS: [&str; 5] = ["os", "hardware", "network", "pci", "iommu"];

/// All facts of the parts that `subset` names (all when it is empty), by their names with `ansible_` in front.
///
/// # Errors
/// When the machine can't be read, or the subset names a part that is not known.
pub fn gather(host: &dyn Host, subset: &[&str]) -> Result<Map<String, Value>> {
    let wanted = parts(subset)?;
    let mut facts = Map::new();
    for part in wanted {
        match part {
            "os" => {
                facts.extend(os::gather(host)?);
                facts.extend(selinux::gather(host)?);
            }
            "hardware" => {
                facts.extend(cpu::gather(host)?);
                facts.extend(memory::gather(host)?);
                facts.extend(mounts::gather(host)?);
            }
            "network" => facts.extend(network::gather(host)?),
            "pci" => {
                facts.insert("ansible_pci".into(), pci::gather(host)?);
            }
            _ => {
                facts.insert("ansible_iommu".into(), iommu::gather(host)?);
            }
        }
    }
    Ok(facts)
}

/// Ansible's rules: a list of exclusions only starts from everything, and the minimum is always there unless excluded.
fn parts(subset: &[&str]) -> Result<Vec<&'static str>> {
    let mut wanted: Vec<&'static str> = Vec::new();
    let known = |name: &str| PARTS.into_iter().find(|part| *part == name);
    let unknown = |name: &str| {
        let error = Error::parameters(format!("`{name}` is not a part of the facts"));
        error.hint(format!("known: all, min, {}", PARTS.join(", ")))
    };
    if subset.iter().all(|name| name.starts_with('!')) {
        wanted.extend(PARTS);
    }
    for name in subset.iter().filter(|name| !name.starts_with('!')) {
        match *name {
            "all" => wanted.extend(PARTS),
            "min" => wanted.push("os"),
            name => wanted.push(known(name).ok_or_else(|| unknown(name))?),
        }
    }
    for name in subset.iter().filter_map(|name| name.strip_prefix('!')) {
        match name {
            // `!all` leaves what was asked for by name, and the minimum.
            "all" => wanted.retain(|part| *part == "os" || subset.contains(part)),
            "min" => wanted.retain(|part| *part != "os"),
            name => {
                let name = known(name).ok_or_else(|| unknown(name))?;
                wanted.retain(|part| *part != name);
            }
        }
    }
    Ok(PARTS.into_iter().filter(|part| wanted.contains(part)).collect())
}

/// The first line of a small file that may refuse to be read, as some of sysfs do; `None` then.
fn line(host: &dyn Host, path: &str) -> Result<Option<String>> {
    match host.read_line(path) {
        Err(error) if error.is_unknown() => Err(error),
        other => Ok(other.ok().flatten().filter(|line| !line.is_empty())),
    }
}

/// `\040` and the like, as in /proc/mounts.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, behind) = rest.split_at(at);
        out.push_str(before);
        let code = behind.get(1..4).and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = behind.get(4..).unwrap_or("");
            }
            None => {
                out.push('\\');
                rest = behind.get(1..).unwrap_or("");
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn subsets_are_read_as_ansible_does() {
        assert_eq!(parts(&[]).unwrap(), PARTS);
        assert_eq!(parts(&["!pci", "!iommu"]).unwrap(), ["os", "hardware", "network"]);
        assert_eq!(parts(&["!all"]).unwrap(), ["os"]);
        assert_eq!(parts(&["!all", "!min", "network"]).unwrap(), ["network"]);
        assert_eq!(parts(&["min", "pci"]).unwrap(), ["os", "pci"]);
        assert!(parts(&["facter"]).is_err() && parts(&["!x"]).is_err());
    }

    #[test]
    fn a_bare_machine_has_few_facts_and_no_trouble() {
        let m = machine(&[("/etc/os-release", "ID=debian\n")]);
        let facts = gather(&m, &[]).unwrap();
        assert_eq!(facts["ansible_os_family"], "Debian");
        assert_eq!(facts["ansible_interfaces"], serde_json::json!([]));
        assert!(gather(&machine(&[]), &["os"]).is_err());
    }

    #[test]
    fn the_live_machine_can_be_asked() {
        let facts = gather(&crate::host::Live::new(), &[]).unwrap();
        assert_eq!(facts["ansible_kernel"].as_str().map(str::is_empty), Some(false));
        assert!(facts["ansible_memtotal_mb"].as_u64() > Some(0));
        assert!(facts["ansible_processor_vcpus"].as_u64() > Some(0));
    }
}
