//! The flags. Their doc comments are what `--help` prints.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Provision GPU passthrough workstations: every change is shown as a diff before it is made.
#[derive(Debug, Parser)]
#[command(
    name = "vfio-provision",
    version,
    after_help = "Exit codes: 0 fine; 1 the playbook, the inventory or the command line is wrong (nothing was touched); \
                  2 a task failed; 4 a host was unreachable; 6 both."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what would change, as diffs; touch nothing.
    Plan(PlanOptions),
    /// Show each change, then make it.
    Apply(ApplyOptions),
    /// List what was done on machines: every apply that changed something, with who, when and from where.
    Runs(RunsOptions),
    /// Take a run back: show the diffs, ask, then put files, links and attributes back and undo commands.
    Rollback(RollbackOptions),
    /// Join the reports of a run's shards: one recap, and the exit code that the run as a whole would have had.
    MergeReports(MergeOptions),
    /// Say what a module does and which parameters it takes; without a name, list all modules.
    Doc(DocOptions),
    /// Print a JSON Schema: of playbooks' modules, or of the lines that `--output json` prints.
    Schema(SchemaOptions),
    /// Serve a controller on standard input and output (started by the program itself).
    #[command(hide = true)]
    Agent(AgentOptions),
}

/// `agent`.
#[derive(Debug, Args)]
pub struct AgentOptions {
    /// Keep watch over a change of the network, as the files in this folder say.
    #[arg(long, value_name = "FOLDER")]
    pub watch: Option<PathBuf>,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanOptions {
    /// What is shared with `apply`.
    #[command(flatten)]
    pub run: RunOptions,
    /// Save the plan; `apply FILE` does exactly that plan, and refuses hosts that have moved on since.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Exit with 0 when there is nothing to change and with 2 when there is.
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `apply`.
#[derive(Debug, Args)]
pub struct ApplyOptions {
    /// What is shared with `plan`.
    #[command(flatten)]
    pub run: RunOptions,
    /// Change nothing: the same as `plan`.
    #[arg(short = 'C', long)]
    pub check: bool,
    /// Show the whole plan, then ask once.
    #[arg(long)]
    pub ask: bool,
}

/// What `plan` and `apply` share.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Playbooks, in order; for `apply` also one saved plan.
    #[arg(required = true, value_name = "PLAYBOOK")]
    pub playbooks: Vec<PathBuf>,
    /// An inventory: INI, YAML, or a folder of them; may be given more than once.
    #[arg(short, long, value_name = "PATH")]
    pub inventory: Vec<PathBuf>,
    /// Only these hosts: a pattern such as `lab:!ws07`, or @FILE with one a line.
    #[arg(short, long, value_name = "PATTERN")]
    pub limit: Option<String>,
    /// Take down the keys of hosts that have none in known_hosts yet; a key that has changed is refused all the same.
    #[arg(long)]
    pub accept_new_host_keys: bool,
    /// Variables that win over all others: `k=v k2=v2`, JSON or YAML, or @FILE; may be given more than once.
    #[arg(short, long, value_name = "VARS")]
    pub extra_vars: Vec<String>,
    /// Only tasks with one of these tags.
    #[arg(short, long, value_name = "TAGS", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// No tasks with one of these tags.
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    pub skip_tags: Vec<String>,
    /// Begin with the task of this name.
    #[arg(long, value_name = "NAME")]
    pub start_at_task: Option<String>,
    /// As many hosts at a time.
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    pub forks: usize,
    /// Become another user for all plays (root unless `ansible_become_user` says otherwise).
    #[arg(short, long = "become")]
    pub become_: bool,
    /// Ask for the password that becoming wants.
    #[arg(short = 'K', long)]
    pub ask_become_pass: bool,
    /// Say more; twice, thrice for still more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Show diffs (that is the default).
    #[arg(long, overrides_with = "no_diff")]
    pub diff: bool,
    /// Show no diffs, only which tasks change something.
    #[arg(long, overrides_with = "diff")]
    pub no_diff: bool,
    /// Print the hosts of each play, and stop.
    #[arg(long)]
    pub list_hosts: bool,
    /// Print the tasks of each play, and stop.
    #[arg(long)]
    pub list_tasks: bool,
    /// Print the tags of each play, and stop.
    #[arg(long)]
    pub list_tags: bool,
    /// Check playbooks and inventory, and stop.
    #[arg(long)]
    pub syntax_check: bool,
    /// Text for people, or JSON lines for programs.
    #[arg(long, value_enum, default_value_t = OutputForm::Text, value_name = "FORM")]
    pub output: OutputForm,
    /// Write a report for others into this folder: JSON lines, JUnit, a log per host; readable by you only.
    #[arg(long, value_name = "FOLDER", env = "VFIO_PROVISION_REPORT", hide_env_values = true)]
    pub report: Option<PathBuf>,
    /// Where roles are looked for besides `roles/` beside the playbook; may be given more than once.
    #[arg(long, value_name = "FOLDER")]
    pub roles_path: Vec<PathBuf>,
    /// Wait as long for another run on a machine to end; without it such a host fails at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait_for_lock: u64,
}

/// Which machines, for `runs` and `rollback`.
#[derive(Debug, Args)]
pub struct MachineOptions {
    /// Hosts or patterns such as `lab:!ws07`.
    #[arg(required = true, value_name = "HOST")]
    pub hosts: Vec<String>,
    /// An inventory: INI, YAML, or a folder of them; may be given more than once.
    #[arg(short, long, value_name = "PATH")]
    pub inventory: Vec<PathBuf>,
    /// As many hosts at a time.
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    pub forks: usize,
    /// Become another user (root unless `ansible_become_user` says otherwise): every user has runs of its own.
    #[arg(short, long = "become")]
    pub become_: bool,
    /// Ask for the password that becoming wants.
    #[arg(short = 'K', long)]
    pub ask_become_pass: bool,
    /// Say more; twice, thrice for still more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Text for people, or JSON lines for programs.
    #[arg(long, value_enum, default_value_t = OutputForm::Text, value_name = "FORM")]
    pub output: OutputForm,
}

/// `runs`.
#[derive(Debug, Args)]
pub struct RunsOptions {
    /// Which machines.
    #[command(flatten)]
    pub machines: MachineOptions,
}

/// `rollback`.
#[derive(Debug, Args)]
pub struct RollbackOptions {
    /// Which machines.
    #[command(flatten)]
    pub machines: MachineOptions,
    /// Take this run back; without it the last one that still counts.
    #[arg(long, value_name = "ID", conflicts_with = "through")]
    pub run: Option<String>,
    /// Take this run back and everything that came after it.
    #[arg(long, value_name = "ID")]
    pub through: Option<String>,
    /// Change nothing: only show the diffs.
    #[arg(short = 'C', long)]
    pub check: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Take back also what somebody else has changed since.
    #[arg(long)]
    pub force: bool,
    /// Take packages back too: remove what was installed, install what was removed.
    #[arg(long)]
    pub packages: bool,
    /// Show no diffs.
    #[arg(long)]
    pub no_diff: bool,
    /// Wait as long for another run on a machine to end; without it such a host fails at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait_for_lock: u64,
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// For people.
    Text,
    /// One event a line.
    Json,
}

/// `merge-reports`.
#[derive(Debug, Args)]
pub struct MergeOptions {
    /// Reports: files of JSON lines, folders of `--report`, or folders of such.
    #[arg(required = true, value_name = "REPORT")]
    pub reports: Vec<PathBuf>,
    /// Write all as one report (JSON lines).
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write all as one JUnit file.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// For plans: exit with 0 when there is nothing to change and with 2 when there is.
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `doc`.
#[derive(Debug, Args)]
pub struct DocOptions {
    /// The module.
    pub module: Option<String>,
    /// Print the whole reference as Markdown.
    #[arg(long, conflicts_with = "module")]
    pub markdown: bool,
}

/// `schema`.
#[derive(Debug, Args)]
pub struct SchemaOptions {
    /// Which: `modules` or `events`.
    #[arg(value_enum)]
    pub what: SchemaKind,
}

/// Which schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// The parameters of all modules.
    Modules,
    /// The lines of `--output json`.
    Events,
}
