//! What of a running guest has a command of its own: memory, virtual CPUs and where they run, and how much of the machine the
//! guest may use (virsh(1); what QEMU's driver of libvirt 9.0 can do while a guest runs).
//!
//! Every step gives absolute values in one spelling, so that a dry run, which does not see what libvirt makes of a
//! definition, comes to the same steps.

use std::collections::{BTreeMap, BTreeSet};

use super::super::compare::Change;
use super::super::devices;
use super::super::normal::{amount, cpu_set};
use super::super::words::words;
use super::{PERIOD, Planner, UNLIMITED};
use crate::modules::libvirt::values::Size;
use crate::modules::libvirt::xml::{Element, Node};

/// How long a guest has to give memory back or take it, in seconds.
const BREATH: &str = "3";
/// More I/O threads than this are nobody's.
const MOST_THREADS: u32 = 1024;

/// Shares and limits of CPU time: the element, what `virsh schedinfo` calls it, and what lifts it. Shares can't be lifted: what
/// a guest without has is another number in each version of control groups.
const CPU_TIME: [(&str, &str, Option<&str>); 9] = [
    ("shares", "cpu_shares", None),
    ("period", "vcpu_period", Some(PERIOD)),
    ("quota", "vcpu_quota", Some(UNLIMITED)),
    ("global_period", "global_period", Some(PERIOD)),
    ("global_quota", "global_quota", Some(UNLIMITED)),
    ("emulator_period", "emulator_period", Some(PERIOD)),
    ("emulator_quota", "emulator_quota", Some(UNLIMITED)),
    ("iothread_period", "iothread_period", Some(PERIOD)),
    ("iothread_quota", "iothread_quota", Some(UNLIMITED)),
];

/// Limits on memory, and their options of `virsh memtune`.
const MEMORY: [(&str, &str); 3] =
    [("hard_limit", "--hard-limit"), ("soft_limit", "--soft-limit"), ("swap_hard_limit", "--swap-hard-limit")];

/// What a guest may do with one disk of the host, and its options of `virsh blkiotune`.
const BLOCK: [(&str, &str); 5] = [
    ("weight", "--device-weights"),
    ("read_iops_sec", "--device-read-iops-sec"),
    ("write_iops_sec", "--device-write-iops-sec"),
    ("read_bytes_sec", "--device-read-bytes-sec"),
    ("write_bytes_sec", "--device-write-bytes-sec"),
];

impl Planner<'_> {
    /// What has a command of its own.
    pub(super) fn domain(&mut self, defined: &Element) {
        self.memory(defined);
        self.balloon(defined);
        self.vcpus(defined);
        self.iothreads(defined);
        self.lifecycle(defined);
        self.pins(defined);
        self.cpu_time(defined);
        self.memory_limits(defined);
        self.block_shares(defined);
        self.disk_limits(defined);
    }

    /// Memory can shrink and grow below its limit, where there is a balloon.
    fn memory(&mut self, defined: &Element) {
        let of = |domain: &Element, name: &str| domain.get(name).and_then(amount);
        let (Some(new), Some(old)) = (of(defined, "currentMemory"), of(self.live, "currentMemory")) else { return };
        let most = of(self.live, "memory");
        if new == old || of(defined, "memory") != most || most.is_none_or(|most| new > most) {
            return;
        }
        let balloon = self.live.at(&["devices", "memballoon"]).and_then(|b| b.attribute("model"));
        if balloon.is_none_or(|model| model == "none") {
            return;
        }
        let mut live = self.live.clone();
        if let Some(there) = live.get_mut("currentMemory") {
            set_size(there, new);
        }
        let change =
            Change { path: "current memory".into(), before: Some(old.to_string()), after: Some(new.to_string()) };
        let (name, kib) = (self.name, new.kib().to_string());
        self.step(&["setmem", name, &kib, "--live"], None, vec![change], live.clone());
        // The guest's driver gives memory back by and by, and libvirt tells what is so already.
        self.step(
            &["event", "--domain", name, "--event", "balloon-change", "--loop", "--timeout", BREATH],
            None,
            Vec::new(),
            live,
        );
        if let Some(wait) = self.steps.last_mut() {
            wait.patient = true;
        }
    }

    /// How often the guest says how much memory it uses.
    fn balloon(&mut self, defined: &Element) {
        let balloon = |domain: &Element| domain.at(&["devices", "memballoon"]).cloned();
        let (Some(wanted), Some(running)) = (balloon(defined), balloon(self.live)) else { return };
        let period = |balloon: &Element| {
            balloon.get("stats").and_then(|stats| stats.attribute("period")).unwrap_or("0").to_string()
        };
        let (new, old) = (period(&wanted), period(&running));
        let same = wanted.attribute("model") == running.attribute("model");
        if new == old || !same || running.attribute("model") == Some("none") {
            return;
        }
        let mut live = self.live.clone();
        if let Some(there) = live.get_mut("devices").and_then(|all| all.get_mut("memballoon")) {
            there.retain(|child| child.name != "stats");
            there.nodes.extend(wanted.get("stats").cloned().map(Node::Element));
        }
        let shown = |period: &str| Some(period.to_string()).filter(|period| period != "0");
        let change = Change { path: "memballoon: stats period".to_string(), before: shown(&old), after: shown(&new) };
        let name = self.name;
        self.step(&["dommemstat", name, "--period", &new, "--live"], None, vec![change], live);
    }

    /// Virtual CPUs come up to the most that the guest was started with; those that came can go.
    fn vcpus(&mut self, defined: &Element) {
        let (Some((most, new)), Some((limit, old))) = (counts(defined), counts(self.live)) else { return };
        if most != limit || new == old || new == 0 || (new < old && removable(self.live) < old - new) {
            return;
        }
        let mut live = self.live.clone();
        if let Some(vcpu) = live.get_mut("vcpu") {
            vcpu.unset("current");
            if new < most {
                vcpu.set("current", new.to_string());
            }
        }
        // libvirt takes the first ones that can come, and the last ones that can go.
        let mut left = new.abs_diff(old);
        let mut list: Vec<&mut Element> = live.get_mut("vcpus").into_iter().flat_map(Element::elements_mut).collect();
        if new < old {
            list.reverse();
        }
        let (from, to) = if new > old { ("no", "yes") } else { ("yes", "no") };
        for vcpu in list {
            let can = new > old || vcpu.attribute("hotpluggable") == Some("yes");
            if left > 0 && can && vcpu.attribute("enabled") == Some(from) {
                vcpu.set("enabled", to);
                left -= 1;
            }
        }
        let change = Change {
            path: words(&["vcpu"], Some("current")),
            before: Some(old.to_string()),
            after: Some(new.to_string()),
        };
        let (name, count) = (self.name, new.to_string());
        self.step(&["setvcpus", name, &count, "--live"], None, vec![change], live);
    }

    fn iothreads(&mut self, defined: &Element) {
        let (Some(new), Some(old)) = (threads(defined), threads(self.live)) else { return };
        let used: BTreeSet<u32> = self
            .live
            .get("devices")
            .into_iter()
            .flat_map(Element::elements)
            .filter_map(|device| device.get("driver")?.attribute("iothread")?.parse().ok())
            .collect();
        let coming = new.difference(&old).map(|id| ("iothreadadd", *id));
        // One that a disk uses can't go before that disk.
        let going = old.difference(&new).filter(|id| !used.contains(id)).map(|id| ("iothreaddel", *id));
        for (command, id) in coming.chain(going).collect::<Vec<_>>() {
            let mut live = self.live.clone();
            let Some(mut ids) = threads(&live) else { return };
            let comes = command == "iothreadadd";
            if comes {
                ids.insert(id)
            } else {
                ids.remove(&id)
            };
            live.retain(|child| !matches!(child.name.as_str(), "iothreads" | "iothreadids"));
            if !ids.is_empty() {
                let list = ids.iter().map(|id| Element::new("iothread").with("id", id.to_string()));
                let list = list.fold(Element::new("iothreadids"), Element::child);
                live = live.child(Element::new("iothreads").containing(ids.len().to_string())).child(list);
            }
            let word = |there: bool| there.then(|| "yes".to_string());
            let change = Change { path: format!("iothread {id}"), before: word(!comes), after: word(comes) };
            let (name, id) = (self.name, id.to_string());
            self.step(&[command, name, &id, "--live"], None, vec![change], live);
        }
    }

    fn lifecycle(&mut self, defined: &Element) {
        for (element, action) in [("on_poweroff", "poweroff"), ("on_reboot", "reboot"), ("on_crash", "crash")] {
            let (Some(new), Some(old)) = (defined.get(element), self.live.get(element)) else { continue };
            let (new, old) = (new.text(), old.text());
            if new == old || action == "crash" && new.starts_with("coredump") {
                continue;
            }
            let mut live = self.live.clone();
            if let Some(there) = live.get_mut(element) {
                there.set_text(new.as_str());
            }
            let change = Change { path: element.to_string(), before: Some(old), after: Some(new.clone()) };
            let name = self.name;
            self.step(&["set-lifecycle-action", name, action, &new, "--live"], None, vec![change], live);
        }
    }

    /// Where virtual CPUs, I/O threads and QEMU itself run. What is not pinned any more runs where it would without.
    fn pins(&mut self, defined: &Element) {
        for (kind, key) in [("vcpupin", Some("vcpu")), ("iothreadpin", Some("iothread")), ("emulatorpin", None)] {
            let (new, old) = (pins(defined, kind, key), pins(self.live, kind, key));
            let all: BTreeSet<Option<u32>> = new.keys().chain(old.keys()).copied().collect();
            for which in all {
                let (wanted, before) = (new.get(&which), old.get(&which));
                let anywhere = self.anywhere.and_then(cpu_set);
                let Some(cpus) = wanted.or(anywhere.as_ref()) else { continue };
                if wanted == before || !self.is_there(kind, which) {
                    continue;
                }
                let mut live = self.live.clone();
                let number = which.map(|number| number.to_string());
                let cpus = ranges(cpus);
                edit(&mut live, "cputune", |tune| {
                    tune.retain(|pin| pin.name != kind || key.and_then(|key| pin.attribute(key)) != number.as_deref());
                    if wanted.is_some() {
                        let pin = match (key, &number) {
                            (Some(key), Some(number)) => Element::new(kind).with(key, number.as_str()),
                            _ => Element::new(kind),
                        };
                        tune.nodes.push(Node::Element(pin.with("cpuset", cpus.as_str())));
                    }
                });
                let path = [Some(kind), number.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
                let change = Change { path, before: before.map(ranges), after: wanted.is_some().then(|| cpus.clone()) };
                let mut arguments = vec![kind, self.name];
                arguments.extend(number.as_deref());
                arguments.extend([cpus.as_str(), "--live"]);
                self.step(&arguments, None, vec![change], live);
            }
        }
    }

    /// libvirt pins no virtual CPU that there can't be, and no thread that there is not.
    fn is_there(&self, kind: &str, which: Option<u32>) -> bool {
        let Some(number) = which else { return true };
        if kind == "iothreadpin" {
            return threads(self.live).is_some_and(|ids| ids.contains(&number));
        }
        counts(self.live).is_none_or(|(most, _)| u64::from(number) < most)
    }

    fn cpu_time(&mut self, defined: &Element) {
        for (element, parameter, lifted) in CPU_TIME {
            let of = |domain: &Element| {
                let text = domain.text_at(&["cputune", element])?;
                Some(text).filter(|text| !(element.ends_with("quota") && text.starts_with('-')))
            };
            let (new, old) = (of(defined), of(self.live));
            let Some(value) = new.as_deref().or(lifted) else { continue };
            if old.as_deref().or(lifted) == Some(value) {
                continue;
            }
            let mut live = self.live.clone();
            edit(&mut live, "cputune", |tune| set_child(tune, element, new.as_deref()));
            let assignment = format!("{parameter}={value}");
            let change = Change { path: words(&["cputune", element], None), before: old, after: new };
            let name = self.name;
            self.step(&["schedinfo", name, "--live", "--set", &assignment], None, vec![change], live);
        }
    }

    /// All at once: libvirt refuses a hard limit above the one that includes swap.
    fn memory_limits(&mut self, defined: &Element) {
        let mut live = self.live.clone();
        let mut arguments = vec!["memtune".to_string(), self.name.to_string(), "--live".to_string()];
        let mut changes = Vec::new();
        for (element, option) in MEMORY {
            let of = |domain: &Element| domain.at(&["memtune", element]).and_then(amount);
            let (new, old) = (of(defined), of(self.live));
            if new == old {
                continue;
            }
            let value = new.map_or_else(|| UNLIMITED.to_string(), |size| size.kib().to_string());
            arguments.extend([option.to_string(), value]);
            edit(&mut live, "memtune", |tune| {
                tune.retain(|child| child.name != element);
                if let Some(new) = new {
                    let mut limit = Element::new(element);
                    set_size(&mut limit, new);
                    tune.nodes.push(Node::Element(limit));
                }
            });
            let shown = |size: Option<Size>| size.map(|size| size.to_string());
            changes.push(Change { path: words(&["memtune", element], None), before: shown(old), after: shown(new) });
        }
        self.step_if_any(&arguments, changes, live);
    }

    /// The guest's share of the host's disks, and limits on each.
    fn block_shares(&mut self, defined: &Element) {
        let weight = |domain: &Element| domain.text_at(&["blkiotune", "weight"]);
        let begin = |name: &str| ["blkiotune", name, "--live"].map(str::to_string).to_vec();
        let (new, old) = (weight(defined), weight(self.live));
        if let Some(value) = new.as_deref().filter(|_| new != old) {
            let mut live = self.live.clone();
            edit(&mut live, "blkiotune", |tune| set_child(tune, "weight", Some(value)));
            let mut arguments = begin(self.name);
            arguments.extend(["--weight".to_string(), value.to_string()]);
            let change = Change { path: words(&["blkiotune", "weight"], None), before: old, after: new };
            self.step_if_any(&arguments, vec![change], live);
        }
        let (new, old) = (host_disks(defined), host_disks(self.live));
        let mut live = self.live.clone();
        let mut arguments = begin(self.name);
        let mut changes = Vec::new();
        for (element, option) in BLOCK {
            let mut list = Vec::new();
            let paths: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
            for path in paths {
                // virsh separates them by commas.
                let of = |disks: &BTreeMap<String, Element>| disks.get(path).and_then(|disk| disk.text_at(&[element]));
                let (new, old) = (of(&new), of(&old));
                if new == old || path.contains(',') {
                    continue;
                }
                list.push(format!("{path},{}", new.as_deref().unwrap_or("0")));
                let is_it = |disk: &Element| disk.name == "device" && disk.text_at(&["path"]).as_ref() == Some(path);
                edit(&mut live, "blkiotune", |tune| {
                    if !tune.elements().any(is_it) {
                        tune.nodes.push(Node::Element(
                            Element::new("device").child(Element::new("path").containing(path.as_str())),
                        ));
                    }
                    let disk = tune.elements_mut().find(|disk| is_it(disk));
                    disk.into_iter().for_each(|disk| set_child(disk, element, new.as_deref()));
                });
                changes.push(Change { path: format!("blkiotune {path} {element}"), before: old, after: new });
            }
            if !list.is_empty() {
                arguments.extend([option.to_string(), list.join(",")]);
            }
        }
        if let Some(tune) = live.get_mut("blkiotune") {
            tune.retain(|child| child.name != "device" || child.elements().any(|part| part.name != "path"));
        }
        self.step_if_any(&arguments, changes, live);
    }

    /// What the guest may do with its disks, which QEMU itself sees to.
    fn disk_limits(&mut self, defined: &Element) {
        let targets: Vec<String> = disks(defined).into_keys().collect();
        for target in targets {
            let (Some(wanted), Some(running)) =
                (disks(defined).remove(&target).cloned(), disks(self.live).remove(&target).cloned())
            else {
                continue;
            };
            let (new, old) = (limits(&wanted), limits(&running));
            let all: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
            let mut arguments = ["blkdeviotune", self.name, &target, "--live"].map(str::to_string).to_vec();
            let mut changes = Vec::new();
            for name in all {
                let (value, before) = (new.get(name), old.get(name));
                // Given with the others: libvirt takes what is left out of one sort for none.
                let given = value.cloned().or_else(|| (name != "group_name").then(|| "0".to_string()));
                if let Some(given) = given {
                    arguments.extend([format!("--{}", name.replace('_', "-")), given]);
                }
                if value != before && (value.is_some() || name != "group_name") {
                    let label = devices::label(&wanted, 0);
                    changes.push(Change {
                        path: words(&[&label, "iotune", name], None),
                        before: before.cloned(),
                        after: value.cloned(),
                    });
                }
            }
            let mut live = self.live.clone();
            let disk = live.get_mut("devices").and_then(|all| {
                all.elements_mut().find(|disk| disk.name == "disk" && target_of(disk) == Some(target.as_str()))
            });
            if let Some(disk) = disk {
                let group = disk.at(&["iotune", "group_name"]).cloned();
                disk.retain(|child| child.name != "iotune");
                let mut fresh = wanted.get("iotune").cloned().unwrap_or_else(|| Element::new("iotune"));
                if fresh.get("group_name").is_none() {
                    fresh = fresh.child_some(group);
                }
                if !fresh.nodes.is_empty() {
                    disk.nodes.push(Node::Element(fresh));
                }
            }
            self.step_if_any(&arguments, changes, live);
        }
    }

    fn step_if_any(&mut self, arguments: &[String], changes: Vec<Change>, live: Element) {
        if !changes.is_empty() {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            self.step(&arguments, None, changes, live);
        }
    }
}

/// How many virtual CPUs there can be, and how many there are.
fn counts(domain: &Element) -> Option<(u64, u64)> {
    let vcpu = domain.get("vcpu")?;
    let most: u64 = vcpu.text().parse().ok()?;
    let current = match vcpu.attribute("current") {
        Some(current) => current.parse().ok()?,
        None => most,
    };
    Some((most, current))
}

/// How many of the virtual CPUs that there are can go.
fn removable(live: &Element) -> u64 {
    let list = live.get("vcpus").into_iter().flat_map(Element::elements);
    let can =
        |vcpu: &&Element| vcpu.attribute("enabled") == Some("yes") && vcpu.attribute("hotpluggable") == Some("yes");
    list.filter(can).count() as u64
}

/// The numbers of the I/O threads: 1 and up where nobody gives them others.
fn threads(domain: &Element) -> Option<BTreeSet<u32>> {
    let count: u32 = match domain.text_at(&["iothreads"]) {
        Some(text) => text.parse().ok().filter(|count| *count <= MOST_THREADS)?,
        None => 0,
    };
    let ids = domain.get("iothreadids").into_iter().flat_map(Element::elements);
    let mut ids: BTreeSet<u32> = ids.filter_map(|thread| thread.attribute("id")?.parse().ok()).collect();
    for id in 1..=MOST_THREADS {
        if ids.len() >= count as usize {
            break;
        }
        ids.insert(id);
    }
    Some(ids)
}

/// Where what is pinned.
fn pins(domain: &Element, kind: &str, key: Option<&str>) -> BTreeMap<Option<u32>, BTreeSet<u32>> {
    let all = domain.get("cputune").into_iter().flat_map(|tune| tune.elements().filter(|pin| pin.name == kind));
    all.filter_map(|pin| {
        let which = match key {
            Some(key) => Some(pin.attribute(key)?.parse().ok()?),
            None => None,
        };
        Some((which, cpu_set(pin.attribute("cpuset")?)?))
    })
    .collect()
}

/// `0-3,8`, in the one way that there is.
fn ranges(cpus: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*cpu) => *last = *cpu,
            _ => parts.push((*cpu, *cpu)),
        }
    }
    let word = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(word).collect::<Vec<_>>().join(",")
}

/// The host's disks on which a guest has limits or a weight of its own.
fn host_disks(domain: &Element) -> BTreeMap<String, Element> {
    let all = domain.get("blkiotune").into_iter().flat_map(|tune| tune.named("device"));
    all.filter_map(|disk| Some((disk.text_at(&["path"])?, disk.clone()))).collect()
}

fn target_of(disk: &Element) -> Option<&str> {
    disk.get("target").and_then(|target| target.attribute("dev"))
}

/// The disks by target.
fn disks(domain: &Element) -> BTreeMap<String, &Element> {
    let all = domain.get("devices").into_iter().flat_map(|devices| devices.named("disk"));
    all.filter_map(|disk| Some((target_of(disk)?.to_string(), disk))).collect()
}

/// The limits of a disk; one of 0 is none.
fn limits(disk: &Element) -> BTreeMap<String, String> {
    let all = disk.get("iotune").into_iter().flat_map(Element::elements);
    all.map(|limit| (limit.name.clone(), limit.text())).filter(|(_, value)| value != "0").collect()
}

/// Changes the child of this name, which is made where there is none.
fn edit(parent: &mut Element, name: &str, change: impl FnOnce(&mut Element)) {
    if parent.get(name).is_none() {
        parent.nodes.push(Node::Element(Element::new(name)));
    }
    if let Some(child) = parent.get_mut(name) {
        change(child);
    }
}

/// Gives the child of this name this text, or takes the child away.
fn set_child(parent: &mut Element, name: &str, text: Option<&str>) {
    parent.retain(|child| child.name != name);
    if let Some(text) = text {
        parent.nodes.push(Node::Element(Element::new(name).containing(text)));
    }
}

fn set_size(element: &mut Element, size: Size) {
    element.set("unit", "KiB");
    element.set_text(size.kib().to_string());
}
