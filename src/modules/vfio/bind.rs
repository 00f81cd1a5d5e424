//! `vfio_bind`: devices that belong to guests.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::check::{self, Allowed, Scene};
use super::persist::{self, Method, Wish};
use super::select::{self, Target};
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::facts::iommu;
use crate::facts::pci::{self, Device, PciAddress};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::network::link;
use crate::modules::network::place::place;
use crate::modules::params::{Flag, List, yes};

/// Gives PCI devices to vfio-pci, so that guests can have them: from the next boot on, and at once where that is
/// safe.
///
/// The list is the whole truth of a machine: one task names all of its devices, and what an earlier list named and
/// this one does not goes back to the host. The other functions of a card join by themselves, and the IOMMU group of
/// every device is checked. A device is refused when the machine needs it (its disks, its network, its display), when
/// its group holds others, and when the machine has no IOMMU. Rebuild the initramfs afterwards (`initramfs`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VfioBind {
    /// The devices: addresses ("0000:82:00.0"), ids ("10de:1430") or mappings such as
    /// `{vendor: nvidia, class: display, not_boot_display: true}`. Quote addresses and ids.
    #[serde(default)]
    devices: List<Target>,
    /// `present` binds them; `absent` takes back every file this module wrote, byte for byte, whatever it was for.
    #[serde(default)]
    state: State,
    /// `all`: the other functions of each card join (the audio of a display). `listed`: only what the list says.
    #[serde(default)]
    functions: Functions,
    /// How devices are bound at boot. `udev`: by address, a rule that also goes into the initramfs. `driverctl`: by
    /// address, its own files. `ids`: by vendor and device id, only where no other device has the same. `auto`:
    /// driverctl on Enterprise Linux and Fedora where it is installed, `ids` on kernels without driver_override, else
    /// `udev`.
    #[serde(default)]
    method: WantedMethod,
    /// `auto` binds at once what no one uses: devices without a driver, and network cards that are down, where the
    /// whole IOMMU group can go. Displays, sound, disks and USB wait for the next boot. `never` leaves all to the
    /// next boot.
    #[serde(default)]
    now: Now,
    /// Also give away the display that the machine starts with. Its console goes dark.
    #[serde(default)]
    allow_boot_gpu: Flag,
    /// Also work without interrupt remapping; writes `allow_unsafe_interrupts=1`. A guest can then attack the host.
    #[serde(default)]
    allow_unsafe_interrupts: Flag,
    /// Keep vfio-pci's displays out of VGA arbitration (`disable_vga=1`): for guests with UEFI firmware only.
    #[serde(default)]
    disable_vga: Flag,
    /// Load the modules of vfio at every boot (`/etc/modules-load.d/vfio.conf`).
    #[serde(default = "yes")]
    load_modules: Flag,
    /// Only look whether the devices can be given away, and fail where they can't; nothing is changed. For the start of a
    /// play, before other tasks have changed the kernel or its command line.
    #[serde(default)]
    check_only: Flag,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Present,
    Absent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Functions {
    #[default]
    All,
    Listed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum WantedMethod {
    #[default]
    Auto,
    Driverctl,
    Udev,
    Ids,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Now {
    #[default]
    Auto,
    Never,
}

/// The driver that guests' devices have.
pub const VFIO: &str = "vfio-pci";

impl Module for VfioBind {
    const NAME: &'static str = "vfio_bind";
    const SUMMARY: &'static str = "Give PCI devices to vfio-pci, for guests";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        match self.state {
            // What it would say besides a refusal is said by the task that does it.
            State::Present if self.check_only.0 => self.present(host).map(|_| Plan::nothing()),
            State::Present => self.present(host),
            State::Absent => self.absent(host),
        }
    }
}

fn holder(device: &Device) -> &str {
    device.driver.as_deref().unwrap_or("no driver")
}

impl VfioBind {
    fn present(&self, host: &dyn Host) -> Result<Plan> {
        if self.devices.is_empty() {
            return Err(Error::parameters("`devices` names no device")
                .hint("list at least one address, id or selector, or say `state: absent`"));
        }
        let all = pci::devices(host)?;
        let selection = select::select(&self.devices, &all, self.functions == Functions::All)?;
        let iommu = iommu::read(host)?;
        let allowed = Allowed { boot_gpu: self.allow_boot_gpu.0, unsafe_interrupts: self.allow_unsafe_interrupts.0 };
        let scene = Scene { host, all: &all, iommu: &iommu, selection: &selection, allowed };
        let findings = check::check(&scene)?;

        let (targets, others): (Vec<&Device>, Vec<&Device>) =
            all.iter().partition(|device| selection.targets.contains(&device.address));
        let method = self.method(host, &targets, &others)?;
        let wish = Wish {
            targets: targets.clone(),
            others,
            method,
            tool: persist::tool(host)?,
            unsafe_interrupts: self.allow_unsafe_interrupts.0,
            disable_vga: self.disable_vga.0,
        };

        let mut plan = Plan::nothing();
        plan.warnings = findings.warnings;
        plan.reboot = findings.reboot;
        let at_once = if iommu.is_on() { self.bindable_now(host, &scene)? } else { BTreeSet::new() };
        write_files(&mut plan, host, &wish, self.load_modules.0, &at_once)?;
        if wish.tool.is_none() {
            plan.warnings.push(
                "no tool that makes an initramfs was found (dracut, initramfs-tools, mkinitcpio): a driver inside the \
                 initramfs may take the devices first"
                    .into(),
            );
        }
        foreign_ids(&mut plan, host, &scene)?;
        early_rivals(&mut plan, host, &wish)?;
        bind_now(&mut plan, host, &targets, &at_once)?;
        self.tell(&mut plan, &targets, &at_once, method);
        Ok(plan)
    }

    fn method(&self, host: &dyn Host, targets: &[&Device], others: &[&Device]) -> Result<Method> {
        let legacy = targets.iter().find(|device| !device.can_override);
        let method = match self.method {
            WantedMethod::Driverctl => {
                if !persist::has_driverctl(host)? {
                    return Err(Error::refused("`method: driverctl` needs driverctl, which is not installed")
                        .hint("install the package driverctl first, or use `method: udev`"));
                }
                Method::Driverctl
            }
            WantedMethod::Udev => Method::Udev,
            WantedMethod::Ids => Method::Ids,
            WantedMethod::Auto if legacy.is_some() => Method::Ids,
            WantedMethod::Auto => {
                let family = host.os()?.family;
                let usual = matches!(family, crate::host::Family::El | crate::host::Family::Fedora);
                if usual && persist::has_driverctl(host)? { Method::Driverctl } else { Method::Udev }
            }
        };
        match (method, legacy) {
            (Method::Ids, legacy) => {
                persist::check_ids(host, targets, others).map_err(|error| match legacy {
                    Some(device) if self.method == WantedMethod::Auto => Error::refused(format!(
                        "the running kernel has no driver_override for {}, and by id it can't be bound: {}",
                        device.address, error.message
                    ))
                    .hint("boot a newer kernel first (3.16, or Enterprise Linux 7.1 and later)"),
                    _ => error,
                })?;
            }
            (_, Some(device)) => {
                return Err(Error::refused(format!(
                    "the running kernel has no driver_override for {}: it is too old to bind by address",
                    device.address
                ))
                .hint("boot a newer kernel first (3.16, or Enterprise Linux 7.1 and later), or use `method: ids`"));
            }
            _ => {}
        }
        Ok(method)
    }

    /// The devices that can go to vfio-pci right now: unused ones, where all of their group can.
    fn bindable_now(&self, host: &dyn Host, scene: &Scene) -> Result<BTreeSet<PciAddress>> {
        if self.now == Now::Never {
            return Ok(BTreeSet::new());
        }
        let mut by_group: BTreeMap<Option<u32>, Vec<(&Device, bool)>> = BTreeMap::new();
        for device in scene.all.iter().filter(|device| scene.selection.targets.contains(&device.address)) {
            let idle = device.driver.as_deref() == Some(VFIO) || device.can_override && is_idle(host, device)?;
            by_group.entry(device.iommu_group).or_default().push((device, idle));
        }
        Ok(by_group
            .into_values()
            .filter(|members| members.iter().all(|(_, idle)| *idle))
            .flatten()
            .filter(|(device, _)| device.driver.as_deref() != Some(VFIO))
            .map(|(device, _)| device.address)
            .collect())
    }

    fn tell(&self, plan: &mut Plan, targets: &[&Device], at_once: &BTreeSet<PciAddress>, method: Method) {
        let bound = |device: &Device| device.driver.as_deref() == Some(VFIO) || at_once.contains(&device.address);
        let pending: Vec<&&Device> = targets.iter().filter(|device| !bound(device)).collect();
        if !pending.is_empty() {
            let list: Vec<String> =
                pending.iter().map(|device| format!("{} (now {})", device.address, holder(device))).collect();
            plan.reboot.push(format!("vfio-pci takes {} at the next boot", list.join(", ")));
        }
        let stolen: Vec<String> = pending
            .iter()
            .filter(|device| device.driver_override.as_deref() == Some(VFIO) && device.driver.is_some())
            .map(|device| format!("{} has {}", holder(device), device.address))
            .collect();
        if !stolen.is_empty() {
            plan.warnings.push(format!(
                "{} although it is reserved for vfio-pci: that driver was there first, so rebuild the initramfs",
                stolen.join(", ")
            ));
        }
        let functions: Vec<_> = targets
            .iter()
            .map(|device| {
                json!({
                    "address": device.address,
                    "id": device.id,
                    "class": format!("0x{:06x}", device.class),
                    "group": device.iommu_group,
                    "driver": device.driver,
                    "bound": bound(device),
                })
            })
            .collect();
        plan.set("devices", functions);
        plan.set("bound", pending.is_empty());
        plan.set("method", method.name());
    }

    fn absent(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let all = pci::devices(host)?;
        let mut ours = persist::devices_on_file(host)?;
        for wanted in persist::files(host, None)? {
            place(&mut plan, host, &wanted.path, wanted.content.as_deref(), None)?;
        }
        // Devices that are gone or no longer fit are no trouble when all is taken back.
        for target in self.devices.iter() {
            if let Ok(selection) = select::select(std::slice::from_ref(target), &all, self.functions == Functions::All)
            {
                ours.extend(selection.targets);
            }
        }
        let held: Vec<String> = all
            .iter()
            .filter(|device| device.driver.as_deref() == Some(VFIO))
            .filter(|device| ours.contains(&device.address) || device.driver_override.as_deref() == Some(VFIO))
            .map(|device| device.address.to_string())
            .collect();
        if !held.is_empty() {
            if let Some(action) = plan.actions.first_mut() {
                for address in &held {
                    action.diffs.push(Diff::changed("driver", address, VFIO, "its own driver (at the next boot)"));
                }
            }
            plan.reboot.push(format!("vfio-pci lets go of {} at the next boot", held.join(", ")));
        }
        plan.set("held", held);
        Ok(plan)
    }
}

/// Is this device certainly in nobody's use? Only what files can prove.
fn is_idle(host: &dyn Host, device: &Device) -> Result<bool> {
    if device.driver.is_none() {
        return Ok(true);
    }
    if !device.is_network() || device.interfaces.is_empty() {
        return Ok(false);
    }
    for name in &device.interfaces {
        let folder = format!("{}/{name}", link::NET);
        let flags = host.read_line(&format!("{folder}/flags"))?;
        let up = flags.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        // IFF_UP is bit 0; without the file nothing is proven.
        if up.is_none_or(|flags| flags & 1 != 0) || host.lstat(&format!("{folder}/master"))?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_files(
    plan: &mut Plan,
    host: &dyn Host,
    wish: &Wish,
    load_modules: bool,
    at_once: &BTreeSet<PciAddress>,
) -> Result<()> {
    let known = persist::devices_on_file(host)?;
    let mut changed = false;
    for mut wanted in persist::files(host, Some(wish))? {
        if wanted.path == persist::LOAD && !load_modules {
            wanted.content = crate::modules::network::marks::original(host.read_text(persist::LOAD)?.as_deref());
        }
        let mode = wanted.script.then_some(0o755).filter(|_| wanted.content.is_some());
        let did = place(plan, host, &wanted.path, wanted.content.as_deref(), mode)?;
        changed |= did;
        // What the file means is said beside it, once, when it is new for the device.
        if did
            && wanted.path == persist::MODPROBE
            && let Some(action) = plan.actions.last_mut()
        {
            for device in &wish.targets {
                let bound = device.driver.as_deref() == Some(VFIO) || at_once.contains(&device.address);
                if !bound && !known.contains(&device.address) {
                    let after = format!("{VFIO} (at the next boot)");
                    action.diffs.push(Diff::changed("driver", device.address.to_string(), holder(device), after));
                }
            }
            let targets: BTreeSet<PciAddress> = wish.targets.iter().map(|device| device.address).collect();
            for gone in known.difference(&targets) {
                action.diffs.push(Diff::changed("driver", gone.to_string(), VFIO, "its own driver (at the next boot)"));
            }
        }
    }
    if changed {
        plan.notes.push("the initramfs must be rebuilt so that these files count early in the boot".into());
    }
    Ok(())
}

/// `ids=` that someone else wrote takes devices that nobody asked for.
fn foreign_ids(plan: &mut Plan, host: &dyn Host, scene: &Scene) -> Result<()> {
    let mut said = Vec::new();
    for name in host.list("/etc/modprobe.d")? {
        let path = format!("/etc/modprobe.d/{name}");
        let text = crate::modules::network::marks::original(host.read_text(&path)?.as_deref()).unwrap_or_default();
        for id in super::boot::ids_in_options(&text) {
            let other = scene.all.iter().find(|d| d.id == id && !scene.selection.targets.contains(&d.address));
            if let Some(other) = other {
                said.push(format!("{path} gives {} to vfio-pci too, by its id", other.describe()));
            }
        }
    }
    said.dedup();
    plan.warnings.extend(said);
    Ok(())
}

/// mkinitcpio loads what `MODULES` lists before udev starts, so before any rule can count.
fn early_rivals(plan: &mut Plan, host: &dyn Host, wish: &Wish) -> Result<()> {
    if wish.tool != Some(persist::Tool::Mkinitcpio) {
        return Ok(());
    }
    let text = host.read_text("/etc/mkinitcpio.conf")?.unwrap_or_default();
    let listed = text.lines().filter_map(|line| line.trim().strip_prefix("MODULES=")).next_back().unwrap_or_default();
    let listed: Vec<&str> = listed.split(|c: char| c.is_whitespace() || "()\"'".contains(c)).collect();
    let early: BTreeSet<&str> = wish
        .targets
        .iter()
        .flat_map(|device| persist::rivals(device))
        .copied()
        .filter(|r| listed.contains(r))
        .collect();
    if !early.is_empty() {
        plan.warnings.push(format!(
            "MODULES in /etc/mkinitcpio.conf loads {} before anything else: it may take the devices first, so \
             take it out",
            early.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(())
}

fn bind_now(plan: &mut Plan, host: &dyn Host, targets: &[&Device], at_once: &BTreeSet<PciAddress>) -> Result<()> {
    if at_once.is_empty() {
        return Ok(());
    }
    let driver = format!("/sys/bus/pci/drivers/{VFIO}");
    if !host.exists(&driver)? {
        let run = Run::new(["modprobe", VFIO], vec![Effect::Folder { path: driver.clone() }]);
        plan.push(Op::Run(run), vec![Diff::added("kernel_module", VFIO, "loaded")]);
    }
    for device in targets.iter().filter(|device| at_once.contains(&device.address)) {
        let folder = device.address.folder();
        let address = device.address.to_string();
        if device.driver_override.as_deref() != Some(VFIO) {
            let path = format!("{folder}/driver_override");
            let effects = vec![Effect::File { path: path.clone(), content: Some(format!("{VFIO}\n")), mode: None }];
            let before = device.driver_override.clone().unwrap_or_else(|| "(null)".into());
            let diff = Diff::changed("driver_override", address.as_str(), before, VFIO);
            plan.push(Op::Poke { path, value: VFIO.into(), effects }, vec![diff]);
        }
        if let Some(old) = &device.driver {
            let path = format!("{folder}/driver/unbind");
            let mut effects = vec![Effect::Gone { path: format!("{folder}/driver") }];
            for name in &device.interfaces {
                effects.push(Effect::Gone { path: format!("{}/{name}", link::NET) });
                effects.push(Effect::Gone { path: format!("{folder}/net/{name}") });
            }
            let diff = Diff::removed("driver", address.as_str(), old.as_str());
            plan.push(Op::Poke { path, value: address.clone(), effects }, vec![diff]);
        }
        let mut effects = vec![Effect::Link { path: format!("{folder}/driver"), target: driver.clone() }];
        if let Some(group) = device.iommu_group {
            effects.push(Effect::File { path: format!("/dev/vfio/{group}"), content: Some(String::new()), mode: None });
        }
        let diff = Diff::added("driver", address.as_str(), VFIO);
        plan.push(Op::Poke { path: "/sys/bus/pci/drivers_probe".into(), value: address, effects }, vec![diff]);
    }
    Ok(())
}
