//! What can be done about huge pages while the machine runs.

use super::{HugePages, Kept, Node, Now, RECORD, SMALL, Want, number, usable};
use crate::change::{Diff, Effect, Op};
use crate::host::{Error, Result};
use crate::modules::libvirt::values::Size;
use crate::modules::system::steps::Steps;

impl HugePages {
    /// Pages that can be made while the machine runs, and words about those that can't.
    pub(super) fn make_now(
        &self,
        steps: &mut Steps,
        nodes: &[Node],
        wants: &[Want],
        text: Option<&str>,
        fresh: bool,
    ) -> Result<()> {
        let meminfo = steps.host().read_text("/proc/meminfo")?.unwrap_or_default();
        let mut waiting = fresh;
        let mut missing = Vec::new();
        // What was tried in this boot and did not give enough is not tried again, and waits for the next.
        let tried = text.is_some() && steps.noted(RECORD)?.as_deref() == text;
        for want in wants {
            let path = want.file();
            let now = number(steps.host(), &path)?;
            let Some(now) = now else {
                if want.size == SMALL {
                    return Err(Error::refused(format!(
                        "the kernel has no pages of {}{}",
                        Size(want.size),
                        want.node.map_or_else(String::new, |node| format!(" on node {node}"))
                    ))
                    .hint("huge pages need a kernel with CONFIG_HUGETLBFS and, on one node, with CONFIG_NUMA"));
                }
                missing.push(want);
                continue;
            };
            if now == want.count {
                continue;
            }
            if now > want.count {
                let free = number(steps.host(), &format!("{}/free_hugepages", want.folder()))?.unwrap_or(now);
                let used = now.saturating_sub(free);
                if used > want.count || self.now == Now::Never {
                    missing.push(want);
                } else {
                    poke(steps, &want.folder(), now, want.count)?;
                }
                continue;
            }
            let room = match want.node {
                Some(number) => nodes.iter().find(|node| node.number == number).and_then(|node| node.usable),
                None => usable(&meminfo),
            };
            let needed = (want.count - now).saturating_mul(want.size);
            let fits = room.is_none_or(|room| needed <= room);
            if want.size == SMALL && self.now == Now::Auto && !tried && fits {
                steps.note_for_this_boot(RECORD, text)?;
                waiting = true;
                poke(steps, &want.folder(), now, want.count)?;
                continue;
            }
            missing.push(want);
        }
        if waiting && text.is_some() {
            steps.note_for_this_boot(RECORD, text)?;
        }
        for want in missing {
            let now = number(steps.host(), &want.file())?.unwrap_or(0);
            if waiting || tried || now > want.count {
                steps.plan().reboot.push(format!("{} are made at the next boot (now there are {now})", want.words()));
            } else {
                steps.plan().warnings.push(format!(
                    "{} are asked for and the last boot made {now}: there was no room, or it was in pieces already",
                    want.words()
                ));
            }
        }
        Ok(())
    }
}

/// Plans another number of pages in the running kernel.
fn poke(steps: &mut Steps, folder: &str, now: u64, count: u64) -> Result<()> {
    let path = format!("{folder}/nr_hugepages");
    let free = number(steps.host(), &format!("{folder}/free_hugepages"))?.unwrap_or(now);
    let used = now.saturating_sub(free);
    let file = |path: String, count: u64| Effect::File { path, content: Some(format!("{count}\n")), mode: None };
    let effects = vec![file(path.clone(), count), file(format!("{folder}/free_hugepages"), count.saturating_sub(used))];
    let name = path.strip_prefix("/sys/").unwrap_or(&path).to_string();
    let diff = Diff::changed("hugepages", name, now.to_string(), count.to_string());
    steps.act(Op::Poke { path, value: count.to_string(), effects }, vec![diff])
}

/// Pages that are not asked for any more: as many as there were before.
pub(super) fn give_back(steps: &mut Steps, old: &Kept, new: &Kept) -> Result<()> {
    for (path, before) in &old.before {
        if new.before.contains_key(path) {
            continue;
        }
        let Some(folder) = path.strip_suffix("/nr_hugepages") else { continue };
        let Some(now) = number(steps.host(), path)?.filter(|now| now > before) else { continue };
        let free = number(steps.host(), &format!("{folder}/free_hugepages"))?.unwrap_or(now);
        let used = now.saturating_sub(free);
        if used > *before {
            steps.plan().warnings.push(format!("{used} huge pages of {folder} are in use: they go at the next boot"));
        }
        let left = used.max(*before);
        if left < now {
            poke(steps, folder, now, left)?;
        }
    }
    if new.before.is_empty() {
        steps.note_for_this_boot(RECORD, None)?;
    }
    Ok(())
}
