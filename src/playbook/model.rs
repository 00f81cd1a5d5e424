//! What a playbook says, typed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ArgumentSpec;
use crate::diag::{Diagnostic, Span};
use crate::modules;
use crate::yaml::{Key, Node, Spanned};

/// Variables in the order of the text; where a name comes twice, the later wins.
pub type Vars = Vec<(Key, Node)>;

/// All plays of a run.
#[derive(Debug)]
pub struct Site {
    /// The plays, those of imported playbooks in their place.
    pub plays: Vec<Play>,
    /// What is odd, but no reason to stop.
    pub warnings: Vec<Diagnostic>,
}

/// A play: some hosts and what they should be.
#[derive(Debug)]
pub struct Play {
    /// Its name.
    pub name: Option<Node>,
    /// Which hosts; a list of patterns is joined by commas. May hold a template.
    pub hosts: Spanned<String>,
    /// Its variables; those given to `import_playbook` come last and win.
    pub vars: Vars,
    /// Files of variables; each is a string or a list of strings of which the first that exists is meant.
    pub vars_files: Vec<Node>,
    /// What runs first.
    pub pre_tasks: Vec<Item>,
    /// Its roles, after `pre_tasks`.
    pub roles: Vec<Arc<RoleUse>>,
    /// Its tasks, after `roles`.
    pub tasks: Vec<Item>,
    /// What runs last.
    pub post_tasks: Vec<Item>,
    /// Its own handlers, imports resolved; see [`Play::all_handlers`] for those of its roles too.
    pub handlers: Vec<Arc<Task>>,
    /// `become` and `become_user`.
    pub become_: Become,
    /// A truth value or a template.
    pub gather_facts: Option<Node>,
    /// Its tags, and those of the `import_playbook` above it.
    pub tags: Vec<String>,
    /// The `when` of the `import_playbook` above it; for every task.
    pub when: Vec<Node>,
    /// How its hosts go in batches.
    pub rollout: Rollout,
    /// What is asked of hosts that do the same task.
    pub crowd: Crowd,
    /// Where it stands.
    pub span: Span,
    /// Where its files are looked for.
    pub origin: Arc<Origin>,
}

/// How the hosts of a play go in batches, and when the rest is not begun.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rollout {
    /// `serial`: the sizes of the batches (numbers, per cents, templates); the last one counts for all further ones.
    pub serial: Vec<Node>,
    /// `max_fail_percentage`: a number, or a template of one.
    pub max_fail_percentage: Option<Node>,
    /// `order`.
    pub order: Order,
}

/// The order in which a play's hosts have their turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As the inventory has them.
    #[default]
    Inventory,
    /// From the last to the first.
    ReverseInventory,
    /// By name.
    Sorted,
    /// By name, from the last to the first.
    ReverseSorted,
    /// Another one in each run.
    Shuffle,
}

impl Order {
    /// The words for them.
    pub const NAMES: [(&str, Order); 5] = [
        ("inventory", Order::Inventory),
        ("reverse_inventory", Order::ReverseInventory),
        ("sorted", Order::Sorted),
        ("reverse_sorted", Order::ReverseSorted),
        ("shuffle", Order::Shuffle),
    ];
}

/// What is asked of hosts that come to the same task; all may be templates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Crowd {
    /// `run_once`: a truth value.
    pub run_once: Option<Node>,
    /// `throttle`: as many hosts at a time; 0 is no bound.
    pub throttle: Option<Node>,
    /// `delegate_to`: the host where it is done instead.
    pub delegate_to: Option<Node>,
    /// `delegate_facts`: a truth value; facts belong to the host where it is done.
    pub delegate_facts: Option<Node>,
    /// `any_errors_fatal`: a truth value.
    pub any_errors_fatal: Option<Node>,
    /// `ignore_unreachable`: a truth value.
    pub ignore_unreachable: Option<Node>,
}

impl Crowd {
    /// What holds for something inside of `outer`: the inner settings win.
    pub fn under(&self, outer: &Crowd) -> Crowd {
        let pick = |inner: &Option<Node>, outer: &Option<Node>| inner.clone().or_else(|| outer.clone());
        Crowd {
            run_once: pick(&self.run_once, &outer.run_once),
            throttle: pick(&self.throttle, &outer.throttle),
            delegate_to: pick(&self.delegate_to, &outer.delegate_to),
            delegate_facts: pick(&self.delegate_facts, &outer.delegate_facts),
            any_errors_fatal: pick(&self.any_errors_fatal, &outer.any_errors_fatal),
            ignore_unreachable: pick(&self.ignore_unreachable, &outer.ignore_unreachable),
        }
    }

    /// All templates in it.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        let all = [&self.run_once, &self.throttle, &self.delegate_to, &self.delegate_facts];
        all.into_iter().chain([&self.any_errors_fatal, &self.ignore_unreachable]).flatten()
    }
}

/// Who a task is done as.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Become {
    /// `become`: a truth value or a template.
    pub become_: Option<Node>,
    /// `become_user`.
    pub user: Option<Node>,
}

/// What tasks, blocks and roles have in common, and hand down to what is below them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Common {
    /// Conditions, all of which must hold; each an expression or a truth value.
    pub when: Vec<Node>,
    /// Tags.
    pub tags: Vec<String>,
    /// Variables.
    pub vars: Vars,
    /// `become` and `become_user`.
    pub become_: Become,
    /// A truth value or a template.
    pub ignore_errors: Option<Node>,
    /// A truth value or a template.
    pub no_log: Option<Node>,
    /// What is asked of hosts that come to the same task.
    pub crowd: Crowd,
}

impl Common {
    /// What holds for something inside of `outer`: conditions and tags add up, the inner variables and settings win.
    pub fn under(&self, outer: &Common) -> Common {
        let mut tags = outer.tags.clone();
        tags.extend(self.tags.iter().filter(|tag| !outer.tags.contains(tag)).cloned());
        Common {
            when: outer.when.iter().chain(&self.when).cloned().collect(),
            tags,
            vars: outer.vars.iter().chain(&self.vars).cloned().collect(),
            become_: Become {
                become_: self.become_.become_.clone().or_else(|| outer.become_.become_.clone()),
                user: self.become_.user.clone().or_else(|| outer.become_.user.clone()),
            },
            ignore_errors: self.ignore_errors.clone().or_else(|| outer.ignore_errors.clone()),
            no_log: self.no_log.clone().or_else(|| outer.no_log.clone()),
            crowd: self.crowd.under(&outer.crowd),
        }
    }
}

/// One thing in a list of tasks.
#[derive(Clone, Debug)]
pub enum Item {
    /// A task.
    Task(Arc<Task>),
    /// A block, or an `import_tasks`.
    Block(Arc<Block>),
    /// An `import_role`.
    Role(Arc<RoleUse>),
}

/// Tasks that belong together.
#[derive(Debug)]
pub struct Block {
    /// Its name.
    pub name: Option<Node>,
    /// What is done.
    pub block: Vec<Item>,
    /// What is done if that fails.
    pub rescue: Vec<Item>,
    /// What is done in any case.
    pub always: Vec<Item>,
    /// Conditions, tags, variables …
    pub common: Common,
    /// Where it stands.
    pub span: Span,
}

/// One module with its parameters, and when and how it is done.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name, possibly a template.
    pub name: Option<Node>,
    /// The module.
    pub module: &'static modules::Entry,
    /// Always a map: a free form is under its parameter's name, `args:` is merged in.
    pub params: Node,
    /// Conditions, tags, variables …
    pub common: Common,
    /// A list or a template.
    pub loop_: Option<Node>,
    /// How it loops.
    pub loop_control: LoopControl,
    /// The variable that takes the result.
    pub register: Option<Spanned<String>>,
    /// Handlers to run if something changed; possibly templates.
    pub notify: Vec<Node>,
    /// Further names a handler listens to.
    pub listen: Vec<Node>,
    /// Expressions that all must hold for "changed"; empty: the module says it.
    pub changed_when: Vec<Node>,
    /// Expressions that all must hold for "failed"; empty: the module says it.
    pub failed_when: Vec<Node>,
    /// Expressions that all must hold, or the task is tried again.
    pub until: Vec<Node>,
    /// Seconds after which it is stopped and has failed: a number or a template.
    pub timeout: Option<Node>,
    /// How often it is tried again: a number or a template.
    pub retries: Option<Node>,
    /// Seconds between tries: a number or a template.
    pub delay: Option<Node>,
    /// Where it stands.
    pub span: Span,
    /// Which file, playbook and role it comes from.
    pub origin: Arc<Origin>,
}

/// `loop_control`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoopControl {
    /// What is shown of an item; a template.
    pub label: Option<Node>,
    /// The variable that counts from 0.
    pub index_var: Option<String>,
    /// The variable of the item, `item` if not given.
    pub loop_var: Option<String>,
}

/// Where tasks come from; relative file names start here.
#[derive(Debug)]
pub struct Origin {
    /// The folder of their file.
    pub folder: PathBuf,
    /// The folder of the playbook.
    pub playbook_folder: PathBuf,
    /// The role they belong to.
    pub role: Option<Arc<RoleHead>>,
}

/// A role used in a play, by a `roles:` entry, a dependency or an `import_role`.
#[derive(Debug)]
pub struct RoleUse {
    /// The role.
    pub role: Arc<Role>,
    /// Conditions, tags; `vars` are the role's parameters.
    pub common: Common,
    /// Where it is used.
    pub span: Span,
    /// Does it run even if the role has run with the same parameters before? By `include_role` and `import_role` it does unless
    /// they say `allow_duplicates: false`.
    pub again: bool,
}

/// What a role is, without its tasks.
#[derive(Debug)]
pub struct RoleHead {
    /// Its name, the last part of its path.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// `defaults/main.yml`: what everything else overrides.
    pub defaults: Vars,
    /// `vars/main.yml`.
    pub vars: Vars,
    /// What it takes, by `meta/argument_specs.yml`, for the entry point in use.
    pub argument_spec: Option<ArgumentSpec>,
    /// May it run more than once in a play with the same parameters?
    pub allow_duplicates: bool,
}

/// A role.
#[derive(Debug)]
pub struct Role {
    /// Name, folder, variables.
    pub head: Arc<RoleHead>,
    /// Its tasks.
    pub tasks: Vec<Item>,
    /// Its handlers.
    pub handlers: Vec<Arc<Task>>,
    /// Roles that run before it.
    pub dependencies: Vec<Arc<RoleUse>>,
}

impl Task {
    /// The name if it has one, else the module's; as written, templates included.
    pub fn title(&self) -> &str {
        self.name.as_ref().and_then(Node::as_str).unwrap_or(self.module.name)
    }
}

impl Origin {
    /// A file that a task names: in the role's `kind` folder (`files`, `templates`, `vars`, `tasks`), the role, beside
    /// the task's own file, and the same with the playbook, in Ansible's order.
    ///
    /// # Errors
    /// All places that were searched.
    pub fn find(&self, kind: &str, name: &str) -> Result<PathBuf, Vec<PathBuf>> {
        let name = Path::new(name);
        let mut places = Vec::new();
        if let Some(role) = &self.role {
            places.push(role.path.join(kind));
            places.push(role.path.clone());
        }
        for folder in [&self.folder, &self.playbook_folder] {
            places.push(folder.join(kind));
            places.push(folder.clone());
        }
        if name.is_absolute() {
            places = vec![PathBuf::new()];
        }
        let mut tried: Vec<PathBuf> = Vec::new();
        for place in places {
            let path = place.join(name);
            if path.exists() {
                return Ok(path);
            }
            if !tried.contains(&path) {
                tried.push(path);
            }
        }
        Err(tried)
    }
}

impl RoleUse {
    /// Two uses with the same identity do the same: unless the role allows duplicates, the second is left out.
    pub fn identity(&self) -> String {
        let vars: Vec<String> = self.common.vars.iter().map(|(k, v)| format!("{}={}", k.name, v.to_json())).collect();
        let when: Vec<String> = self.common.when.iter().map(|node| node.to_json().to_string()).collect();
        let become_ = &self.common.become_;
        let who = [&become_.become_, &become_.user].map(|node| node.as_ref().map(Node::to_json));
        format!("{}|{vars:?}|{when:?}|{:?}|{who:?}", self.role.head.path.display(), self.common.tags)
    }
}

/// A task met on a walk through a play, with everything that is handed down to it.
#[derive(Debug)]
pub struct Visit<'a> {
    /// The task.
    pub task: &'a Arc<Task>,
    /// Its own settings under those of its blocks, roles and play.
    pub common: Common,
}

impl Play {
    /// What the play hands down to its tasks (its variables aside, which have a rank of their own).
    pub fn common(&self) -> Common {
        let (become_, crowd) = (self.become_.clone(), self.crowd.clone());
        Common { when: self.when.clone(), tags: self.tags.clone(), become_, crowd, ..Common::default() }
    }

    /// Every task in the order of running: `pre_tasks`, roles with their dependencies, `tasks`, `post_tasks`.
    pub fn visit<'a>(&'a self, seen: &mut dyn FnMut(Visit<'a>)) {
        let outer = self.common();
        visit_items(&self.pre_tasks, &outer, seen);
        for role in &self.roles {
            visit_role(role, &outer, seen);
        }
        visit_items(&self.tasks, &outer, seen);
        visit_items(&self.post_tasks, &outer, seen);
    }

    /// The handlers of the play and of all roles it is known to use, with the use of the role they come from. The
    /// play's own come first; where two have one name, the first is meant.
    pub fn all_handlers(&self) -> Vec<(Option<Arc<RoleUse>>, Arc<Task>)> {
        let mut handlers: Vec<_> = self.handlers.iter().map(|handler| (None, Arc::clone(handler))).collect();
        for use_ in self.all_roles() {
            handlers.extend(use_.role.handlers.iter().map(|handler| (Some(Arc::clone(&use_)), Arc::clone(handler))));
        }
        handlers
    }

    /// All uses of roles that are known before the run, dependencies before their dependents; each role once.
    pub fn all_roles(&self) -> Vec<Arc<RoleUse>> {
        fn of_use(use_: &Arc<RoleUse>, found: &mut Vec<Arc<RoleUse>>) {
            if found.iter().any(|known| Arc::ptr_eq(&known.role, &use_.role)) {
                return;
            }
            for dependency in &use_.role.dependencies {
                of_use(dependency, found);
            }
            found.push(Arc::clone(use_));
            of_items(&use_.role.tasks, found);
        }
        fn of_items(items: &[Item], found: &mut Vec<Arc<RoleUse>>) {
            for item in items {
                match item {
                    Item::Task(_) => {}
                    Item::Block(block) => {
                        for part in [&block.block, &block.rescue, &block.always] {
                            of_items(part, found);
                        }
                    }
                    Item::Role(use_) => of_use(use_, found),
                }
            }
        }
        let mut found = Vec::new();
        of_items(&self.pre_tasks, &mut found);
        self.roles.iter().for_each(|use_| of_use(use_, &mut found));
        of_items(&self.tasks, &mut found);
        of_items(&self.post_tasks, &mut found);
        found
    }
}

fn visit_items<'a>(items: &'a [Item], outer: &Common, seen: &mut dyn FnMut(Visit<'a>)) {
    for item in items {
        match item {
            Item::Task(task) => seen(Visit { task, common: task.common.under(outer) }),
            Item::Block(block) => {
                let common = block.common.under(outer);
                for part in [&block.block, &block.rescue, &block.always] {
                    visit_items(part, &common, seen);
                }
            }
            Item::Role(use_) => visit_role(use_, outer, seen),
        }
    }
}

fn visit_role<'a>(use_: &'a Arc<RoleUse>, outer: &Common, seen: &mut dyn FnMut(Visit<'a>)) {
    let common = use_.common.under(outer);
    for dependency in &use_.role.dependencies {
        visit_role(dependency, &common, seen);
    }
    visit_items(&use_.role.tasks, &common, seen);
}
