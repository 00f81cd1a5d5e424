//! From what runs did to the actions that take it back.
//!
//! What was done is walked through backwards. Of a path that was touched more than once only the first state counts,
//! unless a command's inverse lies between: commands see the files that they saw.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::restore::{Restoring, Thing};
use super::{Deed, State, Subject, look, look::hash};
use crate::change::{Action, Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Machine, Overlay, Result, Virt, VirtKind};

/// An action of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The run's name.
    pub run: String,
    /// The action's number.
    pub action: usize,
}

/// A run with all that it did.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Its name.
    pub run: String,
    /// What it did, in order.
    pub deeds: Vec<Deed>,
}

/// What is to be taken back, and how.
pub struct Scene<'a> {
    /// The runs, the oldest first.
    pub chosen: Vec<Chosen>,
    /// Later runs that stay.
    pub later: Vec<Chosen>,
    /// Inverses that an earlier, interrupted try has done.
    pub done: BTreeSet<Origin>,
    /// There was such a try.
    pub begun: bool,
    /// Take back also what was changed since.
    pub force: bool,
    /// Take packages back too.
    pub packages: bool,
    /// The bytes of a copy: run and name.
    pub copy: &'a dyn Fn(&str, &str) -> Result<Vec<u8>>,
}

/// What takes runs back: the plan, and for each of its actions whose inverse it is, if it is one.
pub struct Undoing {
    /// The plan.
    pub plan: Plan,
    /// As many as there are actions.
    pub origins: Vec<Option<Origin>>,
}

/// Programs that must be told when files of theirs were put back: where the files are, what is there while the program
/// runs, what tells it.
///
/// The network is not told: a bridge whose profile is gone would go down, and the way to the machine with it.
const TOLD: [(&[&str], &str, &[&str]); 2] = [
    (
        &["/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"],
        "/run/systemd/system",
        &["systemctl", "daemon-reload"],
    ),
    (&["/etc/udev/rules.d/"], "/run/udev", &["udevadm", "control", "--reload"]),
];

/// The actions that take the chosen runs back. Nothing of what they did is there: an empty plan.
///
/// # Errors
/// When something was changed since, or by a later run: nothing is done then.
pub fn plan(host: &dyn Host, scene: &Scene<'_>) -> Result<Undoing> {
    let mut walk = Walk {
        host,
        overlay: Overlay::new(host),
        scene,
        undoing: Undoing { plan: Plan::nothing(), origins: Vec::new() },
        wanted: Restoring::default(),
        again: Vec::new(),
    };
    walk.refuse_later_runs()?;
    if !scene.force {
        walk.refuse_changes_since()?;
    }
    for (run, deed) in walk.backwards() {
        walk.step(run, deed)?;
    }
    walk.flush()?;
    walk.tell_programs()?;
    Ok(walk.undoing)
}

struct Walk<'a> {
    host: &'a dyn Host,
    overlay: Overlay<&'a dyn Host>,
    scene: &'a Scene<'a>,
    undoing: Undoing,
    /// What files, folders and links shall become.
    wanted: Restoring,
    /// Commands to be run once more at the end.
    again: Vec<(Origin, Vec<String>)>,
}

impl<'a> Walk<'a> {
    fn backwards(&self) -> Vec<(&'a str, &'a Deed)> {
        let all = |chosen: &'a Chosen| chosen.deeds.iter().map(|deed| (chosen.run.as_str(), deed));
        self.scene.chosen.iter().flat_map(all).rev().collect()
    }

    /// What will be taken back, rather than only named.
    fn is_undone(&self, deed: &Deed) -> bool {
        match deed.op.as_str() {
            "run" => deed.undo.is_some() && !deed.is_volatile() && (self.scene.packages || !deed.has_packages()),
            "poke" => deed.attribute().is_some(),
            _ => true,
        }
    }

    fn refuse_later_runs(&self) -> Result<()> {
        let mut ours = BTreeSet::new();
        for (_, deed) in self.backwards() {
            if self.is_undone(deed) {
                ours.extend(deed.touched.iter().map(|touched| &touched.subject));
            }
        }
        let mut said = Vec::new();
        for later in &self.scene.later {
            let theirs: BTreeSet<&Subject> =
                later.deeds.iter().flat_map(|deed| &deed.touched).map(|touched| &touched.subject).collect();
            let both: Vec<String> = theirs.intersection(&ours).map(|subject| subject.to_string()).collect();
            if !both.is_empty() {
                said.push(format!("\n  {}: {}", later.run, some(&both)));
            }
        }
        let Some(first) = self.scene.chosen.first().filter(|_| !said.is_empty()) else { return Ok(()) };
        Err(Error::refused(format!("later runs have changed the same things:{}", said.concat()))
            .hint(format!("`--through {}` takes that run and everything after it back", first.run)))
    }

    /// A file that is neither as a run left it nor as it was at another moment of these runs was changed by somebody else.
    fn refuse_changes_since(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut changed = Vec::new();
        for (_, deed) in self.backwards() {
            if deed.is_command() && deed.attribute().is_none() {
                // What commands keep is theirs; only that they touched a path counts.
                seen.extend(deed.touched.iter().filter(|_| deed.undo.is_some()).map(|touched| &touched.subject));
                continue;
            }
            for touched in &deed.touched {
                let Subject::Path(path) = &touched.subject else { continue };
                if !seen.insert(&touched.subject) {
                    continue;
                }
                let now = look(self.host, &touched.subject)?;
                let known = self.backwards().iter().any(|(_, other)| {
                    other.touched.iter().any(|t| t.subject == touched.subject && t.before.same(&now))
                        || other.after(&touched.subject).is_some_and(|after| after.same(&now))
                });
                let half_done = deed.after.is_none() && deed.may_have_left(&now);
                if !(known || half_done) {
                    changed.push(path.clone());
                }
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        changed.sort();
        Err(Error::refused(format!("changed by somebody else since: {}", some(&changed)))
            .hint("look at it; `--force` takes it back all the same"))
    }

    fn step(&mut self, run: &'a str, deed: &'a Deed) -> Result<()> {
        if deed.reboot {
            self.reboot_due("the machine booted with what is now taken back");
            return Ok(());
        }
        if !deed.is_command() || deed.attribute().is_some() {
            for (n, touched) in deed.touched.iter().enumerate() {
                let Subject::Path(path) = &touched.subject else { continue };
                if deed.attribute().is_some() && n > 0 {
                    break;
                }
                let thing = Thing {
                    path,
                    run,
                    state: &touched.before,
                    secret: deed.secret,
                    attribute: deed.attribute().is_some(),
                };
                self.wanted.want(thing);
            }
            return Ok(());
        }
        if deed.op == "poke" || deed.is_volatile() {
            if self.still_there(deed)? {
                self.reboot_due("devices, modules and the network follow their files when the machine boots");
            }
            return Ok(());
        }
        let origin = Origin { run: run.to_string(), action: deed.action };
        match &deed.undo {
            None => self.left(deed),
            Some(_) if deed.has_packages() && !self.scene.packages => {
                if self.still_there(deed)? {
                    self.warn(format!(
                        "packages stay as they are, as something else may need them by now: `{}` \
                         (`--packages` takes it back)",
                        deed.subject
                    ));
                }
                Ok(())
            }
            Some(undo) if deed.argv.as_ref() == Some(undo) => {
                if !self.scene.done.contains(&origin) && !self.again.iter().any(|(_, argv)| argv == undo) {
                    self.again.push((origin, undo.clone()));
                }
                Ok(())
            }
            Some(undo) => {
                if self.scene.done.contains(&origin) {
                    return Ok(());
                }
                if deed.after.is_none() && deed.touched.is_empty() {
                    self.warn(format!(
                        "whether `{}` was done before the run was cut is not known; `{}` undoes it",
                        deed.subject,
                        undo.join(" ")
                    ));
                    return Ok(());
                }
                if self.is_due(deed)? {
                    self.flush()?;
                    self.invert(run, deed, undo, origin)?;
                }
                Ok(())
            }
        }
    }

    /// A command without an inverse: what it left is named, unless it is gone by now.
    fn left(&mut self, deed: &'a Deed) -> Result<()> {
        for touched in &deed.touched {
            let Subject::Path(path) = &touched.subject else { continue };
            // What was made on the way and taken away again (a fresh image beside the old one) is not made anew.
            if look(&self.overlay, &touched.subject)?.same(&touched.before) {
                self.wanted.forget(path);
            }
        }
        let nothing_to_see = deed.touched.is_empty() && !deed.quiet;
        // What a guest runs with is no definition of it: it has that until it is started anew.
        let running = deed.argv.is_none() && deed.subject.starts_with("virsh ") && deed.subject.ends_with(" --live");
        if nothing_to_see || running || self.still_there(deed)? {
            let what =
                if deed.secret { format!("a command of `{}`", deed.task) } else { format!("`{}`", deed.subject) };
            let maybe = if deed.after.is_none() { " (it did not come to its end)" } else { "" };
            self.warn(format!("can't be taken back: {what}{maybe}"));
        }
        Ok(())
    }

    /// Is anything that it touched other than before?
    fn still_there(&self, deed: &Deed) -> Result<bool> {
        for touched in &deed.touched {
            if !look(&self.overlay, &touched.subject)?.same(&touched.before) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first thing that a command changed tells whether it still counts.
    fn is_due(&self, deed: &Deed) -> Result<bool> {
        let Some(after) = &deed.after else { return self.still_there(deed) };
        let first = deed.touched.iter().zip(after).find(|(touched, after)| !touched.before.same(after));
        match first {
            Some((touched, _)) => Ok(!look(&self.overlay, &touched.subject)?.same(&touched.before)),
            None => Ok(deed.touched.is_empty()),
        }
    }

    fn invert(&mut self, run: &str, deed: &Deed, undo: &[String], origin: Origin) -> Result<()> {
        let mut command = Run::new(undo.iter().cloned(), Vec::new());
        command.undo.clone_from(&deed.argv);
        // A definition that is read from standard input is the one that was there: the run keeps a copy of it.
        if undo.last().is_some_and(|word| word == "/dev/stdin") {
            command.stdin = self.definition(run, deed)?;
            command.undo = command.undo.or_else(|| Some(undo.to_vec()));
        }
        // Whoever insists gets the rest taken back as well.
        command.any_code = self.scene.force;
        let mut diffs = Vec::new();
        for touched in &deed.touched {
            let now = look(&self.overlay, &touched.subject)?;
            if now.same(&touched.before) {
                continue;
            }
            // A file that others have changed since becomes what the command makes of it, which nobody can foresee.
            let foreseen = deed.after(&touched.subject).is_none_or(|after| after.same(&now));
            if foreseen || !matches!(touched.subject, Subject::Path(_)) {
                command.effects.extend(self.effect(run, &touched.subject, &touched.before)?);
            }
            if let Some((kind, name)) = touched.subject.words() {
                diffs.push(Diff {
                    kind: kind.into(),
                    path: name.into(),
                    before: now.words(),
                    after: touched.before.words(),
                });
            }
        }
        if diffs.is_empty() {
            diffs.push(Diff::changed("command", "undone", deed.subject.as_str(), undo.join(" ")));
        }
        self.push(Op::Run(command), diffs, Some(origin))
    }

    /// The XML that libvirt had before this command.
    fn definition(&self, run: &str, deed: &Deed) -> Result<Option<String>> {
        let mut copies = deed.touched.iter().filter_map(|touched| match &touched.before {
            State::Virt { copy: Some(copy), .. } => Some(copy),
            _ => None,
        });
        match copies.next_back() {
            Some(copy) => Ok(String::from_utf8((self.scene.copy)(run, copy)?).ok()),
            None => Ok(None),
        }
    }

    /// What an inverse makes of a thing: what it was.
    fn effect(&self, run: &str, subject: &Subject, before: &State) -> Result<Option<Effect>> {
        let text = |name: &Option<String>| -> Result<Option<String>> {
            let Some(name) = name else { return Ok(None) };
            Ok(String::from_utf8((self.scene.copy)(run, name)?).ok())
        };
        Ok(match (subject, before) {
            (Subject::Path(path), State::Nothing) => Some(Effect::Gone { path: path.clone() }),
            (Subject::Path(path), State::File { mode, copy, .. }) => text(copy)?.map(|content| Effect::File {
                path: path.clone(),
                content: Some(content),
                mode: Some(*mode),
            }),
            (Subject::Path(path), State::Folder { .. }) => Some(Effect::Folder { path: path.clone() }),
            (Subject::Path(path), State::Link { target }) => {
                Some(Effect::Link { path: path.clone(), target: target.clone() })
            }
            (Subject::Unit(name), State::Unit(unit)) => Some(Effect::Unit {
                name: name.clone(),
                exists: Some(unit.exists),
                enabled: Some(unit.enabled.clone()),
                active: Some(unit.active),
            }),
            (Subject::Package(name), State::Nothing) => {
                Some(Effect::Package { name: name.clone(), version: None, present: false })
            }
            (Subject::Package(name), State::Package { version }) => {
                Some(Effect::Package { name: name.clone(), version: version.clone(), present: true })
            }
            (Subject::Virt { kind, name }, State::Nothing) => {
                Some(Effect::Virt { kind: *kind, name: name.clone(), state: None })
            }
            (Subject::Virt { kind, name }, State::Virt { active, autostart, copy, .. }) => text(copy)?.map(|xml| {
                let state = Virt { xml, active: *active, autostart: *autostart, ..Virt::default() };
                Effect::Virt { kind: *kind, name: name.clone(), state: Some(state) }
            }),
            _ => None,
        })
    }

    /// Does what is wanted of files by now.
    fn flush(&mut self) -> Result<()> {
        let wanted = std::mem::take(&mut self.wanted);
        for thing in wanted.in_order() {
            let steps = thing.steps(&self.overlay, self.scene.copy)?;
            steps.warning.into_iter().for_each(|warning| self.warn(warning));
            for Action { op, diffs } in steps.actions {
                self.push(op, diffs, None)?;
            }
        }
        Ok(())
    }

    /// At the end: commands that read what was put back, and programs that know it by heart.
    fn tell_programs(&mut self) -> Result<()> {
        if self.undoing.plan.actions.is_empty() && !self.scene.begun {
            return Ok(());
        }
        for (origin, argv) in std::mem::take(&mut self.again).into_iter().rev() {
            let diff = Diff::added("command", "run again", argv.join(" "));
            let run = Run { undo: Some(argv.clone()), ..Run::new(argv, Vec::new()) };
            self.push(Op::Run(run), vec![diff], Some(origin))?;
        }
        let deeds = self.backwards();
        for (n, (prefixes, sign, argv)) in TOLD.iter().enumerate() {
            let origin = Origin { run: String::new(), action: n };
            let touched = deeds.iter().flat_map(|(_, deed)| &deed.touched).any(|touched| match &touched.subject {
                Subject::Path(path) => prefixes.iter().any(|prefix| path.starts_with(prefix)),
                _ => false,
            });
            if touched && !self.scene.done.contains(&origin) && self.host.exists(sign)? {
                let argv: Vec<String> = argv.iter().map(|word| word.to_string()).collect();
                let run = Run { undo: Some(argv.clone()), ..Run::new(argv, Vec::new()) };
                self.push(Op::Run(run), Vec::new(), Some(origin))?;
            }
        }
        Ok(())
    }

    fn push(&mut self, op: Op, diffs: Vec<Diff>, origin: Option<Origin>) -> Result<()> {
        self.overlay.perform(&op, &mut |_| ())?;
        self.undoing.plan.push(op, diffs);
        self.undoing.origins.push(origin);
        Ok(())
    }

    fn warn(&mut self, text: String) {
        if !self.undoing.plan.warnings.contains(&text) {
            self.undoing.plan.warnings.push(text);
        }
    }

    fn reboot_due(&mut self, why: &str) {
        if !self.undoing.plan.reboot.iter().any(|known| known == why) {
            self.undoing.plan.reboot.push(why.to_string());
        }
    }
}

impl Deed {
    fn has_packages(&self) -> bool {
        self.touched.iter().any(|touched| matches!(touched.subject, Subject::Package(_)))
    }

    /// Did it only change what is gone with the next boot? Such things (loaded modules, a bridge that is up) are not taken
    /// from under the machine's feet.
    fn is_volatile(&self) -> bool {
        let volatile = |touched: &super::Touched| match &touched.subject {
            Subject::Path(path) => ["/proc/", "/sys/", "/dev/", "/run/"].iter().any(|start| path.starts_with(start)),
            _ => false,
        };
        self.op == "run" && !self.touched.is_empty() && self.touched.iter().all(volatile)
    }

    /// The attribute of the kernel that it wrote to, where that can be written back.
    fn attribute(&self) -> Option<&str> {
        match self.touched.first().map(|touched| &touched.subject) {
            Some(Subject::Path(path)) if self.op == "poke" && path.starts_with("/proc/sys/") => Some(path),
            _ => None,
        }
    }

    /// Can an action that was killed in the middle have left this?
    fn may_have_left(&self, now: &State) -> bool {
        match now {
            State::File { content, .. } => {
                self.op == "set_attributes" || self.op == "remove" || self.will.as_ref() == Some(content)
            }
            State::Nothing => matches!(self.op.as_str(), "remove" | "link"),
            State::Folder { .. } => matches!(self.op.as_str(), "make_folder" | "set_attributes" | "remove"),
            State::Link { target } => self.will.as_ref() == Some(&hash(target.as_bytes())),
            _ => false,
        }
    }
}

impl Subject {
    /// Kind and name, of what is no path.
    fn words(&self) -> Option<(&'static str, &str)> {
        match self {
            Subject::Path(_) => None,
            Subject::Unit(name) => Some(("unit", name)),
            Subject::Package(name) => Some(("package", name)),
            Subject::Virt { kind: VirtKind::Domain, name } => Some(("domain", name)),
            Subject::Virt { kind: VirtKind::Network, name } => Some(("network", name)),
            Subject::Virt { kind: VirtKind::Pool, name } => Some(("pool", name)),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Path(path) => f.write_str(path),
            other => {
                let (kind, name) = other.words().unwrap_or_default();
                write!(f, "{kind} {name}")
            }
        }
    }
}

impl State {
    /// In a few words; `None` for what is not there.
    fn words(&self) -> Option<String> {
        match self {
            State::Nothing => None,
            State::Unit(unit) => {
                let runs = if unit.active { "running" } else { "stopped" };
                Some(if unit.enabled.is_empty() { runs.into() } else { format!("{}, {runs}", unit.enabled) })
            }
            State::Package { version } => Some(version.clone().unwrap_or_else(|| "installed".into())),
            State::Virt { active, autostart, content, .. } => {
                let runs = if *active { "running" } else { "shut off" };
                let starts = if *autostart { ", starts with the host" } else { "" };
                Some(format!("{runs}{starts}, definition {}", content.get(..12).unwrap_or(content)))
            }
            _ => Some(String::new()),
        }
    }
}

/// Some of them, and how many more there are.
fn some(all: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = all.len().saturating_sub(SHOWN);
    let shown: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
    match more {
        0 => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}
