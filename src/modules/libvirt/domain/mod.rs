//! `libvirt_domain`: a guest, described in a few lines.

pub mod compare;
pub mod devices;
pub mod normal;
pub mod params;
pub mod render;

pub use params::{LibvirtDomain, State};

use crate::change::{Content, Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Family, Host, Result, Virt, VirtKind};
use crate::modules::Module;
use crate::modules::libvirt::xml::{self, Element};
use crate::modules::libvirt::{descriptors, lint, ovmf, virsh};
use params::Firmware;
use render::{ChosenFirmware, Context, Wanted};

/// Where the last intent of each guest is kept.
const STAMPS: &str = "/var/lib/vfio-provision/domains";

impl Module for LibvirtDomain {
    const NAME: &'static str = "libvirt_domain";
    const SUMMARY: &'static str = "Define, change, start and stop a libvirt guest";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let name = self.name.0.as_str();
        if name.is_empty() || name.starts_with('-') || name.contains(['/', '\n', '\'', '"', '\\', ';']) {
            return Err(Error::parameters(format!("`{name}` can't be the name of a guest")));
        }
        let current = host.virt(VirtKind::Domain, name)?;
        match self.state {
            State::Absent => self.plan_absent(host, name, current),
            _ => self.plan_present(host, name, current),
        }
    }
}

impl LibvirtDomain {
    fn plan_absent(&self, host: &dyn Host, name: &str, current: Option<Virt>) -> Result<Plan> {
        let mut plan = Plan::nothing();
        plan.set("name", name);
        plan.set("state", "absent");
        let Some(current) = current else { return Ok(plan) };
        if current.active {
            return Err(Error::refused(format!("{name} is running: undefining it now would lose it when it stops"))
                .hint("shut it down first (`state: shutdown`)"));
        }
        let nvram = if self.remove_nvram.0 { "--nvram" } else { "--keep-nvram" };
        // So that the removal can be undone by hand or by a rollback.
        let backup = format!("{STAMPS}/{name}.before.xml");
        write_stamp(host, &mut plan, &backup, &current.xml)?;
        let mut run = virsh(&["undefine", name, nvram], vec![virt_effect(name, None)]);
        run.undo = Some(virsh(&["define", &backup], Vec::new()).argv);
        let shown = shown(&current.xml)?;
        plan.push(Op::Run(run), vec![Diff::removed("domain", name, shown)]);
        let stamp = format!("{STAMPS}/{name}.xml");
        if host.exists(&stamp)? {
            plan.push(Op::Remove { path: stamp }, Vec::new());
        }
        Ok(plan)
    }

    fn plan_present(&self, host: &dyn Host, name: &str, current: Option<Virt>) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let exists = current.is_some();
        let mut state = current.unwrap_or_default();
        let was_active = state.active;
        let mut restart_required = false;
        if self.describes() {
            let merged = self.plan_definition(host, name, exists.then_some(&state), &mut plan)?;
            restart_required = was_active && !plan.actions.is_empty() && merged.1;
            state.xml = merged.0;
        } else if self.describes_in_part() {
            return Err(Error::parameters(
                "memory is missing: a guest is described as a whole, or only by name and state",
            ));
        } else if !exists {
            return Err(Error::parameters(format!(
                "there is no guest {name} on this machine, and nothing describes one"
            ))
            .hint("give at least `memory`"));
        }
        if let Some(autostart) = self.autostart
            && autostart.0 != state.autostart
        {
            let before = if state.autostart { "yes" } else { "no" };
            let after = if autostart.0 { "yes" } else { "no" };
            state.autostart = autostart.0;
            let (on, off) = (vec!["autostart", name], vec!["autostart", "--disable", name]);
            let (argv, undo) = if autostart.0 { (on, off) } else { (off, on) };
            let mut run = virsh(&argv, vec![virt_effect(name, Some(&state))]);
            run.undo = Some(virsh(&undo, Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("domain", format!("{name}: autostart"), before, after)]);
        }
        match self.state {
            State::Running if !state.active => {
                state.active = true;
                let run = virsh(&["start", name], vec![virt_effect(name, Some(&state))]);
                plan.push(Op::Run(run), vec![Diff::changed("domain", format!("{name}: state"), "shut off", "running")]);
            }
            State::Shutdown if state.active => {
                state.active = false;
                restart_required = false;
                plan_shutdown(&mut plan, name, &state);
            }
            _ => {}
        }
        if restart_required {
            plan.warnings
                .push(format!("{name} is running: what changed takes effect when it is shut down and started again"));
        }
        let definition = xml::parse(&state.xml).map_err(|why| unreadable(name, &why))?;
        if let Some(uuid) = definition.text_at(&["uuid"]) {
            plan.set("uuid", uuid);
        }
        plan.set("name", name);
        plan.set("state", if state.active { "running" } else { "shut off" });
        plan.set("autostart", state.autostart);
        plan.set("restart_required", restart_required);
        Ok(plan)
    }

    /// Defines or changes the guest; answers its XML afterwards, and whether its definition changes.
    fn plan_definition(
        &self,
        host: &dyn Host,
        name: &str,
        old: Option<&Virt>,
        plan: &mut Plan,
    ) -> Result<(String, bool)> {
        let current = match old {
            Some(old) => Some(xml::parse(&old.xml).map_err(|why| unreadable(name, &why))?),
            None => None,
        };
        let context = self.context(host, current)?;
        let wanted = render::render(self, &context)?;
        let stamp = format!("{STAMPS}/{name}.xml");
        let (xml, changed) = match (&context.current, old) {
            (Some(current), Some(old)) => {
                self.same_uuid(name, current)?;
                let last = host.read_text(&stamp)?.and_then(|text| xml::parse(&text).ok());
                let merged = compare::merge(&wanted, current, last.as_ref());
                for device in &merged.left_alone {
                    plan.notes.push(format!("{name}: {device} is not described here and stays as it is"));
                }
                if !merged.changes.is_empty() {
                    plan_change(host, plan, name, old, &merged)?;
                }
                (merged.xml, !merged.changes.is_empty())
            }
            _ => {
                plan_new(plan, name, &wanted);
                (wanted.xml.clone(), true)
            }
        };
        let autostart = self.autostart.map_or(old.is_some_and(|old| old.autostart), |flag| flag.0);
        let wish = lint::Wish { autostart, silence: &self.silence, os: None, current: context.current.as_ref() };
        plan.warnings.extend(lint::plan(host, name, &xml, &wish)?);
        let intent = wanted.intent.print();
        if host.read_text(&stamp)?.as_deref() != Some(intent.as_str()) {
            write_stamp(host, plan, &stamp, &intent)?;
        }
        Ok((if changed { xml.print() } else { old.map(|old| old.xml.clone()).unwrap_or_default() }, changed))
    }

    fn context(&self, host: &dyn Host, current: Option<Element>) -> Result<Context> {
        let mut gpu_functions = Vec::new();
        for gpu in self.gpus.iter().flat_map(|list| list.iter()) {
            if let Some(address) = gpu.address {
                gpu_functions.extend(lint::about::functions_of(host, &address.0)?);
            }
        }
        let has_uefi = current.as_ref().and_then(|c| c.get("os")).is_some_and(render::has_uefi);
        let firmware = match self.firmware {
            Some(firmware @ (Firmware::Ovmf | Firmware::OvmfSecureboot)) if !has_uefi => {
                let secure = firmware == Firmware::OvmfSecureboot;
                let machine = self.machine.clone().or_else(|| {
                    current.as_ref().and_then(|c| c.at(&["os", "type"])?.attribute("machine").map(str::to_string))
                });
                let wish = descriptors::Wish {
                    machine: machine.unwrap_or_else(|| "q35".to_string()),
                    secure_boot: secure,
                    enrolled_keys: secure.then_some(true),
                };
                let firmware = ovmf::find(host, &wish)?;
                Some(ChosenFirmware {
                    loader: firmware.loader,
                    nvram_template: Some(firmware.nvram_template),
                    format: firmware.format,
                })
            }
            _ => None,
        };
        let emulator = match (&current, self.arch.as_deref().unwrap_or("x86_64")) {
            (None, "x86_64") => default_emulator(host)?,
            _ => None,
        };
        Ok(Context { current, emulator, firmware, gpu_functions })
    }

    fn same_uuid(&self, name: &str, current: &Element) -> Result<()> {
        match (&self.uuid, current.text_at(&["uuid"])) {
            (Some(stated), Some(has)) if !normal::same_text("uuid", stated, &has) => Err(Error::refused(format!(
                "{name} has the UUID {has}, and a guest's UUID can't be changed to {stated}"
            ))
            .hint("leave `uuid` out, or undefine the guest first")),
            _ => Ok(()),
        }
    }
}

fn unreadable(name: &str, why: &str) -> Error {
    Error::failed(format!("can't read the XML that libvirt has of {name}: {why}"))
}

fn shown(xml: &str) -> Result<String> {
    let element = xml::parse(xml).map_err(|why| Error::failed(format!("can't read libvirt's XML: {why}")))?;
    Ok(compare::masked(&element).print())
}

fn virt_effect(name: &str, state: Option<&Virt>) -> Effect {
    Effect::Virt { kind: VirtKind::Domain, name: name.to_string(), state: state.cloned() }
}

/// The XML goes in by standard input: it may hold passwords, and needs no file of its own.
fn define(name: &str, xml: &Element, old: Option<&Virt>) -> Run {
    let state = Virt { xml: xml.print(), ..old.cloned().unwrap_or_default() };
    let mut run = virsh(&["define", "--validate", "/dev/stdin"], vec![virt_effect(name, Some(&state))]);
    run.stdin = Some(xml.print());
    run
}

fn plan_new(plan: &mut Plan, name: &str, wanted: &Wanted) {
    let mut run = define(name, &wanted.xml, None);
    run.undo = Some(virsh(&["undefine", name, "--keep-nvram"], Vec::new()).argv);
    plan.push(Op::Run(run), vec![Diff::added("domain", name, compare::masked(&wanted.xml).print())]);
}

fn plan_change(host: &dyn Host, plan: &mut Plan, name: &str, old: &Virt, merged: &compare::Merged) -> Result<()> {
    let before = format!("{STAMPS}/{name}.before.xml");
    write_stamp(host, plan, &before, &old.xml)?;
    let mut run = define(name, &merged.xml, Some(old));
    run.undo = Some(virsh(&["define", &before], Vec::new()).argv);
    let diffs = merged.changes.iter().map(|change| Diff {
        kind: "domain".to_string(),
        path: format!("{name}: {}", change.path),
        before: change.before.clone(),
        after: change.after.clone(),
    });
    plan.push(Op::Run(run), diffs.collect());
    Ok(())
}

/// The guest is asked to shut down, and given its time. `virsh event` waits without a shell; the second one is for the
/// event "Stopped" that comes after "Shutdown". Whether it worked is read from its state afterwards.
fn plan_shutdown(plan: &mut Plan, name: &str, state: &Virt) {
    let diff = Diff::changed("domain", format!("{name}: state"), "running", "shut off");
    plan.push(Op::Run(virsh(&["shutdown", name], Vec::new())), vec![diff]);
    for (seconds, effects) in [("180", Vec::new()), ("10", vec![virt_effect(name, Some(state))])] {
        let argv = ["event", "--domain", name, "--event", "lifecycle", "--timeout", seconds];
        let mut wait = virsh(&argv, effects);
        wait.any_code = true;
        plan.push(Op::Run(wait), Vec::new());
    }
}

/// A file of our own below [`STAMPS`], readable by root alone.
fn write_stamp(host: &dyn Host, plan: &mut Plan, path: &str, content: &str) -> Result<()> {
    let planned = |plan: &Plan, folder: &str| {
        plan.actions.iter().any(|action| matches!(&action.op, Op::MakeFolder { path, .. } if path == folder))
    };
    for (folder, mode) in
        [("/var", None), ("/var/lib", None), ("/var/lib/vfio-provision", Some(0o700)), (STAMPS, Some(0o700))]
    {
        if !host.exists(folder)? && !planned(plan, folder) {
            plan.push(Op::MakeFolder { path: folder.to_string(), mode, owner: None, group: None }, Vec::new());
        }
    }
    let content = Content::Bytes(content.as_bytes().to_vec());
    let path = path.to_string();
    plan.push(
        Op::WriteFile { path, content, mode: Some(0o600), owner: None, group: None, validate: Vec::new() },
        Vec::new(),
    );
    Ok(())
}

/// QEMU's path: the one that is there, or the one that the distribution's package brings.
fn default_emulator(host: &dyn Host) -> Result<Option<String>> {
    let Ok(os) = host.os() else { return Ok(None) };
    let paths: &[&str] = match os.family {
        Family::El => &["/usr/libexec/qemu-kvm"],
        Family::Fedora => &["/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-kvm"],
        Family::Debian | Family::Ubuntu | Family::Arch => &["/usr/bin/qemu-system-x86_64"],
        Family::Suse => &["/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-kvm"],
    };
    for path in paths {
        if host.exists(path)? {
            return Ok(Some((*path).to_string()));
        }
    }
    Ok(paths.first().map(|path| (*path).to_string()))
}

#[cfg(test)]
mod tests;
