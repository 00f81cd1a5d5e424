//! A guard against the whole fleet by accident: `hosts: all` and a forgotten `--limit`.

use super::Prepared;

/// As many hosts a play may have before it is asked about.
pub const MAX_HOSTS: usize = 20;

/// A play that would touch more hosts than agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowded {
    /// Its name.
    pub play: String,
    /// How many hosts it has.
    pub hosts: usize,
    /// How many are fine.
    pub max: usize,
    /// Which groups they are in and how many in each, the largest first; those in no group are `ungrouped`.
    pub groups: Vec<(String, usize)>,
}

impl Crowded {
    /// As people should read it.
    pub fn message(&self) -> String {
        const NAMED: usize = 8;
        let mut groups: Vec<String> =
            self.groups.iter().take(NAMED).map(|(name, hosts)| format!("{name} ({hosts})")).collect();
        if self.groups.len() > NAMED {
            groups.push(format!("{} more groups", self.groups.len() - NAMED));
        }
        let Crowded { play, hosts, max, .. } = self;
        format!("the play `{play}` would touch {hosts} hosts, more than {max}; their groups: {}", groups.join(", "))
    }
}

impl Prepared {
    /// The play with the most hosts, if those are more than `max` and no `--limit` or `--resume` named them.
    pub fn crowded(&self, max: usize) -> Option<Crowded> {
        if self.settings.limit.is_some() || self.settings.resume.is_some() {
            return None;
        }
        let play = self.plays.iter().rev().max_by_key(|play| play.hosts.len()).filter(|play| play.hosts.len() > max)?;
        let meant: std::collections::HashSet<&str> = play.hosts.iter().map(String::as_str).collect();
        let mut groups: Vec<(String, usize)> = self
            .inventory
            .groups()
            .filter(|(name, _)| *name != "all")
            .map(|(name, hosts)| (name.to_string(), hosts.iter().filter(|host| meant.contains(*host)).count()))
            .filter(|(_, hosts)| *hosts > 0)
            .collect();
        groups.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Some(Crowded { play: play.title.clone(), hosts: play.hosts.len(), max, groups })
    }
}
