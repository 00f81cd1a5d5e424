//! `looking_glass`: the memory that a guest's screen is shared through, on the host's side.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::device_acl;
use super::values::Size;
use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::files::file::File;
use crate::modules::system::kernel_module::Modprobe;
use crate::modules::system::sefcontext::{Sefcontext, selinux};
use crate::modules::system::steps::Steps;

/// Prepares the memory through which Looking Glass shows a guest's screen in a window of the host.
///
/// With `method: shm` it is a file in /dev/shm, made anew at every boot, for the guest's `<shmem>`. With `method: kvmfr` it
/// is the device /dev/kvmfr0 of the kernel module kvmfr, which is faster and must be built first (DKMS).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LookingGlass {
    /// Who watches: the account that the client runs as. Needed unless `state: absent`.
    user: Option<String>,
    /// The group that QEMU's account is in. Default: kvm.
    #[serde(default = "kvm")]
    group: String,
    /// `shm` or `kvmfr`. Default: shm.
    #[serde(default)]
    method: Method,
    /// With `shm`: the file; its name is the guest's `<shmem name=…>`. Default: /dev/shm/looking-glass.
    #[serde(default = "path")]
    path: String,
    /// With `kvmfr`: how much memory, a power of two. 32 MiB are enough for 1920×1080, 128 MiB for 3840×2160. Default:
    /// "32 MiB".
    size: Option<Size>,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Method {
    /// A file in /dev/shm.
    #[default]
    Shm,
    /// The kernel module kvmfr.
    Kvmfr,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is there.
    #[default]
    Present,
    /// It is not.
    Absent,
}

fn kvm() -> String {
    "kvm".into()
}

fn path() -> String {
    "/dev/shm/looking-glass".into()
}

const TMPFILES: &str = "/etc/tmpfiles.d/10-looking-glass.conf";
const RULES: &str = "/etc/udev/rules.d/99-vfio-provision-kvmfr.rules";
const HEADER: &str = "# Written by vfio-provision (looking_glass); changes are overwritten.\n";
const DEVICE: &str = "/dev/kvmfr0";
/// Which of both was set up, and the file.
const RECORD: &str = "looking_glass";
/// SELinux: what a confined guest may map.
const TYPE: &str = "svirt_tmpfs_t";

impl Module for LookingGlass {
    const NAME: &'static str = "looking_glass";
    const SUMMARY: &'static str = "Prepare the memory through which Looking Glass shows a guest's screen";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        let wanted = match (self.state, self.method) {
            (State::Absent, _) => None,
            (_, Method::Shm) => Some(format!("shm {}\n", self.path)),
            (_, Method::Kvmfr) => Some("kvmfr\n".to_string()),
        };
        if wanted.is_some() {
            self.check(host)?;
        }
        // What is kept is forgotten only when it has been taken back.
        let old = steps.kept(RECORD)?;
        if let Some(old) = old.as_deref().filter(|old| Some(*old) != wanted.as_deref()) {
            match old.trim().strip_prefix("shm ") {
                Some(path) => no_shm(&mut steps, path)?,
                None => no_kvmfr(&mut steps)?,
            }
        }
        steps.keep(RECORD, wanted.as_deref())?;
        if wanted.is_none() {
            return Ok(steps.finish());
        }
        let user = self.user.as_deref().unwrap_or_default();
        match self.method {
            Method::Shm => self.shm(&mut steps, user)?,
            Method::Kvmfr => self.kvmfr(&mut steps, user)?,
        }
        Ok(steps.finish())
    }
}

impl LookingGlass {
    fn check(&self, host: &dyn Host) -> Result<()> {
        let Some(user) = self.user.as_deref().filter(|user| !user.is_empty()) else {
            return Err(Error::parameters("`user` is missing: who watches the guest's screen?"));
        };
        if host.user(user)?.is_none() {
            return Err(Error::refused(format!("there is no account {user} on this machine")));
        }
        if host.group(&self.group)?.is_none() {
            return Err(Error::refused(format!("there is no group {} on this machine", self.group))
                .hint("QEMU's account is in `kvm` on every distribution once QEMU is installed"));
        }
        let name = self.path.strip_prefix("/dev/shm/").unwrap_or("");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::parameters(format!("`{}` is not a file in /dev/shm", self.path)));
        }
        Ok(())
    }

    fn shm(&self, steps: &mut Steps, user: &str) -> Result<()> {
        let (path, group) = (&self.path, &self.group);
        // Before the file is made: it gets its label from this.
        if selinux(steps.host())?.mode != "disabled" {
            steps.module::<Sefcontext>(json!({"target": pattern(path), "setype": TYPE, "ftype": "f"}))?;
        }
        let line = format!("{HEADER}f {path} 0660 {user} {group} -\n");
        steps.file(TMPFILES, Some(&line), None)?;
        // Every machine that runs has /dev/shm; a recorded one may not.
        if steps.host().exists("/dev/shm")? {
            let now = json!({"path": path, "state": "touch", "owner": user, "group": group, "mode": "0660"});
            steps.module::<File>(now)?;
        }
        Ok(())
    }

    fn kvmfr(&self, steps: &mut Steps, user: &str) -> Result<()> {
        let size = self.size.map_or(32 << 20, |size| size.0);
        let mib = size >> 20;
        if !size.is_power_of_two() || !(1..=1024).contains(&mib) {
            return Err(Error::parameters(format!("`size: {}` is no power of two from 1 MiB to 1 GiB", Size(size))));
        }
        let release = steps.host().read_line("/proc/sys/kernel/osrelease")?.unwrap_or_default();
        let known = steps.host().read(&format!("/lib/modules/{release}/modules.dep"))?.unwrap_or_default();
        if !steps.host().exists("/sys/module/kvmfr")? && !String::from_utf8_lossy(&known).contains("/kvmfr.ko") {
            return Err(Error::refused(format!("the kernel {release} has no module kvmfr"))
                .hint("build it with DKMS from Looking Glass's sources (Arch: looking-glass-module-dkms), or use `method: shm`"));
        }
        let rule = format!(
            "{HEADER}SUBSYSTEM==\"kvmfr\", KERNEL==\"kvmfr0\", OWNER=\"{user}\", GROUP=\"{}\", MODE=\"0660\"\n",
            self.group
        );
        // The rule is read when the device appears, so it is there first.
        steps.file(RULES, Some(&rule), None)?;
        let asked = format!("static_size_mb={mib}");
        steps.module::<Modprobe>(json!({"name": "kvmfr", "params": asked, "persistent": "present"}))?;
        let now = steps.host().read_line("/sys/module/kvmfr/parameters/static_size_mb")?;
        if let Some(now) = now.filter(|now| *now != mib.to_string()) {
            steps.plan().reboot.push(format!("kvmfr has {now} MiB and gets {mib} MiB when it is loaded anew"));
        }
        device_acl::allow(steps, &[DEVICE], true)?;
        if selinux(steps.host())?.mode == "enforcing" {
            steps.plan().warnings.push(format!(
                "SELinux keeps guests from {DEVICE} until a policy of your own allows svirt_t to open and map it; \
                 `method: shm` needs none"
            ));
        }
        Ok(())
    }
}

/// The path as a pattern.
fn pattern(path: &str) -> String {
    path.replace('.', "\\.")
}

fn no_shm(steps: &mut Steps, path: &str) -> Result<()> {
    steps.file(TMPFILES, None, None)?;
    steps.module::<File>(json!({"path": path, "state": "absent"}))?;
    if selinux(steps.host())?.mode != "disabled" {
        steps.module::<Sefcontext>(json!({"target": pattern(path), "ftype": "f", "state": "absent"}))?;
    }
    Ok(())
}

fn no_kvmfr(steps: &mut Steps) -> Result<()> {
    device_acl::allow(steps, &[DEVICE], false)?;
    steps.module::<Modprobe>(json!({"name": "kvmfr", "state": "absent", "persistent": "absent"}))?;
    steps.file(RULES, None, None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};

    fn host(more: &[(&str, &str)]) -> Machine {
        let mut files = vec![
            ("/etc/os-release", "ID=debian\nVERSION_ID=12\n"),
            ("/etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"),
            ("/etc/group", "root:x:0:\nkvm:x:36:\n"),
            ("/etc/libvirt/qemu.conf", "#cgroup_device_acl = [ \"/dev/null\" ]\n"),
            ("/proc/sys/kernel/osrelease", "6.1.0\n"),
            ("/dev/shm/", ""),
            ("/var/lib/", ""),
        ];
        files.extend(more);
        machine(&files)
    }

    #[test]
    fn a_file_now_and_at_every_boot() {
        let selinux = ("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n");
        let host = host(&[selinux]);
        let done = shown(&apply(&host, "looking_glass", json!({"user": "ann"})).unwrap());
        assert!(done.starts_with("sefcontext /dev/shm/looking-glass (--)\n+ svirt_tmpfs_t\n"), "{done}");
        assert!(done.contains("+f /dev/shm/looking-glass 0660 ann kvm -\n"), "{done}");
        let stat = host.stat("/dev/shm/looking-glass").unwrap().unwrap();
        assert_eq!((stat.mode, stat.uid, stat.gid), (0o660, 1000, 36));
        apply(&host, "looking_glass", json!({"state": "absent"})).unwrap();
        assert!(!host.exists(TMPFILES).unwrap() && !host.exists("/dev/shm/looking-glass").unwrap());
        assert!(apply(&host, "looking_glass", json!({"state": "absent"})).unwrap().is_empty());
    }

    #[test]
    fn the_module_with_its_size_its_rule_and_its_device() {
        let host = host(&[("/lib/modules/6.1.0/modules.dep", "updates/dkms/kvmfr.ko:\n")]);
        let parameters = json!({"user": "ann", "method": "kvmfr", "size": "64 MiB"});
        let done = shown(&apply(&host, "looking_glass", parameters).unwrap());
        for part in
            ["OWNER=\"ann\", GROUP=\"kvm\"", "+options kvmfr static_size_mb=64", "[ \"/dev/null\", \"/dev/kvmfr0\" ]"]
        {
            assert!(done.contains(part), "{part}: {done}");
        }
        // The other way instead, and the first is taken back.
        apply(&host, "looking_glass", json!({"user": "ann"})).unwrap();
        assert!(!host.exists(RULES).unwrap() && !host.exists("/sys/module/kvmfr").unwrap());
        assert!(!host.read_text("/etc/libvirt/qemu.conf").unwrap().unwrap().contains("kvmfr"));
    }

    #[test]
    fn a_loaded_module_of_another_size_waits_for_a_reboot() {
        let host = host(&[("/sys/module/kvmfr/parameters/static_size_mb", "32\n")]);
        let parameters = json!({"user": "ann", "method": "kvmfr", "size": "128 MiB"});
        assert_eq!(plan(&host, "looking_glass", parameters).unwrap().reboot.len(), 1);
    }

    #[test]
    fn refusals() {
        for (parameters, why) in [
            (json!({}), "`user` is missing"),
            (json!({"user": "bob"}), "no account bob"),
            (json!({"user": "ann", "group": "qemu"}), "no group qemu"),
            (json!({"user": "ann", "path": "/dev/shm/../sda"}), "not a file in /dev/shm"),
            (json!({"user": "ann", "method": "kvmfr"}), "has no module kvmfr"),
            (json!({"user": "ann", "method": "kvmfr", "size": "48 MiB"}), "no power of two"),
        ] {
            let error = plan(&host(&[]), "looking_glass", parameters.clone()).unwrap_err().to_string();
            assert!(error.contains(why), "{parameters}: {error}");
        }
    }

    #[test]
    fn tmpfiles_makes_the_file() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("dev/shm")).unwrap();
        let file = root.path().join("x.conf");
        std::fs::write(&file, format!("{HEADER}f /dev/shm/looking-glass 0660 0 0 -\n")).unwrap();
        let Ok(output) = std::process::Command::new("systemd-tmpfiles")
            .args(["--create", &format!("--root={}", root.path().display())])
            .arg(&file)
            .output()
        else {
            return;
        };
        assert!(output.status.success(), "{output:?}");
        assert!(root.path().join("dev/shm/looking-glass").exists());
    }
}
