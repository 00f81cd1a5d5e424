//! What a boot makes of a written-down machine's bridges, from the same files that a real boot reads.

use super::activate::{effects_down, effects_up};
use super::backend::{self, ifcfg, ifupdown, keyfile, netplan, networkd};
use super::link::NET;
use crate::change::{Op, Run};
use crate::host::model::predict;
use crate::host::{Host, Model, Result};

/// Those of these interfaces that have hardware behind them.
///
/// # Errors
/// When the machine can't be read.
pub fn cards<H: Host + ?Sized>(host: &H, names: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in names {
        if host.exists(&format!("{NET}/{name}/device"))? {
            found.push(name.clone());
        }
    }
    Ok(found)
}

/// Does any network configuration name this bridge, whoever wrote it?
///
/// # Errors
/// When the machine can't be read.
pub fn is_configured<H: Host + ?Sized>(host: &H, bridge: &str) -> Result<bool> {
    let mut paths = vec![ifupdown::MAIN.to_string()];
    for folder in [ifcfg::FOLDER, keyfile::FOLDER, netplan::FOLDER, networkd::FOLDER, ifupdown::FOLDER] {
        paths.extend(host.list(folder)?.into_iter().map(|name| format!("{folder}/{name}")));
    }
    let part_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    for path in paths {
        let is_file = matches!(host.stat(&path)?, Some(stat) if stat.kind == crate::host::FileKind::File);
        let text = if is_file { host.read(&path)?.unwrap_or_default() } else { continue };
        if String::from_utf8_lossy(&text).split(|c| !part_of_a_name(c)).any(|word| word == bridge) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Bridges that our files make come up; bridges over a card that no file names any more are gone.
///
/// # Errors
/// When the machine can't be read.
pub fn predict_boot(model: &dyn Model) -> Result<()> {
    let act = |effects| predict(model, &Op::Run(Run::new(["boot"], effects)));
    let mut gone = Vec::new();
    for name in model.list(NET)? {
        if !model.exists(&format!("{NET}/{name}/bridge"))? {
            continue;
        }
        let ports = model.list(&format!("{NET}/{name}/brif"))?;
        // Bridges without a card (libvirt's, docker's) are made by their daemons.
        if !cards(model, &ports)?.is_empty() && !is_configured(model, &name)? {
            gone.push(name);
        }
    }
    for name in gone {
        act(effects_down(model, &name)?)?;
    }
    let mut up: Vec<backend::Tag> = Vec::new();
    for (_, _, tag) in backend::marked(model)? {
        let there = model.list(&format!("{NET}/{}/brif", tag.bridge))?.contains(&tag.port);
        if !there && !up.contains(&tag) && model.exists(&format!("{NET}/{}", tag.port))? {
            up.push(tag);
        }
    }
    for tag in up {
        act(effects_up(model, &tag.bridge, &tag.port, tag.mac.as_deref())?)?;
    }
    Ok(())
}
