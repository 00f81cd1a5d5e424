//! The flags. Their doc comments are what `--help` prints.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Provision GPU passthrough workstations: every change is shown as a diff before it is made.
#[derive(Debug, Parser)]
#[command(
    name = "vfio-provision",
    version,
    after_help = "Exit codes: 0 fine; 1 the playbook, the inventory or the command line is wrong (nothing was touched); \
                  2 a task failed; 4 a host was unreachable; 6 both; 130 interrupted (Ctrl-C once: what is under way is \
                  finished, twice: stop now)."
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
    /// Apply this machine's own part of a git repository.
    Pull(PullOptions),
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
    /// Describe guests: import what libvirt has, render, compare and check descriptions; on files alone, unless a host is
    /// named.
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Check the guests that playbooks and inventory describe, host by host, for what libvirt swallows and people regret; on
    /// files alone.
    Lint(LintOptions),
    /// Encrypt and decrypt files and values, as ansible-vault does.
    #[command(subcommand)]
    Vault(VaultCommand),
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
    /// Go on after a run that left hosts undone, with exactly those hosts and the handlers that they still owe: the same
    /// command again and `--resume` for the last such run, or `--resume=FILE` for another one.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "last")]
    pub resume: Option<String>,
    /// A play with more hosts than this, chosen without `--limit`, is asked about first.
    #[arg(long, value_name = "N", env = "VFIO_PROVISION_MAX_HOSTS", default_value_t = crate::run::guard::MAX_HOSTS)]
    pub max_hosts: usize,
    /// Yes, so many hosts are meant: don't ask about --max-hosts.
    #[arg(long)]
    pub yes: bool,
}

/// `pull`.
#[derive(Debug, Args)]
pub struct PullOptions {
    /// The repository: a URL (https, ssh) or a path on this machine.
    #[arg(long, value_name = "URL|PATH")]
    pub url: String,
    /// The branch, tag or commit.
    #[arg(long = "ref", default_value = "main", value_name = "REF")]
    pub reference: String,
    /// The playbook, inside of the repository.
    #[arg(long, default_value = "site.yml", value_name = "PATH")]
    pub playbook: PathBuf,
    /// An inventory, inside of the repository or with an absolute path; may be given more than once. Without it, the
    /// first of `inventory`, `inventory.yml`, `inventory.yaml`, `inventory.ini` and `hosts` that is there.
    #[arg(short, long, value_name = "PATH")]
    pub inventory: Vec<PathBuf>,
    /// This machine's name in the inventory. Without it, the host that is called as this machine is.
    #[arg(short, long, value_name = "HOST")]
    pub limit: Option<String>,
    /// Where the repository and what was applied last are kept.
    #[arg(long, default_value = "/var/lib/vfio-provision/pull", value_name = "FOLDER")]
    pub directory: PathBuf,
    /// Write a report for others into this folder: JSON lines, JUnit, a log per host; readable by you only.
    #[arg(long, value_name = "FOLDER")]
    pub report: Option<PathBuf>,
    /// Apply only a commit or tag with a good signature of a key that this user's GnuPG has.
    #[arg(long)]
    pub verify_signatures: bool,
    /// Do nothing when the commit is the one that was applied last.
    #[arg(long)]
    pub only_if_changed: bool,
    /// Fetch the repository's submodules too.
    #[arg(long)]
    pub submodules: bool,
    /// Change nothing: show what would change.
    #[arg(short = 'C', long)]
    pub check: bool,
    /// Text for people, or JSON lines for programs.
    #[arg(long, value_enum, default_value_t = OutputForm::Text, value_name = "FORM")]
    pub output: OutputForm,
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
    /// The vaults' passwords.
    #[command(flatten)]
    pub vault: VaultPasswords,
    /// Only this part of the inventory, such as 2/8; `auto` takes it from the environment of a Kubernetes Indexed Job, a
    /// Slurm array or a Nomad job. All N parts together are the whole inventory, whatever the plays and --limit choose.
    #[arg(long, value_name = "K/N")]
    pub shard: Option<String>,
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
    /// The vaults' passwords.
    #[command(flatten)]
    pub vault: VaultPasswords,
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

/// `domain`.
#[derive(Debug, Subcommand)]
pub enum DomainCommand {
    /// Turn a guest's XML into its short description, without losing anything.
    Import(DomainImport),
    /// Print the XML that a description means, with a comment of where each part came from.
    Render(DomainRender),
    /// Compare two guests, each a description or XML: what WANTED would change of CURRENT.
    Diff(DomainDiff),
    /// Check guests, descriptions or XML, for what libvirt swallows and people regret.
    Lint(DomainLint),
}

/// `domain import`.
#[derive(Debug, Args)]
pub struct DomainImport {
    /// XML as `virsh dumpxml --inactive --security-info NAME` prints it (`-` is standard input); with --host, names of
    /// guests.
    #[arg(value_name = "FILE|NAME", required_unless_present = "all")]
    pub what: Vec<String>,
    /// Ask this host of the inventory for its guests. Nothing is changed there.
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// All guests of the host, with whether they start with it, its networks and its pools: a file for `host_vars`.
    #[arg(long, requires = "host", conflicts_with = "what")]
    pub all: bool,
    /// Leave out what the machine that has the guest keeps: UUID, MAC, guest addresses, controllers, QEMU's path, which build
    /// of UEFI.
    #[arg(long)]
    pub short: bool,
    /// What is printed: entries of `vms` for `host_vars`, tasks, or the parameters alone.
    #[arg(long = "as", value_enum, default_value_t = ImportForm::Vms, value_name = "FORM", conflicts_with = "all")]
    pub form: ImportForm,
    /// An inventory: INI, YAML, or a folder of them; may be given more than once.
    #[arg(short, long, value_name = "PATH")]
    pub inventory: Vec<PathBuf>,
    /// The vaults' passwords.
    #[command(flatten)]
    pub vault: VaultPasswords,
    /// Become another user on the host (root unless `ansible_become_user` says otherwise); libvirt asks for that.
    #[arg(short, long = "become")]
    pub become_: bool,
    /// Ask for the password that becoming wants.
    #[arg(short = 'K', long)]
    pub ask_become_pass: bool,
}

/// What `domain import` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportForm {
    /// Entries of `vms`, as the role `guests` takes them.
    Vms,
    /// A task with `libvirt_domain`.
    Task,
    /// The parameters of `libvirt_domain`.
    Parameters,
}

/// Variables for templates in descriptions.
#[derive(Debug, Args)]
pub struct DomainVars {
    /// An inventory, for templates in descriptions; may be given more than once.
    #[arg(short, long, value_name = "PATH", requires = "host")]
    pub inventory: Vec<PathBuf>,
    /// The host whose variables they use.
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Variables that win over all others: `k=v k2=v2`, JSON or YAML, or @FILE; may be given more than once.
    #[arg(short, long, value_name = "VARS")]
    pub extra_vars: Vec<String>,
    /// The vaults' passwords.
    #[command(flatten)]
    pub vault: VaultPasswords,
}

/// `domain render`.
#[derive(Debug, Args)]
pub struct DomainRender {
    /// The description: parameters of `libvirt_domain`, tasks, or a file with `vms`; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only the guest of this name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Without comments.
    #[arg(long)]
    pub plain: bool,
    /// Variables.
    #[command(flatten)]
    pub vars: DomainVars,
}

/// `domain diff`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 the same; 2 they differ; 1 an error.")]
pub struct DomainDiff {
    /// What should be: a description or XML; `-` is standard input.
    pub wanted: PathBuf,
    /// What is: a description or XML; `-` is standard input.
    pub current: PathBuf,
    /// The guest of this name, where there are several.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Show the difference of the XML too.
    #[arg(short, long)]
    pub verbose: bool,
    /// Variables.
    #[command(flatten)]
    pub vars: DomainVars,
}

/// `domain lint`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 fine, or warnings only; 2 errors; 1 a file can't be read.")]
pub struct DomainLint {
    /// Descriptions or XML; `-` is standard input. Several are checked against each other, as guests of one machine.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Leave out what these rules find (docs/lint-rules.md has their names); may be given more than once.
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    pub silence: Vec<String>,
    /// Variables.
    #[command(flatten)]
    pub vars: DomainVars,
}

/// `lint`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 fine, or warnings only; 2 errors; 1 the playbook, the inventory or a description is \
                        wrong."
)]
pub struct LintOptions {
    /// Playbooks, in order; without any, `site.yml` or `playbooks/site.yml`.
    #[arg(value_name = "PLAYBOOK")]
    pub playbooks: Vec<PathBuf>,
    /// An inventory: INI, YAML, or a folder of them; may be given more than once.
    #[arg(short, long, value_name = "PATH")]
    pub inventory: Vec<PathBuf>,
    /// Only these hosts: a pattern such as `lab:!ws07`, or @FILE with one a line.
    #[arg(short, long, value_name = "PATTERN")]
    pub limit: Option<String>,
    /// Leave out what these rules find (docs/lint-rules.md has their names); may be given more than once.
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    pub silence: Vec<String>,
    /// Variables that win over all others: `k=v k2=v2`, JSON or YAML, or @FILE; may be given more than once.
    #[arg(short, long, value_name = "VARS")]
    pub extra_vars: Vec<String>,
    /// Only tasks with one of these tags.
    #[arg(short, long, value_name = "TAGS", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// No tasks with one of these tags.
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    pub skip_tags: Vec<String>,
    /// Where roles are looked for besides `roles/` beside the playbook; may be given more than once.
    #[arg(long, value_name = "FOLDER")]
    pub roles_path: Vec<PathBuf>,
    /// The vaults' passwords.
    #[command(flatten)]
    pub vault: VaultPasswords,
    /// Text for people, or JSON lines for programs.
    #[arg(long, value_enum, default_value_t = OutputForm::Text, value_name = "FORM")]
    pub output: OutputForm,
}

/// Where vault passwords come from.
#[derive(Clone, Debug, Default, Args)]
pub struct VaultPasswords {
    /// A file that holds a vault password, or prints one if it is executable; may be given more than once.
    #[arg(long, value_name = "FILE", visible_alias = "vault-pass-file")]
    pub vault_password_file: Vec<PathBuf>,
    /// A vault password with a label: LABEL@FILE, LABEL@prompt, or one without a label; may be given more than once.
    #[arg(long, value_name = "[LABEL@]SOURCE")]
    pub vault_id: Vec<String>,
    /// Ask for the vault password.
    #[arg(short = 'J', long, visible_alias = "ask-vault-password")]
    pub ask_vault_pass: bool,
}

/// `vault`.
#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Encrypt files.
    Encrypt(VaultFiles),
    /// Decrypt files: they are in plain text from then on.
    Decrypt(VaultFiles),
    /// Print what encrypted files hold.
    View(VaultView),
    /// Edit an encrypted file with $EDITOR; one that is not there yet is made.
    Edit(VaultEdit),
    /// Encrypt a value, to be put into a YAML file.
    EncryptString(EncryptStringOptions),
    /// Encrypt files anew with another password.
    Rekey(VaultRekey),
}

/// `vault encrypt` and `vault decrypt`.
#[derive(Debug, Args)]
pub struct VaultFiles {
    /// The files; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write here instead of replacing the file; `-` is standard output.
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which password to encrypt with, where several are given.
    #[arg(long, value_name = "LABEL")]
    pub encrypt_vault_id: Option<String>,
    /// The passwords.
    #[command(flatten)]
    pub passwords: VaultPasswords,
}

/// `vault view`.
#[derive(Debug, Args)]
pub struct VaultView {
    /// The files; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The passwords.
    #[command(flatten)]
    pub passwords: VaultPasswords,
}

/// `vault edit`.
#[derive(Debug, Args)]
pub struct VaultEdit {
    /// The file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which password to encrypt with; without it, the one that opened the file.
    #[arg(long, value_name = "LABEL")]
    pub encrypt_vault_id: Option<String>,
    /// The passwords.
    #[command(flatten)]
    pub passwords: VaultPasswords,
}

/// `vault encrypt-string`.
#[derive(Debug, Args)]
pub struct EncryptStringOptions {
    /// The values; without any, standard input is read, or a terminal is asked (a shell keeps what it was given).
    #[arg(value_name = "VALUE")]
    pub strings: Vec<String>,
    /// The variable's name; one for each value.
    #[arg(short, long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Which password to encrypt with, where several are given.
    #[arg(long, value_name = "LABEL")]
    pub encrypt_vault_id: Option<String>,
    /// The passwords.
    #[command(flatten)]
    pub passwords: VaultPasswords,
}

/// `vault rekey`.
#[derive(Debug, Args)]
pub struct VaultRekey {
    /// The files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The new label, or the new password with it: LABEL@FILE, LABEL@prompt.
    #[arg(long, value_name = "LABEL[@SOURCE]")]
    pub new_vault_id: Option<String>,
    /// The file that holds or prints the new password; without it and a source it is asked for.
    #[arg(long, value_name = "FILE")]
    pub new_vault_password_file: Option<PathBuf>,
    /// The old passwords.
    #[command(flatten)]
    pub passwords: VaultPasswords,
}
