//! What a reboot makes of a written-down machine: what its boot configuration says becomes what runs.
//!
//! This is the one place where `host` asks `modules`: how a machine boots is known there, and a prediction of its own would
//! sooner or later be another one.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::model::{self, Model};
use super::{Error, FileKind, Result, Unit, VirtKind};
use crate::change::{Effect, Op, Run};
use crate::facts::{iommu, pci};
use crate::modules::boot::loader::{self, Kind};
use crate::modules::boot::{cmdline, grubenv, trial};
use crate::modules::{network, system, vfio};

/// Command line, running kernel, devices, units and guests become what the boot configuration says.
///
/// # Errors
/// When what decides can't be known before earlier actions have really been done.
pub fn predict(model: &dyn Model) -> Result<()> {
    kernel(model)?;
    groups(model)?;
    vfio::predict_boot(model)?;
    network::predict_boot(model)?;
    modules(model)?;
    system::hugepages::predict_boot(model)?;
    boot_id(model)?;
    units(model)?;
    guests(model)
}

fn apply(model: &dyn Model, effects: Vec<Effect>) -> Result<()> {
    model::predict(model, &Op::Run(Run::new(["reboot"], effects)))
}

fn file(path: &str, content: String) -> Effect {
    Effect::File { path: path.into(), content: Some(content), mode: None }
}

/// The command line and the release of the entry that boots next. A machine without a boot menu boots as it did before.
fn kernel(model: &dyn Model) -> Result<()> {
    let boot = match loader::read(model) {
        Err(error) if error.is_unknown() => return Err(Error::unknown("what the machine boots", error.message)),
        Err(_) => return Ok(()),
        Ok(boot) => boot,
    };
    // A trial that is not confirmed goes before whatever the menu says.
    let (next, mut effects) = match trial::next(model, &boot)? {
        Some(next) => (Some((next.kernel, next.release, next.args)), next.effects),
        None => (boot.next().map(|next| (next.kernel.clone(), next.version.clone(), next.args.clone())), Vec::new()),
    };
    if let Some((kernel, release, args)) = next {
        let running = model.read_text("/proc/cmdline")?.unwrap_or_default();
        let line = if boot.kind == Kind::SystemdBoot {
            args
        } else {
            // GRUB puts the kernel's path in front, newer ones with the device.
            let old = cmdline::last_value(&running, "BOOT_IMAGE").unwrap_or_default();
            let device = old.split_once(')').map(|(device, _)| format!("{device})")).unwrap_or_default();
            let device = if kernel.starts_with('(') { String::new() } else { device };
            format!("BOOT_IMAGE={device}{kernel} {}", cmdline::words(&args).join(" "))
        };
        effects.push(file("/proc/cmdline", format!("{}\n", line.trim_end())));
        if let Some(release) = &release {
            effects.push(file("/proc/sys/kernel/osrelease", format!("{release}\n")));
        }
    }
    // What boots once has booted.
    if boot.cfg.next && grubenv::get(&boot.env, "next_entry").is_some_and(|once| !once.is_empty()) {
        effects.push(file(&boot.env_path, boot.env_with("next_entry", "")?));
    }
    apply(model, effects)
}

/// IOMMU groups appear when the firmware offers an IOMMU and the command line switches it on; those that are there stay.
fn groups(model: &dyn Model) -> Result<()> {
    let state = iommu::read(model)?;
    let line = model.read_line("/proc/cmdline")?.unwrap_or_default();
    let value = |name: &str| cmdline::last_value(&line, name).unwrap_or_default();
    let has = |name: &str, word: &str| value(name).split(',').any(|part| part == word);
    let on = match state.table {
        Some(iommu::Table::Dmar) => has("intel_iommu", "on"),
        // AMD's is on unless it is switched off.
        Some(iommu::Table::Ivrs) => !has("amd_iommu", "off"),
        None => false,
    };
    if state.is_on() || !on || has("iommu", "off") {
        return Ok(());
    }
    let devices = pci::devices(model)?;
    let mut effects = Vec::new();
    // A recorded machine knows its board. Otherwise the functions of one card share a group, and which other devices do
    // is not known.
    let recorded = model.groups_with_iommu();
    let mut cards: Vec<&pci::Device> = Vec::new();
    for device in &devices {
        let number = match recorded.get(&device.address.to_string()) {
            Some(number) => *number as usize,
            None if !recorded.is_empty() => continue,
            None => match cards.iter().position(|card| card.address.same_card(&device.address)) {
                Some(number) => number,
                None => {
                    cards.push(device);
                    cards.len() - 1
                }
            },
        };
        let group = format!("{}/{number}", iommu::GROUPS);
        let folder = device.address.folder();
        effects.push(Effect::Folder { path: format!("{group}/devices") });
        let member = format!("{group}/devices/{}", device.address);
        effects.push(Effect::Link { path: member, target: model.real_path(&folder)? });
        effects.push(Effect::Link { path: format!("{folder}/iommu_group"), target: group });
    }
    apply(model, effects)
}

/// Modules that are loaded at boot are loaded: those of modules-load.d(5), and vfio-pci where a device has it.
fn modules(model: &dyn Model) -> Result<()> {
    let mut names = BTreeSet::new();
    for folder in ["/usr/lib/modules-load.d", "/etc/modules-load.d"] {
        for name in model.list(folder)?.iter().filter(|name| name.ends_with(".conf")) {
            let text = model.read_text(&format!("{folder}/{name}"))?.unwrap_or_default();
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
            names.extend(lines.map(str::to_string));
        }
    }
    if pci::devices(model)?.iter().any(|device| device.driver.as_deref() == Some("vfio-pci")) {
        names.extend(["vfio", "vfio_iommu_type1", "vfio_pci"].map(String::from));
    }
    let mut effects = Vec::new();
    for name in names {
        let path = format!("/sys/module/{}", name.replace('-', "_"));
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') && !model.exists(&path)? {
            effects.push(Effect::Folder { path });
        }
    }
    apply(model, effects)
}

/// Every boot has an id of its own; the next one follows from this one, so that a dry run always says the same.
fn boot_id(model: &dyn Model) -> Result<()> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let old = model.read_line(PATH)?.unwrap_or_default();
    let hash = format!("{:x}", Sha256::digest(old.as_bytes()));
    let part = |from: usize, to: usize| hash.get(from..to).unwrap_or_default();
    let new = format!("{}-{}-4{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32));
    apply(model, vec![file(PATH, format!("{new}\n"))])
}

/// Enabled units run and disabled ones do not; the others are started by those that need them, and stay as they were.
fn units(model: &dyn Model) -> Result<()> {
    let mut names = BTreeSet::new();
    let is_unit = |name: &str| {
        [".service", ".socket", ".timer", ".path"].iter().any(|ending| name.ends_with(ending)) && !name.contains("@.")
    };
    for folder in ["/usr/lib/systemd/system", "/lib/systemd/system"] {
        names.extend(model.list(folder)?.into_iter().filter(|name| is_unit(name)));
    }
    for name in model.list("/etc/systemd/system")? {
        let path = format!("/etc/systemd/system/{name}");
        if model.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::Folder) {
            names.extend(model.list(&path)?.into_iter().filter(|name| is_unit(name)));
        } else if is_unit(&name) {
            names.insert(name);
        }
    }
    names.extend(USUAL.iter().map(|name| name.to_string()));
    // All at once: one by one they cost a command each, and a machine has hundreds.
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (name, unit) in names.iter().zip(model.units(&names)?) {
        let active = match unit.enabled.as_str() {
            "enabled" => true,
            "disabled" | "masked" => false,
            _ => continue,
        };
        if unit.exists && unit.active != active {
            model.put_unit(name, Unit { active, ..unit })?;
        }
    }
    Ok(())
}

/// Units that a workstation has even where nobody wrote their files down.
const USUAL: &[&str] = &[
    "NetworkManager.service",
    "libvirtd.service",
    "libvirtd.socket",
    "sshd.service",
    "virtlogd.service",
    "virtlogd.socket",
    "virtnetworkd.socket",
    "virtnodedevd.socket",
    "virtproxyd.socket",
    "virtqemud.service",
    "virtqemud.socket",
    "virtstoraged.socket",
];

/// Guests, networks and pools that start with the host run, the others do not.
fn guests(model: &dyn Model) -> Result<()> {
    for kind in [VirtKind::Domain, VirtKind::Network, VirtKind::Pool] {
        for name in model.virt_names(kind)? {
            let other = |state: &crate::host::Virt| {
                state.active != state.autostart || state.live.is_some() || state.domstate.is_some()
            };
            if let Some(mut state) = model.virt(kind, &name)?.filter(other) {
                state.active = state.autostart;
                (state.live, state.domstate) = (None, None);
                model.put_virt(kind, &name, Some(state))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::live::units;
    use crate::host::overlay::testing::{Machine, apply as run, machine, plan};
    use crate::host::{Host, Virt, overlay::Overlay};
    use crate::modules::boot::samples::{self, os};
    use serde_json::json;

    const GPU: &str = "/sys/bus/pci/devices/0000:82:00.0";

    fn el7() -> Machine {
        let env = grubenv::set("", "saved_entry", Some("0")).unwrap();
        let pci = |function: &str, class: &str, device: &str| {
            [("class", class), ("vendor", "0x10de"), ("device", device), ("driver_override", "(null)")].map(
                |(name, text)| (format!("/sys/devices/pci0000:80/0000:82:00.{function}/{name}"), format!("{text}\n")),
            )
        };
        let mut files: Vec<(String, String)> = [
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
            ("/boot/grub2/grubenv", &env),
            ("/proc/cmdline", "BOOT_IMAGE=/vmlinuz-2.6.32 root=/dev/mapper/cl-root ro\n"),
            ("/proc/sys/kernel/osrelease", "2.6.32\n"),
            ("/proc/sys/kernel/random/boot_id", "11111111-2222-4333-8444-555555555555\n"),
            ("/sys/firmware/acpi/tables/DMAR", "x"),
            ("/sys/bus/pci/devices/0000:82:00.0", "-> ../../../devices/pci0000:80/0000:82:00.0"),
            ("/sys/bus/pci/devices/0000:82:00.1", "-> ../../../devices/pci0000:80/0000:82:00.1"),
            ("/sys/devices/pci0000:80/0000:82:00.0/driver", "-> ../../../bus/pci/drivers/nouveau"),
            ("/sys/bus/pci/drivers/nouveau/", ""),
            ("/etc/driverctl.d/pci-0000:82:00.0", "vfio-pci\n"),
            ("/etc/modules-load.d/x.conf", "# no\nkvm-intel\n"),
        ]
        .map(|(path, text)| (path.to_string(), text.to_string()))
        .to_vec();
        files.extend(pci("0", "0x030000", "0x1430"));
        files.extend(pci("1", "0x040300", "0x0fba"));
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        machine(&files)
    }

    fn line(host: &Machine, path: &str) -> String {
        host.read_line(path).unwrap().unwrap_or_else(|| panic!("no {path}"))
    }

    #[test]
    fn what_was_set_up_runs() {
        let host = el7();
        run(&host, "kernel_cmdline", json!({"present": ["intel_iommu=on", "iommu=pt"]})).unwrap();
        predict(&host).unwrap();
        assert_eq!(
            line(&host, "/proc/cmdline"),
            "BOOT_IMAGE=/vmlinuz-3.10.0-514.el7.x86_64 root=/dev/mapper/cl-root ro crashkernel=auto rd.lvm.lv=cl/root \
             rd.lvm.lv=cl/swap rhgb quiet LANG=en_US.UTF-8 intel_iommu=on iommu=pt"
        );
        assert_eq!(line(&host, "/proc/sys/kernel/osrelease"), "3.10.0-514.el7.x86_64");
        let after = plan(&host, "kernel_cmdline", json!({"present": ["intel_iommu=on", "iommu=pt"]})).unwrap();
        assert!(after.reboot.is_empty(), "{:?}", after.reboot);
        let devices = pci::devices(&host).unwrap();
        assert_eq!(devices[0].iommu_group, devices[1].iommu_group);
        assert_eq!(devices[0].driver.as_deref(), Some("vfio-pci"));
        assert_eq!(iommu::read(&host).unwrap().groups.len(), 1);
        assert!(host.exists("/dev/vfio/0").unwrap());
        assert!(host.exists("/sys/module/vfio_pci").unwrap() && host.exists("/sys/module/kvm_intel").unwrap());
    }

    #[test]
    fn without_the_argument_there_are_no_groups_and_vfio_takes_nothing() {
        let host = el7();
        predict(&host).unwrap();
        assert!(!host.exists(iommu::GROUPS).unwrap());
        assert_ne!(host.read_link(&format!("{GPU}/driver")).unwrap().as_deref(), Some("/sys/bus/pci/drivers/vfio-pci"));
    }

    #[test]
    fn each_boot_has_its_own_id_and_always_the_same() {
        let (a, b) = (el7(), el7());
        let mut seen = BTreeSet::from([line(&a, "/proc/sys/kernel/random/boot_id")]);
        for _ in 0..3 {
            predict(&a).unwrap();
            predict(&b).unwrap();
            let id = line(&a, "/proc/sys/kernel/random/boot_id");
            assert_eq!(id.len(), 36);
            assert_eq!(id, line(&b, "/proc/sys/kernel/random/boot_id"));
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn what_is_set_to_boot_once_boots_once() {
        let host = el7();
        let env = grubenv::set("", "next_entry", Some("1")).unwrap();
        apply(&host, vec![file("/boot/grub2/grubenv", env)]).unwrap();
        predict(&host).unwrap();
        assert!(line(&host, "/proc/cmdline").starts_with("BOOT_IMAGE=/vmlinuz-0-rescue"));
        predict(&host).unwrap();
        assert!(line(&host, "/proc/cmdline").starts_with("BOOT_IMAGE=/vmlinuz-3.10.0"));
    }

    #[test]
    fn units_and_guests_start_as_they_are_set_up() {
        let host = Overlay::new(el7());
        let unit = |enabled: &str, active| Unit { exists: true, enabled: enabled.into(), active };
        host.put_unit("libvirtd.service", unit("enabled", false)).unwrap();
        host.put_unit("sshd.service", unit("disabled", true)).unwrap();
        host.put_unit("virtlogd.socket", unit("static", true)).unwrap();
        for (name, autostart) in [("win7", false), ("win8", true)] {
            let state = Virt { xml: "<domain/>".into(), active: !autostart, autostart, ..Virt::default() };
            host.put_virt(VirtKind::Domain, name, Some(state)).unwrap();
        }
        predict(&host).unwrap();
        assert!(host.unit("libvirtd.service").unwrap().active && !host.unit("sshd.service").unwrap().active);
        assert!(host.unit("virtlogd.socket").unwrap().active);
        let active = |name: &str| host.virt(VirtKind::Domain, name).unwrap().unwrap().active;
        assert!(active("win8") && !active("win7"));
    }

    /// A machine with a running systemd that counts how often it is asked.
    struct Managed {
        files: Machine,
        asked: std::cell::Cell<usize>,
        /// What its `systemctl` takes for no name of a unit.
        dislikes: &'static str,
    }

    impl Host for Managed {
        fn raw_lstat(&self, path: &str) -> Result<Option<crate::host::Stat>> {
            self.files.raw_lstat(path)
        }
        fn raw_read_link(&self, path: &str) -> Result<String> {
            self.files.raw_read_link(path)
        }
        fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
            self.files.raw_read(path)
        }
        fn raw_list(&self, path: &str) -> Result<Vec<String>> {
            self.files.raw_list(path)
        }
        fn raw_sha256(&self, path: &str) -> Result<String> {
            self.files.raw_sha256(path)
        }
        fn package(&self, name: &str) -> Result<Option<crate::host::Package>> {
            self.files.package(name)
        }
        fn available(&self, name: &str) -> Result<Option<crate::host::Available>> {
            self.files.available(name)
        }
        fn unit(&self, name: &str) -> Result<Unit> {
            units::unit(self, name)
        }
        fn units(&self, names: &[&str]) -> Result<Vec<Unit>> {
            units::units(self, &names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
        }
        fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<Virt>> {
            self.files.virt(kind, name)
        }
        fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>> {
            self.files.virt_names(kind)
        }
        fn query(&self, argv: &[&str]) -> Result<Option<crate::host::Output>> {
            assert_eq!(argv.first(), Some(&"systemctl"), "{argv:?}");
            self.asked.set(self.asked.get() + 1);
            let names: Vec<&str> = argv.iter().copied().skip_while(|word| *word != "--").skip(1).collect();
            let code = i32::from(!self.dislikes.is_empty() && names.contains(&self.dislikes));
            let block = |name: &&str| match *name {
                "u7.service" => "LoadState=loaded\nActiveState=inactive\nUnitFileState=enabled\n",
                "u8.service" => "LoadState=loaded\nActiveState=active\nUnitFileState=disabled\n",
                "sshd.service" => "LoadState=not-found\nActiveState=inactive\n",
                _ => "LoadState=loaded\nActiveState=active\nUnitFileState=static\n",
            };
            let stdout = names.iter().map(block).collect::<Vec<_>>().join("\n");
            Ok(Some(crate::host::Output { code, stdout, stderr: String::new() }))
        }
    }

    fn managed(dislikes: &'static str) -> Overlay<Managed> {
        let files: Vec<(String, &str)> =
            (0..300).map(|n| (format!("/usr/lib/systemd/system/u{n}.service"), "[Unit]\n")).collect();
        let mut files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        files.push(("/run/systemd/system/", ""));
        Overlay::new(Managed { files: machine(&files), asked: Default::default(), dislikes })
    }

    #[test]
    fn hundreds_of_units_cost_few_commands() {
        for (dislikes, most) in [("", 4), ("u9.service", 105)] {
            let host = managed(dislikes);
            units(&host).unwrap();
            let asked = host.below().asked.get();
            assert!(asked <= most, "{asked} commands");
            assert!(host.unit("u7.service").unwrap().active, "an enabled one runs");
            assert!(!host.unit("u8.service").unwrap().active, "a disabled one does not");
            assert!(host.unit("u299.service").unwrap().active, "a static one stays");
            assert!(!host.unit("sshd.service").unwrap().exists);
        }
    }

    #[test]
    fn what_was_foreseen_of_a_unit_goes_before_what_its_machine_says() {
        let host = managed("");
        host.put_unit("u8.service", Unit { exists: true, enabled: "enabled".into(), active: false }).unwrap();
        let names = ["u7.service", "u8.service", "u9.service", "u8"];
        let one_by_one: Vec<Unit> = names.iter().map(|name| host.unit(name).unwrap()).collect();
        assert_eq!(host.units(&names).unwrap(), one_by_one);
        assert_eq!(one_by_one[1].enabled, "enabled");
        units(&host).unwrap();
        assert!(host.unit("u8.service").unwrap().active);
    }

    #[test]
    fn a_machine_without_a_boot_menu_boots_as_before() {
        let host = machine(&[("/proc/cmdline", "root=/dev/sda1\n")]);
        predict(&host).unwrap();
        assert_eq!(line(&host, "/proc/cmdline"), "root=/dev/sda1");
    }
}
