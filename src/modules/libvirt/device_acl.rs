//! `qemu_device_acl`: devices that guests may open besides those that libvirt gives them.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::daemon::Libvirt;
use super::qemu_conf::{self, Value};
use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::network::marks;
use crate::modules::params::{List, Text};
use crate::modules::system::steps::Steps;

/// Lets guests open devices that libvirt does not know of, such as /dev/kvmfr0.
///
/// They join `cgroup_device_acl` in qemu.conf; all that is there, or is libvirt's own default, stays. Where AppArmor confines
/// guests, its rules are told too. Don't set `cgroup_device_acl` with the `libvirt` module as well: the two would take
/// turns.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceAcl {
    /// The devices, such as /dev/kvmfr0.
    devices: List<Text>,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Guests may open them.
    #[default]
    Present,
    /// They may not.
    Absent,
}

const CONF: &str = "/etc/libvirt/qemu.conf";
const KEY: &str = "cgroup_device_acl";
const ABSTRACTION: &str = "/etc/apparmor.d/abstractions/libvirt-qemu";
const LOCAL: &str = "/etc/apparmor.d/local/abstractions/libvirt-qemu";

impl Module for DeviceAcl {
    const NAME: &'static str = "qemu_device_acl";
    const SUMMARY: &'static str = "Let guests open devices that libvirt does not know of";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        let devices: Vec<&str> = self.devices.iter().map(|device| device.0.as_str()).collect();
        if devices.is_empty() {
            return Err(Error::parameters("`devices` is empty: which ones?"));
        }
        allow(&mut steps, &devices, self.state == State::Present)?;
        Ok(steps.finish())
    }
}

/// Plans that guests may open these, or may not any more.
///
/// # Errors
/// Paths that are no devices, and a qemu.conf that can't be read.
pub(crate) fn allow(steps: &mut Steps, devices: &[&str], present: bool) -> Result<()> {
    for device in devices {
        let odd = |c: char| c.is_whitespace() || c.is_control() || "\"'*?[]{}^".contains(c);
        if !device.starts_with("/dev/") || device.contains("/../") || device.contains(odd) {
            return Err(Error::parameters(format!("`{device}` is not the path of a device below /dev")));
        }
    }
    let conf = steps.host().read_text(CONF)?;
    if conf.is_none() && !steps.host().exists("/etc/libvirt")? {
        return if present { Err(Error::unknown(CONF, "libvirt's package brings it")) } else { Ok(()) };
    }
    let text = conf.unwrap_or_default();
    qemu_conf::parse(&text).map_err(|why| Error::failed(format!("{CONF} is not valid: {why}")))?;
    let usual = usual(&text);
    let now = match qemu_conf::get(&text, KEY) {
        Some(Value::List(list)) => Some(list),
        _ => None,
    };
    let mut wanted = now.clone().unwrap_or_else(|| usual.clone());
    if present {
        for device in devices {
            if !wanted.iter().any(|known| known == device) {
                wanted.push((*device).to_string());
            }
        }
    } else {
        wanted.retain(|known| !devices.contains(&known.as_str()) || usual.contains(known));
    }
    let differs = wanted != now.clone().unwrap_or_else(|| usual.clone());
    // What was killed between the file and the restart is made up for by the module itself.
    let pending = steps.host().exists(super::daemon::PENDING)?;
    if differs || pending {
        let value = if wanted == usual { json!(null) } else { json!(wanted) };
        let settings = if differs { json!({ KEY: value }) } else { json!({}) };
        steps.module::<Libvirt>(json!({"packages": [], "settings": settings}))?;
    }
    apparmor(steps, devices, present)
}

/// libvirt's own list: qemu.conf holds it as a comment, each version its own.
fn usual(text: &str) -> Vec<String> {
    let mut block = String::new();
    for line in text.lines().skip_while(|line| !is_default(line)) {
        let Some(bare) = line.trim_start().strip_prefix('#') else { break };
        block.push_str(bare);
        block.push('\n');
        if bare.contains(']') {
            break;
        }
    }
    match qemu_conf::get(&block, KEY) {
        Some(Value::List(list)) if !list.is_empty() => list,
        _ => ["/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/kvm"]
            .map(String::from)
            .to_vec(),
    }
}

fn is_default(line: &str) -> bool {
    let bare = line.trim_start().strip_prefix('#').map(str::trim_start).and_then(|rest| rest.strip_prefix(KEY));
    bare.is_some_and(|rest| rest.trim_start().starts_with('='))
}

/// The path that AppArmor sees: of a link below /dev/input, what it leads to, whose number may change.
fn rule(device: &str) -> String {
    let path = if device.starts_with("/dev/input/") { "/dev/input/event*" } else { device };
    format!("{path} rw,")
}

fn apparmor(steps: &mut Steps, devices: &[&str], present: bool) -> Result<()> {
    let Some(abstraction) = steps.host().read_text(ABSTRACTION)? else { return Ok(()) };
    let before = steps.host().read_text(LOCAL)?;
    let mut lines: Vec<String> =
        before.as_deref().and_then(marks::block).unwrap_or_default().into_iter().map(str::to_string).collect();
    for rule in devices.iter().map(|device| rule(device)) {
        let known = lines.iter().position(|line| *line == rule);
        match (present, known) {
            (true, None) => lines.push(rule),
            (false, Some(at)) => {
                lines.remove(at);
            }
            _ => {}
        }
    }
    let original = marks::original(before.as_deref());
    let after = if lines.is_empty() { original } else { Some(marks::with_block(original.as_deref(), &lines)) };
    if after != before {
        steps.file(LOCAL, after.as_deref(), None)?;
    }
    if present && !abstraction.contains("local/abstractions/libvirt-qemu") {
        steps.plan().warnings.push(format!(
            "{ABSTRACTION} does not read {LOCAL}: AppArmor will keep guests from these devices until it does"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::host::{Model, Unit};

    /// As Debian 12's libvirt has it.
    const DEFAULT: &str = "# This is the basic set of devices\n#\n#cgroup_device_acl = [\n\
                           #    \"/dev/null\", \"/dev/full\", \"/dev/zero\",\n#    \"/dev/ptmx\", \"/dev/userfaultfd\"\n#]\n#\n\
                           # RDMA migration\nuser = \"root\"\n";

    fn host(conf: &str) -> Machine {
        let host = machine(&[
            ("/etc/os-release", "ID=debian\nVERSION_ID=12\n"),
            (CONF, conf),
            (ABSTRACTION, "  #include <local/abstractions/libvirt-qemu>\n"),
            (LOCAL, "# mine\n"),
            ("/var/lib/", ""),
        ]);
        let unit = Unit { exists: true, enabled: "enabled".into(), active: true };
        host.put_unit("libvirtd.service", unit).unwrap();
        host
    }

    #[test]
    fn they_join_libvirts_own_list_and_leave_no_trace() {
        let host = host(DEFAULT);
        let done = shown(&apply(&host, "qemu_device_acl", json!({"devices": "/dev/kvmfr0"})).unwrap());
        let list = "cgroup_device_acl = [ \"/dev/null\", \"/dev/full\", \"/dev/zero\", \"/dev/ptmx\", \"/dev/userfaultfd\", \
                    \"/dev/kvmfr0\" ]";
        assert!(done.contains(list) && done.contains("running → restarted"), "{done}");
        assert!(done.contains("+/dev/kvmfr0 rw,"), "{done}");
        let more = json!({"devices": ["/dev/kvmfr0", "/dev/input/by-id/usb-x-event-kbd"]});
        apply(&host, "qemu_device_acl", more.clone()).unwrap();
        assert!(host.read_text(LOCAL).unwrap().unwrap().contains("/dev/input/event* rw,\n"));
        apply(&host, "qemu_device_acl", json!({"devices": "/dev/kvmfr0", "state": "absent"})).unwrap();
        assert!(host.read_text(CONF).unwrap().unwrap().contains("usb-x-event-kbd"));
        let mut gone = more;
        gone["state"] = json!("absent");
        apply(&host, "qemu_device_acl", gone.clone()).unwrap();
        assert_eq!(host.read_text(CONF).unwrap().as_deref(), Some(DEFAULT));
        assert_eq!(host.read_text(LOCAL).unwrap().as_deref(), Some("# mine\n"));
        assert!(apply(&host, "qemu_device_acl", gone).unwrap().is_empty());
    }

    #[test]
    fn a_list_of_the_users_own_stays() {
        let own = "cgroup_device_acl = [\n  \"/dev/null\",\n  \"/dev/mine\"\n]\n";
        let host = host(own);
        apply(&host, "qemu_device_acl", json!({"devices": "/dev/kvmfr0"})).unwrap();
        let text = host.read_text(CONF).unwrap().unwrap();
        assert_eq!(text, "cgroup_device_acl = [ \"/dev/null\", \"/dev/mine\", \"/dev/kvmfr0\" ]\n");
        apply(&host, "qemu_device_acl", json!({"devices": "/dev/kvmfr0", "state": "absent"})).unwrap();
        assert!(!host.read_text(CONF).unwrap().unwrap().contains("kvmfr0"));
    }

    #[test]
    fn refusals() {
        for wrong in ["kvmfr0", "/etc/shadow", "/dev/x y", "/dev/../etc/x", "/dev/input/event*"] {
            let error = plan(&host(DEFAULT), "qemu_device_acl", json!({"devices": [wrong]})).unwrap_err().to_string();
            assert!(error.contains("not the path of a device"), "{error}");
        }
        assert!(plan(&host("x"), "qemu_device_acl", json!({"devices": "/dev/x"})).is_err());
        let none = machine(&[("/etc/os-release", "ID=debian\nVERSION_ID=12\n")]);
        assert!(plan(&none, "qemu_device_acl", json!({"devices": "/dev/x"})).unwrap_err().is_unknown());
        assert!(apply(&none, "qemu_device_acl", json!({"devices": "/dev/x", "state": "absent"})).unwrap().is_empty());
    }
}
