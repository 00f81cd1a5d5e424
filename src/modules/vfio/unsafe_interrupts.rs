//! `allow_unsafe_interrupts`: devices for guests on machines that can't remap interrupts.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::change::{Diff, Effect, Op, Plan};
use crate::facts::iommu;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::boot::kernel_cmdline::KernelCmdline;
use crate::modules::params::Flag;
use crate::modules::system::steps::Steps;

/// Lets guests have devices on a machine that can't remap interrupts.
///
/// For machines whose guests get their devices from libvirt alone; `vfio_bind` has a parameter of the same name for those
/// that it binds. Without remapping, a guest can make its device send any interrupt it likes to the host, and so attack it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnsafeInterrupts {
    /// Say true: you know that a guest can attack the host by this. Needed.
    #[serde(default)]
    accept_attacks_by_guests: Flag,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is allowed.
    #[default]
    Present,
    /// It is not.
    Absent,
}

const FILE: &str = "/etc/modprobe.d/vfio-provision-unsafe-interrupts.conf";
const TEXT: &str = "# Written by vfio-provision (allow_unsafe_interrupts); changes are overwritten.\n\
                    # This machine can't remap interrupts: a guest with a device can attack it.\n\
                    options vfio_iommu_type1 allow_unsafe_interrupts=1\n";
const PARAMETER: &str = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
const ARGUMENT: &str = "vfio_iommu_type1.allow_unsafe_interrupts=1";
const RECORD: &str = "allow_unsafe_interrupts";

impl Module for UnsafeInterrupts {
    const NAME: &'static str = "allow_unsafe_interrupts";
    const SUMMARY: &'static str = "Let guests have devices on a machine that can't remap interrupts";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        let kept = steps.kept(RECORD)?.is_some();
        if self.state == State::Absent {
            let ours = steps.file(FILE, None, None)?;
            if kept && steps.module::<KernelCmdline>(json!({"absent": [ARGUMENT]}))? {
                steps.keep(RECORD, None)?;
            }
            if ours || kept {
                poke(&mut steps, "N")?;
            }
            return Ok(steps.finish());
        }
        match iommu::read(host)?.interrupt_remapping {
            Some(true) => {
                return Err(Error::refused(
                    "this machine remaps interrupts: allowing unsafe ones would only make a hole",
                )
                .hint("leave `allow_unsafe_interrupts` out"));
            }
            None => {
                steps.plan().notes.push("whether interrupts are remapped is only known once the IOMMU is on".into())
            }
            Some(false) => {}
        }
        if !self.accept_attacks_by_guests.0 {
            return Err(Error::refused("without remapped interrupts a guest that has a device can attack the host").hint(
                "switch on interrupt remapping (x2APIC) in the BIOS; if guests and their users are to be trusted, say \
                 `accept_attacks_by_guests: true`",
            ));
        }
        steps.file(FILE, Some(TEXT), None)?;
        // What is built into a kernel reads no modprobe.d.
        if kept || built_in(host)? {
            steps.keep(RECORD, Some("kernel\n"))?;
            steps.module::<KernelCmdline>(json!({"present": [ARGUMENT]}))?;
        }
        poke(&mut steps, "Y")?;
        steps.plan().warnings.push(
            "interrupts are not remapped and that is allowed: a guest that you do not trust can attack the host".into(),
        );
        Ok(steps.finish())
    }
}

fn built_in(host: &dyn Host) -> Result<bool> {
    for release in host.list("/lib/modules")? {
        let list = host.read(&format!("/lib/modules/{release}/modules.builtin"))?.unwrap_or_default();
        if String::from_utf8_lossy(&list).lines().any(|line| line.ends_with("/vfio_iommu_type1.ko")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where the module is loaded, it is told at once.
fn poke(steps: &mut Steps, value: &str) -> Result<()> {
    match steps.host().read_line(PARAMETER)? {
        Some(now) if now != value => {
            let effects =
                vec![Effect::File { path: PARAMETER.into(), content: Some(format!("{value}\n")), mode: None }];
            let diff = Diff::changed("kernel_module", "vfio_iommu_type1: allow_unsafe_interrupts", now, value);
            steps.act(Op::Poke { path: PARAMETER.into(), value: value.into(), effects }, vec![diff])
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::modules::boot::samples::{self, os};

    fn host(ecap: &str, more: &[(&str, &str)]) -> Machine {
        let mut files = vec![
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
            ("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/mapper/cl-root ro\n"),
            ("/sys/firmware/acpi/tables/DMAR", "x"),
            ("/sys/class/iommu/dmar0/intel-iommu/ecap", ecap),
            (PARAMETER, "N\n"),
            ("/etc/modprobe.d/", ""),
            ("/var/lib/", ""),
        ];
        files.extend(more);
        machine(&files)
    }

    #[test]
    fn allowed_with_a_warning_and_taken_back() {
        let host = host("f42\n", &[]);
        let parameters = json!({"accept_attacks_by_guests": true});
        let done = shown(&apply(&host, "allow_unsafe_interrupts", parameters.clone()).unwrap());
        assert!(done.ends_with("allow_unsafe_interrupts\nN → Y\n"), "{done}");
        assert_eq!(plan(&host, "allow_unsafe_interrupts", parameters).unwrap().warnings.len(), 1);
        let done = shown(&apply(&host, "allow_unsafe_interrupts", json!({"state": "absent"})).unwrap());
        assert!(done.ends_with("Y → N\n") && !host.exists(FILE).unwrap(), "{done}");
        assert!(apply(&host, "allow_unsafe_interrupts", json!({"state": "absent"})).unwrap().is_empty());
    }

    #[test]
    fn a_kernel_that_has_it_built_in_gets_an_argument() {
        let list = "kernel/drivers/vfio/vfio_iommu_type1.ko\n";
        let host = host("f42\n", &[("/lib/modules/6.8.0/modules.builtin", list)]);
        let parameters = json!({"accept_attacks_by_guests": true});
        let done = shown(&apply(&host, "allow_unsafe_interrupts", parameters).unwrap());
        assert!(done.contains("quiet vfio_iommu_type1.allow_unsafe_interrupts=1\""), "{done}");
        apply(&host, "allow_unsafe_interrupts", json!({"state": "absent"})).unwrap();
        assert_eq!(host.read_text("/etc/default/grub").unwrap().as_deref(), Some(samples::EL7_DEFAULT));
    }

    #[test]
    fn refused_without_a_word_and_where_it_is_not_needed() {
        let error = plan(&host("f42\n", &[]), "allow_unsafe_interrupts", json!({})).unwrap_err().to_string();
        assert!(error.contains("accept_attacks_by_guests: true"), "{error}");
        let accept = json!({"accept_attacks_by_guests": true});
        let error = plan(&host("f00f4a\n", &[]), "allow_unsafe_interrupts", accept).unwrap_err().to_string();
        assert!(error.contains("only make a hole"), "{error}");
    }
}
