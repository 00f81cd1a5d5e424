//! The tree of groups: who is above whom, and how deep.

use indexmap::IndexMap;

use super::{ALL, Group};
use crate::diag::Diagnostic;

/// The parents of each group; `all` is above every group that has no other.
pub(super) fn parents(groups: &IndexMap<String, Group>) -> Vec<Vec<usize>> {
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    for (at, group) in groups.values().enumerate() {
        for (child, _) in &group.children {
            if let Some(parents) = parents.get_mut(*child) {
                parents.push(at);
            }
        }
    }
    for (at, parents) in parents.iter_mut().enumerate() {
        if at != ALL && parents.is_empty() {
            parents.push(ALL);
        }
    }
    parents
}

/// Sets each group's depth. A group that is above itself is an error.
pub(super) fn depths(groups: &mut IndexMap<String, Group>, parents: &[Vec<usize>]) -> Result<(), Diagnostic> {
    // Groups are taken once all their parents have been: what is left over is a circle or below one.
    let mut waiting: Vec<usize> = parents.iter().map(Vec::len).collect();
    let mut depth = vec![0usize; groups.len()];
    let mut open: Vec<usize> = waiting.iter().enumerate().filter(|(_, count)| **count == 0).map(|(at, _)| at).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    for (at, above) in parents.iter().enumerate() {
        for parent in above {
            if let Some(children) = children.get_mut(*parent) {
                children.push(at);
            }
        }
    }
    let mut taken = 0;
    while let Some(at) = open.pop() {
        taken += 1;
        let own = depth.get(at).copied().unwrap_or(0);
        for child in children.get(at).into_iter().flatten() {
            if let (Some(depth), Some(waiting)) = (depth.get_mut(*child), waiting.get_mut(*child)) {
                *depth = (*depth).max(own + 1);
                *waiting -= 1;
                if *waiting == 0 {
                    open.push(*child);
                }
            }
        }
    }
    if taken < groups.len() {
        return Err(circle(groups, &waiting));
    }
    for (group, depth) in groups.values_mut().zip(depth) {
        group.depth = depth;
    }
    Ok(())
}

/// The message about groups that are their own children.
fn circle(groups: &IndexMap<String, Group>, waiting: &[usize]) -> Diagnostic {
    let stuck = |at: usize| waiting.get(at).is_some_and(|count| *count > 0);
    let name = |at: usize| groups.get_index(at).map_or("", |(name, _)| name.as_str());
    // Up from any group that is left: its parent that is left too, until one comes again.
    let above = |at: usize| {
        groups
            .values()
            .enumerate()
            .find(|(parent, group)| stuck(*parent) && group.children.iter().any(|(c, _)| *c == at))
    };
    let mut way: Vec<usize> = Vec::new();
    let mut at = (0..waiting.len()).find(|at| stuck(*at)).unwrap_or(ALL);
    while !way.contains(&at) {
        way.push(at);
        match above(at) {
            Some((parent, _)) => at = parent,
            None => break,
        }
    }
    let from = way.iter().position(|seen| *seen == at).unwrap_or(0);
    let mut ring: Vec<usize> = way.get(from..).unwrap_or_default().to_vec();
    // Written from parent to child, from the group that comes first in the inventory.
    ring.reverse();
    let first = ring.iter().enumerate().min_by_key(|(_, at)| **at).map_or(0, |(place, _)| place);
    ring.rotate_left(first);
    let start = ring.first().copied().unwrap_or(ALL);
    let mut names: Vec<&str> = ring.iter().map(|at| name(*at)).collect();
    names.push(name(start));
    let last = ring.last().and_then(|at| groups.get_index(*at));
    let place = last.and_then(|(_, group)| group.children.iter().find(|(child, _)| *child == start));
    let error = Diagnostic::error(format!("the group `{}` is its own child: {}", name(start), names.join(" -> ")));
    match place {
        Some((_, span)) => error.at(span),
        None => error,
    }
}

/// Each group with all that are above it.
pub(super) fn ancestors(groups: &IndexMap<String, Group>, parents: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|at| groups.get_index(*at).map_or(0, |(_, group)| group.depth));
    let mut all: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    for at in order {
        let mut own = vec![at];
        for parent in parents.get(at).into_iter().flatten() {
            own.extend(all.get(*parent).into_iter().flatten());
        }
        own.sort_unstable();
        own.dedup();
        if let Some(slot) = all.get_mut(at) {
            *slot = own;
        }
    }
    all
}
