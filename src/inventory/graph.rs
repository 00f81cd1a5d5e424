//! Groups of groups: how deep each lies, whose hosts it has, and the order in which variables win.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use indexmap::IndexSet;

use super::build::{GroupId, HostId};

/// How far each group is from `all`, by the longest way. Never by recursion, as chains of groups may be long.
///
/// # Errors
/// The cycles, where there are any, each from parent to child.
pub(super) fn depths(children: &[Vec<GroupId>]) -> Result<Vec<usize>, Vec<Vec<GroupId>>> {
    let mut depth = vec![0_usize; children.len()];
    let mut waiting = vec![0_usize; children.len()];
    for child in children.iter().flatten() {
        if let Some(count) = waiting.get_mut(*child) {
            *count += 1;
        }
    }
    let mut ready: VecDeque<GroupId> = (0..children.len()).filter(|id| waiting.get(*id) == Some(&0)).collect();
    let mut done = 0;
    while let Some(id) = ready.pop_front() {
        done += 1;
        let next = depth.get(id).map_or(0, |depth| depth + 1);
        for child in children.get(id).into_iter().flatten() {
            if let (Some(deep), Some(count)) = (depth.get_mut(*child), waiting.get_mut(*child)) {
                *deep = next.max(*deep);
                *count -= 1;
                if *count == 0 {
                    ready.push_back(*child);
                }
            }
        }
    }
    if done == children.len() { Ok(depth) } else { Err(cycles(children, &waiting)) }
}

/// The cycles among the groups that still wait for a parent.
fn cycles(children: &[Vec<GroupId>], waiting: &[usize]) -> Vec<Vec<GroupId>> {
    let stuck = |id: &GroupId| waiting.get(*id).is_some_and(|count| *count > 0);
    // Each of these has at least one parent that is stuck as well, so the way up from any of them ends in a cycle.
    let mut parent: HashMap<GroupId, GroupId> = HashMap::new();
    for (id, below) in children.iter().enumerate().filter(|(id, _)| stuck(id)) {
        below.iter().filter(|child| stuck(child)).for_each(|child| {
            parent.entry(*child).or_insert(id);
        });
    }
    let mut seen: HashSet<GroupId> = HashSet::new();
    let mut found = Vec::new();
    for start in (0..children.len()).filter(stuck) {
        let mut way: IndexSet<GroupId> = IndexSet::new();
        let mut at = start;
        while !seen.contains(&at) && way.insert(at) {
            match parent.get(&at) {
                Some(up) => at = *up,
                None => break,
            }
        }
        if let Some(from) = way.get_index_of(&at).filter(|_| !seen.contains(&at)) {
            let mut cycle: Vec<GroupId> = way.iter().skip(from).rev().copied().collect();
            // It is told from the group that was written first.
            let first = cycle.iter().enumerate().min_by_key(|(_, id)| **id).map_or(0, |(at, _)| at);
            cycle.rotate_left(first);
            found.push(cycle);
        }
        seen.extend(way);
    }
    found
}

/// The hosts of each group and of the groups in it: its own first, then those of its children, then of theirs.
pub(super) fn members(children: &[Vec<GroupId>], own: &[&IndexSet<HostId>]) -> Vec<Vec<HostId>> {
    (0..children.len())
        .map(|id| {
            let below = reach(id, |id| children.get(id).map_or(&[], Vec::as_slice));
            let hosts: IndexSet<HostId> =
                below.iter().filter_map(|id| own.get(*id)).flat_map(|hosts| hosts.iter().copied()).collect();
            hosts.into_iter().collect()
        })
        .collect()
}

/// A group and all that can be reached from it, level by level.
fn reach<'a>(from: GroupId, next: impl Fn(GroupId) -> &'a [GroupId]) -> IndexSet<GroupId> {
    let mut seen = IndexSet::from([from]);
    let mut at = 0;
    while let Some(id) = seen.get_index(at).copied() {
        seen.extend(next(id).iter().copied());
        at += 1;
    }
    seen
}

/// The groups of hosts in the order in which their variables win, the weakest first: by depth, priority and name.
pub(super) struct Chains {
    parents: Vec<Vec<GroupId>>,
    /// The place of each group in that order.
    rank: Vec<usize>,
    known: HashMap<Vec<GroupId>, Arc<[GroupId]>>,
}

impl Chains {
    /// `order` is depth, priority and name of each group.
    pub fn new(children: &[Vec<GroupId>], order: &[(usize, i64, &str)]) -> Chains {
        let mut parents = vec![Vec::new(); children.len()];
        for (id, below) in children.iter().enumerate() {
            for child in below {
                if let Some(above) = parents.get_mut(*child) {
                    above.push(id);
                }
            }
        }
        let mut sorted: Vec<GroupId> = (0..order.len()).collect();
        sorted.sort_by_key(|id| order.get(*id));
        let mut rank = vec![0; order.len()];
        for (place, id) in sorted.into_iter().enumerate() {
            if let Some(rank) = rank.get_mut(id) {
                *rank = place;
            }
        }
        Chains { parents, rank, known: HashMap::new() }
    }

    /// For a host that is in these groups. Hosts of the same groups share what they get.
    pub fn of(&mut self, direct: &IndexSet<GroupId>) -> Arc<[GroupId]> {
        let mut key: Vec<GroupId> = direct.iter().copied().collect();
        key.sort_unstable();
        if let Some(chain) = self.known.get(&key) {
            return Arc::clone(chain);
        }
        let mut all: IndexSet<GroupId> = IndexSet::from([0]);
        for group in &key {
            all.extend(reach(*group, |id| self.parents.get(id).map_or(&[], Vec::as_slice)));
        }
        let mut chain: Vec<GroupId> = all.into_iter().collect();
        chain.sort_unstable_by_key(|id| self.rank.get(*id));
        let chain: Arc<[GroupId]> = chain.into();
        self.known.insert(key, Arc::clone(&chain));
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_the_longest_way() {
        // 0 > 1 > 2 > 3 and 0 > 3
        assert_eq!(depths(&[vec![1, 3], vec![2], vec![3], vec![]]).unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn each_cycle_is_found_once() {
        // 1 > 2 > 1, 3 > 3, and 4 hangs below both without being part of any.
        let cycles = depths(&[vec![], vec![2], vec![1, 4], vec![3, 4], vec![]]).unwrap_err();
        assert_eq!(cycles, [vec![1, 2], vec![3]]);
    }

    #[test]
    fn long_chains_need_no_stack() {
        let many = 100_000;
        let children: Vec<Vec<usize>> = (1..=many).map(|id| if id < many { vec![id] } else { vec![] }).collect();
        assert_eq!(depths(&children).unwrap().last(), Some(&(many - 1)));
    }
}
