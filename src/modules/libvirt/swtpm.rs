//! `swtpm`: the emulator of TPMs for guests.

use schemars::JsonSchema;
use serde::Deserialize;

use super::qemu_conf::{self, Value};
use crate::change::{Diff, Op, Plan};
use crate::host::accounts;
use crate::host::{Error, Family, FileKind, Host, Os, Result};
use crate::modules::Module;
use crate::modules::packages::{Install, install};
use crate::modules::params::{List, Text};
use crate::modules::system::steps::Steps;

/// Installs the emulator of TPMs, and sees to it that the account it runs as can use its folder.
///
/// A guest's TPM is kept by the guest's UUID in /var/lib/libvirt/swtpm, which libvirt makes and looks after itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Swtpm {
    /// The packages; the distribution's own by default. An empty list installs nothing.
    packages: Option<List<Text>>,
}

const CONF: &str = "/etc/libvirt/qemu.conf";
/// Where swtpm-localca keeps the keys with which it signs the certificates of new TPMs.
const CA: &str = "/var/lib/swtpm-localca";

/// The distribution's packages: the emulator, and the tools that make a new TPM.
fn packages_of(os: &Os) -> Result<&'static [&'static str]> {
    match os.family {
        Family::El if os.major() < 8 => Err(Error::refused(
            "Enterprise Linux 7 has no swtpm, and its libvirt knows none",
        )
        .hint("guests with a TPM need Enterprise Linux 8 or later; `packages` names those of another repository")),
        Family::El | Family::Fedora | Family::Debian | Family::Ubuntu => Ok(&["swtpm", "swtpm-tools"]),
        Family::Arch | Family::Suse => Ok(&["swtpm"]),
    }
}

impl Module for Swtpm {
    const NAME: &'static str = "swtpm";
    const SUMMARY: &'static str = "Install the emulator of TPMs for guests";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        let names: Vec<&str> = match &self.packages {
            Some(given) => given.iter().map(|name| name.0.as_str()).collect(),
            None => packages_of(&host.os()?)?.to_vec(),
        };
        if !names.is_empty() {
            let packages = install(host, &Install { names: &names, ..Install::default() })?;
            if !packages.actions.is_empty() {
                steps.extend(packages)?;
                steps.plan().staged = true;
                return Ok(steps.finish());
            }
        }
        folder(&mut steps)?;
        Ok(steps.finish())
    }
}

/// A setting of qemu.conf, or what its comment says is the default of this libvirt.
fn setting(text: &str, key: &str) -> Option<String> {
    if let Some(Value::Text(value)) = qemu_conf::get(text, key) {
        return Some(value);
    }
    text.lines().find_map(|line| {
        let bare = line.trim_start().strip_prefix('#')?;
        match qemu_conf::get(bare, key)? {
            Value::Text(value) => Some(value),
            _ => None,
        }
    })
}

fn folder(steps: &mut Steps) -> Result<()> {
    let conf = steps.host().read_text(CONF)?.unwrap_or_default();
    // `tss` unless the distribution built libvirt otherwise (Ubuntu: swtpm), which the comment in qemu.conf tells.
    let user = setting(&conf, "swtpm_user").unwrap_or_else(|| "tss".into());
    let Some(stat) = steps.host().stat(CA)? else {
        // The package makes it; where none is known of, there is nothing to put right.
        return Ok(());
    };
    if stat.kind != FileKind::Folder {
        return Err(Error::refused(format!("{CA} is there and is not a folder")));
    }
    let uid = match user.parse::<u32>() {
        Ok(uid) => uid,
        Err(_) => match steps.host().user(&user)? {
            Some(_) => accounts::uid(steps.host(), &user)?,
            None => {
                return Err(Error::refused(format!("libvirt runs swtpm as {user}, and there is no such account"))
                    .hint(format!("set `swtpm_user` in {CONF} (libvirt, settings) to an account that is there")));
            }
        },
    };
    // Root needs no permission, and another account that owns the keys may be one of the administrator's choice.
    if uid == 0 || (stat.uid == uid && stat.mode & 0o700 == 0o700) {
        return Ok(());
    }
    let mode = stat.mode | 0o700;
    let words = |uid: &str, mode: u32| format!("owner {uid}, mode {mode:04o}");
    let diff = Diff::changed("attributes", CA, words(&stat.uid.to_string(), stat.mode), words(&uid.to_string(), mode));
    let op = Op::SetAttributes { path: CA.into(), mode: Some(mode), owner: Some(user.clone()), group: None };
    steps.act(op, vec![diff])?;
    for name in steps.host().list(CA)? {
        let path = format!("{CA}/{name}");
        if let Some(inner) = steps.host().lstat(&path)?.filter(|inner| inner.kind == FileKind::File && inner.uid != uid)
        {
            let diff =
                Diff::changed("attributes", path.as_str(), format!("owner {}", inner.uid), format!("owner {uid}"));
            steps.act(Op::SetAttributes { path, mode: None, owner: Some(user.clone()), group: None }, vec![diff])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};

    fn host(os: &str, conf: &str) -> Machine {
        machine(&[
            ("/etc/os-release", os),
            ("/etc/passwd", "root:x:0:0::/root:/bin/sh\ntss:x:59:59::/:/bin/false\nswtpm:x:110:110::/:/bin/false\n"),
            ("/etc/group", "root:x:0:\n"),
            (CONF, conf),
            (&format!("{CA}/signkey.pem"), "x"),
        ])
    }

    #[test]
    fn packages_of_each_family_and_the_folders_owner() {
        for (os, packages, conf, uid) in [
            ("ID=rocky\nID_LIKE=rhel\nVERSION_ID=9.4\n", "package swtpm\n", "#swtpm_user = \"tss\"\n", 59),
            ("ID=fedora\nVERSION_ID=41\n", "package swtpm-tools\n", "#swtpm_user = \"tss\"\n", 59),
            ("ID=debian\nVERSION_ID=12\n", "package swtpm-tools\n", "#swtpm_user = \"tss\"\n", 59),
            ("ID=ubuntu\nVERSION_ID=22.04\n", "package swtpm-tools\n", "#swtpm_user = \"swtpm\"\n", 110),
            ("ID=arch\n", "package swtpm\n", "swtpm_user = \"swtpm\"\n#swtpm_user = \"tss\"\n", 110),
            ("ID=opensuse-leap\nVERSION_ID=15.6\n", "package swtpm\n", "", 59),
        ] {
            let host = host(os, conf);
            let done = shown(&apply(&host, "swtpm", json!({})).unwrap());
            assert!(done.contains(packages), "{os}: {done}");
            assert_eq!(host.stat(CA).unwrap().unwrap().uid, uid, "{os}");
            assert_eq!(host.stat(&format!("{CA}/signkey.pem")).unwrap().unwrap().uid, uid, "{os}");
            assert!(apply(&host, "swtpm", json!({})).unwrap().is_empty());
        }
    }

    #[test]
    fn refusals() {
        let error = plan(&host("ID=centos\nVERSION_ID=7\n", ""), "swtpm", json!({})).unwrap_err().to_string();
        assert!(error.contains("Enterprise Linux 7 has no swtpm"), "{error}");
        let strange = host("ID=centos\nVERSION_ID=7\n", "swtpm_user = \"x\"\n");
        let error = plan(&strange, "swtpm", json!({"packages": []})).unwrap_err().to_string();
        assert!(error.contains("no such account"), "{error}");
    }
}
