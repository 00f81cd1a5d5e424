//! What many hosts did, gathered by task: hosts run at their own pace, and people want to read each task once.
//!
//! A [`Block`] is one task in the order of the play; a [`Group`] in it is the hosts for which it came out the same. A block is
//! ready when every host of the batch has passed it. Where that takes long (more hosts than forks), what is new is ready
//! once those that run have passed it, and the rest is said when the batch is over.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Finished, TaskId};
use crate::agent::protocol::Status;
use crate::change::Diff;

/// So long a block waits for hosts that have not begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// What makes two outcomes the same.
pub(super) type Hash = [u8; 32];

/// Hosts for which a task came out the same.
pub(super) struct Group {
    hash: Hash,
    /// Hosts of which nothing was printed yet.
    pub pending: Vec<usize>,
    /// The outcome, until it was printed once: a thousand hosts have one copy.
    pub sample: Option<Box<Finished>>,
    /// The host whose outcome was printed.
    pub first: usize,
    pub status: Status,
    pub ignored: bool,
    pub diffs: bool,
    pub longest: Duration,
}

impl Group {
    /// What is to be printed of it now; that is not pending any more.
    pub fn taken(&mut self) -> Group {
        Group { hash: self.hash, pending: std::mem::take(&mut self.pending), sample: self.sample.take(), ..*self }
    }
}

/// A task, and how it came out.
pub(super) struct Block {
    number: u64,
    /// The first host's.
    pub id: TaskId,
    since: Instant,
    pub groups: Vec<Group>,
}

#[derive(Default)]
struct Host {
    name: String,
    /// The block that it passed last.
    last: Option<u64>,
    begun: bool,
    done: bool,
    past_front: bool,
    /// What was shown of tasks that are not over.
    shown: Vec<(TaskId, Vec<Diff>)>,
}

/// The hosts of a batch on their way.
#[derive(Default)]
pub(super) struct Fold {
    hosts: Vec<Host>,
    by_name: HashMap<String, usize>,
    blocks: VecDeque<Block>,
    numbers: u64,
    /// How many hosts have not passed the first block.
    behind: usize,
    looked: Option<Instant>,
}

impl Fold {
    pub fn new(hosts: &[String]) -> Fold {
        let mut fold = Fold::default();
        for name in hosts {
            fold.host(name);
        }
        fold
    }

    /// A host's number; hosts that nobody named before are taken in.
    fn host(&mut self, name: &str) -> usize {
        if let Some(&known) = self.by_name.get(name) {
            return known;
        }
        let number = self.hosts.len();
        self.by_name.insert(name.to_string(), number);
        self.hosts.push(Host { name: name.to_string(), ..Host::default() });
        self.behind += 1;
        number
    }

    pub fn names<'a>(&'a self, hosts: &'a [usize]) -> impl Iterator<Item = &'a str> {
        hosts.iter().filter_map(|&host| self.hosts.get(host)).map(|host| host.name.as_str())
    }

    pub fn begun(&mut self, name: &str) {
        let number = self.host(name);
        if let Some(host) = self.hosts.get_mut(number) {
            host.begun = true;
        }
    }

    /// Keeps diffs that are told before a task is over: if the host is lost then, they are all that is known.
    pub fn shown(&mut self, id: &TaskId, diffs: &[Diff]) {
        self.begun(&id.host);
        let number = self.host(&id.host);
        let Some(host) = self.hosts.get_mut(number) else { return };
        match host.shown.iter_mut().find(|(of, _)| of == id) {
            Some((_, shown)) => shown.extend_from_slice(diffs),
            None => host.shown.push((id.clone(), diffs.to_vec())),
        }
    }

    /// What was shown of the task that is over now.
    pub fn take_shown(&mut self, id: &TaskId) -> Vec<Diff> {
        let number = self.host(&id.host);
        let Some(host) = self.hosts.get_mut(number) else { return Vec::new() };
        match host.shown.iter().position(|(of, _)| of == id) {
            Some(at) => host.shown.swap_remove(at).1,
            None => Vec::new(),
        }
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.blocks.iter().position(|block| block.number == number)
    }

    /// A host has passed a task. Gives back the block and the group that it is in, for those that are printed at once.
    pub fn finished(&mut self, finished: &Finished, hash: Hash) -> Option<(&TaskId, &mut Group)> {
        self.begun(&finished.id.host);
        let number = self.host(&finished.id.host);
        let last = self.hosts.get(number).and_then(|host| host.last);
        let from = last.and_then(|last| self.place(last)).map_or(0, |place| place + 1);
        let same = |block: &Block| {
            let (a, b) = (&block.id, &finished.id);
            a.task == b.task && a.role == b.role && a.module == b.module && a.item == b.item
        };
        let place = match self.blocks.iter().skip(from).position(same) {
            Some(after) => from + after,
            None => {
                self.numbers += 1;
                let block =
                    Block { number: self.numbers, id: finished.id.clone(), since: Instant::now(), groups: Vec::new() };
                self.blocks.insert(from, block);
                if from == 0 {
                    self.count_behind();
                }
                from
            }
        };
        let block_number = self.blocks.get(place).map(|block| block.number);
        let host = self.hosts.get_mut(number)?;
        host.last = block_number;
        if !host.past_front {
            host.past_front = true;
            self.behind = self.behind.saturating_sub(1);
        }
        let block = self.blocks.get_mut(place)?;
        let at = match block.groups.iter().position(|group| group.hash == hash) {
            Some(at) => at,
            None => {
                block.groups.push(Group {
                    hash,
                    pending: Vec::new(),
                    sample: Some(Box::new(finished.clone())),
                    first: number,
                    status: finished.status,
                    ignored: finished.ignored,
                    diffs: !finished.diffs.is_empty(),
                    longest: Duration::ZERO,
                });
                block.groups.len() - 1
            }
        };
        let group = block.groups.get_mut(at)?;
        group.pending.push(number);
        group.longest = group.longest.max(finished.duration);
        Some((&block.id, group))
    }

    pub fn done(&mut self, name: &str) {
        let number = self.host(name);
        if let Some(host) = self.hosts.get_mut(number) {
            (host.begun, host.done) = (true, true);
            host.shown = Vec::new();
            if !host.past_front {
                host.past_front = true;
                self.behind = self.behind.saturating_sub(1);
            }
        }
    }

    fn places(&self) -> HashMap<u64, usize> {
        self.blocks.iter().enumerate().map(|(place, block)| (block.number, place)).collect()
    }

    /// Who has not passed the first block? Asked when another one is the first.
    fn count_behind(&mut self) {
        let places = self.places();
        self.behind = 0;
        for host in &mut self.hosts {
            host.past_front = host.done || host.last.is_some_and(|last| places.contains_key(&last));
            self.behind += usize::from(!host.past_front);
        }
    }

    /// The next block that every host has passed.
    pub fn next_passed(&mut self) -> Option<Block> {
        if self.behind > 0 || self.blocks.is_empty() {
            return None;
        }
        let block = self.blocks.pop_front();
        self.count_behind();
        block
    }

    /// Where there are more hosts than can run at a time: blocks that wait for long, and that all who have begun have passed;
    /// of these what was not printed yet. Looks once a second.
    pub fn overdue(&mut self, now: Instant) -> Vec<Block> {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < Duration::from_secs(1)) {
            return Vec::new();
        }
        self.looked = Some(now);
        let places = self.places();
        let slowest = self
            .hosts
            .iter()
            .filter(|host| host.begun && !host.done)
            .map(|host| host.last.and_then(|last| places.get(&last)).map_or(0, |place| place + 1))
            .min();
        let passed = slowest.unwrap_or(self.blocks.len());
        let mut ready = Vec::new();
        for block in self.blocks.iter_mut().take(passed) {
            if now.saturating_duration_since(block.since) < PATIENCE {
                break;
            }
            let mut groups = Vec::new();
            for group in block.groups.iter_mut().filter(|group| group.sample.is_some()) {
                groups.push(group.taken());
            }
            if !groups.is_empty() {
                ready.push(Block { number: block.number, id: block.id.clone(), since: block.since, groups });
            }
        }
        ready
    }

    /// All that is left, because the batch is over.
    pub fn rest(&mut self) -> Option<Block> {
        self.blocks.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(host: &str, task: &str) -> Finished {
        let id = TaskId {
            host: host.into(),
            play: String::new(),
            role: None,
            task: task.into(),
            module: "copy".into(),
            item: None,
        };
        Finished {
            id,
            status: Status::Ok,
            diffs: vec![],
            result: serde_json::Value::Null,
            notes: vec![],
            warnings: vec![],
            error: None,
            ignored: false,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn with_more_hosts_than_forks_what_is_new_is_said_early_and_once() {
        let names: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
        let mut fold = Fold::new(&names);
        for host in ["a", "b"] {
            fold.finished(&over(host, "one"), [1; 32]);
        }
        fold.finished(&over("a", "two"), [2; 32]);
        assert!(fold.next_passed().is_none(), "two hosts have not begun");
        assert!(fold.overdue(Instant::now()).is_empty(), "nobody has waited yet");
        let later = Instant::now() + PATIENCE + Duration::from_secs(2);
        let early = fold.overdue(later);
        let told: Vec<(&str, &[usize])> =
            early.iter().map(|block| (block.id.task.as_str(), block.groups[0].pending.as_slice())).collect();
        // `b` is on its way to the second task.
        assert_eq!(told, [("one", [0, 1].as_slice())]);
        fold.done("a");
        fold.done("b");
        fold.finished(&over("c", "one"), [1; 32]);
        fold.finished(&over("d", "one"), [9; 32]);
        let rest = fold.next_passed().unwrap();
        let pending: Vec<_> = rest.groups.iter().map(|group| (group.pending.clone(), group.sample.is_some())).collect();
        assert_eq!(pending, [(vec![2], false), (vec![3], true)]);
        assert!(fold.next_passed().is_none());
        fold.done("c");
        fold.done("d");
        assert_eq!(fold.next_passed().unwrap().id.task, "two");
        assert!(fold.next_passed().is_none());
    }

    #[test]
    fn a_task_that_comes_twice_is_two_tasks_and_ways_may_differ() {
        let mut fold = Fold::new(&["a".to_string(), "b".to_string()]);
        for task in ["one", "again", "again", "last"] {
            fold.finished(&over("a", task), [0; 32]);
        }
        for task in ["one", "only b", "again", "again", "last"] {
            fold.finished(&over("b", task), [0; 32]);
        }
        let mut order = Vec::new();
        while let Some(block) = fold.next_passed() {
            order.push((block.id.task, block.groups[0].pending.len()));
        }
        let expected = [("one", 2), ("only b", 1), ("again", 2), ("again", 2), ("last", 2)];
        assert_eq!(order, expected.map(|(task, hosts)| (task.to_string(), hosts)));
    }
}
