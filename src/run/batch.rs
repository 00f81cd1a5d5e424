//! Batches: `serial`, `order`, and when a rollout stops; what the hosts of a batch know of each other.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::host::Flow;
use super::vars::{Delta, Scope};
use super::{render, render::Render};
use crate::diag::Diagnostic;
use crate::playbook::{Order, Rollout};
use crate::yaml::Node;

/// The size of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Size {
    /// So many hosts; 0 is all of them.
    Hosts(usize),
    /// So many of a hundred, but at least one.
    PerCent(f64),
}

impl Size {
    fn of(self, hosts: usize) -> usize {
        match self {
            Size::Hosts(0) => hosts,
            Size::Hosts(size) => size,
            // As Ansible has it: rounded down, and at least one.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and cut on purpose"
            )]
            Size::PerCent(share) => ((share / 100.0 * as_number(hosts)) as usize).max(1),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "nobody has 2^53 hosts")]
fn as_number(count: usize) -> f64 {
    count as f64
}

/// How the hosts of a play go, all templates rendered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pace {
    sizes: Vec<Size>,
    /// More failed hosts of a hundred stop the rollout.
    max_fail: Option<f64>,
    order: Order,
}

impl Pace {
    /// Reads what a play says.
    ///
    /// # Errors
    /// Templates that can't be rendered before the run, and what is no size.
    pub fn of(rollout: &Rollout, render: &Render, scope: &Scope<'_>) -> Result<Pace, Diagnostic> {
        let value = |node: &Node| -> Result<Value, Diagnostic> {
            match node.as_str() {
                Some(text) => render.templar.render(text, scope).map_err(|error| {
                    error.diagnostic(text, &node.span).help("this can only use the play's `vars` and --extra-vars")
                }),
                None => Ok(node.to_json()),
            }
        };
        let mut sizes = Vec::new();
        for node in &rollout.serial {
            let values = match value(node)? {
                Value::Array(list) => list,
                one => vec![one],
            };
            for one in values {
                sizes.push(size(&one).ok_or_else(|| {
                    Diagnostic::error(format!("`serial`: {} is no number and no per cent", render::short(&one)))
                        .at(&node.span)
                })?);
            }
        }
        let max_fail = match &rollout.max_fail_percentage {
            None => None,
            Some(node) => {
                let value = value(node)?;
                let share = share(&value).ok_or_else(|| {
                    Diagnostic::error(format!("`max_fail_percentage`: {} is no number", render::short(&value)))
                        .at(&node.span)
                })?;
                Some(share)
            }
        };
        Ok(Pace { sizes, max_fail, order: rollout.order })
    }

    /// Puts hosts, given in the inventory's order, in the order of their turns.
    pub fn order(&self, hosts: &mut [usize], name: &dyn Fn(usize) -> String) {
        match self.order {
            Order::Inventory => {}
            Order::ReverseInventory => hosts.reverse(),
            Order::Sorted => hosts.sort_by_cached_key(|host| name(*host)),
            Order::ReverseSorted => {
                hosts.sort_by_cached_key(|host| name(*host));
                hosts.reverse();
            }
            Order::Shuffle => {
                // A hash with a random key is an order that nobody chose.
                let random = RandomState::new();
                hosts.sort_by_cached_key(|host| random.hash_one(host));
            }
        }
    }

    /// How many hosts each batch has; the last size counts for all further batches.
    pub fn sizes(&self, hosts: usize) -> Vec<usize> {
        let mut left = hosts;
        let mut batches = Vec::new();
        let mut sizes = self.sizes.iter();
        let mut size = Size::Hosts(0);
        while left > 0 {
            size = sizes.next().copied().unwrap_or(size);
            let take = size.of(hosts).min(left);
            // What is left goes at once where a size means everything.
            let take = if size == Size::Hosts(0) { left } else { take };
            batches.push(take);
            left -= take;
        }
        batches
    }

    /// Are so many failed hosts too many?
    fn too_many(&self, failed: usize, of: usize) -> bool {
        of > 0 && (failed == of || self.max_fail.is_some_and(|max| as_number(failed) / as_number(of) * 100.0 > max))
    }
}

fn size(value: &Value) -> Option<Size> {
    if let Some(share) = value.as_str().and_then(|text| text.trim().strip_suffix('%')) {
        let share: f64 = share.trim().parse().ok()?;
        return (share.is_finite() && share >= 0.0).then_some(Size::PerCent(share));
    }
    usize::try_from(render::number(value)?).ok().map(Size::Hosts)
}

fn share(value: &Value) -> Option<f64> {
    let share = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().trim_end_matches('%').trim().parse().ok()?,
        _ => return None,
    };
    (share.is_finite() && share >= 0.0).then_some(share)
}

/// A task on its n-th time on a host in a play; the same on all hosts.
pub(super) type Once = (String, usize);

/// What a task that runs once left for all hosts.
#[derive(Clone)]
pub(super) struct Answer {
    /// The host that did it.
    pub host: String,
    pub flow: Flow,
    pub delta: Arc<Delta>,
    /// It failed or its host was lost: it has failed for all.
    pub failed: Option<String>,
}

/// Whose turn a task that runs once is.
pub(super) enum Turn {
    /// This host's.
    Mine,
    /// It is done.
    Done(Answer),
    /// Nobody's any more: the rollout stops.
    Stop,
}

#[derive(Default)]
struct Inside {
    /// By place in the batch: is the host done with the play?
    over: Vec<bool>,
    answers: HashMap<Once, Answer>,
    /// Why no new task is to be begun.
    stop: Option<String>,
}

/// What the hosts of a batch share.
pub(super) struct Batch {
    /// Their names.
    pub names: Arc<Value>,
    /// The play's hosts that have not failed, when the batch began.
    pub play: Arc<Value>,
    pace: Pace,
    size: usize,
    failed: AtomicUsize,
    stopped: AtomicBool,
    inside: Mutex<Inside>,
    news: Condvar,
}

impl Batch {
    pub fn new(names: Value, play: Arc<Value>, pace: &Pace) -> Batch {
        let size = names.as_array().map_or(0, Vec::len);
        Batch {
            names: Arc::new(names),
            play,
            pace: pace.clone(),
            size,
            failed: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            inside: Mutex::new(Inside { over: vec![false; size], ..Inside::default() }),
            news: Condvar::new(),
        }
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No new task is to be begun in this batch, and no further batch.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Why it was stopped.
    pub fn why(&self) -> Option<String> {
        self.inside().stop.clone()
    }

    /// Stops it; the first reason counts.
    pub fn stop(&self, why: String) {
        self.inside().stop.get_or_insert(why);
        self.stopped.store(true, Ordering::SeqCst);
        self.news.notify_all();
    }

    /// A host is done with the play.
    pub fn over(&self, place: usize) {
        if let Some(over) = self.inside().over.get_mut(place) {
            *over = true;
        }
        self.news.notify_all();
    }

    /// A host failed at this task or was lost there; the rollout stops if those are too many now, or for a `fatal` reason.
    pub fn failed(&self, host: &str, task: &str, fatal: Option<&str>) {
        let failed = self.failed.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(why) = fatal {
            self.stop(format!("`{host}` failed at `{task}`, and {why}"));
        } else if self.pace.too_many(failed, self.size) {
            let of = self.size;
            self.stop(match self.pace.max_fail {
                _ if failed == of && of == 1 => "its only host failed".into(),
                _ if failed == of => format!("all {of} hosts failed"),
                Some(max) => format!("{failed} of {of} hosts failed, more than {max} %"),
                None => format!("{failed} of {of} hosts failed"),
            });
        }
    }

    /// Whose turn is it? Waits until that can be said: the first host of the batch that comes there does the task.
    ///
    /// Hosts begin in their order, so the first of those that are not over always runs and never waits here: no two hosts
    /// can wait for each other.
    pub fn turn(&self, once: &Once, place: usize, interrupted: &dyn Fn() -> bool) -> Turn {
        /// An interrupt wakes nobody here, so it is asked for now and then.
        const GLANCE: Duration = Duration::from_millis(100);
        let mut inside = self.inside();
        loop {
            if let Some(answer) = inside.answers.get(once) {
                return Turn::Done(answer.clone());
            }
            if interrupted() || inside.stop.is_some() {
                return Turn::Stop;
            }
            if inside.over.iter().take(place).all(|over| *over) {
                return Turn::Mine;
            }
            (inside, _) = self.news.wait_timeout(inside, GLANCE).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells all others what came of a task that runs once.
    pub fn answer(&self, once: Once, answer: Answer) {
        self.inside().answers.insert(once, answer);
        self.news.notify_all();
    }
}

/// How many hosts are in a task, for `throttle`.
#[derive(Default)]
pub(super) struct Throttles {
    busy: Mutex<HashMap<String, usize>>,
    left: Condvar,
}

/// A place in a task; leaves it when dropped.
pub(super) struct Place<'a> {
    throttles: &'a Throttles,
    task: String,
}

impl Throttles {
    /// Waits until less than `most` hosts are in this task, then is in it.
    pub fn enter(&self, task: &str, most: usize) -> Place<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.get(task).is_some_and(|hosts| *hosts >= most) {
            busy = self.left.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        *busy.entry(task.to_string()).or_default() += 1;
        Place { throttles: self, task: task.to_string() }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut busy = self.throttles.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hosts) = busy.get_mut(&self.task) {
            *hosts -= 1;
            if *hosts == 0 {
                busy.remove(&self.task);
            }
        }
        drop(busy);
        self.throttles.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pace(sizes: &[Value]) -> Pace {
        Pace { sizes: sizes.iter().map(|value| size(value).unwrap()).collect(), ..Pace::default() }
    }

    #[test]
    fn sizes_of_batches() {
        let cases: [(&[Value], usize, &[usize]); 10] = [
            (&[], 5, &[5]),
            (&[json!(2)], 5, &[2, 2, 1]),
            (&[json!("2")], 4, &[2, 2]),
            (&[json!("30%")], 10, &[3, 3, 3, 1]),
            (&[json!("5%")], 10, &[1; 10]),
            (&[json!(1), json!("50%")], 10, &[1, 5, 4]),
            (&[json!(1), json!(0)], 10, &[1, 9]),
            (&[json!(0)], 10, &[10]),
            (&[json!("200%")], 3, &[3]),
            (&[json!(1), json!(5), json!("20%")], 20, &[1, 5, 4, 4, 4, 2]),
        ];
        for (sizes, hosts, want) in cases {
            assert_eq!(pace(sizes).sizes(hosts), want, "{sizes:?} of {hosts}");
        }
        assert!(pace(&[json!(2)]).sizes(0).is_empty());
        for bad in [json!("x"), json!(-1), json!([1]), json!("-5%"), json!("inf%"), json!(null)] {
            assert_eq!(size(&bad), None, "{bad}");
        }
    }

    #[test]
    fn more_than_the_percentage_is_too_many() {
        let pace = |max_fail| Pace { max_fail, ..Pace::default() };
        assert!(!pace(Some(30.0)).too_many(3, 10), "30 % is not more than 30 %");
        assert!(pace(Some(30.0)).too_many(4, 10));
        assert!(pace(Some(0.0)).too_many(1, 10));
        assert!(!pace(None).too_many(9, 10));
        assert!(pace(None).too_many(10, 10), "a batch that failed as a whole");
        assert!(pace(Some(100.0)).too_many(10, 10));
    }

    #[test]
    fn orders() {
        let names = ["c", "a", "b"];
        let ordered = |order| {
            let mut hosts: Vec<usize> = vec![0, 1, 2];
            Pace { order, ..Pace::default() }.order(&mut hosts, &|host| names[host].to_string());
            hosts.iter().map(|host| names[*host]).collect::<String>()
        };
        assert_eq!(ordered(Order::Inventory), "cab");
        assert_eq!(ordered(Order::ReverseInventory), "bac");
        assert_eq!(ordered(Order::Sorted), "abc");
        assert_eq!(ordered(Order::ReverseSorted), "cba");
        let shuffled: std::collections::HashSet<String> = (0..200).map(|_| ordered(Order::Shuffle)).collect();
        assert_eq!(shuffled.len(), 6, "all orders come up");
    }

    #[test]
    fn the_first_host_that_is_not_over_has_its_turn() {
        let batch = Batch::new(json!(["a", "b", "c"]), Arc::default(), &Pace::default());
        let once: Once = ("task".into(), 0);
        assert!(matches!(batch.turn(&once, 0, &|| false), Turn::Mine));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| matches!(batch.turn(&once, 1, &|| false), Turn::Mine));
            std::thread::sleep(Duration::from_millis(10));
            assert!(!waiting.is_finished(), "the first host may still come");
            batch.over(0);
            assert!(waiting.join().unwrap());
        });
        assert!(matches!(batch.turn(&once, 2, &|| true), Turn::Stop), "interrupted while waiting");
        batch.answer(once.clone(), Answer { host: "b".into(), flow: Flow::Next, delta: Arc::default(), failed: None });
        assert!(matches!(batch.turn(&once, 2, &|| false), Turn::Done(answer) if answer.host == "b"));
    }

    #[test]
    fn no_more_hosts_in_a_task_than_its_throttle() {
        let (throttles, now, most) = (Throttles::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _place = throttles.enter("task", 3);
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let most = most.into_inner();
        assert!((2..=3).contains(&most), "{most} at a time");
        assert!(throttles.busy.into_inner().unwrap().is_empty());
    }
}
