//! `hugepages`: memory set aside in large pages, for guests, on the NUMA node where it is needed.
//!
//! Pages of 2 MiB can be made while the machine runs; a line of tmpfiles.d(5) makes them early in every later boot.
//! Pages of 1 GiB are made by the kernel itself while it boots: `hugepages=1:16` (sixteen on node 1) is understood from
//! 5.16 on (Documentation/admin-guide/kernel-parameters.txt); older kernels get such pages on one node by the same line
//! of tmpfiles.d, before memory is in pieces.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::service::is_offline;
use super::steps::Steps;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::facts::pci::{self, PciAddress};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::boot::kernel::compare_releases;
use crate::modules::boot::kernel_cmdline::KernelCmdline;
use crate::modules::boot::{cmdline, loader};
use crate::modules::libvirt::values::Size;
use crate::modules::params::{Flag, List};

mod boot;
mod now;

pub(crate) use boot::predict_boot;

/// Sets memory aside in huge pages, for guests.
///
/// The list is the whole truth of a machine: pages that an earlier list asked for and this one does not are given back.
/// Pages of 2 MiB are made at once where there is room, and early in every boot. Pages of 1 GiB are made at the next
/// boot. With a card of a guest named in `near`, they are on that card's NUMA node, which is where the guest's memory should
/// be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HugePages {
    /// What is set aside; several where several nodes or sizes are wanted.
    #[serde(default)]
    pools: List<Pool>,
    /// `present` or `absent`, which gives back whatever this module set aside. Default: present.
    #[serde(default)]
    state: State,
    /// Memory that every node keeps for the host. Default: "1 GiB".
    reserve: Option<Size>,
    /// Make the size that is asked for the default one of the machine (`default_hugepagesz=`), so that /dev/hugepages has
    /// it. For pages of 1 GiB alone. Default: no, they get a place of their own, /dev/hugepages1G.
    #[serde(default)]
    default_size: Flag,
    /// `auto` makes pages of 2 MiB at once, `never` leaves all to the next boot. Default: auto.
    #[serde(default)]
    now: Now,
}

/// Pages of one size in one place.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The size of a page: "2 MiB" or "1 GiB". Default: "2 MiB".
    size: Option<Size>,
    /// How many pages. This or `memory`.
    count: Option<u64>,
    /// How much memory in all, such as "16 GiB".
    memory: Option<Size>,
    /// The NUMA node they are on. Default: any, spread by the kernel.
    node: Option<u32>,
    /// The address of a PCI device whose NUMA node they are on, such as "0000:82:00.0". Instead of `node`.
    #[schemars(with = "Option<String>")]
    near: Option<PciAddress>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Set aside.
    #[default]
    Present,
    /// Given back.
    Absent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Now {
    /// At once where there is room.
    #[default]
    Auto,
    /// At the next boot.
    Never,
}

const KIB: u64 = 1 << 10;
const SMALL: u64 = 1 << 21;
const LARGE: u64 = 1 << 30;
const NODES: &str = "/sys/devices/system/node";
const TMPFILES: &str = "/etc/tmpfiles.d/vfio-provision-hugepages.conf";
const MOUNT: &str = "dev-hugepages1G.mount";
const MOUNT_FILE: &str = "/etc/systemd/system/dev-hugepages1G.mount";
const MOUNT_TEXT: &str = "# Written by vfio-provision (hugepages); changes are overwritten.\n\
    [Unit]\n\
    Description=Huge pages of 1 GiB\n\
    DefaultDependencies=no\n\
    Before=sysinit.target\n\
    ConditionPathExists=/sys/kernel/mm/hugepages/hugepages-1048576kB\n\
    \n\
    [Mount]\n\
    What=hugetlbfs\n\
    Where=/dev/hugepages1G\n\
    Type=hugetlbfs\n\
    Options=pagesize=1G\n\
    \n\
    [Install]\n\
    WantedBy=sysinit.target\n";
/// The name of the records.
const RECORD: &str = "hugepages";
/// The first kernel that takes `hugepages=NODE:COUNT`.
const BY_NODE: &str = "5.16";

/// A NUMA node: its number and its memory in bytes.
#[derive(Clone, Copy, Debug)]
struct Node {
    number: u32,
    total: Option<u64>,
    /// What could be had of it now: free, or only holding what is on disk as well.
    usable: Option<u64>,
}

/// A pool, worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Want {
    size: u64,
    node: Option<u32>,
    count: u64,
}

impl Want {
    fn folder(&self) -> String {
        folder(self.node, self.size)
    }
    fn file(&self) -> String {
        format!("{}/nr_hugepages", self.folder())
    }
    fn words(&self) -> String {
        let place = self.node.map_or_else(String::new, |node| format!(" on node {node}"));
        format!("{} pages of {}{place}", self.count, Size(self.size))
    }
}

fn folder(node: Option<u32>, size: u64) -> String {
    let kib = size / KIB;
    match node {
        Some(node) => format!("{NODES}/node{node}/hugepages/hugepages-{kib}kB"),
        None => format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB"),
    }
}

/// A line of meminfo, in bytes; those of a node begin with `Node 1`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.ends_with(name)))?;
    line.1.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(KIB)
}

fn usable(text: &str) -> Option<u64> {
    if let Some(available) = field(text, "MemAvailable") {
        return Some(available);
    }
    let free = field(text, "MemFree")?;
    let cache: u64 = ["Inactive(file)", "Active(file)"].iter().filter_map(|name| field(text, name)).sum();
    Some(free.saturating_add(cache))
}

fn nodes(host: &dyn Host) -> Result<Vec<Node>> {
    let mut found = Vec::new();
    for name in host.list(NODES)? {
        let Some(number) = name.strip_prefix("node").and_then(|rest| rest.parse().ok()) else { continue };
        let text = host.read_text(&format!("{NODES}/{name}/meminfo"))?.unwrap_or_default();
        found.push(Node { number, total: field(&text, "MemTotal"), usable: usable(&text) });
    }
    found.sort_by_key(|node| node.number);
    Ok(found)
}

/// What is kept to take it back: arguments of the kernel, and how many pages there were before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    arguments: Vec<String>,
    before: BTreeMap<String, u64>,
}

impl Kept {
    fn parse(text: &str) -> Kept {
        let mut kept = Kept::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["arguments", rest @ ..] => kept.arguments = rest.iter().map(|word| (*word).to_string()).collect(),
                ["before", path, count] => {
                    kept.before.insert((*path).to_string(), count.parse().unwrap_or(0));
                }
                _ => {}
            }
        }
        kept
    }

    fn print(&self) -> Option<String> {
        if self.arguments.is_empty() && self.before.is_empty() {
            return None;
        }
        let mut text = String::new();
        if !self.arguments.is_empty() {
            text.push_str(&format!("arguments {}\n", self.arguments.join(" ")));
        }
        for (path, count) in &self.before {
            text.push_str(&format!("before {path} {count}\n"));
        }
        Some(text)
    }
}

impl Module for HugePages {
    const NAME: &'static str = "hugepages";
    const SUMMARY: &'static str = "Set memory aside in huge pages, on the NUMA node where it is needed";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let nodes = nodes(host)?;
        let wants = match self.state {
            State::Present => self.wants(host, &nodes)?,
            State::Absent => Vec::new(),
        };
        self.check_room(host, &nodes, &wants)?;
        let mut steps = Steps::new(host);
        // Which way each goes: by the kernel's own arguments, or by a line of tmpfiles.d.
        let (by_kernel, by_file) = self.ways(host, &nodes, &wants, &mut steps)?;
        let arguments = self.arguments(&nodes, &by_kernel, &by_file);
        self.check_others(host, &wants, &mut steps)?;

        let old = Kept::parse(&steps.kept(RECORD)?.unwrap_or_default());
        let mut before = BTreeMap::new();
        for want in &by_file {
            let path = want.file();
            let count = match old.before.get(&path) {
                Some(count) => *count,
                None => number(host, &path)?.unwrap_or(0),
            };
            before.insert(path, count);
        }
        let new = Kept { arguments: arguments.clone(), before };
        // What must be taken back is known until it has been.
        let mut both = new.clone();
        both.arguments.extend(old.arguments.iter().filter(|old| !new.arguments.contains(old)).cloned());
        for (path, count) in &old.before {
            both.before.entry(path.clone()).or_insert(*count);
        }
        steps.keep(RECORD, both.print().as_deref())?;

        let text = tmpfiles(&by_file);
        let fresh = steps.file(TMPFILES, text.as_deref(), None)?;
        self.mount(&mut steps, by_kernel.iter().chain(&by_file).any(|want| want.size == LARGE))?;
        if !(arguments.is_empty() && old.arguments.is_empty()) {
            let gone: Vec<&String> = old
                .arguments
                .iter()
                .filter(|old| !arguments.iter().any(|new| cmdline::key(new) == cmdline::key(old)))
                .collect();
            if !steps.module::<KernelCmdline>(json!({"present": arguments, "absent": gone}))? {
                return Ok(steps.finish());
            }
        }
        self.make_now(&mut steps, &nodes, &by_file, text.as_deref(), fresh)?;
        now::give_back(&mut steps, &old, &new)?;
        steps.keep(RECORD, new.print().as_deref())?;
        tell(&mut steps, &wants, &by_kernel)?;
        Ok(steps.finish())
    }
}

/// The files by which others ask for huge pages of the default size.
fn set_by_sysctl(host: &dyn Host) -> Result<Vec<String>> {
    let mut places = vec!["/etc/sysctl.conf".to_string()];
    for folder in ["/etc/sysctl.d", "/run/sysctl.d", "/usr/lib/sysctl.d"] {
        let names = host.list(folder)?;
        places.extend(names.iter().filter(|name| name.ends_with(".conf")).map(|name| format!("{folder}/{name}")));
    }
    let sets = |line: &str| {
        let name = line.trim().trim_start_matches('-').split('=').next().unwrap_or("").trim().replace('/', ".");
        name == "vm.nr_hugepages"
    };
    let mut found = Vec::new();
    for place in places {
        let text = host.read(&place)?.unwrap_or_default();
        if String::from_utf8_lossy(&text).lines().any(sets) {
            found.push(place);
        }
    }
    Ok(found)
}

fn number(host: &dyn Host, path: &str) -> Result<Option<u64>> {
    Ok(host.read_line(path)?.and_then(|text| text.parse().ok()))
}

/// The lines that make pages early in every boot.
fn tmpfiles(wants: &[Want]) -> Option<String> {
    if wants.is_empty() {
        return None;
    }
    let mut text = String::from("# Written by vfio-provision (hugepages); changes are overwritten.\n");
    for want in wants {
        text.push_str(&format!("w {} - - - - {}\n", want.file(), want.count));
    }
    Some(text)
}

impl HugePages {
    fn wants(&self, host: &dyn Host, nodes: &[Node]) -> Result<Vec<Want>> {
        if self.pools.is_empty() {
            return Err(Error::parameters("`pools` is empty: say how many pages, or `state: absent`"));
        }
        let mut wants: Vec<Want> = Vec::new();
        for pool in self.pools.iter() {
            let want = pool.want(host, nodes)?;
            if wants.iter().any(|other| other.size == want.size && other.node == want.node) {
                return Err(Error::parameters(format!(
                    "two pools of pages of {} are in the same place",
                    Size(want.size)
                )));
            }
            let mixed =
                wants.iter().any(|other| other.size == want.size && other.node.is_some() != want.node.is_some());
            if mixed {
                return Err(Error::parameters(format!(
                    "pages of {} are asked for on a node and anywhere: what is anywhere would count there too",
                    Size(want.size)
                ))
                .hint("name the node of every pool of this size"));
            }
            wants.push(want);
        }
        wants.sort_by_key(|want| (want.size, want.node));
        if self.default_size.0 && wants.iter().any(|want| want.size != LARGE) {
            return Err(Error::parameters(
                "`default_size` with pages of 2 MiB: /dev/hugepages would be for those of 1 GiB, and they had no place",
            )
            .hint("leave `default_size` out; both sizes get their place then"));
        }
        Ok(wants)
    }

    /// Refuses more than a node, or the machine, has.
    fn check_room(&self, host: &dyn Host, nodes: &[Node], wants: &[Want]) -> Result<()> {
        let reserve = self.reserve.map_or(LARGE, |size| size.0);
        let bytes = |want: &Want| {
            want.size
                .checked_mul(want.count)
                .ok_or_else(|| Error::refused(format!("{} are more than any machine has", want.words())))
        };
        let fits = |asked: u64, total: Option<u64>, place: &str| match total {
            Some(total) if asked.saturating_add(reserve) > total => Err(Error::refused(format!(
                "{place} has {} MiB of memory: {} MiB in huge pages would leave less than {} MiB for the host",
                total >> 20,
                asked >> 20,
                reserve >> 20
            ))
            .hint("ask for fewer pages, or for pages on another node; `reserve` says how much the host keeps")),
            _ => Ok(()),
        };
        let mut all: u64 = 0;
        for node in nodes {
            let mut here: u64 = 0;
            for want in wants.iter().filter(|want| want.node == Some(node.number)) {
                here = here.saturating_add(bytes(want)?);
            }
            if here > 0 {
                fits(here, node.total, &format!("node {}", node.number))?;
            }
        }
        for want in wants {
            all = all.saturating_add(bytes(want)?);
        }
        let text = host.read_text("/proc/meminfo")?.unwrap_or_default();
        if all > 0 {
            fits(all, field(&text, "MemTotal"), "the machine")?;
        }
        if wants.iter().any(|want| want.size == LARGE) {
            let info = host.read_text("/proc/cpuinfo")?.unwrap_or_default();
            let flags = info.lines().find(|line| line.starts_with("flags"));
            if flags.is_some_and(|line| !line.split_whitespace().any(|flag| flag == "pdpe1gb")) {
                return Err(
                    Error::refused("this processor has no pages of 1 GiB (pdpe1gb)").hint("ask for pages of 2 MiB")
                );
            }
        }
        Ok(())
    }

    /// Splits the pools by how they are made at boot.
    fn ways(
        &self,
        host: &dyn Host,
        nodes: &[Node],
        wants: &[Want],
        steps: &mut Steps,
    ) -> Result<(Vec<Want>, Vec<Want>)> {
        let (large, small): (Vec<Want>, Vec<Want>) = wants.iter().cloned().partition(|want| want.size == LARGE);
        if large.is_empty() {
            return Ok((Vec::new(), small));
        }
        let placed = large.iter().any(|want| want.node.is_some()) && nodes.len() > 1;
        let release = loader::read(host)?.default_entry()?.version.clone();
        let old = release.as_deref().is_none_or(|release| compare_releases(release, BY_NODE).is_lt());
        if placed && old {
            steps.plan().notes.push(format!(
                "the kernel of the next boot ({}) can't place pages of 1 GiB on a node by itself (from {BY_NODE} on they \
                 can): systemd asks for them early in the boot",
                release.as_deref().unwrap_or("unknown")
            ));
            let mut by_file = small;
            by_file.extend(large);
            return Ok((Vec::new(), by_file));
        }
        Ok((large, small))
    }

    /// The arguments of the kernel.
    fn arguments(&self, nodes: &[Node], by_kernel: &[Want], by_file: &[Want]) -> Vec<String> {
        let mut arguments = Vec::new();
        let some = by_kernel.iter().chain(by_file).any(|want| want.size == LARGE);
        if self.default_size.0 && some {
            arguments.push("default_hugepagesz=1G".to_string());
        }
        if !by_kernel.is_empty() {
            let counts: Vec<String> = by_kernel
                .iter()
                .map(|want| match want.node {
                    Some(node) if nodes.len() > 1 => format!("{node}:{}", want.count),
                    _ => want.count.to_string(),
                })
                .collect();
            arguments.extend(["hugepagesz=1G".to_string(), format!("hugepages={}", counts.join(","))]);
        }
        arguments
    }

    /// Settings of others that would undo this.
    fn check_others(&self, host: &dyn Host, wants: &[Want], steps: &mut Steps) -> Result<()> {
        if wants.is_empty() {
            return Ok(());
        }
        for place in set_by_sysctl(host)? {
            if self.default_size.0 {
                return Err(Error::refused(format!(
                    "{place} sets vm.nr_hugepages, which would ask for as many pages of 1 GiB with `default_size`"
                ))
                .hint("take that line out first (sysctl, state: absent), or leave `default_size` out"));
            }
            if wants.iter().any(|want| want.size == SMALL) {
                steps.plan().warnings.push(format!(
                    "{place} sets vm.nr_hugepages: at boot it counts against what is asked for here, so take it out"
                ));
            }
        }
        Ok(())
    }

    /// Pages of 1 GiB have a place of their own, unless they are the default ones.
    fn mount(&self, steps: &mut Steps, large: bool) -> Result<()> {
        let enabled = steps.host().unit(MOUNT)?;
        if large && !self.default_size.0 {
            steps.file(MOUNT_FILE, Some(MOUNT_TEXT), None)?;
            if enabled.enabled != "enabled" {
                let effect = Effect::Unit {
                    name: MOUNT.into(),
                    exists: Some(true),
                    enabled: Some("enabled".into()),
                    active: None,
                };
                let mut run = Run::new(["systemctl", "enable", "--", MOUNT], vec![effect]);
                run.undo = Some(["systemctl", "disable", "--", MOUNT].map(String::from).to_vec());
                steps.act(Op::Run(run), vec![Diff::changed("unit", MOUNT, "disabled", "enabled")])?;
            }
            let there = steps.host().exists("/sys/kernel/mm/hugepages/hugepages-1048576kB")?;
            if there && !steps.host().unit(MOUNT)?.active && !is_offline(steps.host())? {
                let effect = Effect::Unit { name: MOUNT.into(), exists: None, enabled: None, active: Some(true) };
                let mut run = Run::new(["systemctl", "start", "--", MOUNT], vec![effect]);
                run.undo = Some(["systemctl", "stop", "--", MOUNT].map(String::from).to_vec());
                steps.act(Op::Run(run), vec![Diff::changed("unit", MOUNT, "stopped", "running")])?;
                steps.plan().notes.push("libvirt looks for /dev/hugepages1G when it starts, not later".into());
            }
            return Ok(());
        }
        // Only the unit of ours goes.
        if steps.host().read_text(MOUNT_FILE)?.as_deref() != Some(MOUNT_TEXT) {
            return Ok(());
        }
        if enabled.enabled == "enabled" || enabled.active {
            let effect = Effect::Unit {
                name: MOUNT.into(),
                exists: None,
                enabled: Some("disabled".into()),
                active: Some(false),
            };
            let mut run = Run::new(["systemctl", "disable", "--now", "--", MOUNT], vec![effect]);
            run.undo = Some(["systemctl", "enable", "--now", "--", MOUNT].map(String::from).to_vec());
            steps.act(Op::Run(run), vec![Diff::changed("unit", MOUNT, "enabled", "disabled")])?;
        }
        steps.file(MOUNT_FILE, None, None)?;
        Ok(())
    }
}

impl Pool {
    fn want(&self, host: &dyn Host, nodes: &[Node]) -> Result<Want> {
        let size = self.size.map_or(SMALL, |size| size.0);
        if size != SMALL && size != LARGE {
            return Err(Error::parameters(format!("there are no pages of {}: a page is 2 MiB or 1 GiB", Size(size))));
        }
        let count = match (self.count, self.memory) {
            (Some(count), None) => count,
            (None, Some(memory)) => memory.0.div_ceil(size),
            _ => return Err(Error::parameters("a pool needs `count` or `memory`, and not both")),
        };
        if count == 0 {
            return Err(Error::parameters("a pool of no pages: leave it out of the list"));
        }
        let node = match (self.node, self.near) {
            (Some(_), Some(_)) => return Err(Error::parameters("a pool has `node` or `near`, not both")),
            (Some(node), None) => Some(node),
            (None, Some(address)) => near(host, address, &nodes.iter().map(|node| node.number).collect::<Vec<_>>())?,
            (None, None) => None,
        };
        if let Some(number) = node {
            let known: Vec<String> = nodes.iter().map(|node| node.number.to_string()).collect();
            match nodes.iter().find(|node| node.number == number) {
                // A kernel without NUMA has one node and does not say so.
                None if nodes.is_empty() && number == 0 => return Ok(Want { size, node: None, count }),
                None => {
                    return Err(Error::refused(format!("this machine has no NUMA node {number}"))
                        .hint(format!("it has: {}", if known.is_empty() { "0".into() } else { known.join(", ") })));
                }
                Some(Node { total: Some(0), .. }) => {
                    return Err(Error::refused(format!("NUMA node {number} has no memory of its own")));
                }
                Some(_) => {}
            }
        }
        Ok(Want { size, node, count })
    }
}

/// The NUMA node of a device; `None` where the machine has no nodes.
pub(crate) fn near(host: &dyn Host, address: PciAddress, nodes: &[u32]) -> Result<Option<u32>> {
    let device = pci::device(host, address)?.ok_or_else(|| {
        Error::refused(format!("there is no PCI device {address} on this machine"))
            .hint("lspci -D shows those that are there")
    })?;
    match (device.numa_node, nodes.len()) {
        (Some(node), _) => Ok(Some(node)),
        (None, 0 | 1) => Ok(nodes.first().copied()),
        (None, _) => Err(Error::refused(format!("the firmware does not say on which NUMA node {address} is"))
            .hint("name the node itself: the board's manual says which slots belong to which socket")),
    }
}

fn tell(steps: &mut Steps, wants: &[Want], by_kernel: &[Want]) -> Result<()> {
    let line = steps.host().read_line("/proc/cmdline")?.unwrap_or_default();
    let booted = cmdline::words(&line).iter().any(|word| cmdline::key(word) == "hugepages");
    let mut pools = Vec::new();
    for want in wants {
        let now = number(steps.host(), &want.file())?.unwrap_or(0);
        if by_kernel.contains(want) && booted && steps.plan().reboot.is_empty() && now < want.count {
            let words =
                format!("{} are asked for and the kernel made {now} at boot: there was no room for more", want.words());
            steps.plan().warnings.push(words);
        }
        pools.push(json!({"size": want.size, "node": want.node, "count": want.count, "now": now}));
    }
    steps.plan().set("pools", pools);
    Ok(())
}

#[cfg(test)]
mod tests;
