//! `stat`: what stands at a path.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::common::{group_name, user_name};
use crate::change::Plan;
use crate::host::{FileKind, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, yes};

/// How a checksum is made.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    /// SHA-256.
    #[default]
    Sha256,
}

/// Tells what stands at a path; `register` sees it as `stat`: `exists`, and then `isreg`, `isdir`, `islnk`, `mode`
/// ("0644"), `uid`, `gid`, `pw_name`, `gr_name`, `size`, `mtime`, `checksum`, `lnk_target`, `lnk_source`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stat {
    /// The path; absolute.
    #[serde(alias = "dest", alias = "name")]
    path: String,
    /// Tell of what a link points to, not of the link. Default: false.
    #[serde(default)]
    follow: Flag,
    /// Make the checksum of a file. Default: true.
    #[serde(default = "yes")]
    get_checksum: Flag,
    /// How. Only SHA-256 is known, and it is the default (Ansible's is SHA-1).
    #[serde(default)]
    #[allow(dead_code)]
    checksum_algorithm: Algorithm,
}

impl Module for Stat {
    const NAME: &'static str = "stat";
    const SUMMARY: &'static str = "Tell what stands at a path";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let found = if self.follow.0 { host.stat(&self.path)? } else { host.lstat(&self.path)? };
        let mut told = Map::new();
        told.insert("exists".into(), found.is_some().into());
        if let Some(stat) = found {
            let is = |kind: FileKind| Value::from(stat.kind == kind);
            told.insert("path".into(), self.path.clone().into());
            told.insert("isreg".into(), is(FileKind::File));
            told.insert("isdir".into(), is(FileKind::Folder));
            told.insert("islnk".into(), is(FileKind::Link));
            told.insert("mode".into(), format!("{:04o}", stat.mode).into());
            told.insert("uid".into(), stat.uid.into());
            told.insert("gid".into(), stat.gid.into());
            told.insert("pw_name".into(), user_name(host, stat.uid)?.into());
            told.insert("gr_name".into(), group_name(host, stat.gid)?.into());
            told.insert("size".into(), stat.size.into());
            told.insert("mtime".into(), stat.mtime.into());
            if stat.kind == FileKind::Link {
                told.insert("lnk_target".into(), host.read_link(&self.path)?.into());
                told.insert("lnk_source".into(), host.real_path(&self.path)?.into());
            }
            if stat.kind == FileKind::File && self.get_checksum.0 {
                told.insert("checksum".into(), host.sha256(&self.path)?.into());
            }
        }
        plan.set("stat", json!(told));
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{machine, plan};

    #[test]
    fn files_links_and_nothing() {
        let m = machine(&[("/etc/a", "abc"), ("/etc/l", "-> a"), ("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")]);
        let stat = |path: &str, follow: bool| {
            plan(&m, "stat", json!({"path": path, "follow": follow})).unwrap().result["stat"].clone()
        };
        let file = stat("/etc/l", true);
        assert_eq!((&file["isreg"], &file["mode"], &file["size"]), (&json!(true), &json!("0644"), &json!(3)));
        assert_eq!(file["checksum"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((&file["pw_name"], &file["gr_name"]), (&json!("root"), &json!("root")));
        let link = stat("/etc/l", false);
        assert_eq!(
            (&link["islnk"], &link["lnk_target"], &link["lnk_source"]),
            (&json!(true), &json!("a"), &json!("/etc/a"))
        );
        assert_eq!(stat("/etc/none", false), json!({"exists": false}));
        assert_eq!(stat("/etc", false)["isdir"], true);
    }
}
