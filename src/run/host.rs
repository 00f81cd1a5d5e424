//! One host on its way through a play: order, blocks, roles, handlers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use indexmap::{IndexMap, IndexSet};
use serde_json::{Map, Value, json};

use super::ahead::Step;
use super::crowd::Own;
use super::link::Link;
use super::saved::SavedTask;
use super::scan::Unseen;
use super::vars::{HostVars, Layer, Scope};
use super::{PlayRun, Shared};
use crate::agent::protocol::Mode;
use crate::inventory::Connection as Reach;
use crate::playbook::{Block, Common, Item, RoleHead, RoleUse, Task, Vars};
use crate::report::{Event, HostRecap};

/// Where the way goes on after a task.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Flow {
    /// With the next one.
    Next,
    /// Not here: the task failed (its name and result, for `rescue`).
    Failed { task: String, result: Value },
    /// Nowhere in this play (`meta: end_play`, `end_host`).
    EndPlay,
    /// Not in this role (`meta: end_role`).
    EndRole,
}

/// What is handed down to a task by its blocks, roles and play.
#[derive(Clone, Default)]
pub(super) struct Context {
    /// Conditions, tags, variables, become.
    pub common: Common,
    /// Parameters of roles and includes: stronger than almost all.
    pub params: Vars,
    /// The role, for its defaults and variables.
    pub role: Option<Arc<RoleHead>>,
    /// The strongest variables: the item of a loop; inside `rescue` and `always` the failed task and its result.
    pub words: Option<Arc<Map<String, Value>>>,
}

impl Context {
    pub(super) fn under(&self, inner: &Common) -> Context {
        self.with(inner.under(&self.common))
    }

    /// The same with other conditions, tags, variables and become.
    pub(super) fn with(&self, common: Common) -> Context {
        Context { common, params: self.params.clone(), role: self.role.clone(), words: self.words.clone() }
    }

    fn in_role(&self, use_: &RoleUse) -> Context {
        let mut inner = use_.common.clone();
        let mut params = self.params.clone();
        params.append(&mut inner.vars);
        Context { params, role: Some(Arc::clone(&use_.role.head)), ..self.under(&inner) }
    }
}

/// A handler and the use of the role it comes from.
pub(super) type Handler = (Option<Arc<RoleUse>>, Arc<Task>);

/// Is this a handler's name or a topic that it listens to?
pub(super) fn is_called((use_, handler): &Handler, name: &str) -> bool {
    let title = handler.title();
    title == name
        || use_.as_ref().is_some_and(|use_| format!("{} : {title}", use_.role.head.name) == name)
        || handler.listen.iter().any(|topic| topic.as_str() == Some(name))
}

/// One host during a whole run.
pub(super) struct HostRun<'a> {
    pub name: String,
    pub shared: &'a Shared,
    pub vars: HostVars,
    pub reach: Option<Reach>,
    pub inventory_folder: PathBuf,
    pub link: Option<Link>,
    /// What is on its way, the oldest first.
    pub ahead: VecDeque<Step>,
    /// When the last task was told: the next one's time begins there.
    pub told_at: Option<Instant>,
    /// Above 0: every task is waited for before the next one.
    pub one_by_one: usize,
    pub recap: HostRecap,
    /// Why it must boot again, by task: a task that is asked again says it anew.
    pub reboot: IndexMap<String, Vec<String>>,
    /// Registered results of acts in a dry run, of which only `changed` is known: name -> why.
    pub partial: HashMap<String, String>,
    /// It failed or can't be reached: nothing more is done there.
    pub given_up: bool,
    /// `--start-at-task` has been met, or was not given.
    pub started: bool,
    pub handlers: Vec<Handler>,
    pub notified: IndexSet<usize>,
    roles_done: HashSet<String>,
    /// What a saved plan needs.
    pub saved: Vec<SavedTask>,
    /// Tasks that a plan can't hold, because what they will be depends on results.
    pub unsavable: Vec<String>,
    /// Includes nest; a file that includes itself without end must stop somewhere.
    pub depth: usize,
    /// Its place among the others, in the play that it is in.
    pub crowd: Own,
    /// Where no machine is asked: what is not known of the way here.
    pub unseen: Unseen,
}

impl<'a> HostRun<'a> {
    pub(super) fn new(name: &str, shared: &'a Shared) -> HostRun<'a> {
        HostRun {
            name: name.to_string(),
            shared,
            vars: HostVars::default(),
            reach: None,
            inventory_folder: PathBuf::new(),
            link: None,
            ahead: VecDeque::new(),
            told_at: None,
            one_by_one: 0,
            recap: HostRecap::default(),
            reboot: IndexMap::new(),
            partial: HashMap::new(),
            given_up: false,
            started: shared.options.start_at_task.is_none(),
            handlers: Vec::new(),
            notified: IndexSet::new(),
            roles_done: HashSet::new(),
            saved: Vec::new(),
            unsavable: Vec::new(),
            depth: 0,
            crowd: Own::default(),
            unseen: Unseen::default(),
        }
    }

    /// Goes through a play.
    pub(super) fn play(&mut self, play: &PlayRun) {
        self.shared.sink.event(Event::HostBegun { host: self.name.clone() });
        self.handlers = play.play.all_handlers();
        self.notified.clear();
        self.roles_done.clear();
        self.play_magic(play);
        self.vars.magic.insert("ansible_play_name", play.title.as_str());
        self.vars.magic.insert("ansible_check_mode", self.shared.mode == Mode::Plan);
        let flow = self.play_to_the_end(play);
        if matches!(flow, Flow::Failed { .. }) {
            self.given_up = true;
        }
        self.shared.sink.event(Event::HostDone { host: self.name.clone() });
    }

    pub(super) fn whole_play(&mut self, play: &PlayRun) -> Flow {
        let context = Context { common: play.play.common(), ..Context::default() };
        if let Some(flow) = self.read_vars_files(play, &context) {
            return flow;
        }
        let flow = self.gather_facts(play, &context);
        if flow != Flow::Next {
            return flow;
        }
        for section in 0..3 {
            if section == 2 {
                self.notify_unseen();
            }
            let flow = match section {
                0 => self.items(&play.play.pre_tasks, &context, play),
                1 => self.roles_and_tasks(&context, play),
                _ => self.items(&play.play.post_tasks, &context, play),
            };
            match flow {
                Flow::Next | Flow::EndRole => {}
                other => return other,
            }
            let flow = self.flush_handlers(play, &context);
            if flow != Flow::Next {
                return flow;
            }
        }
        self.catch_up(play)
    }

    fn roles_and_tasks(&mut self, context: &Context, play: &PlayRun) -> Flow {
        for use_ in &play.play.roles {
            let flow = self.role(use_, context, play);
            if flow != Flow::Next {
                return flow;
            }
        }
        self.items(&play.play.tasks, context, play)
    }

    pub(super) fn items(&mut self, items: &[Item], context: &Context, play: &PlayRun) -> Flow {
        for item in items {
            let flow = match item {
                Item::Task(task) => self.task(task, context, play),
                Item::Block(block) => self.block(block, context, play),
                Item::Role(use_) => self.role(use_, context, play),
            };
            if flow != Flow::Next {
                return flow;
            }
        }
        Flow::Next
    }

    fn block(&mut self, block: &Block, context: &Context, play: &PlayRun) -> Flow {
        if block.rescue.is_empty() && block.always.is_empty() {
            return self.items(&block.block, &context.under(&block.common), play);
        }
        let flow = self.catch_up(play);
        if flow != Flow::Next {
            return flow;
        }
        self.one_by_one += 1;
        let flow = self.guarded_block(block, context, play);
        self.one_by_one -= 1;
        flow
    }

    fn guarded_block(&mut self, block: &Block, context: &Context, play: &PlayRun) -> Flow {
        let context = context.under(&block.common);
        let mut flow = self.items(&block.block, &context, play);
        if flow == Flow::Next {
            flow = self.rescue_unseen(&block.rescue, &context, play);
        }
        let mut failure = None;
        if let Flow::Failed { task, result } = &flow
            && !self.given_up
        {
            let words: Map<String, Value> = [
                ("ansible_failed_task".to_string(), json!({"name": task})),
                ("ansible_failed_result".to_string(), result.clone()),
            ]
            .into_iter()
            .collect();
            failure = Some(Arc::new(words));
            if !block.rescue.is_empty() {
                self.recap.counts.failed = self.recap.counts.failed.saturating_sub(1);
                self.recap.counts.rescued += 1;
                let context = Context { words: failure.clone(), ..context.clone() };
                flow = self.items(&block.rescue, &context, play);
            }
        }
        if !block.always.is_empty() && !self.given_up {
            let context = Context { words: failure, ..context };
            let always = self.items(&block.always, &context, play);
            if always != Flow::Next {
                flow = always;
            }
        }
        flow
    }

    pub(super) fn role(&mut self, use_: &Arc<RoleUse>, context: &Context, play: &PlayRun) -> Flow {
        let first = self.roles_done.insert(use_.identity());
        if !first && !use_.again && !use_.role.head.allow_duplicates {
            return Flow::Next;
        }
        let context = context.in_role(use_);
        for dependency in &use_.role.dependencies {
            let flow = self.role(dependency, &context, play);
            if flow != Flow::Next {
                return flow;
            }
        }
        if let Some(flow) = self.check_arguments(use_, &context, play) {
            return flow;
        }
        match self.items(&use_.role.tasks, &context, play) {
            Flow::EndRole => Flow::Next,
            flow => flow,
        }
    }

    /// Runs what was notified, in the order in which handlers are defined.
    pub(super) fn flush_handlers(&mut self, play: &PlayRun, context: &Context) -> Flow {
        if self.ahead.iter().any(Step::may_notify) {
            let flow = self.catch_up(play);
            if flow != Flow::Next {
                return flow;
            }
        }
        while !self.notified.is_empty() {
            let mut due: Vec<usize> = self.notified.drain(..).collect();
            due.sort_unstable();
            self.crowd.flushing.clone_from(&due);
            for index in due {
                let Some((use_, handler)) = self.handlers.get(index).cloned() else { continue };
                let context = match &use_ {
                    // A role's conditions decided whether its tasks ran; its handlers were notified, so they did.
                    Some(use_) => {
                        let inner = Common { when: Vec::new(), tags: Vec::new(), ..use_.common.clone() };
                        let mut params = context.params.clone();
                        params.extend(inner.vars.iter().cloned());
                        Context { params, role: Some(Arc::clone(&use_.role.head)), ..context.under(&inner) }
                    }
                    None => context.clone(),
                };
                let flow = self.handler(&handler, &context, play);
                if flow != Flow::Next {
                    self.flush_broken();
                    return flow;
                }
            }
            let flow = self.catch_up(play);
            if flow != Flow::Next {
                self.flush_broken();
                return flow;
            }
        }
        Flow::Next
    }

    /// Takes a notification to all handlers of this name or topic; says if there is none.
    pub(super) fn notify(&mut self, name: &str) -> Result<(), String> {
        let mut found = false;
        for (index, handler) in self.handlers.iter().enumerate() {
            // By name the first is meant; a topic reaches all that listen.
            let listens = handler.1.listen.iter().any(|topic| topic.as_str() == Some(name));
            if is_called(handler, name) && (listens || !found) {
                self.notified.insert(index);
                found = true;
            }
        }
        if found { Ok(()) } else { Err(format!("there is no handler `{name}` in this play")) }
    }

    /// The variables that a task sees, the strongest first (Ansible's order of precedence).
    pub(super) fn scope<'b>(&'b self, play: &'b PlayRun, context: &'b Context) -> Scope<'b> {
        let mut scope = Scope::default();
        if self.is_ahead() {
            scope.push(Layer::Awaited("vfio_provision_reboot_reasons"));
            // A host may ask for its own.
            scope.push(Layer::Awaited("hostvars"));
        }
        scope.push(Layer::Known(&self.vars.magic));
        scope.push(Layer::Known(&self.shared.shared_magic));
        scope.push(Layer::Vars(&self.shared.words));
        if let Some(words) = &context.words {
            scope.push(Layer::Final(words));
        }
        scope.push(Layer::Raw(&self.shared.extra_vars));
        scope.push(Layer::Nodes(&context.params));
        scope.push(Layer::Vars(&self.vars.set));
        scope.push(Layer::Raw(&self.vars.included));
        scope.push(Layer::Nodes(&context.common.vars));
        if let Some(role) = &context.role {
            scope.push(Layer::Nodes(&role.vars));
        }
        for use_ in &play.roles {
            scope.push(Layer::Nodes(&use_.role.head.vars));
        }
        scope.push(Layer::Raw(&self.vars.vars_files));
        scope.push(Layer::Nodes(&play.play.vars));
        if self.facts_are_ahead() {
            scope.push(Layer::AwaitedFacts);
        }
        scope.push(Layer::Known(&self.vars.facts));
        scope.push(Layer::Raw(&self.vars.inventory));
        if let Some(role) = &context.role {
            scope.push(Layer::Nodes(&role.defaults));
        }
        for use_ in &play.roles {
            scope.push(Layer::Nodes(&use_.role.head.defaults));
        }
        if self.shared.scan.is_some() {
            scope.push(Layer::UnseenFacts);
        }
        let role = context.role.iter().flat_map(|role| [role.path.join("files"), role.path.clone()]);
        let playbook = [play.play.origin.playbook_folder.join("files"), play.play.origin.playbook_folder.clone()];
        scope.in_folders(role.chain(playbook).collect())
    }

    /// All reasons to boot again, each once.
    pub(super) fn reboot_reasons(&self) -> Vec<String> {
        self.reboot.values().flatten().cloned().collect::<IndexSet<_>>().into_iter().collect()
    }

    pub(super) fn remember_reboot(&mut self, task: String, reasons: Vec<String>, rebooted: bool) {
        if rebooted {
            self.reboot.clear();
            self.vars.facts.clear();
        } else if reasons.is_empty() {
            self.reboot.shift_remove(&task);
        } else {
            self.reboot.insert(task, reasons);
        }
        self.tell_reboot();
    }

    /// Puts the reasons to boot again where tasks and people see them.
    pub(super) fn tell_reboot(&mut self) {
        let reasons = self.reboot_reasons();
        self.vars.magic.insert("vfio_provision_reboot_reasons", json!(reasons));
        self.recap.reboot = reasons;
    }
}
