//! Bringing files to the state they shall be in.

use std::collections::BTreeSet;

use crate::change::{Content, Diff, Op, Plan};
use crate::host::{Host, Result};

/// Adds what is needed so that a file has this content (`None`: is not there), folders above it included. Tells whether
/// anything is. A `mode` that is given is kept to.
///
/// # Errors
/// When the machine can't be read.
pub fn place(plan: &mut Plan, host: &dyn Host, path: &str, content: Option<&str>, mode: Option<u32>) -> Result<bool> {
    let now = host.read(path)?;
    let Some(content) = content else {
        let Some(now) = now else { return Ok(false) };
        plan.push(Op::Remove { path: path.into() }, vec![Diff::file(path, Some(&now), None)]);
        return Ok(true);
    };
    if now.as_deref() == Some(content.as_bytes()) {
        let Some((stat, mode)) = host.stat(path)?.zip(mode).filter(|(stat, mode)| stat.mode != *mode) else {
            return Ok(false);
        };
        let diff = Diff::changed("attributes", path, format!("mode {:04o}", stat.mode), format!("mode {mode:04o}"));
        let op = Op::SetAttributes { path: path.into(), mode: Some(mode), owner: None, group: None };
        plan.push(op, vec![diff]);
        return Ok(true);
    }
    folders(plan, host, path)?;
    plan.push(
        Op::WriteFile {
            path: path.into(),
            content: Content::Bytes(content.as_bytes().to_vec()),
            mode,
            owner: None,
            group: None,
            validate: Vec::new(),
        },
        vec![Diff::file(path, now.as_deref(), Some(content.as_bytes()))],
    );
    Ok(true)
}

/// Makes the folders above a path that neither exist nor are made by the plan already.
fn folders(plan: &mut Plan, host: &dyn Host, path: &str) -> Result<()> {
    let made: BTreeSet<String> = plan
        .actions
        .iter()
        .filter_map(|action| if let Op::MakeFolder { path, .. } = &action.op { Some(path.clone()) } else { None })
        .collect();
    let mut missing = Vec::new();
    let mut at = path;
    while let Some((parent, _)) = at.rsplit_once('/') {
        if parent.is_empty() || made.contains(parent) || host.exists(parent)? {
            break;
        }
        missing.push(parent.to_string());
        at = parent;
    }
    for folder in missing.into_iter().rev() {
        let diff = Diff::added("folder", folder.as_str(), "mode 0755");
        plan.push(Op::MakeFolder { path: folder, mode: None, owner: None, group: None }, vec![diff]);
    }
    Ok(())
}
