//! Sets of processors, in the kernel's list format (cpumap_print_to_pagebuf(), `0-3,8,10-11`), and how a machine's
//! processors belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::host::{Host, Result};

const CPUS: &str = "/sys/devices/system/cpu";

/// As many as any kernel is built for.
const MOST: u32 = 8192;

/// A set of processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(pub BTreeSet<u32>);

impl CpuSet {
    /// Reads a list such as `2-5,8`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> std::result::Result<CpuSet, String> {
        let mut set = BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u32>().ok().filter(|cpu| *cpu < MOST);
            let (Some(from), Some(to)) = (number(from), number(to)) else {
                return Err(format!("`{text}` is not a list of processors: write for example \"2-5,8-11\""));
            };
            if from > to {
                return Err(format!("`{part}` in `{text}` runs backwards"));
            }
            set.extend(from..=to);
        }
        Ok(CpuSet(set))
    }

    /// What the kernel says; an empty file is an empty set.
    pub fn of_kernel(text: &str) -> CpuSet {
        CpuSet::parse(text.trim()).unwrap_or_default()
    }

    /// Is none in it?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that the other set does not have.
    #[must_use]
    pub fn without(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.difference(&other.0).copied().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
                _ => ranges.push((*cpu, *cpu)),
            }
        }
        let parts: Vec<String> = ranges
            .into_iter()
            .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
            .collect();
        f.write_str(&parts.join(","))
    }
}

/// A machine's processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// All that are there.
    pub all: CpuSet,
    /// Each one's hardware threads of the same core, itself included.
    pub siblings: BTreeMap<u32, CpuSet>,
}

impl Topology {
    /// Cores of which only a part is in the set: that part and the rest.
    pub fn split_cores(&self, set: &CpuSet) -> Vec<(CpuSet, CpuSet)> {
        let mut found: Vec<(CpuSet, CpuSet)> = Vec::new();
        for cpu in &set.0 {
            let Some(core) = self.siblings.get(cpu) else { continue };
            let rest = core.without(set);
            let part = core.without(&rest);
            if !rest.is_empty() && !found.iter().any(|(seen, _)| *seen == part) {
                found.push((part, rest));
            }
        }
        found
    }

    /// The hardware threads of the core that this one is of.
    pub fn core_of(&self, cpu: u32) -> CpuSet {
        self.siblings.get(&cpu).cloned().unwrap_or_else(|| CpuSet(BTreeSet::from([cpu])))
    }
}

/// Reads which processors there are and which share a core.
///
/// # Errors
/// When the machine can't be read.
pub fn topology(host: &dyn Host) -> Result<Topology> {
    let mut all = CpuSet::of_kernel(&host.read_line(&format!("{CPUS}/present"))?.unwrap_or_default());
    let mut siblings = BTreeMap::new();
    for name in host.list(CPUS)? {
        let Some(number) = name.strip_prefix("cpu").and_then(|rest| rest.parse::<u32>().ok()) else { continue };
        all.0.insert(number);
        if let Some(list) = host.read_line(&format!("{CPUS}/{name}/topology/thread_siblings_list"))? {
            siblings.insert(number, CpuSet::of_kernel(&list));
        }
    }
    Ok(Topology { all, siblings })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::overlay::testing::machine;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).unwrap()
    }

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!(set("0-2, 5,7-7").to_string(), "0-2,5,7");
        assert_eq!(set("1,3,5").to_string(), "1,3,5");
        assert_eq!(CpuSet::of_kernel("\n").to_string(), "");
        for wrong in ["", "a", "1-", "-1", "3-1", "1,,2", "0-99999999", "0x3"] {
            assert!(CpuSet::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cores_that_are_split_are_found() {
        let host = machine(&[
            ("/sys/devices/system/cpu/present", "0-3\n"),
            ("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,2\n"),
            ("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n"),
            ("/sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,3\n"),
            ("/sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "1,3\n"),
            ("/sys/devices/system/cpu/cpufreq/x", ""),
        ]);
        let topology = topology(&host).unwrap();
        assert_eq!(topology.all, set("0-3"));
        assert_eq!(topology.split_cores(&set("1,3")), []);
        assert_eq!(topology.split_cores(&set("1-2")), [(set("1"), set("3")), (set("2"), set("0"))]);
        assert_eq!(topology.core_of(0), set("0,2"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(cpus in prop::collection::btree_set(0u32..200, 1..40)) {
            let set = CpuSet(cpus);
            prop_assert_eq!(CpuSet::parse(&set.to_string()), Ok(set));
        }

        #[test]
        fn anything_is_read(text in "[0-9,\\- a]{0,12}") {
            if let Ok(set) = CpuSet::parse(&text) {
                prop_assert_eq!(CpuSet::parse(&set.to_string()), Ok(set));
            }
        }
    }
}
