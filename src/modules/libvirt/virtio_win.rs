//! `virtio_win`: the ISO with drivers for Windows guests.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{List, Text};

/// Fedora's archive, where every version stays at its place.
const ARCHIVE: &str = "https://fedorapeople.org/groups/virt/virtio-win/direct-downloads/archive-virtio";

/// Puts the virtio-win ISO of one version in place. Nobody publishes its hash: the first content seen is pinned in the
/// lock file beside the inventory, and expected from then on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VirtioWin {
    /// The version, such as "0.1.126" or "0.1.126-1" (without a release, 1 is meant).
    version: Text,
    /// The file it becomes, or an existing folder or one with a slash at its end.
    /// `/var/lib/libvirt/images/virtio-win-VERSION.iso` by default.
    dest: Option<String>,
    /// SHA-256 of the ISO.
    sha256: Option<Text>,
    /// Where it is fetched from; by default Fedora's archive.
    url: Option<String>,
    /// Which guests are to use it, such as `win7`, `win8`, `win10`: warns of a version that has no drivers for them.
    #[serde(default)]
    guests_os: List<Text>,
}

/// The last versions with drivers for older Windows.
const LAST: [(&[&str], &str, u32); 2] =
    [(&["win7", "windows7", "windows-7"], "Windows 7", 173), (&["win8", "windows8", "windows-8"], "Windows 8", 189)];

impl Module for VirtioWin {
    const NAME: &'static str = "virtio_win";
    const SUMMARY: &'static str = "Put the ISO with virtio drivers for Windows in place";
    const FREE_FORM: Option<&'static str> = Some("version");

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let (version, release) = self.version.split_once('-').unwrap_or((&self.version, "1"));
        let numbers: Vec<Option<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
        let [Some(_), Some(_), Some(build)] = numbers.as_slice() else {
            return Err(Error::parameters(format!(
                "`{}` is not a version of virtio-win, such as \"0.1.126\"",
                self.version.0
            )));
        };
        if release.parse::<u32>().is_err() {
            return Err(Error::parameters(format!(
                "`{}` is not a version of virtio-win, such as \"0.1.126-1\"",
                self.version.0
            )));
        }
        let name = format!("virtio-win-{version}.iso");
        let dest = self.dest.clone().unwrap_or_else(|| "/var/lib/libvirt/images/".to_string());
        let folder =
            dest.ends_with('/') || host.stat(&dest)?.is_some_and(|stat| stat.kind == crate::host::FileKind::Folder);
        let path = if folder { format!("{}/{name}", dest.trim_end_matches('/')) } else { dest };
        let url = self.url.clone().unwrap_or_else(|| format!("{ARCHIVE}/virtio-win-{version}-{release}/{name}"));
        let mut plan = Plan::nothing();
        super::fetch(host, &mut plan, "virtio_win", &path, Some(&url), self.sha256.as_ref().map(|s| s.0.as_str()))?;
        for guest in self.guests_os.iter() {
            let guest = guest.to_ascii_lowercase();
            for (_, name, last) in LAST.iter().filter(|(words, _, last)| words.contains(&&*guest) && build > last) {
                plan.warnings.push(format!(
                    "virtio-win {version} has no signed drivers for {name}: 0.1.{last} is the last with them"
                ));
            }
        }
        plan.set("path", path);
        plan.set("url", url);
        plan.set("version", format!("{version}-{release}"));
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn the_seeds_iso() {
        let host = machine(&[("/root/img/", "")]);
        let parameters = json!({"version": "0.1.126", "dest": "/root/img", "guests_os": ["win8", "win7"]});
        let first = plan(&host, "virtio_win", parameters.clone()).unwrap();
        assert_eq!(first.pins[0].path, "/root/img/virtio-win-0.1.126.iso");
        assert!(first.warnings.is_empty());
        let done = shown(&apply(&host, "virtio_win", parameters).unwrap());
        assert_eq!(
            done,
            "download /root/img/virtio-win-0.1.126.iso\n+ https://fedorapeople.org/groups/virt/virtio-win/direct-downloads/\
             archive-virtio/virtio-win-0.1.126-1/virtio-win-0.1.126.iso\n"
        );
    }

    #[test]
    fn a_known_hash_must_hold() {
        let host = machine(&[("/x.iso", "abc")]);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let right = json!({"version": "0.1.126", "dest": "/x.iso", "sha256": abc});
        assert!(plan(&host, "virtio_win", right).unwrap().actions.is_empty());
        let other = json!({"version": "0.1.126", "dest": "/x.iso", "sha256": "0".repeat(64)});
        let done = apply(&host, "virtio_win", other).unwrap();
        assert!(shown(&done).contains(&format!("sha256 {abc} → https://")), "{}", shown(&done));
    }

    #[test]
    fn old_windows_needs_old_drivers() {
        let host = machine(&[]);
        let warnings = |version: &str, guests: &[&str]| {
            plan(&host, "virtio_win", json!({"version": version, "guests_os": guests})).unwrap().warnings.len()
        };
        assert_eq!(warnings("0.1.173", &["win7"]), 0);
        assert_eq!(warnings("0.1.185", &["win7"]), 1);
        assert_eq!(warnings("0.1.185", &["win8", "win10"]), 0);
        assert_eq!(warnings("0.1.240", &["win8", "windows-7"]), 2);
        for wrong in ["stable", "0.1", "0.1.x", "0.1.126-x"] {
            assert!(plan(&host, "virtio_win", json!({"version": wrong})).is_err(), "{wrong}");
        }
    }
}
