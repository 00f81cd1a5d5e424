//! The modules that are about the play and not about a machine; `run/` does what they say, on the controller.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::modules::Control;
use crate::modules::params::{Flag, List, Text, yes};

/// Shows a message or a variable.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Debug {
    /// What to show: a text, a list or a map. "Hello world!" if neither this nor `var` is given.
    pub msg: Option<Value>,
    /// The name of a variable, or an expression, whose value is shown; without braces.
    pub var: Option<Text>,
    /// Shown only if `-v` is given at least this often.
    #[serde(default)]
    pub verbosity: u8,
}

impl Control for Debug {
    const NAME: &'static str = "debug";
    const SUMMARY: &'static str = "Show a message or the value of a variable";
}

/// Sets variables for the rest of the run, for this host.
///
/// Every parameter is the name of a variable with its value.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct SetFact {
    /// Accepted as Ansible has it; facts are not cached between runs.
    #[serde(default)]
    pub cacheable: Flag,
    /// The variables.
    #[serde(flatten)]
    pub facts: Map<String, Value>,
}

impl Control for SetFact {
    const NAME: &'static str = "set_fact";
    const SUMMARY: &'static str = "Set variables for this host for the rest of the run";
}

/// Reads variables from a file during the run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncludeVars {
    /// The file, looked for in the role's `vars/`, beside the task's file and beside the playbook.
    pub file: Option<String>,
    /// A folder of which all YAML and JSON files are read, in the order of their names.
    pub dir: Option<String>,
    /// Put everything into one variable of this name instead of one variable per key.
    pub name: Option<String>,
}

impl Control for IncludeVars {
    const NAME: &'static str = "include_vars";
    const SUMMARY: &'static str = "Read variables from a file during the run";
    const FREE_FORM: Option<&'static str> = Some("file");
}

/// Settings for the tasks that an include brings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Tags for all of them.
    #[serde(default)]
    pub tags: List<String>,
    /// Conditions for all of them.
    #[serde(default)]
    pub when: List<Value>,
    /// Variables for all of them.
    #[serde(default)]
    pub vars: Map<String, Value>,
    /// Do them as another user?
    #[serde(rename = "become")]
    pub become_: Option<Flag>,
    /// Which one; root if not given.
    pub become_user: Option<String>,
    /// Go on if one fails?
    pub ignore_errors: Option<Flag>,
    /// Keep their parameters and results out of the output?
    pub no_log: Option<Flag>,
}

/// Runs the tasks of a file; the name may be a template, and it may be looped over.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncludeTasks {
    /// The file, looked for beside the including file, then in the role's `tasks/`.
    pub file: String,
    /// Settings for the included tasks (those of the include itself are not handed down, except `vars`).
    #[serde(default)]
    pub apply: Apply,
}

impl Control for IncludeTasks {
    const NAME: &'static str = "include_tasks";
    const SUMMARY: &'static str = "Run the tasks of a file, chosen during the run";
    const FREE_FORM: Option<&'static str> = Some("file");
}

/// Runs a role in the middle of the tasks; the name may be a template, and it may be looped over.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncludeRole {
    /// The role.
    pub name: String,
    /// Another file of its `tasks/` than `main`.
    pub tasks_from: Option<String>,
    /// Another file of its `vars/` than `main`.
    pub vars_from: Option<String>,
    /// Another file of its `defaults/` than `main`.
    pub defaults_from: Option<String>,
    /// Another file of its `handlers/` than `main`.
    pub handlers_from: Option<String>,
    /// May it run again with the same parameters?
    #[serde(default = "yes")]
    pub allow_duplicates: Flag,
    /// Are its variables and defaults seen by the tasks after it?
    #[serde(default)]
    pub public: Flag,
    /// Settings for the role's tasks.
    #[serde(default)]
    pub apply: Apply,
}

impl Control for IncludeRole {
    const NAME: &'static str = "include_role";
    const SUMMARY: &'static str = "Run a role in the middle of the tasks, chosen during the run";
}

/// Puts the tasks of a file in the place of this task, before the run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportTasks {
    /// The file, looked for beside the importing file, then in the role's `tasks/`. No template.
    pub file: String,
}

impl Control for ImportTasks {
    const NAME: &'static str = "import_tasks";
    const SUMMARY: &'static str = "Put the tasks of a file here, before the run";
    const FREE_FORM: Option<&'static str> = Some("file");
}

/// Puts a role in the place of this task, before the run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRole {
    /// The role. No template.
    pub name: String,
    /// Another file of its `tasks/` than `main`.
    pub tasks_from: Option<String>,
    /// Another file of its `vars/` than `main`.
    pub vars_from: Option<String>,
    /// Another file of its `defaults/` than `main`.
    pub defaults_from: Option<String>,
    /// Another file of its `handlers/` than `main`.
    pub handlers_from: Option<String>,
    /// May it run again with the same parameters?
    #[serde(default = "yes")]
    pub allow_duplicates: Flag,
    /// As in Ansible; the variables of an imported role are always seen by the tasks after it.
    #[serde(default = "yes")]
    pub public: Flag,
}

impl Control for ImportRole {
    const NAME: &'static str = "import_role";
    const SUMMARY: &'static str = "Put a role here, before the run";
}

/// Puts the plays of another playbook in the place of this entry of the playbook.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportPlaybook {
    /// The playbook, relative to the one that imports it. No template.
    pub file: String,
}

impl Control for ImportPlaybook {
    const NAME: &'static str = "import_playbook";
    const SUMMARY: &'static str = "Put the plays of another playbook here (among the plays, not the tasks)";
    const FREE_FORM: Option<&'static str> = Some("file");
}

/// Fails unless all conditions hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assert {
    /// Expressions, without braces; all must be true.
    pub that: List<Value>,
    /// What to say if one is not.
    #[serde(alias = "msg")]
    pub fail_msg: Option<Value>,
    /// What to say if all are.
    pub success_msg: Option<Value>,
    /// Say less.
    #[serde(default)]
    pub quiet: Flag,
}

impl Control for Assert {
    const NAME: &'static str = "assert";
    const SUMMARY: &'static str = "Fail unless conditions hold";
}

/// Fails, with a message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// Why.
    #[serde(default = "asked_for")]
    pub msg: Value,
}

fn asked_for() -> Value {
    "failed, as the task asks".into()
}

impl Control for Fail {
    const NAME: &'static str = "fail";
    const SUMMARY: &'static str = "Fail with a message";
}

/// What `meta` does.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum MetaAction {
    /// Nothing.
    Noop,
    /// Run the handlers that were notified so far, now.
    FlushHandlers,
    /// End the play for all hosts.
    EndPlay,
    /// End the play for this host.
    EndHost,
    /// Forget what set_fact and setup found about this host.
    ClearFacts,
    /// Let hosts that failed take part again.
    ClearHostErrors,
    /// Close the connection; the next task opens a new one.
    ResetConnection,
}

/// Steers the run itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// What to do.
    pub action: MetaAction,
}

impl Control for Meta {
    const NAME: &'static str = "meta";
    const SUMMARY: &'static str = "Steer the run itself: flush_handlers, end_host and so on";
    const FREE_FORM: Option<&'static str> = Some("action");
}
