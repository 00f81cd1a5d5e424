//! `--list-hosts`, `--list-tasks`, `--list-tags`: what a run would go through.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Prepared, tags};

/// What is listed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lists {
    /// The hosts of each play.
    pub hosts: bool,
    /// The tasks of each play.
    pub tasks: bool,
    /// The tags of each play.
    pub tags: bool,
}

impl Prepared {
    /// The lists, as text.
    pub fn list(&self, what: Lists) -> String {
        let mut out = String::new();
        for run in &self.plays {
            // Writing to a string can't fail.
            let _ = writeln!(out, "play: {}", run.title);
            if what.hosts {
                let _ = writeln!(out, "  hosts ({}):", run.hosts.len());
                run.hosts.iter().for_each(|host| out.push_str(&format!("    {host}\n")));
            }
            let mut tasks = String::new();
            let mut all_tags = BTreeSet::new();
            run.play.visit(&mut |visit| {
                if !tags::wanted(&visit.common.tags, &self.settings.tags, &self.settings.skip_tags) {
                    return;
                }
                all_tags.extend(visit.common.tags.iter().cloned());
                let role = visit.task.origin.role.as_ref().map(|role| format!("{} : ", role.name)).unwrap_or_default();
                let title = visit.task.title();
                let with = match visit.common.tags.join(", ") {
                    tags if tags.is_empty() => String::new(),
                    tags => format!("  [{tags}]"),
                };
                tasks.push_str(&format!("    {role}{title}{with}\n"));
            });
            if what.tasks {
                out.push_str("  tasks:\n");
                out.push_str(&tasks);
            }
            if what.tags {
                let names: Vec<String> = all_tags.into_iter().collect();
                let _ = writeln!(out, "  tags: {}", names.join(", "));
            }
        }
        out
    }
}
