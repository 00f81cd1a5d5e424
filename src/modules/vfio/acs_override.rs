//! `acs_override`: IOMMU groups split against what the hardware says.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::boot::kernel_cmdline::KernelCmdline;
use crate::modules::boot::loader;
use crate::modules::params::{Flag, List};
use crate::modules::system::steps::Steps;

/// Has a patched kernel split IOMMU groups although the hardware can't keep their devices apart.
///
/// No kernel of a distribution knows how, other than a few made for it (linux-zen, Proxmox): `pcie_acs_override=` comes with
/// a patch. Devices that are split this way can still reach each other's memory behind the IOMMU's back: a guest with
/// one of them can read and change what the host or other guests do with the others. Another slot, or ACS switched on in the
/// BIOS, is always better.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcsOverride {
    /// What is split: `downstream` ports, `multifunction` devices, or single ones as `id:8086:a340`. Default: downstream
    /// and multifunction.
    #[serde(default)]
    what: List<String>,
    /// Say true: you know that guests are not kept apart by this. Needed.
    #[serde(default)]
    accept_broken_isolation: Flag,
    /// Say true where the kernel has the patch and this can't be seen. Default: no.
    #[serde(default)]
    kernel_is_patched: Flag,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// The kernel is told so.
    #[default]
    Present,
    /// It is not.
    Absent,
}

const RECORD: &str = "acs_override";
/// What the patch calls the function that reads the argument; kernels list it among their symbols.
const SYMBOL: &str = "pcie_acs_override_setup";
/// Names in the releases of kernels that are known to have the patch.
const KNOWN: [&str; 7] = ["-zen", "-pve", "-lqx", "-liquorix", "-xanmod", "-acs", "-vfio"];

impl Module for AcsOverride {
    const NAME: &'static str = "acs_override";
    const SUMMARY: &'static str = "Have a patched kernel split IOMMU groups against what the hardware says";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        if self.state == State::Absent {
            let Some(kept) = steps.kept(RECORD)? else { return Ok(steps.finish()) };
            if steps.module::<KernelCmdline>(json!({"absent": [kept.trim()]}))? {
                steps.keep(RECORD, None)?;
            }
            return Ok(steps.finish());
        }
        let argument = self.argument()?;
        if !self.accept_broken_isolation.0 {
            return Err(Error::refused(
                "pcie_acs_override makes the kernel believe in isolation that the hardware does not have: a guest can reach \
                 the memory of devices that were in its group, and through them the host",
            )
            .hint(
                "try another slot and ACS in the BIOS first; if guests and their users are to be trusted, say \
                 `accept_broken_isolation: true`",
            ));
        }
        let release = loader::read(host)?.default_entry()?.version.clone();
        let release = release.as_deref().unwrap_or("of an unknown release");
        match patched(host, release)? {
            Some(true) => {}
            None if self.kernel_is_patched.0 => {}
            Some(false) => {
                return Err(Error::refused(format!(
                    "the kernel of the next boot ({release}) does not know pcie_acs_override: it has not been patched"
                ))
                .hint("boot a kernel with the patch, such as linux-zen on Arch; others ignore the argument"));
            }
            None => {
                return Err(Error::refused(format!(
                    "it can't be seen whether the kernel of the next boot ({release}) has the patch for pcie_acs_override"
                ))
                .hint("if it has, say `kernel_is_patched: true`; a kernel without it ignores the argument"));
            }
        }
        steps.keep(RECORD, Some(&format!("{argument}\n")))?;
        steps.module::<KernelCmdline>(json!({"present": [argument]}))?;
        steps.plan().warnings.push(
            "IOMMU groups are split against what the hardware says (pcie_acs_override): guests can reach the memory of other \
             devices of the same true group"
                .into(),
        );
        Ok(steps.finish())
    }
}

impl AcsOverride {
    fn argument(&self) -> Result<String> {
        let usual = ["downstream".to_string(), "multifunction".to_string()];
        let what: &[String] = if self.what.is_empty() { &usual } else { &self.what };
        for word in what {
            let is_id = word.strip_prefix("id:").and_then(|id| id.split_once(':')).is_some_and(|(vendor, device)| {
                [vendor, device].iter().all(|part| part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit()))
            });
            if !(usual.contains(word) || is_id) {
                return Err(Error::parameters(format!(
                    "`what: {word}` is neither downstream, multifunction nor id:VVVV:DDDD"
                )));
            }
        }
        Ok(format!("pcie_acs_override={}", what.join(",")))
    }
}

/// Has this kernel the patch? `None` where that can't be told.
fn patched(host: &dyn Host, release: &str) -> Result<Option<bool>> {
    if KNOWN.iter().any(|name| release.contains(name)) {
        return Ok(Some(true));
    }
    let running = host.read_line("/proc/sys/kernel/osrelease")?;
    let mut places = vec![format!("/boot/System.map-{release}"), format!("/lib/modules/{release}/System.map")];
    if running.as_deref() == Some(release) {
        places.push("/proc/kallsyms".to_string());
    }
    for place in places {
        let Some(bytes) = host.read(&place)? else { continue };
        let text = String::from_utf8_lossy(&bytes);
        if text.contains(SYMBOL) {
            return Ok(Some(true));
        }
        // Debian's System.map only says where the real one is; every real one has this symbol.
        if text.contains(" start_kernel") {
            return Ok(Some(false));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::modules::boot::samples::{self, os};

    fn host(map: &str) -> Machine {
        machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
            ("/boot/System.map-3.10.0-514.el7.x86_64", map),
            ("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/mapper/cl-root ro\n"),
            ("/var/lib/", ""),
        ])
    }

    const PATCHED: &str = "ff01 T start_kernel\nff02 t pcie_acs_override_setup\n";

    #[test]
    fn a_patched_kernel_is_told_with_a_warning_and_told_no_more() {
        let host = host(PATCHED);
        let parameters = json!({"accept_broken_isolation": true});
        let answer = plan(&host, "acs_override", parameters.clone()).unwrap();
        assert_eq!((answer.warnings.len(), answer.reboot.len()), (1, 1));
        let done = shown(&apply(&host, "acs_override", parameters.clone()).unwrap());
        assert!(done.contains("quiet pcie_acs_override=downstream,multifunction\""), "{done}");
        // The warning stays for as long as it is so.
        assert_eq!(plan(&host, "acs_override", parameters).unwrap().warnings.len(), 1);
        apply(&host, "acs_override", json!({"state": "absent"})).unwrap();
        assert_eq!(host.read_text("/etc/default/grub").unwrap().as_deref(), Some(samples::EL7_DEFAULT));
        assert!(apply(&host, "acs_override", json!({"state": "absent"})).unwrap().is_empty());
    }

    #[test]
    fn refusals() {
        let accept = json!({"accept_broken_isolation": true});
        let (stock, stub) = (host("ff01 T start_kernel\n"), host("ffff B The real System.map is elsewhere\n"));
        for (host, parameters, why) in [
            (&host(PATCHED), json!({}), "isolation that the hardware does not have"),
            (&stock, accept.clone(), "has not been patched"),
            (&stub, accept, "can't be seen"),
            (&stub, json!({"what": ["all"], "accept_broken_isolation": true}), "neither downstream"),
        ] {
            let error = plan(host, "acs_override", parameters).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let trusted = json!({"accept_broken_isolation": true, "kernel_is_patched": true, "what": "id:8086:a340"});
        assert!(
            shown(&apply(&stub, "acs_override", trusted.clone()).unwrap()).contains("pcie_acs_override=id:8086:a340")
        );
        assert!(plan(&stock, "acs_override", trusted).is_err());
    }
}
