//! `evdev`: keyboards and mice that guests share with the host.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::device_acl;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::accounts::Group;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, List, Text};
use crate::modules::system::steps::Steps;
use crate::modules::system::user::User;

/// Lets guests read keyboards and mice of the host (evdev), the host's side of `<input type='evdev'>`.
///
/// libvirt 7.4 and later give a guest its input devices by themselves; older ones, and guests that name them in QEMU's own
/// arguments, need them in qemu.conf, and QEMU's account in the group that owns them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evdev {
    /// The devices by their lasting names, such as /dev/input/by-id/usb-Logitech_G203-event-mouse.
    #[serde(default)]
    devices: List<Text>,
    /// Devices that are not plugged in now are fine. Default: no.
    #[serde(default)]
    allow_missing: Flag,
    /// QEMU's account that joins the group `input`, such as `qemu` or `libvirt-qemu`. Default: none.
    user: Option<String>,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Guests may read them.
    #[default]
    Present,
    /// They may not.
    Absent,
}

const INPUT: &str = "/dev/input";
const GROUP: &str = "input";
/// The account that was put into the group, and the devices.
const RECORD: &str = "evdev";

impl Module for Evdev {
    const NAME: &'static str = "evdev";
    const SUMMARY: &'static str = "Let guests read keyboards and mice of the host";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        let kept = steps.kept(RECORD)?.unwrap_or_default();
        let old: Vec<&str> = kept.lines().filter_map(|line| line.strip_prefix("device ")).collect();
        let member = kept.lines().find_map(|line| line.strip_prefix("member "));
        let mut devices = Vec::new();
        if self.state == State::Present {
            if self.devices.is_empty() {
                return Err(Error::parameters("`devices` is empty: which keyboards and mice?"));
            }
            for device in self.devices.iter() {
                self.check(host, device)?;
                devices.push(device.0.as_str());
            }
        }
        let user = self.user.as_deref().filter(|_| self.state == State::Present);
        let joins = match user {
            Some(user) => joins(host, user)? || member == Some(user),
            None => false,
        };
        let record = |devices: &[&str], member: Option<&str>| {
            let mut text: String = devices.iter().map(|device| format!("device {device}\n")).collect();
            if let Some(member) = member {
                text.push_str(&format!("member {member}\n"));
            }
            (!text.is_empty()).then_some(text)
        };
        let mut all = devices.clone();
        all.extend(old.iter().filter(|old| !devices.contains(old)));
        let new_member = user.filter(|_| joins);
        steps.keep(RECORD, record(&all, new_member.or(member)).as_deref())?;
        let gone: Vec<&str> = old.iter().copied().filter(|old| !devices.contains(old)).collect();
        if !gone.is_empty() {
            device_acl::allow(&mut steps, &gone, false)?;
        }
        if !devices.is_empty() {
            device_acl::allow(&mut steps, &devices, true)?;
        }
        if let Some(member) = member.filter(|member| Some(*member) != user) {
            leave(&mut steps, member)?;
        }
        if let Some(user) = user {
            steps.module::<User>(json!({"name": user, "groups": [GROUP], "append": true}))?;
        }
        steps.keep(RECORD, record(&devices, new_member).as_deref())?;
        Ok(steps.finish())
    }
}

impl Evdev {
    fn check(&self, host: &dyn Host, device: &str) -> Result<()> {
        if let Some(number) = device.strip_prefix("/dev/input/event") {
            return Err(Error::refused(format!("{device}: number {number} may be another device after the next boot"))
                .hint("take its name below /dev/input/by-id, or /dev/input/by-path where it has none there"));
        }
        let lasting = ["/dev/input/by-id/", "/dev/input/by-path/"].iter().any(|folder| device.starts_with(folder));
        if !lasting {
            return Err(Error::parameters(format!(
                "`{device}` is not a name below /dev/input/by-id or /dev/input/by-path"
            )));
        }
        let name = device.rsplit('/').next().unwrap_or("");
        if !name.contains("-event") {
            return Err(Error::refused(format!(
                "{device} is not an evdev device: guests can't read the old mouse and joystick nodes"
            ))
            .hint("take the one with `-event-` in its name, such as …-event-mouse"));
        }
        if self.allow_missing.0 {
            return Ok(());
        }
        let target = host.real_path(device)?;
        if !host.exists(device)? || !target.starts_with("/dev/input/event") {
            let mut there = Vec::new();
            for folder in ["by-id", "by-path"] {
                let names = host.list(&format!("{INPUT}/{folder}"))?;
                there.extend(
                    names
                        .into_iter()
                        .filter(|name| name.contains("-event"))
                        .map(|name| format!("{INPUT}/{folder}/{name}")),
                );
            }
            let hint = if there.is_empty() { "none".to_string() } else { there.join(", ") };
            return Err(Error::refused(format!("{device} is not plugged in"))
                .hint(format!("there are: {hint}; `allow_missing: true` takes one that comes later")));
        }
        Ok(())
    }
}

/// Is the account to be put into the group? Refuses accounts and groups that are not there: they are not ours to make.
fn joins(host: &dyn Host, user: &str) -> Result<bool> {
    if host.user(user)?.is_none() {
        return Err(Error::refused(format!("there is no account {user} on this machine")).hint(
            "QEMU's is `qemu` on Enterprise Linux, Fedora and openSUSE, `libvirt-qemu` on Debian, Ubuntu and Arch",
        ));
    }
    match host.group(GROUP)? {
        Some(group) => Ok(!group.members.iter().any(|member| member == user)),
        None => Err(Error::refused(format!("there is no group {GROUP} on this machine"))),
    }
}

/// Plans that an account leaves the group.
fn leave(steps: &mut Steps, user: &str) -> Result<()> {
    let text = steps.host().read_text("/etc/group")?.unwrap_or_default();
    let Some(group) = text.lines().filter_map(Group::parse).find(|group| group.name == GROUP) else { return Ok(()) };
    if !group.members.iter().any(|member| member == user) {
        return Ok(());
    }
    let left: Vec<&str> = group.members.iter().map(String::as_str).filter(|member| *member != user).collect();
    let line = format!("{GROUP}:x:{}:{}", group.gid, left.join(","));
    let after: String = text
        .split_inclusive('\n')
        .map(|old| if old.split(':').next() == Some(GROUP) { format!("{line}\n") } else { old.to_string() })
        .collect();
    let effect = Effect::File { path: "/etc/group".into(), content: Some(after), mode: None };
    let mut run = Run::new(["gpasswd", "-d", user, GROUP], vec![effect]);
    run.undo = Some(["gpasswd", "-a", user, GROUP].map(String::from).to_vec());
    let diff = Diff::changed("user", format!("{user}: groups"), format!("in {GROUP}"), format!("not in {GROUP}"));
    steps.act(Op::Run(run), vec![diff])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};

    const CONF: &str = "#cgroup_device_acl = [\n#    \"/dev/null\", \"/dev/kvm\"\n#]\n";
    const KEYBOARD: &str = "/dev/input/by-id/usb-K-event-kbd";
    const GROUPS: &str = "root:x:0:\ninput:x:999:ann\n";

    fn host() -> Machine {
        machine(&[
            ("/etc/os-release", "ID=centos\nVERSION_ID=7\n"),
            ("/etc/libvirt/qemu.conf", CONF),
            ("/etc/passwd", "root:x:0:0::/root:/bin/sh\nqemu:x:107:107::/:/sbin/nologin\n"),
            ("/etc/group", GROUPS),
            ("/dev/input/event3", ""),
            ("/dev/input/mouse0", ""),
            (KEYBOARD, "-> ../event3"),
            ("/dev/input/by-id/usb-M-mouse", "-> ../mouse0"),
            ("/var/lib/", ""),
        ])
    }

    #[test]
    fn told_to_libvirt_and_the_group_and_taken_back() {
        let host = host();
        let parameters = json!({"devices": KEYBOARD, "user": "qemu"});
        let done = shown(&apply(&host, "evdev", parameters).unwrap());
        assert!(
            done.contains(&format!("+cgroup_device_acl = [ \"/dev/null\", \"/dev/kvm\", \"{KEYBOARD}\" ]")),
            "{done}"
        );
        assert_eq!(host.read_text("/etc/group").unwrap().as_deref(), Some("root:x:0:\ninput:x:999:ann,qemu\n"));
        // Another one instead.
        let other = json!({"devices": "/dev/input/by-id/usb-N-event-kbd", "user": "qemu", "allow_missing": true});
        apply(&host, "evdev", other).unwrap();
        assert!(!host.read_text("/etc/libvirt/qemu.conf").unwrap().unwrap().contains("usb-K"));
        let done = shown(&apply(&host, "evdev", json!({"state": "absent"})).unwrap());
        assert!(done.ends_with("user qemu: groups\nin input → not in input\n"), "{done}");
        assert_eq!(host.read_text("/etc/group").unwrap().as_deref(), Some(GROUPS));
        assert_eq!(host.read_text("/etc/libvirt/qemu.conf").unwrap().as_deref(), Some(CONF));
        assert!(apply(&host, "evdev", json!({"state": "absent"})).unwrap().is_empty());
    }

    #[test]
    fn who_was_in_the_group_before_stays_in_it() {
        let host = host();
        let effect = Effect::File { path: "/etc/group".into(), content: Some("input:x:999:qemu\n".into()), mode: None };
        crate::host::model::predict(&host, &Op::Run(Run::new(["x"], vec![effect]))).unwrap();
        apply(&host, "evdev", json!({"devices": KEYBOARD, "user": "qemu"})).unwrap();
        apply(&host, "evdev", json!({"state": "absent"})).unwrap();
        assert_eq!(host.read_text("/etc/group").unwrap().as_deref(), Some("input:x:999:qemu\n"));
    }

    #[test]
    fn refusals() {
        for (parameters, why) in [
            (json!({}), "`devices` is empty"),
            (json!({"devices": "/dev/input/event3"}), "another device after the next boot"),
            (json!({"devices": "/dev/kvm"}), "not a name below"),
            (json!({"devices": "/dev/input/by-id/usb-M-mouse"}), "-event-mouse"),
            (json!({"devices": "/dev/input/by-id/usb-Z-event-kbd"}), "there are: /dev/input/by-id/usb-K-event-kbd"),
            (json!({"devices": KEYBOARD, "user": "nobody"}), "no account nobody"),
        ] {
            let error = plan(&host(), "evdev", parameters.clone()).unwrap_err().to_string();
            assert!(error.contains(why), "{parameters}: {error}");
        }
    }
}
