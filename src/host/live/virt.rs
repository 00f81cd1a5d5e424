//! What libvirt has, through `virsh`: the same words as the person at the machine would use.

use std::collections::BTreeSet;

use super::Live;
use crate::host::{Host, Output, Result, Virt, VirtKind};

/// All names of a kind, and which of them run and start with the host.
#[derive(Clone, Default)]
pub struct Listing {
    pub names: BTreeSet<String>,
    active: BTreeSet<String>,
    autostart: BTreeSet<String>,
}

struct Words {
    list: &'static str,
    dump: &'static [&'static str],
    option: &'static str,
    /// In which column of the table the name is, for a virsh that knows no `--name` here.
    column: usize,
}

fn words(kind: VirtKind) -> Words {
    match kind {
        VirtKind::Domain => {
            Words { list: "list", dump: &["dumpxml", "--inactive", "--security-info"], option: "--domain", column: 1 }
        }
        VirtKind::Network => {
            Words { list: "net-list", dump: &["net-dumpxml", "--inactive"], option: "--network", column: 0 }
        }
        VirtKind::Pool => {
            Words { list: "pool-list", dump: &["pool-dumpxml", "--inactive"], option: "--pool", column: 0 }
        }
    }
}

fn virsh(host: &Live, arguments: &[&str]) -> Result<Option<Output>> {
    // What is defined is defined in the system instance; what is read must be the same, whatever a shell prefers.
    let argv: Vec<&str> = ["virsh", "-q", "-c", "qemu:///system"].iter().chain(arguments).copied().collect();
    Ok(host.query(&argv)?.filter(|output| output.code == 0))
}

fn names(host: &Live, words: &Words, filter: &str) -> Result<Option<BTreeSet<String>>> {
    let mut arguments: Vec<&str> = [words.list, "--name"].into();
    let mut table: Vec<&str> = [words.list].into();
    if !filter.is_empty() {
        for part in filter.split(' ') {
            arguments.push(part);
            table.push(part);
        }
    }
    if let Some(output) = virsh(host, &arguments)? {
        return Ok(Some(output.stdout.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_string).collect()));
    }
    Ok(virsh(host, &table)?.map(|output| from_table(&output.stdout, words.column)))
}

/// Names in the table that `-q` prints: without headings, columns separated by spaces.
fn from_table(text: &str, column: usize) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split_whitespace().nth(column)).map(str::to_string).collect()
}

/// Lists a kind; empty where virsh or the daemon is not there.
pub fn list(host: &Live, kind: VirtKind) -> Result<Listing> {
    let words = words(kind);
    if let Some(listing) = at_once(host, &words)? {
        return Ok(listing);
    }
    let Some(names_) = names(host, &words, "--all")? else { return Ok(Listing::default()) };
    if names_.is_empty() {
        return Ok(Listing::default());
    }
    Ok(Listing {
        names: names_,
        active: names(host, &words, "")?.unwrap_or_default(),
        autostart: names(host, &words, "--all --autostart")?.unwrap_or_default(),
    })
}

/// No name has a slash.
const BETWEEN: &str = "//";

/// All three lists from one virsh, which takes several commands in one argument; `None` where it is too old for that.
fn at_once(host: &Live, words: &Words) -> Result<Option<Listing>> {
    let list = words.list;
    let commands = format!(
        "{list} --name --all; echo {BETWEEN}; {list} --name; echo {BETWEEN}; {list} --name --all --autostart; echo {BETWEEN}"
    );
    Ok(virsh(host, &[&commands])?.and_then(|output| three_lists(&output.stdout)))
}

fn three_lists(text: &str) -> Option<Listing> {
    let between = format!("{BETWEEN}\n");
    let mut lists = text.split(&between).map(|part| -> BTreeSet<String> {
        part.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect()
    });
    let listing = Listing { names: lists.next()?, active: lists.next()?, autostart: lists.next()? };
    // What failed printed nothing between.
    (lists.next()?.is_empty() && lists.next().is_none()).then_some(listing)
}

/// One domain, network or pool.
pub fn one(host: &Live, listing: &Listing, kind: VirtKind, name: &str) -> Result<Option<Virt>> {
    if !listing.names.contains(name) {
        return Ok(None);
    }
    let words = words(kind);
    let arguments: Vec<&str> = words.dump.iter().copied().chain([words.option, name]).collect();
    let dumped = match virsh(host, &arguments)? {
        Some(dumped) => Some(dumped),
        // Not every hypervisor's driver tells the inactive definition apart.
        None => virsh(host, &[words.dump.first().copied().unwrap_or_default(), words.option, name])?,
    };
    let active = listing.active.contains(name);
    let (domstate, live) = if active && kind == VirtKind::Domain { running(host, name)? } else { (None, None) };
    Ok(dumped.map(|output| Virt {
        xml: output.stdout,
        active,
        autostart: listing.autostart.contains(name),
        live,
        domstate,
    }))
}

/// In which state a domain is where that is not simply running, and what it runs with: both from one virsh, which takes
/// several commands in one argument.
fn running(host: &Live, name: &str) -> Result<(Option<String>, Option<String>)> {
    let quoted = format!("'{}'", name.replace('\'', "'\\''"));
    let commands = format!("domstate --domain {quoted}; dumpxml --security-info --domain {quoted}");
    let Some(output) = virsh(host, &[&commands])? else { return Ok((None, None)) };
    Ok(state_and_xml(&output.stdout))
}

fn state_and_xml(text: &str) -> (Option<String>, Option<String>) {
    let Some((state, xml)) = text.split_once("<domain") else { return (None, None) };
    // Idle and blocked guests run: nothing is to be done about them.
    let state = Some(state.trim()).filter(|state| !matches!(*state, "" | "running" | "idle" | "no state"));
    (state.map(str::to_string), Some(format!("<domain{xml}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_virsh_tells_all_names() {
        let listing = three_lists("a\nb c\n\n//\n b c \n\n//\n\n//\n").unwrap();
        assert_eq!(listing.names, ["a", "b c"].map(String::from).into());
        assert_eq!(listing.active, ["b c"].map(String::from).into());
        assert!(listing.autostart.is_empty());
        assert!(three_lists("a\n\n//\n//\n").is_none());
        assert!(three_lists("").is_none());
    }

    #[test]
    fn one_virsh_tells_state_and_xml() {
        let told = |text: &str| state_and_xml(text);
        let xml = Some("<domain type='qemu'>\n</domain>\n\n".to_string());
        assert_eq!(told("paused\n\n<domain type='qemu'>\n</domain>\n\n"), (Some("paused".to_string()), xml.clone()));
        assert_eq!(told("running\n\n<domain type='qemu'>\n</domain>\n\n"), (None, xml));
        assert_eq!(told("error: failed to get domain\n"), (None, None));
    }

    #[test]
    fn an_old_virsh_prints_a_table() {
        let text = " default   active   yes\n images    inactive no\n\n";
        assert_eq!(from_table(text, 0), ["default", "images"].map(String::from).into());
    }
}
