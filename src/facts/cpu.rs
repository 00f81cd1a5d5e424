//! Processors: how many, and which belong together (proc(5) cpuinfo; sysfs-devices-system-cpu).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::line;
use crate::host::{Host, Result};

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// `ansible_processor…`, `ansible_cpu_topology` (per processor: socket, core, siblings, node) and `ansible_numa_nodes`.
///
/// # Errors
/// When the machine can't be read.
pub fn gather(host: &dyn Host) -> Result<Map<String, Value>> {
    let mut facts = Map::new();
    let text = host.read_text("/proc/cpuinfo")?.unwrap_or_default();
    let blocks: Vec<Vec<(&str, &str)>> = text
        .split("\n\n")
        .map(|block| block.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect())
        .filter(|block: &Vec<_>| block.iter().any(|(key, _)| *key == "processor"))
        .collect();
    let field =
        |block: &[(&str, &str)], key: &str| block.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).to_string());
    let mut processor = Vec::new();
    let (mut sockets, mut cores) = (BTreeSet::new(), BTreeSet::new());
    for (at, block) in blocks.iter().enumerate() {
        processor.push(at.to_string());
        processor.extend(field(block, "vendor_id"));
        processor.extend(field(block, "model name"));
        let socket = field(block, "physical id").unwrap_or_else(|| "0".into());
        cores.insert((socket.clone(), field(block, "core id").unwrap_or_else(|| at.to_string())));
        sockets.insert(socket);
    }
    let (all, sockets, cores) = (blocks.len(), sockets.len().max(1), cores.len().max(1));
    let mut set = |name: &str, value: Value| facts.insert(format!("ansible_{name}"), value);
    set("processor", processor.into());
    set("processor_vcpus", all.into());
    set("processor_nproc", all.into());
    set("processor_count", sockets.into());
    set("processor_cores", (cores / sockets).max(1).into());
    set("processor_threads_per_core", (all / cores).max(1).into());
    let first = blocks.first().map(Vec::as_slice).unwrap_or_default();
    let flags = field(first, "flags").unwrap_or_default();
    let virtualization = ["vmx", "svm"].into_iter().find(|flag| flags.split_whitespace().any(|known| known == *flag));
    set("processor_virtualization", virtualization.into());
    let nodes = nodes(host)?;
    set("cpu_topology", topology(host, &nodes)?);
    let nodes: Map<String, Value> = nodes
        .into_iter()
        .map(|node| (node.number.to_string(), json!({"cpus": node.list, "memtotal_mb": node.memory})))
        .collect();
    set("numa_nodes", nodes.into());
    Ok(facts)
}

struct Node {
    number: u32,
    list: String,
    memory: Option<u64>,
}

fn nodes(host: &dyn Host) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for name in host.list(NODES)? {
        let Some(number) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else { continue };
        let list = line(host, &format!("{NODES}/{name}/cpulist"))?.unwrap_or_default();
        let text = host.read_text(&format!("{NODES}/{name}/meminfo"))?.unwrap_or_default();
        let memory = text
            .lines()
            .find(|line| line.contains("MemTotal:"))
            .and_then(|line| line.split_whitespace().rev().nth(1)?.parse::<u64>().ok())
            .map(|kib| kib / 1024);
        nodes.push(Node { number, list, memory });
    }
    nodes.sort_by_key(|node| node.number);
    Ok(nodes)
}

fn topology(host: &dyn Host, nodes: &[Node]) -> Result<Value> {
    let mut numbers: Vec<u32> =
        host.list(CPUS)?.iter().filter_map(|name| name.strip_prefix("cpu")?.parse().ok()).collect();
    numbers.sort_unstable();
    let mut all = Vec::new();
    for number in numbers {
        let read = |file: &str| line(host, &format!("{CPUS}/cpu{number}/topology/{file}"));
        let number_of = |text: Option<String>| text.and_then(|text| text.parse::<i64>().ok());
        let node = nodes.iter().find(|node| cpu_list(&node.list).contains(&number)).map(|node| node.number);
        all.push(json!({
            "cpu": number,
            "socket": number_of(read("physical_package_id")?),
            "core": number_of(read("core_id")?),
            "siblings": read("thread_siblings_list")?,
            "node": node,
        }));
    }
    Ok(all.into())
}

/// The kernel's list format, such as `0-7,16-23`; what is not a number is left out.
fn cpu_list(text: &str) -> BTreeSet<u32> {
    const MOST: u32 = 1 << 16;
    text.split(',')
        .filter_map(|part| {
            let (from, to) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
            let (from, to) = (from.parse::<u32>().ok()?, to.parse::<u32>().ok()?);
            (to < MOST).then_some(from..=to)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn two_sockets_with_threads() {
        let block = |cpu: u32, socket: u32, core: u32| {
            format!(
                "processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nphysical id\t: {socket}\ncore id\t\t: {core}\nflags\t\t: fpu vmx lm\n\n"
            )
        };
        let text: String = [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 0, 0), (5, 0, 1), (6, 1, 0), (7, 1, 1)]
            .map(|(a, b, c)| block(a, b, c))
            .concat();
        let m = machine(&[
            ("/proc/cpuinfo", &text),
            ("/sys/devices/system/node/node0/cpulist", "0-1,4-5\n"),
            ("/sys/devices/system/node/node1/cpulist", "2-3,6-7\n"),
            ("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:       65536000 kB\n"),
            ("/sys/devices/system/cpu/cpu6/topology/physical_package_id", "1\n"),
            ("/sys/devices/system/cpu/cpu6/topology/core_id", "0\n"),
            ("/sys/devices/system/cpu/cpu6/topology/thread_siblings_list", "2,6\n"),
            ("/sys/devices/system/cpu/cpufreq/x", ""),
        ]);
        let facts = gather(&m).unwrap();
        for (name, value) in [("vcpus", 8), ("count", 2), ("cores", 2), ("threads_per_core", 2)] {
            assert_eq!(facts[&format!("ansible_processor_{name}")], value, "{name}");
        }
        assert_eq!(facts["ansible_processor_virtualization"], "vmx");
        assert_eq!(
            facts["ansible_cpu_topology"],
            json!([{"cpu": 6, "socket": 1, "core": 0, "siblings": "2,6", "node": 1}])
        );
        assert_eq!(facts["ansible_numa_nodes"]["1"], json!({"cpus": "2-3,6-7", "memtotal_mb": 64000}));
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list("0-2,5").into_iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert!(cpu_list("").is_empty() && cpu_list("x,9-1,0-4294967295").is_empty());
    }
}
