//! What runs on a machine and who may use it: units, kernel settings and modules, users, groups, names, SELinux.

mod accounts;
pub mod cpu_governor;
pub mod cpu_isolation;
pub mod cpu_set;
pub mod group;
pub mod hostname;
pub mod hugepages;
pub mod kernel_module;
pub mod sefcontext;
pub mod service;
pub(crate) mod steps;
pub mod sysctl;
pub mod tuned;
pub mod user;

use crate::change::{Action, Content, Diff, Op, Plan};
use crate::host::{Host, Result};

/// Plans the folders of this path that are missing, the path itself included.
pub(crate) fn make_folders(host: &dyn Host, plan: &mut Plan, path: &str) -> Result<()> {
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([path.len()]);
    for folder in ends.filter_map(|end| path.get(..end)) {
        let planned = |action: &Action| matches!(&action.op, Op::MakeFolder { path, .. } if path == folder);
        if !host.exists(folder)? && !plan.actions.iter().any(planned) {
            let op = Op::MakeFolder { path: folder.to_string(), mode: Some(0o755), owner: None, group: None };
            plan.push(op, vec![Diff::added("folder", folder, "0755")]);
        }
    }
    Ok(())
}

/// Plans a configuration file that differs from what is there; a new one is 0644 and gets its folder. `None` removes it.
fn put_text(host: &dyn Host, plan: &mut Plan, path: &str, before: Option<&str>, after: Option<&str>) -> Result<()> {
    if before == after {
        return Ok(());
    }
    let diff = Diff::file(path, before.map(str::as_bytes), after.map(str::as_bytes));
    let Some(after) = after else {
        plan.push(Op::Remove { path: path.to_string() }, vec![diff]);
        return Ok(());
    };
    if let Some((folder, _)) = path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) {
        make_folders(host, plan, folder)?;
    }
    let op = Op::WriteFile {
        path: path.to_string(),
        content: Content::Bytes(after.as_bytes().to_vec()),
        mode: None,
        owner: None,
        group: None,
        validate: Vec::new(),
    };
    plan.push(op, vec![diff]);
    Ok(())
}

/// A text with one line more at its end.
fn with_line(text: &str, line: &str) -> String {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{newline}{line}\n")
}
