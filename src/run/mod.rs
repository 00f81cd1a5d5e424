//! Who goes when: plays in order, hosts side by side, each task with finished parameters to its agent; events out.

mod ahead;
mod batch;
mod check;
mod comeback;
mod crowd;
mod dispatch;
mod exact;
mod extra_vars;
pub mod guard;
mod guarded;
mod host;
pub mod interrupt;
mod link;
mod list;
mod lock;
mod offline;
mod peers;
mod prelude;
mod render;
mod resume;
mod rollback;
mod rollout;
mod saved;
pub mod scan;
pub mod shard;
mod tags;
mod task;
mod vars;
mod ways;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::agent::protocol::{Hello, MachineKind, Mode};
use crate::diag::Diagnostic;
use crate::inventory::{Connection, Inventory};
use crate::playbook::{LoadOptions, Loader, Play, RoleUse, Site};
use crate::report::{Event, Recap, Sink};
use crate::template::Var;
use crate::transport::ask::Terminal;
use crate::vault::Vault;
use batch::{Pace, Throttles};
use host::HostRun;
use lock::Lock;
use peers::Peers;
use render::Render;
use vars::{Layer, Scope, Stored};
use ways::Ways;

pub use exact::execute as execute_saved;
pub use interrupt::Interrupt;
pub use list::Lists;
pub use offline::Offline;
pub use resume::State as Resume;
pub use rollback::{Answers, Asked, Machines, Runs};
pub use saved::{SavedHost, SavedPlan};
pub use shard::Shard;

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
    /// The vaults' passwords.
    pub vault: Arc<Vault>,
    /// `--accept-new-host-keys`.
    pub accept_new: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// `--roles-path`.
    pub roles_path: Vec<PathBuf>,
    /// `--shard`.
    pub shard: Option<Shard>,
    /// `--resume`: a file, or `last`.
    pub resume: Option<String>,
    /// Whether the user wants it to end.
    pub interrupt: Interrupt,
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
    inventory: Arc<Inventory>,
    hosts: IndexMap<String, HostPlan>,
    /// What this run is, should another have to go on after it.
    origin: resume::Origin,
    /// The run that this one goes on after.
    resume: Option<Resume>,
    /// What the user should know and nothing stops for.
    pub warnings: Vec<Diagnostic>,
}

/// What is known of a host while its turn has not come: with many hosts this must be little.
struct HostPlan {
    /// The names of its variables; hosts with the same ones share them.
    names: Arc<HashSet<String>>,
    /// The first play that it is in.
    play: usize,
}

/// What is known of a host when its turn comes.
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
    /// Batches and their order.
    pace: Pace,
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
    /// `hostvars`.
    words: IndexMap<String, Var>,
    /// What hosts know of each other.
    peers: Arc<Peers>,
    throttles: Throttles,
    interrupt: Interrupt,
    /// The hosts that are not done; none in a dry run.
    ledger: Option<Arc<resume::Ledger>>,
    /// No machine is asked for anything: what is looked for instead.
    scan: Option<scan::Scan>,
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
#[derive(Default)]
pub struct Finish {
    /// The counts.
    pub recap: Recap,
    /// What a saved plan holds.
    pub hosts: Vec<SavedHost>,
    /// Tasks that a saved plan can't hold, as `host: task`.
    pub unsavable: Vec<String>,
    /// The user ended it.
    pub interrupted: bool,
    /// How many hosts `--resume` would go on with; 0 in a dry run.
    pub left: usize,
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
    let inventory = Arc::new(Inventory::load_with(&settings.inventories, Arc::clone(&settings.vault))?);
    let mut loader = Loader::new(LoadOptions { roles_path: settings.roles_path.clone() });
    loader = loader.with_vault(Arc::clone(&settings.vault));
    let site = loader.load(&settings.playbooks)?;
    let extra_vars = extra_vars::parse(&settings.extra_vars, &settings.vault).map_err(|error| vec![error])?;
    let Site { plays, warnings } = site;
    let warnings = inventory.warnings().iter().cloned().chain(warnings).collect();
    let render = Render::with(&settings.vault);
    let mut errors = Vec::new();
    let mut runs = Vec::new();
    for play in plays {
        match play_run(play, &settings, &inventory, &extra_vars, &render) {
            Ok(run) => runs.push(run),
            Err(error) => errors.push(error),
        }
    }
    let origin = resume::Origin::of(&settings, loader.files());
    let resume = match settings.resume.as_deref().map(|which| Resume::read(which, &settings, &origin)).transpose() {
        Ok(resume) => resume,
        Err(error) => return Err(vec![error]),
    };
    if let Some(resume) = &resume {
        for run in &mut runs {
            run.keep(|host| resume.hosts.contains_key(host));
        }
    }
    let mut hosts = IndexMap::new();
    let mut sorts: HashMap<Vec<String>, Arc<HashSet<String>>> = HashMap::new();
    for (index, play) in runs.iter().enumerate() {
        for name in &play.hosts {
            if !hosts.contains_key(name) {
                match host_start(name, Some(&play.play.origin.playbook_folder), &inventory, &extra_vars, &render) {
                    Ok(start) => {
                        let names: Vec<String> = start.inventory.keys().cloned().collect();
                        let names = match sorts.get(&names) {
                            Some(known) => Arc::clone(known),
                            None => Arc::clone(
                                sorts.entry(names.clone()).or_insert_with(|| Arc::new(names.into_iter().collect())),
                            ),
                        };
                        hosts.insert(name.clone(), HostPlan { names, play: index });
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
    Ok(Prepared { settings, loader, plays: runs, extra_vars, shared_magic, inventory, hosts, origin, resume, warnings })
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
    let mine = settings.shard.map(|shard| shard.hosts(inventory.hosts()));
    // The controller's own `localhost` is in no inventory: each shard's controller has one.
    let known: HashSet<&str> = mine.iter().flat_map(|_| inventory.hosts()).collect();
    let is_mine = |host: &&str| mine.as_ref().is_none_or(|mine| mine.contains(host) || !known.contains(host));
    let hosts: Vec<String> = hosts.into_iter().filter(is_mine).map(str::to_string).collect();
    let host_names = Arc::new(json!(hosts));
    let pace = Pace::of(&play.rollout, render, &scope)?;
    let title = match play.name.as_ref().and_then(|node| node.as_str().map(|name| (name, node))) {
        // A name may use what only hosts know; it is only a name.
        Some((name, node)) => text(name, &node.span).unwrap_or_else(|_| name.to_string()),
        None => pattern,
    };
    let roles = play.all_roles();
    Ok(PlayRun { play: Arc::new(play), title, hosts, host_names, roles, pace })
}

impl PlayRun {
    /// Only hosts that are wanted.
    fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.hosts.retain(|host| wanted(host));
        self.host_names = Arc::new(json!(self.hosts));
    }
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

    fn shared(&self, mode: Mode, sink: &Arc<Sink>, scan: Option<scan::Scan>) -> Result<Shared, Diagnostic> {
        if let Some(password) = &self.settings.become_password {
            sink.hide(password);
        }
        let run = run_name();
        let settings = &self.settings;
        let playbook_folder = self.plays.first().map(|play| play.play.origin.playbook_folder.clone());
        let kept = peers::worth_keeping(self.hosts.len(), &self.files_with_templates());
        let (inventory, unseen) = (Arc::clone(&self.inventory), scan.is_some());
        let peers = Peers::new(inventory, playbook_folder, self.extra_vars.clone(), kept, unseen);
        let names = self.hosts.keys().map(String::as_str);
        let ledger = (mode == Mode::Apply)
            .then(|| resume::Ledger::new(&run, settings, self.origin.clone(), self.resume.as_ref(), names))
            .map(Arc::new);
        Ok(Shared {
            options: settings.clone(),
            mode,
            run,
            from: who(),
            loader: Arc::clone(&self.loader),
            render: Render::with(&self.settings.vault),
            sink: Arc::clone(sink),
            lock: Lock::beside(settings.inventories.first().map(PathBuf::as_path))?,
            hashes: Hashes::default(),
            ways: ways_of(&self.settings, sink),
            extra_vars: self.extra_vars.clone(),
            shared_magic: self.shared_magic.clone(),
            words: peers.words(),
            peers,
            throttles: Throttles::default(),
            interrupt: settings.interrupt.clone(),
            ledger,
            scan,
        })
    }

    /// Where templates may stand that are rendered for a host.
    fn files_with_templates(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.settings.playbooks.clone();
        let loader = self.loader.lock().unwrap_or_else(|broken| broken.into_inner());
        files.extend(loader.files().map(Path::to_path_buf));
        for play in &self.plays {
            files.extend(play.roles.iter().map(|use_| use_.role.head.path.clone()));
        }
        let beside = |path: &PathBuf| path.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut folders: Vec<PathBuf> = self.settings.playbooks.iter().map(beside).collect();
        folders.extend(self.settings.inventories.iter().map(beside));
        files.extend(self.settings.inventories.iter().cloned());
        for folder in folders {
            for name in ["group_vars", "host_vars", "templates", "tasks", "vars", "roles"] {
                files.push(folder.join(name));
            }
        }
        files.sort();
        files.dedup();
        files
    }
}

impl HostStart {
    fn begin<'a>(&self, name: &str, shared: &'a Shared) -> HostRun<'a> {
        self.connection.secrets().for_each(|secret| shared.sink.hide(secret));
        let mut host = HostRun::new(name, shared);
        host.vars.inventory = Arc::clone(&self.inventory);
        host.vars.magic = self.magic.clone();
        host.vars.magic.insert("vfio_provision_reboot_reasons", json!([]));
        host.vars.magic.insert("omit", render::OMIT);
        host.reach = Some(self.connection.clone());
        host.inventory_folder = self.folder.clone();
        host
    }
}

/// The name of a run: names sort by time, and two runs at once have two.
fn run_name() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:012}-{:06}", now.as_secs(), std::process::id())
}
