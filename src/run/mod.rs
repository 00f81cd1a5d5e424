//! Who goes when: plays in order, hosts side by side, each task with finished parameters to its agent; events out.

mod ahead;
mod check;
mod comeback;
mod dispatch;
mod exact;
mod extra_vars;
mod guarded;
mod host;
mod link;
mod list;
mod lock;
mod prelude;
mod render;
mod rollback;
mod saved;
mod tags;
mod task;
mod vars;
mod ways;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use indexmap::IndexMap;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::agent::protocol::{Hello, MachineKind, Mode};
use crate::diag::Diagnostic;
use crate::inventory::{Connection, Inventory};
use crate::playbook::{LoadOptions, Loader, Play, RoleUse, Site};
use crate::report::{Event, HostRecap, Recap, Sink};
use crate::transport::ask::Terminal;
use host::HostRun;
use lock::Lock;
use render::Render;
use vars::{Layer, Scope, Stored};
use ways::Ways;

pub use exact::execute as execute_saved;
pub use list::Lists;
pub use rollback::{Asked, Machines, Runs};
pub use saved::{SavedHost, SavedPlan};

/// What the command line says about a run.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Playbooks, in order.
    pub playbooks: Vec<PathBuf>,
    /// Inventories.
    pub inventories: Vec<PathBuf>,
    /// `--limit`.
    pub limit: Option<String>,
    /// `--extra-vars`, as written.
    pub extra_vars: Vec<String>,
    /// `--tags`.
    pub tags: Vec<String>,
    /// `--skip-tags`.
    pub skip_tags: Vec<String>,
    /// `--start-at-task`.
    pub start_at_task: Option<String>,
    /// Hosts at a time.
    pub forks: usize,
    /// `--become`.
    pub become_: bool,
    /// What `-K` was told.
    pub become_password: Option<String>,
    /// `--accept-new-host-keys`.
    pub accept_new: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// `--roles-path`.
    pub roles_path: Vec<PathBuf>,
    /// `--wait-for-lock`.
    pub wait_for_lock: u64,
}

impl Settings {
    /// What the run is about, for the machines' journals.
    fn what(&self) -> String {
        self.playbooks.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Playbooks and inventory, read and checked; nothing has been touched.
pub struct Prepared {
    settings: Settings,
    loader: Arc<Mutex<Loader>>,
    plays: Vec<PlayRun>,
    extra_vars: Stored,
    /// The magic variables that all hosts share.
    shared_magic: Stored,
    hosts: IndexMap<String, HostStart>,
    /// What the user should know and nothing stops for.
    pub warnings: Vec<Diagnostic>,
}

/// What is known of a host before a run.
struct HostStart {
    inventory: Arc<Stored>,
    magic: Stored,
    connection: Connection,
    folder: PathBuf,
}

/// A play with its hosts.
struct PlayRun {
    play: Arc<Play>,
    title: String,
    hosts: Vec<String>,
    /// The same for `ansible_play_hosts`.
    host_names: Arc<Value>,
    /// All roles it is known to use, for their variables.
    roles: Vec<Arc<RoleUse>>,
}

/// What all hosts of a run share.
struct Shared {
    options: Settings,
    mode: Mode,
    /// The run's name.
    run: String,
    /// Who runs it.
    from: String,
    loader: Arc<Mutex<Loader>>,
    render: Render,
    sink: Arc<Sink>,
    lock: Lock,
    hashes: Hashes,
    ways: Arc<Ways>,
    extra_vars: Stored,
    /// The magic variables that all hosts share: `groups`, which grows with their number.
    shared_magic: Stored,
}

impl Shared {
    /// What a host's agent is told first.
    fn hello(&self, machine: MachineKind, mode: Mode, remote: bool) -> Hello {
        Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            machine,
            mode,
            run: self.run.clone(),
            pins: self.lock.pins(),
            remote,
            from: self.from.clone(),
            what: self.options.what(),
            wait_for_lock: self.options.wait_for_lock,
        }
    }
}

/// The ways to the hosts of a run: what people should know about them is a warning of the run.
fn ways_of(settings: &Settings, sink: &Arc<Sink>) -> Arc<Ways> {
    let sink = Arc::clone(sink);
    let ask = Arc::new(Terminal::default());
    Arc::new(Ways::new(ask, settings.accept_new, move |text| sink.event(Event::Warning(text))))
}

/// The SHA-256 of large files, each made out once for all hosts.
#[derive(Default)]
struct Hashes(Mutex<HashMap<PathBuf, (u64, SystemTime, String)>>);

impl Hashes {
    fn of(&self, path: &Path) -> std::io::Result<String> {
        let stat = std::fs::metadata(path)?;
        let (len, time) = (stat.len(), stat.modified()?);
        let mut known = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        match known.get(path) {
            Some((known_len, known_time, hash)) if *known_len == len && *known_time == time => Ok(hash.clone()),
            _ => {
                let hash = crate::agent::hash(path)?;
                known.insert(path.to_path_buf(), (len, time, hash.clone()));
                Ok(hash)
            }
        }
    }
}

/// Who runs this, and where: `user@machine`.
fn who() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let uid = || format!("uid {}", rustix::process::getuid().as_raw());
    format!("{}@{machine}", user.filter(|user| !user.is_empty()).unwrap_or_else(uid))
}

/// What a run leaves.
pub struct Finish {
    /// The counts.
    pub recap: Recap,
    /// What a saved plan holds.
    pub hosts: Vec<SavedHost>,
    /// Tasks that a saved plan can't hold, as `host: task`.
    pub unsavable: Vec<String>,
}

impl Finish {
    /// Did a task fail?
    pub fn failed(&self) -> bool {
        self.recap.hosts.values().any(|host| host.counts.failed > 0)
    }
    /// Was a host unreachable?
    pub fn unreachable(&self) -> bool {
        self.recap.hosts.values().any(|host| host.counts.unreachable > 0)
    }
    /// Is there something to change, or something whose change can't be known?
    pub fn changes(&self) -> bool {
        self.recap.hosts.values().any(|host| host.counts.changed > 0 || host.unknown > 0)
    }
}

/// Reads and checks everything that can be known before a host is touched.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn prepare(settings: Settings) -> Result<Prepared, Vec<Diagnostic>> {
    let inventory = Inventory::load(&settings.inventories)?;
    let mut loader = Loader::new(LoadOptions { roles_path: settings.roles_path.clone() });
    let site = loader.load(&settings.playbooks)?;
    let extra_vars = extra_vars::parse(&settings.extra_vars).map_err(|error| vec![error])?;
    let Site { plays, warnings } = site;
    let warnings = inventory.warnings().iter().cloned().chain(warnings).collect();
    let render = Render::default();
    let mut errors = Vec::new();
    let mut runs = Vec::new();
    for play in plays {
        match play_run(play, &settings, &inventory, &extra_vars, &render) {
            Ok(run) => runs.push(run),
            Err(error) => errors.push(error),
        }
    }
    let mut hosts = IndexMap::new();
    for play in &runs {
        for name in &play.hosts {
            if !hosts.contains_key(name) {
                match host_start(name, Some(&play.play.origin.playbook_folder), &inventory, &extra_vars, &render) {
                    Ok(start) => {
                        hosts.insert(name.clone(), start);
                    }
                    // A file of group_vars that is wrong is wrong for each host of the group.
                    Err(error) if errors.contains(&error) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    if let Some(start) = &settings.start_at_task {
        let mut titles = Vec::new();
        runs.iter().for_each(|run| run.play.visit(&mut |visit| titles.push(visit.task.title().to_string())));
        if !titles.contains(start) {
            let error = Diagnostic::error(format!("--start-at-task: there is no task `{start}`"));
            errors.push(error.nearest(start, titles.iter().map(String::as_str)));
        }
    }
    errors.extend(check::undefined_variables(&runs, &hosts, &extra_vars, &render));
    if !errors.is_empty() {
        return Err(errors);
    }
    let loader = Arc::new(Mutex::new(loader));
    let shared_magic = inventory.shared_magic().clone().into_iter().collect();
    Ok(Prepared { settings, loader, plays: runs, extra_vars, shared_magic, hosts, warnings })
}

fn play_run(
    play: Play,
    settings: &Settings,
    inventory: &Inventory,
    extra_vars: &Stored,
    render: &Render,
) -> Result<PlayRun, Diagnostic> {
    let mut scope = Scope::default();
    scope.push(Layer::Raw(extra_vars));
    scope.push(Layer::Nodes(&play.vars));
    let text = |template: &str, span: &crate::diag::Span| -> Result<String, Diagnostic> {
        let value = render.templar.render(template, &scope).map_err(|error| {
            error.diagnostic(template, span).help("a play's hosts and name can only use its `vars` and --extra-vars")
        })?;
        Ok(render::strings(&value).join(","))
    };
    let pattern = text(&play.hosts.value, &play.hosts.span)?;
    let hosts = inventory
        .matching(&pattern, settings.limit.as_deref())
        .map_err(|error| error.at_if_unknown(&play.hosts.span))?;
    let hosts: Vec<String> = hosts.into_iter().map(|name| name.to_string()).collect();
    let host_names = Arc::new(json!(hosts));
    let title = match play.name.as_ref().and_then(|node| node.as_str().map(|name| (name, node))) {
        // A name may use what only hosts know; it is only a name.
        Some((name, node)) => text(name, &node.span).unwrap_or_else(|_| name.to_string()),
        None => pattern,
    };
    let roles = play.all_roles();
    Ok(PlayRun { play: Arc::new(play), title, hosts, host_names, roles })
}

fn host_start(
    name: &str,
    play_folder: Option<&Path>,
    inventory: &Inventory,
    extra_vars: &Stored,
    render: &Render,
) -> Result<HostStart, Diagnostic> {
    let vars: Stored = inventory.vars_of(name, play_folder)?.into_iter().collect();
    let magic: Stored = inventory.own_magic_of(name).into_iter().collect();
    let mut scope = Scope::default();
    scope.push(Layer::Known(&magic));
    scope.push(Layer::Final(inventory.shared_magic()));
    scope.push(Layer::Raw(extra_vars));
    scope.push(Layer::Raw(&vars));
    let mut about_connection = Map::new();
    for key in vars.keys().chain(extra_vars.keys()) {
        if !(key.starts_with("ansible_") || key.starts_with("sandbox_")) {
            continue;
        }
        let value = render
            .templar
            .evaluate(key, &scope)
            .map_err(|error| Diagnostic::error(format!("host `{name}`: variable `{key}`: {error}")))?;
        about_connection.insert(key.clone(), value);
    }
    let connection = Connection::of(name, &about_connection)?;
    let folder = inventory.folder_of(name);
    Ok(HostStart { inventory: Arc::new(vars), magic, connection, folder })
}

impl Prepared {
    /// Are there any hosts to work on?
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Plans or applies; all that happens goes to the sink.
    ///
    /// # Errors
    /// When the lock file can't be read or no threads can be had; nothing was touched then.
    pub fn execute(&self, mode: Mode, sink: &Arc<Sink>) -> Result<Finish, Diagnostic> {
        let shared = self.shared(mode, sink)?;
        let mut hosts: IndexMap<&str, HostRun<'_>> =
            self.hosts.iter().map(|(name, start)| (name.as_str(), start.begin(name, &shared))).collect();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.settings.forks.clamp(1, self.hosts.len().max(1)))
            .build()
            .map_err(|e| Diagnostic::error(format!("can't start threads: {e}")))?;
        for play in &self.plays {
            let meant: HashSet<&str> = play.hosts.iter().map(String::as_str).collect();
            let mut going: Vec<&mut HostRun<'_>> =
                hosts.values_mut().filter(|host| !host.given_up && meant.contains(host.name.as_str())).collect();
            let names = going.iter().map(|host| host.name.clone()).collect();
            sink.event(Event::Play { name: play.title.clone(), hosts: names });
            pool.install(|| going.par_iter_mut().for_each(|host| host.play(play)));
        }
        let mut finish =
            Finish { recap: Recap { plan: mode == Mode::Plan, ..Recap::default() }, hosts: vec![], unsavable: vec![] };
        for (name, host) in hosts {
            finish.unsavable.extend(host.unsavable.iter().map(|task| format!("{name}: {task}")));
            finish.hosts.push(SavedHost { name: name.to_string(), tasks: host.saved });
            finish.recap.hosts.insert(name.to_string(), host.recap);
        }
        sink.recap(&finish.recap);
        Ok(finish)
    }

    fn shared(&self, mode: Mode, sink: &Arc<Sink>) -> Result<Shared, Diagnostic> {
        for start in self.hosts.values() {
            start.connection.secrets().for_each(|secret| sink.hide(secret));
        }
        if let Some(password) = &self.settings.become_password {
            sink.hide(password);
        }
        Ok(Shared {
            options: self.settings.clone(),
            mode,
            run: run_name(),
            from: who(),
            loader: Arc::clone(&self.loader),
            render: Render::default(),
            sink: Arc::clone(sink),
            lock: Lock::beside(self.settings.inventories.first().map(PathBuf::as_path))?,
            hashes: Hashes::default(),
            ways: ways_of(&self.settings, sink),
            extra_vars: self.extra_vars.clone(),
            shared_magic: self.shared_magic.clone(),
        })
    }
}

impl HostStart {
    fn begin<'a>(&self, name: &str, shared: &'a Shared) -> HostRun<'a> {
        let mut host = HostRun::new(name, shared);
        host.vars.inventory = Arc::clone(&self.inventory);
        host.vars.magic = self.magic.clone();
        host.vars.magic.insert("vfio_provision_reboot_reasons", json!([]));
        host.vars.magic.insert("omit", render::OMIT);
        host.reach = Some(self.connection.clone());
        host.inventory_folder = self.folder.clone();
        host.recap = HostRecap::default();
        host
    }
}

/// The name of a run: names sort by time, and two runs at once have two.
fn run_name() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:012}-{:06}", now.as_secs(), std::process::id())
}
