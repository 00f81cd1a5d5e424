//! A trial boot: a changed kernel or command line is booted once, and is the default only when the machine is back and it
//! was said so; otherwise the machine returns by itself to what ran before.
//!
//! What it returns to is what runs now: this kernel with this command line has booted this machine. It stays in the menu
//! as an entry of its own, and is the default from the moment the trial is armed until it is confirmed. So whatever ends
//! the trial (a panic, a power cycle, the guard in [`units`]) leads back to it.

mod grub;
mod systemd_boot;
mod units;

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::loader::{Boot, BootEntry, Kind};
use super::{cmdline, grubenv, room, writable};
use crate::change::{Action, Content, Diff, Effect, Op, Run, TRIAL_BOOT};
use crate::host::{Error, Host, Result};

/// The kernel argument that tells a trial boot from others.
pub const TOKEN: &str = "vfio_provision.trial";
/// What else a trial boot is given, so that one that fails ends by itself: a panic restarts the machine (initramfs-tools
/// does so too instead of opening a shell), and so does dracut when it does not find the root (dracut.cmdline(7)): after
/// 200 s, as it waits for ever by default, and no sooner, as it must be longer than its `rd.retry` of 180 s.
const ENDS: &[&str] = &["panic=25", "rd.shell=0", "rd.emergency=reboot", "rd.timeout=200"];
const PANIC: &str = "/proc/sys/kernel/panic";

/// What is written down about a trial where the boot loader's own files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The boot that armed it, and what is on trial.
    pub token: String,
    /// The kernel from before as the boot loader sees it, its release and arguments.
    pub from_kernel: String,
    /// Its release.
    pub from_release: String,
    /// Its arguments.
    pub from_args: String,
    /// The kernel on trial as the boot loader sees it.
    pub to_kernel: String,
    /// Its release.
    pub to_release: String,
    /// Its arguments, without those that end a trial.
    pub to_args: String,
    /// What `kernel.panic` was before.
    pub panic: String,
    /// systemd-boot: what loader.conf called the default.
    pub default: String,
}

const NAMES: [&str; 9] =
    ["token", "from", "from-release", "from-arguments", "to", "to-release", "to-arguments", "kernel.panic", "default"];

impl Marks {
    fn fields(&self) -> [&String; 9] {
        [
            &self.token,
            &self.from_kernel,
            &self.from_release,
            &self.from_args,
            &self.to_kernel,
            &self.to_release,
            &self.to_args,
            &self.panic,
            &self.default,
        ]
    }

    /// As comments.
    fn lines(&self) -> String {
        let named = NAMES.iter().zip(self.fields());
        named.map(|(name, value)| format!("# {name}: {value}").trim_end().to_string() + "\n").collect()
    }

    /// Out of such comments; `None` where they are not whole.
    fn parse(text: &str) -> Option<Marks> {
        let get = |name: &str| {
            let prefix = format!("# {name}:");
            text.lines().find_map(|line| line.strip_prefix(&prefix)).map(|value| value.trim().to_string())
        };
        Some(Marks {
            token: get("token").filter(|token| !token.is_empty())?,
            from_kernel: get("from")?,
            from_release: get("from-release")?,
            from_args: get("from-arguments")?,
            to_kernel: get("to")?,
            to_release: get("to-release")?,
            to_args: get("to-arguments")?,
            panic: get("kernel.panic").unwrap_or_default(),
            default: get("default").unwrap_or_default(),
        })
    }

    fn guard_arguments(&self) -> String {
        format!("{TOKEN}={} {}", self.token, ENDS.join(" "))
    }

    /// The boot that armed it.
    fn armed_by(&self) -> &str {
        self.token.split_once('-').map_or("", |(boot, _)| boot)
    }

    /// What is on trial.
    fn what(&self) -> &str {
        self.token.split_once('-').map_or("", |(_, what)| what)
    }
}

/// Has the boot loader struck the trial out?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Once {
    /// It boots the next time.
    Armed,
    /// It was booted, or at least begun.
    Tried,
}

/// A trial that is not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    marks: Marks,
    once: Once,
}

/// How it stands with a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Nothing,
    /// This very boot has armed it, and has not gone down yet.
    Armed(Marks),
    /// It runs, and waits to be confirmed.
    Running(Marks),
    /// The machine runs what was on trial, but the boot loader went another way to it.
    PassedBy(Marks),
    /// The machine is back with what it had before.
    Returned {
        /// What was on trial.
        marks: Marks,
        /// In words.
        why: String,
    },
}

fn hash(text: &str) -> String {
    format!("{:x}", Sha256::digest(text.as_bytes())).get(..8).unwrap_or_default().to_string()
}

fn boot_hash(host: &dyn Host) -> Result<String> {
    Ok(hash(&host.read_line("/proc/sys/kernel/random/boot_id")?.unwrap_or_default()))
}

/// What boot loaders add to a command line by themselves.
fn is_added(token: &str) -> bool {
    ["BOOT_IMAGE=", "initrd=", "vt.handoff="].iter().any(|name| token.starts_with(name)) || token.starts_with('$')
}

/// The arguments that the entry had, out of those of a running kernel: nothing of the boot loader's, nothing of a trial's.
pub(super) fn own_args(line: &str) -> String {
    let mut found = Vec::new();
    let mut ends: &[&str] = &[];
    for token in cmdline::words(line) {
        if token.starts_with(&format!("{TOKEN}=")) {
            ends = ENDS;
        } else if ends.first().is_some_and(|end| *end == token) {
            ends = ends.get(1..).unwrap_or(&[]);
        } else if !is_added(&token) {
            found.push(token);
        }
    }
    found.join(" ")
}

/// Do two command lines say the same? GRUB moves quotes.
fn is_same_line(a: &str, b: &str) -> bool {
    let plain = |line: &str| own_args(line).replace(['"', '\''], "").split_whitespace().collect::<Vec<_>>().join(" ");
    plain(a) == plain(b)
}

fn folder(boot: &Boot) -> &str {
    boot.menu.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn custom_path(boot: &Boot) -> String {
    format!("{}/{}", folder(boot), grub::CUSTOM)
}

fn env_path(boot: &Boot) -> String {
    format!("{}/{}", folder(boot), grub::ENV)
}

/// A trial that is written down, whatever came of it.
fn standing(host: &dyn Host, boot: &Boot) -> Result<Option<Standing>> {
    if boot.kind == Kind::SystemdBoot {
        return systemd_boot::standing(host, boot);
    }
    let Some(text) = host.read_text(&custom_path(boot))? else { return Ok(None) };
    let Some(marks) = grub::block(&text).and_then(Marks::parse) else { return Ok(None) };
    let env = host.read_text(&env_path(boot))?.unwrap_or_default();
    let once = if grubenv::get(&env, grub::ONCE).as_deref() == Some("armed") { Once::Armed } else { Once::Tried };
    Ok(Some(Standing { marks, once }))
}

/// How it stands with a trial on this machine.
///
/// # Errors
/// When the machine can't be read.
pub fn state(host: &dyn Host, boot: &Boot) -> Result<State> {
    let Some(Standing { marks, once }) = standing(host, boot)? else { return Ok(State::Nothing) };
    let running = host.read_text("/proc/cmdline")?.unwrap_or_default();
    if cmdline::words(&running).iter().any(|word| *word == format!("{TOKEN}={}", marks.token)) {
        return Ok(State::Running(marks));
    }
    if once == Once::Armed && marks.armed_by() == boot_hash(host)? {
        return Ok(State::Armed(marks));
    }
    let release = host.read_line("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    let is_kernel = marks.to_release.is_empty() || marks.to_release == release;
    if is_kernel && is_same_line(&running, &marks.to_args) && !is_same_line(&running, &marks.from_args) {
        return Ok(State::PassedBy(marks));
    }
    let how = match once {
        Once::Tried => "it did not come up, or was not confirmed in time",
        Once::Armed => "the boot loader did not try it at all",
    };
    let what = describe(&marks.to_release, &marks.to_args);
    let why = format!("the trial boot of {what} failed: {how}, and the machine is back with what it had before");
    Ok(State::Returned { marks, why })
}

fn describe(release: &str, args: &str) -> String {
    format!("Linux {} with `{args}`", if release.is_empty() { "?" } else { release })
}

/// What people are told who ask about kernels and command lines while a trial is not confirmed.
///
/// # Errors
/// When the machine can't be read.
pub fn told(host: &dyn Host, boot: &Boot) -> Result<Option<String>> {
    Ok(match state(host, boot)? {
        State::Returned { why, .. } => Some(why),
        State::Running(_) => Some("this is a trial boot, which is not confirmed yet: `reboot` does it".into()),
        State::Nothing | State::Armed(_) | State::PassedBy(_) => None,
    })
}

/// What a trial makes of the next boot of a written-down machine.
pub struct Next {
    /// The kernel as the boot loader sees it.
    pub kernel: String,
    /// Its release, where it is known.
    pub release: Option<String>,
    /// Its arguments.
    pub args: String,
    /// What the boot loader does to its own files.
    pub effects: Vec<Effect>,
}

/// What the next boot is while a trial is not confirmed; `None` without one.
///
/// # Errors
/// When the machine can't be read.
pub fn next(host: &dyn Host, boot: &Boot) -> Result<Option<Next>> {
    let Some(Standing { marks, once }) = standing(host, boot)? else { return Ok(None) };
    let release = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    if once == Once::Tried {
        let (kernel, args) = (marks.from_kernel, marks.from_args);
        return Ok(Some(Next { kernel, release: release(&marks.from_release), args, effects: Vec::new() }));
    }
    let effects = if boot.kind == Kind::SystemdBoot {
        vec![Effect::Gone { path: systemd_boot::ONE_SHOT.into() }]
    } else {
        vec![Effect::File { path: env_path(boot), content: Some(env_block("tried")?), mode: None }]
    };
    let args = grub::with_more(&marks.to_args, &marks.guard_arguments());
    Ok(Some(Next { release: release(&marks.to_release), kernel: marks.to_kernel, args, effects }))
}

fn env_block(value: &str) -> Result<String> {
    grubenv::set("", grub::ONCE, Some(value)).map_err(Error::failed)
}

/// A change that is to be tried.
#[derive(Clone, Debug)]
pub struct Change {
    from: BootEntry,
    to: BootEntry,
    marks: Marks,
    /// The initramfs that the machine has booted with, where another one has its place now.
    from_image: Option<String>,
    /// For the person.
    pub warnings: Vec<String>,
}

/// When the machine has booted, in seconds since 1970 (proc_stat(5)); a recorded machine may not know.
pub(super) fn boot_time(host: &dyn Host) -> Result<Option<i64>> {
    let text = host.read_text("/proc/stat")?.unwrap_or_default();
    Ok(text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()))
}

/// Was this file made in this boot, or by an earlier action of this run?
pub(super) fn is_of_this_boot(host: &dyn Host, path: &str) -> Result<bool> {
    let Some(booted) = boot_time(host)? else { return Ok(false) };
    Ok(host.stat(path)?.is_some_and(|stat| stat.mtime >= booted || stat.mtime == 0))
}

/// Does the way back from a trial that is not over go by this initramfs, which was kept for it?
///
/// # Errors
/// When the machine can't be read.
pub(super) fn keeps(host: &dyn Host, boot: &Boot, kept: &str) -> Result<bool> {
    if standing(host, boot)?.is_none() {
        return Ok(false);
    }
    let before = if boot.kind == Kind::SystemdBoot {
        host.read_text(&systemd_boot::before(boot))?.unwrap_or_default()
    } else {
        let text = host.read_text(&custom_path(boot))?.unwrap_or_default();
        grub::before(&text).to_string()
    };
    let name = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or_default().to_string();
    let lines = before.lines().map(str::trim).filter(|line| line.starts_with("initrd"));
    Ok(lines.flat_map(str::split_whitespace).any(|path| name(path) == name(kept)))
}

/// Was this boot started with what was kept of this initramfs? So it is where a trial of another one has failed.
fn came_by_kept(host: &dyn Host, boot: &Boot, image: &str) -> Result<bool> {
    Ok(match state(host, boot)? {
        State::Nothing | State::Running(_) | State::PassedBy(_) => false,
        State::Armed(_) | State::Returned { .. } => {
            let kept = format!("{image}.bak");
            host.exists(&kept)? && keeps(host, boot, &kept)?
        }
    })
}

/// Is the initramfs at its place another one than this boot was started with?
fn is_new_image(host: &dyn Host, boot: &Boot, image: &str) -> Result<bool> {
    if is_of_this_boot(host, image)? {
        return Ok(true);
    }
    Ok(came_by_kept(host, boot, image)? && host.sha256(image)? != host.sha256(&format!("{image}.bak"))?)
}

/// What the next boot would change about kernel, command line or initramfs; `None` when that is what runs, or when the
/// machine does not say what runs.
///
/// # Errors
/// A refusal, where a trial is called for and what runs now can't be kept as the way back.
pub fn change(host: &dyn Host, boot: &Boot) -> Result<Option<Change>> {
    let Some(line) = host.read_text("/proc/cmdline")?.filter(|line| !line.trim().is_empty()) else { return Ok(None) };
    let Some(release) = host.read_line("/proc/sys/kernel/osrelease")? else { return Ok(None) };
    let Ok(to) = boot.default_entry() else { return Ok(None) };
    let args = own_args(&line);
    let new_image = match &to.image {
        Some(image) => is_new_image(host, boot, image)?,
        None => false,
    };
    if to.version.as_deref() == Some(release.as_str()) && is_same_line(&to.args, &args) && !new_image {
        return Ok(None);
    }
    for path in std::iter::once(&to.path).chain(&to.image) {
        if !host.exists(path)? {
            return Err(Error::refused(format!("`{}` would not boot: {path} is missing", to.title))
                .hint("install the kernel's package again, or have its initramfs made (`initramfs`)"));
        }
    }
    let booted = cmdline::last_value(&line, "BOOT_IMAGE").unwrap_or_default();
    let fits = |entry: &&BootEntry| entry.version.as_deref() == Some(release.as_str());
    let of_file = |entry: &&BootEntry| !booted.is_empty() && booted.ends_with(&entry.kernel);
    let mut same: Vec<&BootEntry> = boot.entries.iter().filter(fits).collect();
    same.sort_by_key(|entry| (!of_file(entry), entry.recovery));
    let no_way_back = |why: String| {
        Error::refused(format!("there would be no way back from a trial boot: {why}"))
            .hint("`trial: false` boots the new kernel and command line all the same, at your own risk")
    };
    let Some(from) = same.first() else {
        return Err(no_way_back(format!("the kernel that runs, {release}, is not in the boot menu any more")));
    };
    if !host.exists(&from.path)? {
        return Err(no_way_back(format!("the kernel that runs is gone: {} is missing", from.path)));
    }
    let mut warnings = Vec::new();
    let mut from_image = None;
    if let Some(image) = &from.image {
        let kept = format!("{image}.bak");
        if came_by_kept(host, boot, image)? {
            from_image = Some(kept);
        } else if is_of_this_boot(host, image)? {
            // `initramfs` keeps the one that the machine has booted with, and only that.
            if is_of_this_boot(host, &kept)? {
                from_image = Some(kept);
            } else {
                warnings.push(format!(
                    "{image} was made anew since this boot and the one before is not kept, so what a trial boot that \
                     fails returns to has the new one too"
                ));
            }
        }
        if !host.exists(image)? && from_image.is_none() {
            return Err(no_way_back(format!("{image} is missing")));
        }
    }
    let what = hash(&format!("{}\n{}", to.kernel, cmdline::words(&to.args).join(" ")));
    let marks = Marks {
        token: format!("{}-{what}", boot_hash(host)?),
        from_kernel: from.kernel.clone(),
        from_release: release,
        from_args: args,
        to_kernel: to.kernel.clone(),
        to_release: to.version.clone().unwrap_or_default(),
        to_args: cmdline::words(&to.args).join(" "),
        panic: host.read_line(PANIC)?.unwrap_or_default(),
        default: String::new(),
    };
    Ok(Some(Change { from: (*from).clone(), to: to.clone(), marks, from_image, warnings }))
}

impl Change {
    /// Has just this failed before, and nothing of it has changed since?
    ///
    /// # Errors
    /// When the machine can't be read.
    pub fn is_again(&self, host: &dyn Host, boot: &Boot, before: &Marks) -> Result<bool> {
        if before.what() != self.marks.what() {
            return Ok(false);
        }
        let path = if boot.kind == Kind::SystemdBoot { systemd_boot::before(boot) } else { custom_path(boot) };
        let tried = host.stat(&path)?.map_or(0, |stat| stat.mtime);
        for path in std::iter::once(&self.to.path).chain(&self.to.image) {
            if host.stat(path)?.is_some_and(|stat| stat.mtime > tried) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is done before the machine goes down. `seconds` is within which it must be confirmed, where somebody comes back
    /// by himself to do it.
    ///
    /// # Errors
    /// A refusal where this boot loader can't boot something once.
    pub fn arm(&self, host: &dyn Host, boot: &Boot, seconds: Option<u64>) -> Result<Vec<Action>> {
        let name = host.read_line("/proc/sys/kernel/hostname")?.unwrap_or_else(|| "the machine".into());
        let before = describe(&self.marks.from_release, &self.marks.from_args);
        let after = format!(
            "boots {} once; it becomes the default when it has come back{}; otherwise the machine returns to what it had",
            describe(&self.marks.to_release, &self.marks.to_args),
            match seconds {
                Some(seconds) => format!(" and this run has said so over a new connection, within {seconds} s"),
                None => " and the next run has said so".into(),
            }
        );
        let diff = Diff::changed(TRIAL_BOOT, name, before, after);
        let mut actions = Vec::new();
        match seconds {
            Some(seconds) => actions.extend(units::install(host, &self.marks.token, seconds)?),
            None => actions.extend(units::remove(host)?),
        }
        if boot.kind == Kind::SystemdBoot {
            actions.extend(systemd_boot::arm(host, boot, self)?);
        } else {
            self.arm_grub(host, boot, &mut actions)?;
        }
        // The boot loader reads the disk itself, without the file system's journal. That it is a trial is said here, so
        // that it is said also where a run that was cut has armed it already.
        actions.push(Action { diffs: vec![diff], ..sync() });
        Ok(actions)
    }

    fn arm_grub(&self, host: &dyn Host, boot: &Boot, actions: &mut Vec<Action>) -> Result<()> {
        let unable = |why: String, hint: &str| {
            Error::refused(format!("the new kernel and command line can't be booted once on trial: {why}"))
                .hint(format!("{hint}; or `trial: false` boots them all the same, at your own risk"))
        };
        if !grub::is_read(&boot.text) {
            let why = format!("{} does not read {}", boot.menu, custom_path(boot));
            return Err(unable(why, "make /etc/grub.d/41_custom executable and have grub.cfg made anew"));
        }
        if let Some(obstacle) = writable::obstacle(host, folder(boot))? {
            let why = format!("GRUB can't write there, so what boots once would boot for ever: {obstacle}");
            return Err(unable(why, "put /boot on a partition of its own with ext4 or XFS"));
        }
        if let Some(next) = boot.next().filter(|next| !next.is_default) {
            let why = format!("`{}` is set to boot once already", next.title);
            return Err(unable(why, "take that back with `grub-editenv - unset next_entry` (EL: grub2-editenv)"));
        }
        let (custom, env) = (custom_path(boot), env_path(boot));
        let armed = env_block("armed")?;
        let old = host.read_text(&env)?;
        if old.as_ref() != Some(&armed) {
            actions.push(write(&env, &armed, None, Vec::new(), Vec::new()));
        }
        let old = host.read_text(&custom)?;
        let block = grub::write(boot, &self.marks, &self.from, &self.to, self.from_image.as_deref());
        let new = grub::with(old.as_deref().unwrap_or_default(), &block);
        if old.as_ref() != Some(&new) {
            room::need(host, 1 << 20, "two more boot entries")?;
            let check = vec![boot.tool(host, "script-check")?, "%s".into()];
            let file = Diff::file(&custom, old.as_ref().map(String::as_bytes), Some(new.as_bytes()));
            actions.push(write(&custom, &new, None, vec![check], vec![file]));
        }
        Ok(())
    }
}

fn write(path: &str, text: &str, mode: Option<u32>, validate: Vec<Vec<String>>, diffs: Vec<Diff>) -> Action {
    let content = Content::Bytes(text.as_bytes().to_vec());
    Action { op: Op::WriteFile { path: path.into(), content, mode, owner: None, group: None, validate }, diffs }
}

fn remove(path: &str, diffs: Vec<Diff>) -> Action {
    Action { op: Op::Remove { path: path.into() }, diffs }
}

/// Everything that was written is on the disk where the boot loader looks for it.
pub(super) fn sync() -> Action {
    Action { op: Op::Run(Run::new(["sync"], Vec::new())), diffs: Vec::new() }
}

/// What makes the boot loader's own default count again: that of the new kernel and command line after a trial that is
/// confirmed, whatever it is after one that failed.
///
/// # Errors
/// When the machine can't be read.
pub fn end(host: &dyn Host, boot: &Boot, marks: &Marks, confirmed: bool) -> Result<Vec<Action>> {
    let mut actions = units::remove(host)?;
    let name = host.read_line("/proc/sys/kernel/hostname")?.unwrap_or_else(|| "the machine".into());
    let (to, from) = (describe(&marks.to_release, &marks.to_args), describe(&marks.from_release, &marks.from_args));
    let diff = if confirmed {
        Diff::changed(TRIAL_BOOT, name, format!("{to} is on trial"), "it has come back, and is the default")
    } else {
        Diff::changed(
            TRIAL_BOOT,
            name,
            format!("{from} boots after a trial that failed"),
            "the default of the boot menu boots",
        )
    };
    let at = actions.len();
    if boot.kind == Kind::SystemdBoot {
        actions.extend(systemd_boot::end(host, boot, marks)?);
    } else {
        let (custom, env) = (custom_path(boot), env_path(boot));
        if let Some(old) = host.read_text(&custom)? {
            let new = grub::without(&old);
            let file = |new: Option<&str>| Diff::file(&custom, Some(old.as_bytes()), new.map(str::as_bytes));
            if new.is_empty() {
                actions.push(remove(&custom, vec![file(None)]));
            } else if new != old {
                let check = vec![boot.tool(host, "script-check")?, "%s".into()];
                actions.push(write(&custom, &new, None, vec![check], vec![file(Some(&new))]));
            }
        }
        // Until the choice is off the disk, nothing that it needs may go.
        actions.push(sync());
        if host.exists(&env)? {
            actions.push(remove(&env, Vec::new()));
        }
    }
    if let Some(first) = actions.get_mut(at) {
        first.diffs.insert(0, diff);
    }
    if confirmed && !marks.panic.is_empty() && host.exists(PANIC)? {
        // The trial's own `panic=` is not what was asked for.
        let value = cmdline::last_value(&marks.to_args, "panic").unwrap_or_else(|| marks.panic.clone());
        let effects = vec![Effect::File { path: PANIC.into(), content: Some(format!("{value}\n")), mode: None }];
        actions.push(Action { op: Op::Poke { path: PANIC.into(), value, effects }, diffs: Vec::new() });
    }
    Ok(actions)
}

/// What a run that was cut has left of a trial that is over.
///
/// # Errors
/// When the machine can't be read.
pub fn leftovers(host: &dyn Host, boot: Option<&Boot>) -> Result<Vec<Action>> {
    let mut actions = units::remove(host)?;
    if let Some(boot) = boot {
        let paths: BTreeSet<String> = if boot.kind == Kind::SystemdBoot {
            systemd_boot::files(boot).into_iter().collect()
        } else {
            BTreeSet::from([env_path(boot)])
        };
        for path in paths {
            if host.exists(&path)? {
                actions.push(remove(&path, Vec::new()));
            }
        }
    }
    Ok(actions)
}

/// Is it too late to confirm: has the guard's time run out?
///
/// # Errors
/// When the machine can't be read.
pub fn is_too_late(host: &dyn Host) -> Result<bool> {
    Ok(host.unit(units::SERVICE)?.active)
}

/// Why the running kernel is not what was on trial, in words.
///
/// # Errors
/// When the machine can't be read.
pub fn mismatch(host: &dyn Host, marks: &Marks) -> Result<Option<String>> {
    let release = host.read_line("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    if !marks.to_release.is_empty() && marks.to_release != release {
        return Ok(Some(format!("Linux {release} runs instead of {}", marks.to_release)));
    }
    let running = host.read_text("/proc/cmdline")?.unwrap_or_default();
    let here: Vec<String> = cmdline::words(&running.replace(['"', '\''], ""));
    let asked = own_args(&marks.to_args).replace(['"', '\''], "");
    let missing: Vec<String> = cmdline::words(&asked).into_iter().filter(|token| !here.contains(token)).collect();
    Ok(if missing.is_empty() { None } else { Some(format!("its command line does not have {}", missing.join(" "))) })
}

#[cfg(test)]
mod real;
#[cfg(test)]
mod tests;
