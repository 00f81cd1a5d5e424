//! Which of the host's CPUs a guest is pinned to: `pinning: auto`.

use std::collections::BTreeSet;

use crate::host::{Error, Host, Result, VirtKind};
use crate::modules::libvirt::xml::{self, Element};

/// One core with its threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Core {
    /// The NUMA node it belongs to.
    pub node: u32,
    /// Its threads, as the kernel numbers them.
    pub cpus: Vec<u32>,
}

/// The CPUs of a host, as far as pinning asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCpus {
    /// All cores that are online, by their first thread.
    pub cores: Vec<Core>,
    /// Are they AMD's?
    pub amd: bool,
    /// CPUs that other guests are pinned to.
    pub taken: BTreeSet<u32>,
}

/// Where each thread of a guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// A set of CPUs for each virtual CPU.
    pub vcpus: Vec<String>,
    /// One for QEMU itself.
    pub emulator: String,
    /// One for each I/O thread.
    pub iothreads: Vec<String>,
}

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// `0-3,8` as the kernel and libvirt write it; `^2` takes one out.
pub fn read_set(text: &str) -> Option<BTreeSet<u32>> {
    /// More CPUs than this are nobody's.
    const MOST: u32 = 65536;
    let mut set = BTreeSet::new();
    for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        if let Some(not) = part.strip_prefix('^') {
            set.remove(&not.parse().ok()?);
            continue;
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last > MOST || first > last {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// The other way round, shortest.
pub fn write_set(set: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for cpu in set {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => parts.push((*cpu, *cpu)),
        }
    }
    let words: Vec<String> = parts
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    words.join(",")
}

impl HostCpus {
    /// Reads the machine's CPUs, and what other guests have of them. `None` where the kernel does not show them.
    ///
    /// # Errors
    /// Trouble reading the machine.
    pub fn read(host: &dyn Host, guest: &str) -> Result<Option<HostCpus>> {
        let mut nodes: Vec<(u32, BTreeSet<u32>)> = Vec::new();
        for name in host.list(NODES)? {
            let Some(number) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else { continue };
            let list = host.read_text(&format!("{NODES}/{name}/cpulist"))?.unwrap_or_default();
            nodes.push((number, read_set(&list).unwrap_or_default()));
        }
        let mut cores: Vec<Core> = Vec::new();
        let mut seen: BTreeSet<u32> = BTreeSet::new();
        let mut numbers: Vec<u32> =
            host.list(CPUS)?.iter().filter_map(|name| name.strip_prefix("cpu")?.parse().ok()).collect();
        numbers.sort_unstable();
        for number in numbers {
            if seen.contains(&number) {
                continue;
            }
            // A CPU that is offline shows no topology.
            let folder = format!("{CPUS}/cpu{number}/topology");
            let Some(list) = host.read_text(&format!("{folder}/thread_siblings_list"))? else { continue };
            let Some(siblings) = read_set(&list).filter(|set| set.contains(&number)) else { continue };
            seen.extend(&siblings);
            let node = nodes.iter().find(|(_, cpus)| cpus.contains(&number)).map_or(0, |(node, _)| *node);
            cores.push(Core { node, cpus: siblings.into_iter().collect() });
        }
        if cores.is_empty() {
            return Ok(None);
        }
        let info = host.read_text("/proc/cpuinfo")?.unwrap_or_default();
        let amd = info.lines().any(|line| line.starts_with("vendor_id") && line.contains("AuthenticAMD"));
        let mut taken = BTreeSet::new();
        for name in host.virt_names(VirtKind::Domain)?.iter().filter(|name| *name != guest) {
            if let Some(virt) = host.virt(VirtKind::Domain, name)?
                && let Ok(other) = xml::parse(&virt.xml)
            {
                taken.extend(pinned(&other).into_iter().flatten());
            }
        }
        Ok(Some(HostCpus { cores, amd, taken }))
    }

    /// The NUMA nodes that have CPUs.
    pub fn nodes(&self) -> Vec<u32> {
        let nodes: BTreeSet<u32> = self.cores.iter().map(|core| core.node).collect();
        nodes.into_iter().collect()
    }

    fn on(&self, node: u32) -> impl Iterator<Item = &Core> {
        self.cores.iter().filter(move |core| core.node == node)
    }

    fn is_free(&self, core: &Core) -> bool {
        core.cpus.iter().all(|cpu| !self.taken.contains(cpu))
    }

    /// The node with the most CPUs that no other guest is pinned to; the first of equals.
    pub fn freest_node(&self) -> u32 {
        let free =
            |node: u32| self.on(node).filter(|core| self.is_free(core)).map(|core| core.cpus.len()).sum::<usize>();
        let nodes = self.nodes();
        nodes.iter().copied().max_by_key(|node| (free(*node), std::cmp::Reverse(*node))).unwrap_or(0)
    }

    /// How many threads a core of the guest should have, so that pairs of threads are pairs on the host too.
    pub fn threads_for(&self, vcpus: u32) -> u32 {
        let most = self.cores.iter().map(|core| core.cpus.len()).max().unwrap_or(1);
        let most = u32::try_from(most).unwrap_or(1).max(1);
        // A CPU with cores of two kinds has fewer of those with threads.
        let enough = self.nodes().iter().any(|node| {
            let threads: usize = self.on(*node).map(|c| c.cpus.len()).filter(|n| *n == most as usize).sum();
            threads >= vcpus as usize
        });
        if vcpus.is_multiple_of(most) && enough { most } else { 1 }
    }
}

/// The sets that a domain's virtual CPUs are pinned to.
fn pinned(domain: &Element) -> Vec<BTreeSet<u32>> {
    let pins = domain.get("cputune").into_iter().flat_map(|tune| tune.named("vcpupin"));
    pins.filter_map(|pin| read_set(pin.attribute("cpuset")?)).collect()
}

/// The node on which all virtual CPUs of a domain are.
pub fn node_of(cpus: &HostCpus, domain: &Element) -> Option<u32> {
    let pins = pinned(domain);
    let all: BTreeSet<u32> = pins.into_iter().flatten().collect();
    let first = all.first()?;
    let node = cpus.cores.iter().find(|core| core.cpus.contains(first))?.node;
    let there: BTreeSet<u32> = cpus.on(node).flat_map(|core| core.cpus.iter().copied()).collect();
    all.is_subset(&there).then_some(node)
}

/// What a guest that is pinned well already has: each virtual CPU on a CPU of its own, all on the node.
fn kept(current: &Element, there: &BTreeSet<u32>, count: u32, iothreads: u32) -> Option<Pins> {
    let tune = current.get("cputune")?;
    let mut used = BTreeSet::new();
    let mut vcpus = Vec::new();
    for number in 0..count {
        let pin = tune.named("vcpupin").find(|pin| pin.attribute("vcpu") == Some(number.to_string().as_str()))?;
        let set = pin.attribute("cpuset")?;
        let cpus = read_set(set)?;
        if cpus.len() != 1 || !cpus.is_subset(there) || !cpus.is_disjoint(&used) {
            return None;
        }
        used.extend(cpus);
        vcpus.push(set.to_string());
    }
    let fine = |set: &str| read_set(set).is_some_and(|set| !set.is_empty() && set.is_subset(there));
    let emulator = tune.get("emulatorpin")?.attribute("cpuset").filter(|set| fine(set))?.to_string();
    let mut threads = Vec::new();
    for number in 1..=iothreads {
        let pin = tune.named("iothreadpin").find(|pin| pin.attribute("iothread") == Some(number.to_string().as_str()));
        let own = pin.and_then(|pin| pin.attribute("cpuset")).filter(|set| fine(set));
        threads.push(own.unwrap_or(&emulator).to_string());
    }
    (tune.named("vcpupin").count() == count as usize).then_some(Pins { vcpus, emulator, iothreads: threads })
}

/// Works out where a guest of so many virtual CPUs runs.
///
/// Cores that no other guest is pinned to come first, and the node's first core comes last, since the host's own work
/// gathers there. A guest that is pinned well already stays.
///
/// # Errors
/// More virtual CPUs than the node has CPUs.
pub fn pins(
    cpus: &HostCpus,
    node: u32,
    count: u32,
    threads: u32,
    iothreads: u32,
    current: Option<&Element>,
) -> Result<Pins> {
    let there: BTreeSet<u32> = cpus.on(node).flat_map(|core| core.cpus.iter().copied()).collect();
    if (count as usize) > there.len() {
        return Err(Error::parameters(format!(
            "pinning: the guest has {count} virtual CPUs, and NUMA node {node} has {}",
            there.len()
        ))
        .hint("give fewer `vcpus`, or pin by hand with `pinning: {vcpus: […]}`"));
    }
    if let Some(kept) = current.and_then(|current| kept(current, &there, count, iothreads)) {
        return Ok(kept);
    }
    let mut cores: Vec<&Core> = cpus.on(node).collect();
    let first = cores.iter().filter_map(|core| core.cpus.first()).min().copied();
    // The most threads first, where there are cores of two kinds.
    cores.sort_by_key(|core| {
        let is_first = core.cpus.first().copied() == first;
        (!cpus.is_free(core), is_first, std::cmp::Reverse(core.cpus.len()), core.cpus.first().copied())
    });
    let count = count as usize;
    let order: Vec<u32> = if threads > 1 || cores.len() < count {
        cores.iter().flat_map(|core| core.cpus.iter().copied()).collect()
    } else {
        // Cores of one thread: each gets a core of the host to itself.
        cores.iter().filter_map(|core| core.cpus.first().copied()).collect()
    };
    let chosen: Vec<u32> = order.into_iter().take(count).collect();
    // What the threads of the guest's cores leave of a core is not for QEMU itself.
    let busy: BTreeSet<u32> = cores
        .iter()
        .filter(|core| core.cpus.iter().any(|cpu| chosen.contains(cpu)))
        .flat_map(|core| core.cpus.iter().copied())
        .collect();
    let others: BTreeSet<u32> = there.difference(&busy).copied().collect();
    let free: BTreeSet<u32> = others.difference(&cpus.taken).copied().collect();
    let left: BTreeSet<u32> = there.iter().copied().filter(|cpu| !chosen.contains(cpu)).collect();
    let rest = [free, others, left].into_iter().find(|set| !set.is_empty()).unwrap_or_else(|| there.clone());
    let emulator = write_set(&rest);
    let iothreads = (0..iothreads).map(|_| emulator.clone()).collect();
    Ok(Pins { vcpus: chosen.iter().map(ToString::to_string).collect(), emulator, iothreads })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    /// Two sockets of six cores with two threads each, numbered as Dell does: even CPUs on node 0, odd ones on node 1.
    fn seed() -> HostCpus {
        let cores = (0..12).map(|n| Core { node: n % 2, cpus: vec![n, n + 12] }).collect();
        HostCpus { cores, ..HostCpus::default() }
    }

    #[test]
    fn pairs_of_threads_on_the_node_of_the_card() {
        let cpus = seed();
        assert_eq!(cpus.threads_for(8), 2);
        let pins = pins(&cpus, 1, 8, 2, 1, None).unwrap();
        assert_eq!(pins.vcpus, ["3", "15", "5", "17", "7", "19", "9", "21"]);
        assert_eq!(pins.emulator, "1,11,13,23");
        assert_eq!(pins.iothreads, ["1,11,13,23"]);
    }

    #[test]
    fn single_threads_get_cores_to_themselves_while_there_are_enough() {
        let cpus = seed();
        assert_eq!(cpus.threads_for(3), 1);
        let few = pins(&cpus, 0, 3, 1, 0, None).unwrap();
        assert_eq!((few.vcpus, few.emulator.as_str()), (vec!["2".into(), "4".into(), "6".into()], "0,8,10,12,20,22"));
        let many = pins(&cpus, 0, 7, 1, 0, None).unwrap();
        assert_eq!(many.vcpus, ["2", "14", "4", "16", "6", "18", "8"]);
        let all = pins(&cpus, 0, 12, 2, 0, None).unwrap();
        assert_eq!(all.emulator, "0,2,4,6,8,10,12,14,16,18,20,22");
        assert!(pins(&cpus, 0, 13, 1, 0, None).unwrap_err().to_string().contains("13 virtual CPUs"));
    }

    #[test]
    fn other_guests_are_avoided_and_a_guest_that_is_pinned_stays() {
        let mut cpus = seed();
        cpus.taken = read_set("3,15,5,17").unwrap();
        let free = pins(&cpus, 1, 4, 2, 0, None).unwrap();
        assert_eq!(free.vcpus, ["7", "19", "9", "21"]);
        assert_eq!(free.emulator, "1,11,13,23");
        assert_eq!(cpus.freest_node(), 0);
        let domain = "<domain><cputune><vcpupin vcpu='0' cpuset='11'/><vcpupin vcpu='1' cpuset='23'/>\
                      <emulatorpin cpuset='1,13'/></cputune></domain>";
        let domain = parse(domain).unwrap();
        assert_eq!(node_of(&cpus, &domain), Some(1));
        let same = pins(&cpus, 1, 2, 2, 0, Some(&domain)).unwrap();
        assert_eq!((same.vcpus, same.emulator.as_str()), (vec!["11".into(), "23".into()], "1,13"));
        // One more, or another node: worked out anew.
        assert_eq!(pins(&cpus, 1, 3, 1, 0, Some(&domain)).unwrap().vcpus, ["7", "9", "11"]);
        assert_eq!(pins(&cpus, 0, 2, 2, 0, Some(&domain)).unwrap().vcpus, ["2", "14"]);
    }

    #[test]
    fn cores_of_two_kinds() {
        let mut cores: Vec<Core> = (0..4).map(|n| Core { node: 0, cpus: vec![2 * n, 2 * n + 1] }).collect();
        cores.extend((8..16).map(|n| Core { node: 0, cpus: vec![n] }));
        let cpus = HostCpus { cores, ..HostCpus::default() };
        assert_eq!((cpus.threads_for(6), cpus.threads_for(12)), (2, 1));
        assert_eq!(pins(&cpus, 0, 6, 2, 0, None).unwrap().vcpus, ["2", "3", "4", "5", "6", "7"]);
    }

    #[test]
    fn sets_read_and_written() {
        assert_eq!(read_set("0-3,^2,8\n"), Some(BTreeSet::from([0, 1, 3, 8])));
        assert_eq!(write_set(&BTreeSet::from([0, 1, 3, 4, 5, 8])), "0-1,3-5,8");
        assert_eq!((read_set("3-1"), read_set("x"), read_set("0-99999999")), (None, None, None));
    }
}
