//! Memory, huge pages, virtual CPUs and what they are pinned to.

use std::collections::{BTreeMap, BTreeSet};

use super::devices::nodes_of_cards;
use super::rules::{
    CPU_DEFAULT_MODEL, CPU_MISSING, CPU_NODE, CPU_SIBLINGS, HUGEPAGES, MEMORY_HOST, MEMORY_NODE, SHMEM_SIZE,
    VCPU_TOPOLOGY, VIRTIOFS_MEMORY,
};
use super::scene::Scene;
use crate::modules::libvirt::domain::normal::amount;
use crate::modules::libvirt::values::{Size, unit};
use crate::modules::libvirt::xml::Element;

/// All rules of this room.
pub fn check(scene: &mut Scene) {
    memory(scene);
    hugepages(scene);
    shared_memory(scene);
    model(scene);
    topology(scene);
    pinning(scene);
}

/// `0-3,^2,8` as libvirt and the kernel read it; `None` for what is none.
pub fn set(text: &str) -> Option<BTreeSet<u32>> {
    const MOST: u32 = 1 << 16;
    let mut set = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        if let Some(not) = part.strip_prefix('^') {
            set.remove(&not.parse().ok()?);
            continue;
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last > MOST || first > last {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// `0-3,8`
fn list(set: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for number in set {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let part = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

fn wanted(domain: &Element) -> Option<Size> {
    domain.get("memory").and_then(amount)
}

/// The nodes that all of its memory must come from.
fn bound(domain: &Element) -> Option<BTreeSet<u32>> {
    let memory = domain.at(&["numatune", "memory"])?;
    let strict = matches!(memory.attribute("mode"), None | Some("strict" | "restrictive"));
    memory.attribute("nodeset").filter(|_| strict).and_then(set)
}

fn memory(scene: &mut Scene) {
    let Some(wanted) = wanted(scene.domain) else { return };
    if let Some(has) = scene.about.memory.filter(|has| *has < wanted.0) {
        let message = format!("{wanted} are more memory than the machine has ({})", rounded(has));
        scene.say(MEMORY_HOST, "domain/memory", message, "give it less");
    }
    if let (Some(nodes), Some(known)) = (bound(scene.domain), &scene.about.nodes) {
        let of = |number: &u32| known.iter().find(|node| node.number == *number);
        let has: Option<u64> = nodes.iter().map(|number| of(number).map_or(Some(0), |node| node.memory)).sum();
        if let Some(has) = has.filter(|has| *has < wanted.0) {
            let message = format!("{wanted} are more memory than NUMA node {} has ({})", list(&nodes), rounded(has));
            let fix = "give it less, or `mode='preferred'` instead of strict";
            scene.say(MEMORY_NODE, "domain/numatune/memory@nodeset", message, fix);
        }
    }
}

fn rounded(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn hugepages(scene: &mut Scene) {
    let (Some(wanted), Some(backing)) = (wanted(scene.domain), scene.domain.at(&["memoryBacking", "hugepages"])) else {
        return;
    };
    let Some(known) = &scene.about.hugepages else { return };
    // Several sizes are for several nodes of the guest: which of its memory goes where is not for this rule.
    let mut pages = backing.named("page");
    let (page, more) = (pages.next(), pages.next());
    if more.is_some() {
        return;
    }
    let size = match page {
        Some(page) => amount(page).map(|size| size.0),
        None => known.first().map(|pages| pages.size),
    };
    let Some(size) = size.filter(|size| *size > 0) else { return };
    let needed = wanted.0.div_ceil(size);
    let nodes = bound(scene.domain).filter(|_| known.iter().any(|pages| pages.node.is_some()));
    let counted = known.iter().filter(|pages| pages.size == size).filter(|pages| match (&nodes, pages.node) {
        (Some(nodes), Some(node)) => nodes.contains(&node),
        (None, None) => true,
        _ => false,
    });
    let has: u64 = counted.map(|pages| pages.count).sum();
    if has < needed {
        let at = nodes.map(|nodes| format!(" on NUMA node {}", list(&nodes))).unwrap_or_default();
        let size = Size(size);
        let message = format!("it needs {needed} huge pages of {size}, and {has} are reserved{at}");
        let fix = "reserve them: `kernel_cmdline` with hugepagesz= and hugepages=, or sysctl vm.nr_hugepages";
        scene.say(HUGEPAGES, "domain/memoryBacking/hugepages", message, fix);
    }
}

fn shared_memory(scene: &mut Scene) {
    let backing = scene.domain.get("memoryBacking");
    let access = backing.and_then(|backing| backing.get("access")).and_then(|access| access.attribute("mode"));
    let cells = scene.domain.at(&["cpu", "numa"]).into_iter().flat_map(Element::elements);
    let cells: Vec<&Element> = cells.filter(|cell| cell.name == "cell").collect();
    let cell = |cell: &&Element| cell.attribute("memAccess").or(access) == Some("shared");
    let shared = if cells.is_empty() { access == Some("shared") } else { cells.iter().all(cell) };
    for device in scene.devices.clone() {
        let virtiofs = device.is("filesystem") && device.of("driver", "type") == Some("virtiofs");
        let vhost =
            (device.is("interface") || device.is("disk")) && device.element.attribute("type") == Some("vhostuser");
        if (virtiofs || vhost) && !shared {
            scene.say(
                VIRTIOFS_MEMORY,
                "domain/memoryBacking/access@mode",
                format!("{} needs shared memory", device.label),
                "add <source type='memfd'/> and <access mode='shared'/> to <memoryBacking>",
            );
        }
        if device.is("shmem")
            && let Some(size) = device.element.get("size")
        {
            let bytes = size
                .text()
                .parse::<u64>()
                .ok()
                .and_then(|n| n.checked_mul(unit(size.attribute("unit").unwrap_or("b"))?));
            if let Some(bytes) = bytes.filter(|bytes| !bytes.is_power_of_two()) {
                let fix = format!("write {}", Size(bytes.checked_next_power_of_two().unwrap_or(bytes)));
                let message = format!("{}: {} is no power of two", device.label, Size(bytes));
                scene.say(SHMEM_SIZE, format!("{}/size", device.place), message, fix);
            }
        }
    }
}

/// Without a model libvirt takes QEMU's smallest, and writes it down.
fn model(scene: &mut Scene) {
    if !scene.is_x86() || !super::devices::gives_away_cards(scene) {
        return;
    }
    let model = scene.domain.get("cpu").map(|cpu| (cpu.attribute("mode"), cpu.text_at(&["model"])));
    let small = match &model {
        None => true,
        Some((mode, model)) => {
            let given = model.as_deref().unwrap_or_default();
            matches!(mode, None | Some("custom")) && matches!(given, "" | "qemu64" | "qemu32" | "kvm64" | "kvm32")
        }
    };
    if small {
        let name = model.and_then(|(_, model)| model).filter(|model| !model.is_empty());
        let name = name.unwrap_or_else(|| "qemu64".to_string());
        let message = format!("its CPU is {name}: slow, without AES and AVX");
        scene.say(CPU_DEFAULT_MODEL, "domain/cpu", message, "give `cpu: host-passthrough`");
    }
}

fn vcpus(domain: &Element) -> u32 {
    domain.text_at(&["vcpu"]).and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn topology(scene: &mut Scene) {
    let Some(topology) = scene.domain.at(&["cpu", "topology"]) else { return };
    let count = |name: &str| topology.attribute(name).map_or(Some(1), |text| text.parse::<u32>().ok());
    let parts = ["sockets", "dies", "clusters", "cores", "threads"];
    let product = parts.iter().try_fold(1u32, |all, name| all.checked_mul(count(name)?));
    let vcpus = vcpus(scene.domain);
    if let Some(product) = product.filter(|product| *product != vcpus) {
        let message = format!("its topology has {product} CPUs, and the guest has {vcpus}");
        scene.say(
            VCPU_TOPOLOGY,
            "domain/cpu/topology",
            message,
            format!("give `vcpus: {product}`, or another topology"),
        );
    }
}

fn pinning(scene: &mut Scene) {
    let tune = scene.domain.get("cputune");
    let mut pins: Vec<(String, BTreeSet<u32>)> = Vec::new();
    let mut each: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for pin in tune.into_iter().flat_map(Element::elements) {
        let Some(cpus) = pin.attribute("cpuset").and_then(set) else { continue };
        let place = match (pin.name.as_str(), pin.attribute("vcpu"), pin.attribute("iothread")) {
            ("vcpupin", Some(vcpu), _) => {
                if let Ok(vcpu) = vcpu.parse() {
                    each.insert(vcpu, cpus.clone());
                }
                format!("domain/cputune/vcpupin[{vcpu}]@cpuset")
            }
            ("iothreadpin", _, Some(thread)) => format!("domain/cputune/iothreadpin[{thread}]@cpuset"),
            _ => format!("domain/cputune/{}@cpuset", pin.name),
        };
        pins.push((place, cpus));
    }
    if let Some(cpus) = scene.domain.get("vcpu").and_then(|vcpu| vcpu.attribute("cpuset")).and_then(set) {
        pins.push(("domain/vcpu@cpuset".to_string(), cpus));
    }
    if let Some(known) = &scene.about.cpus {
        for (place, cpus) in &pins {
            let missing: BTreeSet<u32> = cpus.iter().filter(|cpu| !known.contains_key(cpu)).copied().collect();
            if !missing.is_empty() {
                let message = format!("it is pinned to CPU {}, which this machine does not have", list(&missing));
                scene.say(CPU_MISSING, place.clone(), message, "pin to CPUs that `lscpu -e` lists as online");
            }
        }
    }
    // vCPUs without a pin of their own run on the set of <vcpu>.
    let mine: BTreeSet<u32> = match each.values().flatten().copied().collect::<BTreeSet<u32>>() {
        none if none.is_empty() => {
            pins.iter().filter(|(p, _)| p == "domain/vcpu@cpuset").flat_map(|(_, c)| c).copied().collect()
        }
        some => some,
    };
    nodes(scene, &mine);
    siblings(scene, &each, &pins);
}

fn nodes(scene: &mut Scene, mine: &BTreeSet<u32>) {
    let Some(known) = &scene.about.nodes else { return };
    let cards = nodes_of_cards(scene);
    for (card, number) in cards {
        let Some(node) = known.iter().find(|node| node.number == number && !node.cpus.is_empty()) else { continue };
        let far: BTreeSet<u32> = mine.difference(&node.cpus).copied().collect();
        if !far.is_empty() {
            let message =
                format!("it is pinned to CPU {}, and the card at {card} is on NUMA node {number}", list(&far));
            let fix = format!("that node has {}", list(&node.cpus));
            scene.say(CPU_NODE, "domain/cputune", message, fix);
        }
    }
}

fn siblings(scene: &mut Scene, each: &BTreeMap<u32, BTreeSet<u32>>, pins: &[(String, BTreeSet<u32>)]) {
    let Some(known) = &scene.about.cpus else { return };
    // Floating over many CPUs is no claim to cores.
    if each.is_empty() || each.values().any(|cpus| cpus.len() > 2) {
        return;
    }
    let used: BTreeSet<u32> = pins.iter().flat_map(|(_, cpus)| cpus).copied().collect();
    let mine: BTreeSet<u32> = each.values().flatten().copied().collect();
    let left: BTreeSet<u32> = mine
        .iter()
        .filter_map(|cpu| known.get(cpu))
        .flatten()
        .filter(|sibling| !used.contains(sibling))
        .copied()
        .collect();
    if !left.is_empty() {
        let message = format!("of the cores it is pinned to, CPU {} is left to others", list(&left));
        let fix = "pin whole cores: both threads of each (`lscpu -e`)";
        scene.say(CPU_SIBLINGS, "domain/cputune", message, fix);
    }
    let threads: u32 = scene
        .domain
        .at(&["cpu", "topology"])
        .and_then(|topology| topology.attribute("threads")?.parse().ok())
        .unwrap_or(1);
    if threads < 2 {
        return;
    }
    for (vcpu, cpus) in each.iter().filter(|(vcpu, _)| *vcpu % threads == 0) {
        let first = cpus.first().and_then(|cpu| known.get(cpu));
        let split = (1..threads).find(|at| {
            let other = each.get(&(vcpu + at)).and_then(BTreeSet::first);
            matches!((first, other), (Some(core), Some(other)) if !core.contains(other))
        });
        if let Some(at) = split {
            let message = format!(
                "virtual CPUs {vcpu} and {} are threads of one core to the guest, and are pinned to two",
                vcpu + at
            );
            let fix = "pin them to the two threads of one core (`lscpu -e`), or give `threads: 1`";
            scene.say(CPU_SIBLINGS, format!("domain/cputune/vcpupin[{}]@cpuset", vcpu + at), message, fix);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_cpus() {
        let read = |text: &str| set(text).map(|set| list(&set));
        assert_eq!(read("0-3,^2,8").as_deref(), Some("0-1,3,8"));
        assert_eq!(read("").as_deref(), Some(""));
        for wrong in ["x", "3-1", "0-4294967295", "1-"] {
            assert_eq!(set(wrong), None, "{wrong}");
        }
    }
}
