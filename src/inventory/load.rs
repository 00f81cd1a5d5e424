//! From the paths of `-i` to texts: files, folders of files, and lists such as `ws01,ws02`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::build::Builder;
use super::var_files::list;
use super::{UNGROUPED, ini, yaml_file};
use crate::diag::{Diagnostic, Source, Span, nearest};
use crate::vault::Vault;

/// What is no inventory although it lies in a folder of inventories, by the end of its name (as in Ansible).
const NOT_INVENTORIES: [&str; 13] =
    ["~", ".pyc", ".pyo", ".swp", ".bak", ".rpm", ".md", ".txt", ".rst", ".orig", ".cfg", ".retry", ".lock"];
/// Folders in folders may go so deep; a link to a folder above never ends.
const MAX_DEPTH: usize = 16;

/// Reads what one `-i` names, and gives the folder beside which its group_vars and host_vars lie.
pub(super) fn read(path: &Path, build: &mut Builder, vault: &Vault) -> Option<PathBuf> {
    if let Some(text) = path.to_str().filter(|text| text.contains(',') && !path.exists()) {
        read_list(text, build);
        return None;
    }
    if path.is_dir() {
        let before = build.errors.len();
        let files = read_folder(path, build, vault, 0);
        if files == 0 && build.errors.len() == before {
            build.errors.push(Diagnostic::error(format!("the folder {} holds no inventory", path.display())));
        }
        return Some(path.to_path_buf());
    }
    read_file(path, build, vault);
    Some(path.parent().unwrap_or(Path::new("")).to_path_buf())
}

/// `ws01,ws02,`: hosts without a file.
fn read_list(text: &str, build: &mut Builder) {
    let source = Source::new("--inventory", text);
    build.begin(PathBuf::new());
    let ungrouped = build.group(UNGROUPED);
    let mut at = 0;
    for piece in text.split(',') {
        let name = piece.trim();
        if !name.is_empty() {
            let start = at + (piece.len() - piece.trim_start().len());
            build.add_hosts(ungrouped, name, &Span::new(&source, start, start + name.len()), serde_json::Map::new());
        }
        at += piece.len() + 1;
    }
}

/// Reads all inventories of a folder by name, and says how many there were.
fn read_folder(path: &Path, build: &mut Builder, vault: &Vault, depth: usize) -> usize {
    if depth > MAX_DEPTH {
        build.errors.push(Diagnostic::error(format!("folders are nested too deeply: {}", path.display())));
        return 0;
    }
    let entries = match list(path) {
        Ok(entries) => entries,
        Err(error) => {
            build.errors.push(error);
            return 0;
        }
    };
    let mut files = 0;
    for (name, path, folder) in entries {
        let other = name.starts_with('.') || NOT_INVENTORIES.iter().any(|end| name.ends_with(end));
        if other || ["group_vars", "host_vars"].contains(&name.as_str()) {
            continue;
        }
        if folder {
            files += read_folder(&path, build, vault, depth + 1);
        } else {
            read_file(&path, build, vault);
            files += 1;
        }
    }
    files
}

fn read_file(path: &Path, build: &mut Builder, vault: &Vault) {
    match text_of(path, vault) {
        Err(error) => build.errors.push(error),
        Ok(text) => {
            let source = Source::new(path.display().to_string(), text);
            build.begin(path.to_path_buf());
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            let yaml = match extension {
                "yml" | "yaml" | "json" => true,
                "ini" | "cfg" => false,
                _ => ini::is_yaml(&source.text),
            };
            if yaml { yaml_file::read(&source, build) } else { ini::read(&source, build) }
        }
    }
}

fn text_of(path: &Path, vault: &Vault) -> Result<String, Diagnostic> {
    let shown = path.display();
    let bytes = fs::read(path).map_err(|problem| {
        let error = Diagnostic::error(format!("can't read the inventory {shown}: {problem}"));
        match similar(path) {
            Some(name) if problem.kind() == std::io::ErrorKind::NotFound => {
                error.help(format!("did you mean `{name}`?"))
            }
            _ => error,
        }
    })?;
    let executable = fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0);
    let text = String::from_utf8(bytes);
    // Some file systems call every file executable, so the mode alone does not make a program.
    let program = text.as_ref().map_or(true, |text| text.starts_with("#!"));
    if executable && program {
        return Err(Diagnostic::error(format!("{shown} is a program; dynamic inventories are not supported yet"))
            .help(format!(
                "write what it prints into a file (`{shown} --list`), or hosts into an INI or YAML inventory"
            )));
    }
    let text = text.map_err(|_| Diagnostic::error(format!("the inventory {shown} is not UTF-8 text")))?;
    vault.text(path, text).map(|(text, _)| text)
}

/// The file in the same folder whose name is nearest.
fn similar(path: &Path) -> Option<String> {
    let wrong = path.file_name()?.to_str()?;
    let folder = path.parent()?;
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let names: Vec<String> = list(here).ok()?.into_iter().map(|(name, _, _)| name).collect();
    let name = nearest(wrong, names.iter().map(String::as_str))?;
    Some(folder.join(name).display().to_string())
}
