//! What a boot makes of huge pages.

use std::collections::{BTreeMap, BTreeSet};

use super::{LARGE, RECORD, SMALL, TMPFILES, folder, nodes, number, set_by_sysctl};
use crate::change::{Effect, Op, Run};
use crate::host::Result;
use crate::host::model::{self, Model};
use crate::modules::boot::cmdline;
use crate::modules::libvirt::values::Size;
use crate::modules::system::steps::note_path;

/// What a boot makes of huge pages on a written-down machine: those of the kernel's arguments and of our lines in
/// tmpfiles.d, and no others, unless sysctl.d asks for some.
pub fn predict_boot(model: &dyn Model) -> Result<()> {
    let line = model.read_line("/proc/cmdline")?.unwrap_or_default();
    let numbers: Vec<u32> = nodes(model)?.iter().map(|node| node.number).collect();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (size, count) in of_cmdline(&line) {
        let placed: Vec<(u32, u64)> = count
            .split(',')
            .filter_map(|part| part.split_once(':'))
            .filter_map(|(node, count)| Some((node.parse().ok()?, count.parse().ok()?)))
            .collect();
        let total: u64 = count.parse().unwrap_or_else(|_| placed.iter().map(|(_, count)| count).sum());
        counts.insert(folder(None, size), total);
        let many = numbers.len().max(1) as u64;
        for (n, node) in numbers.iter().enumerate() {
            let share = match placed.is_empty() {
                true => total / many + u64::from((n as u64) < total % many),
                false => placed.iter().filter(|(other, _)| other == node).map(|(_, count)| count).sum(),
            };
            counts.insert(folder(Some(*node), size), share);
        }
    }
    for line in model.read_text(TMPFILES)?.unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["w", path, .., count] = words.as_slice()
            && let (Some(folder), Ok(count)) = (path.strip_suffix("/nr_hugepages"), count.parse())
        {
            counts.insert(folder.to_string(), count);
        }
    }
    // Pages that only the running kernel had are gone. Where sysctl.d asks for some, what is there stays.
    let others = !set_by_sysctl(model)?.is_empty();
    let mut folders: BTreeSet<String> = counts.keys().cloned().collect();
    for (number, size) in numbers.iter().flat_map(|number| [(*number, SMALL), (*number, LARGE)]) {
        folders.insert(folder(Some(number), size));
    }
    let mut effects = Vec::new();
    for folder in folders {
        let path = format!("{folder}/nr_hugepages");
        let Some(now) = number(model, &path)? else { continue };
        let count = counts.get(&folder).copied().unwrap_or(0);
        if now == count || (others && !counts.contains_key(&folder)) {
            continue;
        }
        for name in ["nr_hugepages", "free_hugepages"] {
            let path = format!("{folder}/{name}");
            effects.push(Effect::File { path, content: Some(format!("{count}\n")), mode: None });
        }
    }
    let note = note_path(RECORD);
    if model.exists(&note)? {
        effects.push(Effect::Gone { path: note });
    }
    model::predict(model, &Op::Run(Run::new(["reboot"], effects)))
}

/// The sizes and counts of a command line: each `hugepages=` is for the `hugepagesz=` before it.
fn of_cmdline(line: &str) -> Vec<(u64, String)> {
    let mut size = SMALL;
    let mut found = Vec::new();
    for word in cmdline::words(line) {
        let value = cmdline::value(&word).unwrap_or_default();
        match cmdline::key(&word).as_str() {
            "hugepagesz" => size = Size::parse(&value).map_or(SMALL, |size| size.0),
            "default_hugepagesz" if found.is_empty() => size = Size::parse(&value).map_or(SMALL, |size| size.0),
            "hugepages" => found.push((size, value)),
            _ => {}
        }
    }
    found
}
