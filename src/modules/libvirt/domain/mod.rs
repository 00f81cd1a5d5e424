//! `libvirt_domain`: a guest, described in a few lines.

pub mod compare;
pub mod context;
pub mod devices;
pub mod identity;
pub mod intent;
pub mod live;
mod machine;
pub mod normal;
pub mod params;
pub mod pinning;
pub mod presets;
pub mod render;
mod states;
pub mod words;

pub use params::{LibvirtDomain, State};

use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Result, Virt, VirtKind};
use crate::modules::Module;
use crate::modules::libvirt::xml::{self, Element};
use crate::modules::libvirt::{lint, virsh};

/// Where earlier versions kept the last intent of each guest.
const STAMPS: &str = "/var/lib/vfio-provision/domains";
/// The CPUs that the machine has, those that are off included.
const CPUS: &str = "/sys/devices/system/cpu/present";

impl Module for LibvirtDomain {
    const NAME: &'static str = "libvirt_domain";
    const SUMMARY: &'static str = "Define, change, start and stop a libvirt guest";
    const INVENTORY_NAME: Option<&'static str> = Some("identity");
    const FILES: &'static [(&'static str, &'static str)] = &[("definition_file", "definition")];
    const TEMPLATES: &'static [(&'static str, &'static str)] = &[("definition_template", "definition")];

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
    fn plan_present(&self, host: &dyn Host, name: &str, current: Option<Virt>) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let exists = current.is_some();
        let mut state = current.unwrap_or_default();
        if self.describes() {
            self.plan_definition(host, name, exists, &mut state, &mut plan)?;
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
        let definition = xml::parse(&state.xml).map_err(|why| unreadable(name, &why))?;
        // What stops now comes up as it is defined.
        let stops = self.state == State::Shutdown;
        let waiting = if state.active && !stops {
            self.plan_live(host, name, &definition, &mut state, &mut plan)?
        } else {
            Vec::new()
        };
        self.plan_autostart(name, &mut state, &mut plan);
        self.plan_state(host, name, &mut state, &mut plan)?;
        if !waiting.is_empty() {
            plan.warnings.push(format!(
                "{name} is running: {} when it is shut down and started again",
                match waiting.as_slice() {
                    [one] => format!("{one} takes effect"),
                    many => format!("{} take effect", many.join(", ")),
                }
            ));
        }
        if let Some(uuid) = definition.text_at(&["uuid"]) {
            plan.set("uuid", uuid);
        }
        plan.set("name", name);
        plan.set("state", if state.active { state.domstate.as_deref().unwrap_or("running") } else { "shut off" });
        plan.set("autostart", state.autostart);
        plan.set("restart_required", !waiting.is_empty());
        plan.set("waiting", waiting);
        Ok(plan)
    }

    /// Defines or changes the guest; `state` becomes what libvirt has of it afterwards.
    fn plan_definition(
        &self,
        host: &dyn Host,
        name: &str,
        exists: bool,
        state: &mut Virt,
        plan: &mut Plan,
    ) -> Result<()> {
        let current = match exists {
            true => Some(xml::parse(&state.xml).map_err(|why| unreadable(name, &why))?),
            false => None,
        };
        let context = self.context(host, current)?;
        let mut wanted = render::render(self, &context)?;
        let kept = intent::kept(&wanted.intent);
        let stamp = format!("{STAMPS}/{name}.xml");
        let autostart = self.autostart.map_or(state.autostart, |flag| flag.0);
        let (os, current) = (self.os.as_deref(), context.current.as_ref());
        let wish = lint::Wish { autostart, silence: &self.silence, os, current };
        let Some(current) = &context.current else {
            let shown = compare::masked(&wanted.xml).print();
            plan.warnings.extend(lint::plan(host, name, &wanted.xml, &wish)?);
            intent::put(&mut wanted.xml, &kept);
            *state = Virt { xml: wanted.xml.print(), ..Virt::default() };
            let mut run = define(name, state);
            run.undo = Some(virsh(&["undefine", name, "--keep-nvram"], Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::added("domain", name, shown)]);
            return forget_stamp(host, plan, &stamp, name);
        };
        self.same_uuid(name, current)?;
        machine::resolve_alias(host, &mut wanted.xml, current)?;
        let last = match intent::last(current) {
            Some(last) => Some(last),
            None => host.read_text(&stamp)?.and_then(|text| xml::parse(&text).ok()),
        };
        let merged = compare::merge(&wanted, current, last.as_ref());
        for what in &merged.left_alone {
            plan.notes.push(format!("{name}: {what} is not described here and stays as it is"));
        }
        plan.warnings.extend(lint::plan(host, name, &intent::without(&merged.xml), &wish)?);
        let remembered = intent::last(current).as_ref() == Some(&kept);
        let mut xml = merged.xml.clone();
        if !remembered {
            intent::put(&mut xml, &kept);
        }
        if !merged.changes.is_empty() {
            let run_with = |state: &Virt| state.live.clone().unwrap_or_else(|| state.xml.clone());
            let running = state.active.then(|| run_with(state));
            *state = Virt { xml: xml.print(), live: running, ..state.clone() };
            let mut run = define(name, state);
            run.undo = Some(virsh(&["define", "/dev/stdin"], Vec::new()).argv);
            plan.push(Op::Run(run), diffs(name, &merged.changes));
            let (before, after) = (intent::without(&compare::masked(current)), intent::without(&compare::masked(&xml)));
            plan.set("xml_diff", Diff::changed("domain", name, before.print(), after.print()).unified());
            if host.exists(&states::managed_save(name))? {
                plan.warnings.push(format!(
                    "{name} has a saved state: it resumes with the hardware that it was saved with, and what changed takes \
                     effect at the start after that (`virsh managedsave-remove {name}` discards it)"
                ));
            }
        } else if !remembered {
            plan_remember(name, state, &xml, &kept, intent::last(current).as_ref(), plan);
        }
        forget_stamp(host, plan, &stamp, name)
    }

    /// What of the definition the running guest does not have yet: done now, where it can and may be; the rest is named.
    fn plan_live(
        &self,
        host: &dyn Host,
        name: &str,
        defined: &Element,
        state: &mut Virt,
        plan: &mut Plan,
    ) -> Result<Vec<String>> {
        let Some(live) = &state.live else { return Ok(Vec::new()) };
        let live = xml::parse(live).map_err(|why| unreadable(name, &why))?;
        let cpus = host.read_line(CPUS)?;
        let pending = live::pending(name, defined, &live, self.live.0, cpus.as_deref());
        let mut waiting: Vec<String> = Vec::new();
        for change in &pending.waiting {
            if !waiting.contains(&change.path) {
                waiting.push(change.path.clone());
            }
        }
        if pending.steps.is_empty() {
            return Ok(waiting);
        }
        // libvirt gives a new device its address (and more) when it is defined: what is plugged in then is that.
        if plan.actions.iter().any(|action| !action.diffs.is_empty()) {
            plan.staged = true;
            return Ok(waiting);
        }
        for step in pending.steps {
            state.live = Some(step.live.print());
            let arguments: Vec<&str> = step.argv.iter().map(String::as_str).collect();
            let mut run = virsh(&arguments, vec![virt_effect(name, Some(state))]);
            run.stdin = step.stdin;
            run.any_code = step.patient;
            plan.push(Op::Run(run), diffs(&format!("{name} (running)"), &step.changes));
        }
        Ok(waiting)
    }

    fn plan_autostart(&self, name: &str, state: &mut Virt, plan: &mut Plan) {
        let Some(autostart) = self.autostart.filter(|autostart| autostart.0 != state.autostart) else { return };
        let words = |flag: bool| if flag { "yes" } else { "no" };
        let (before, after) = (words(state.autostart), words(autostart.0));
        state.autostart = autostart.0;
        let (on, off) = (vec!["autostart", name], vec!["autostart", "--disable", name]);
        let (argv, undo) = if autostart.0 { (on, off) } else { (off, on) };
        let mut run = virsh(&argv, vec![virt_effect(name, Some(state))]);
        run.undo = Some(virsh(&undo, Vec::new()).argv);
        plan.push(Op::Run(run), vec![Diff::changed("domain", format!("{name}: autostart"), before, after)]);
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

fn virt_effect(name: &str, state: Option<&Virt>) -> Effect {
    Effect::Virt { kind: VirtKind::Domain, name: name.to_string(), state: state.cloned() }
}

fn diffs(name: &str, changes: &[compare::Change]) -> Vec<Diff> {
    let diff = |change: &compare::Change| Diff {
        kind: "domain".to_string(),
        path: format!("{name}: {}", change.path),
        before: change.before.clone(),
        after: change.after.clone(),
    };
    changes.iter().map(diff).collect()
}

/// The XML goes in by standard input: it may hold passwords, and needs no file of its own.
fn define(name: &str, state: &Virt) -> Run {
    let mut run = virsh(&["define", "--validate", "/dev/stdin"], vec![virt_effect(name, Some(state))]);
    run.stdin = Some(state.xml.clone());
    run
}

/// Everything is as stated, and only that it was stated is new: nothing but our own part of the metadata changes.
fn plan_remember(name: &str, state: &mut Virt, xml: &Element, kept: &Element, old: Option<&Element>, plan: &mut Plan) {
    let set = |kept: &Element| {
        let text = intent::bare(kept).print();
        virsh(
            &["metadata", name, "--uri", intent::NAMESPACE, "--key", intent::KEY, "--config", "--set", &text],
            Vec::new(),
        )
    };
    state.xml = xml.print();
    let mut run = set(kept);
    run.effects = vec![virt_effect(name, Some(state))];
    run.undo = Some(match old {
        Some(old) => set(old).argv,
        None => virsh(&["metadata", name, "--uri", intent::NAMESPACE, "--config", "--remove"], Vec::new()).argv,
    });
    plan.push(Op::Run(run), Vec::new());
}

/// The last intent was kept in a file once. Its folder goes with the last of them.
fn forget_stamp(host: &dyn Host, plan: &mut Plan, stamp: &str, name: &str) -> Result<()> {
    let own = [format!("{name}.xml"), format!("{name}.before.xml")];
    let there = host.list(STAMPS)?;
    if there.is_empty() {
        return Ok(());
    }
    if there.iter().all(|file| own.contains(file)) {
        plan.push(Op::Remove { path: STAMPS.to_string() }, Vec::new());
        return Ok(());
    }
    for path in [stamp.to_string(), format!("{STAMPS}/{name}.before.xml")] {
        if host.exists(&path)? {
            plan.push(Op::Remove { path }, Vec::new());
        }
    }
    Ok(())
}

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;
