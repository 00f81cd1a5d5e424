//! `libvirt`: QEMU and libvirt themselves.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use super::qemu_conf::{self, Value};
use crate::change::{Content, Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Family, Host, Os, Result};
use crate::modules::Module;
use crate::modules::packages::{Install, install};
use crate::modules::params::{List, Text};
use crate::modules::system::make_folders;

const CONF: &str = "/etc/libvirt/qemu.conf";
/// Says that qemu.conf was changed and the daemon has not read it yet: a run that is killed in between is made up for.
pub(super) const PENDING: &str = "/var/lib/vfio-provision/libvirt-restart";

/// Installs QEMU and libvirt, lets its daemons run and start with the host, and sets what is given in qemu.conf.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Libvirt {
    /// The packages; the distribution's own by default. An empty list installs nothing.
    packages: Option<List<Text>>,
    /// One daemon for everything (`monolithic`) or one for each purpose (`modular`). By default what the machine runs, or
    /// what its distribution has on a fresh install. Never both.
    #[serde(default)]
    daemons: Daemons,
    /// Settings of qemu.conf by name: a number, a string, a list of strings; true and false are 1 and 0; null takes a
    /// setting out. Other settings, comments and order stay.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, Json>")]
    settings: IndexMap<String, Json>,
}

/// Which daemons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Daemons {
    /// What the machine runs, or its distribution's default.
    #[default]
    Auto,
    /// libvirtd.
    Monolithic,
    /// virtqemud and its siblings.
    Modular,
}

const MONOLITHIC: &[&str] = &["libvirtd.service"];
const MODULAR: &[&str] = &["virtqemud.socket", "virtnetworkd.socket", "virtnodedevd.socket", "virtstoraged.socket"];

/// The distribution's packages for QEMU with KVM, libvirt and virsh.
fn packages_of(os: &Os) -> &'static [&'static str] {
    match os.family {
        Family::El | Family::Fedora => &["qemu-kvm", "libvirt", "libvirt-client"],
        Family::Debian | Family::Ubuntu => {
            &["qemu-system-x86", "qemu-utils", "libvirt-daemon-system", "libvirt-clients", "dnsmasq-base"]
        }
        Family::Arch => &["qemu-desktop", "libvirt", "dnsmasq"],
        Family::Suse => &["qemu-kvm", "libvirt-daemon-qemu", "libvirt-client"],
    }
}

/// What a fresh install of this distribution runs.
fn is_modular_by_default(os: &Os) -> bool {
    match os.family {
        Family::El => os.major() >= 9,
        Family::Fedora => os.major() >= 35,
        // Leap 15.5 and later; Tumbleweed's version is a date.
        Family::Suse => (os.major(), os.minor()) >= (15, 5),
        Family::Debian | Family::Ubuntu | Family::Arch => false,
    }
}

impl Module for Libvirt {
    const NAME: &'static str = "libvirt";
    const SUMMARY: &'static str = "Install libvirt, run its daemons, set qemu.conf";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let settings = self.values()?;
        let os = host.os()?;
        let names: Vec<&str> = match &self.packages {
            Some(given) => given.iter().map(|name| name.0.as_str()).collect(),
            None => packages_of(&os).to_vec(),
        };
        let by_default = if is_modular_by_default(&os) { Daemons::Modular } else { Daemons::Monolithic };
        let mut plan = Plan::nothing();
        if !names.is_empty() {
            let wanted = if self.daemons == Daemons::Auto { by_default } else { self.daemons };
            let units = if wanted == Daemons::Modular { MODULAR } else { MONOLITHIC };
            plan = install(host, &Install { names: &names, units, ..Install::default() })?;
            if !plan.actions.is_empty() {
                plan.staged = true;
                return Ok(plan);
            }
        }
        let daemons = self.daemons(host, by_default)?;
        plan_settings(host, &mut plan, &settings, daemons)?;
        plan_units(host, &mut plan, daemons)?;
        plan.set("daemons", if daemons == Daemons::Modular { "modular" } else { "monolithic" });
        Ok(plan)
    }
}

impl Libvirt {
    fn values(&self) -> Result<Vec<(&str, Option<Value>)>> {
        let mut values = Vec::new();
        for (key, json) in &self.settings {
            let wrong = || {
                Error::parameters(format!("settings.{key}: {json} can't be written in qemu.conf"))
                    .hint("a value is a whole number, a string or a list of strings")
            };
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(Error::parameters(format!("settings: `{key}` can't be the name of a setting")));
            }
            let value = match json {
                Json::Null => None,
                Json::Bool(truth) => Some(Value::Number(i64::from(*truth))),
                Json::Number(number) => Some(Value::Number(number.as_i64().ok_or_else(wrong)?)),
                Json::String(text) => Some(Value::Text(text.clone())),
                Json::Array(list) => {
                    let texts: Option<Vec<String>> =
                        list.iter().map(|item| item.as_str().map(str::to_string)).collect();
                    Some(Value::List(texts.ok_or_else(wrong)?))
                }
                Json::Object(_) => return Err(wrong()),
            };
            if let Some(value) = &value {
                value.print().map_err(|why| Error::parameters(format!("settings.{key}: {why}")))?;
            }
            values.push((key.as_str(), value));
        }
        Ok(values)
    }

    /// Which daemons this machine is to run: what was asked for, else what it runs, else its distribution's.
    fn daemons(&self, host: &dyn Host, by_default: Daemons) -> Result<Daemons> {
        let in_use = |units: &[&str]| -> Result<bool> {
            for name in units {
                let unit = host.unit(name)?;
                if unit.active || unit.enabled == "enabled" {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let monolithic = in_use(&["libvirtd.service", "libvirtd.socket"])?;
        let modular = in_use(&["virtqemud.service", "virtqemud.socket"])?;
        let (other, name) = match self.daemons {
            Daemons::Monolithic => (modular, "virtqemud"),
            Daemons::Modular => (monolithic, "libvirtd"),
            Daemons::Auto => {
                let exists = |name: &str| host.unit(name).map(|unit| unit.exists);
                return Ok(match (monolithic, modular) {
                    (true, false) => Daemons::Monolithic,
                    (false, true) => Daemons::Modular,
                    _ if by_default == Daemons::Modular
                        && !exists("virtqemud.socket")?
                        && exists("libvirtd.service")? =>
                    {
                        Daemons::Monolithic
                    }
                    _ if by_default == Daemons::Monolithic
                        && !exists("libvirtd.service")?
                        && exists("virtqemud.socket")? =>
                    {
                        Daemons::Modular
                    }
                    _ => by_default,
                });
            }
        };
        if other {
            return Err(Error::refused(format!(
                "{name} is in use on this machine, and both sorts of daemons at once lose guests"
            ))
            .hint(
                "shut all guests down, disable the others (service …, enabled: false, state: stopped), then ask again",
            ));
        }
        Ok(self.daemons)
    }
}

fn plan_settings(host: &dyn Host, plan: &mut Plan, settings: &[(&str, Option<Value>)], daemons: Daemons) -> Result<()> {
    let pending = host.exists(PENDING)?;
    let before = host.read_text(CONF)?;
    let mut changes = false;
    if !settings.is_empty() {
        if before.is_none() && !host.exists("/etc/libvirt")? {
            return Err(Error::unknown(CONF, "the package brings it"));
        }
        let broken = |why: String| Error::failed(format!("{CONF} is not valid: {why}"));
        let mut text = before.clone().unwrap_or_default();
        for (key, value) in settings {
            text = match value {
                Some(value) => qemu_conf::set(&text, key, value).map_err(broken)?,
                None => qemu_conf::unset(&text, key).map_err(broken)?,
            };
        }
        changes = before.as_deref().unwrap_or_default() != text;
        if changes {
            if !pending {
                make_folders_quietly(host, plan)?;
                plan.push(write(PENDING, ""), Vec::new());
            }
            let diff = Diff::file(CONF, before.as_deref().map(str::as_bytes), Some(text.as_bytes()));
            plan.push(write(CONF, &text), vec![diff]);
        }
    }
    if changes || pending {
        let name = if daemons == Daemons::Modular { "virtqemud.service" } else { "libvirtd.service" };
        if host.unit(name)?.active {
            let run = Run::new(["systemctl", "try-restart", "--", name], Vec::new());
            plan.push(Op::Run(run), vec![Diff::changed("unit", name, "running", "restarted")]);
        }
        plan.push(Op::Remove { path: PENDING.to_string() }, Vec::new());
    }
    Ok(())
}

fn make_folders_quietly(host: &dyn Host, plan: &mut Plan) -> Result<()> {
    let mut folders = Plan::nothing();
    make_folders(host, &mut folders, "/var/lib/vfio-provision")?;
    for mut action in folders.actions {
        action.diffs.clear();
        plan.actions.push(action);
    }
    Ok(())
}

fn write(path: &str, content: &str) -> Op {
    Op::WriteFile {
        path: path.to_string(),
        content: Content::Bytes(content.as_bytes().to_vec()),
        mode: None,
        owner: None,
        group: None,
        validate: Vec::new(),
    }
}

fn plan_units(host: &dyn Host, plan: &mut Plan, daemons: Daemons) -> Result<()> {
    let units = if daemons == Daemons::Modular { MODULAR } else { MONOLITHIC };
    for name in units {
        let unit = host.unit(name)?;
        // The daemon ends when nobody talks to it, and its socket starts it again: that counts as running.
        let base = name.trim_end_matches(".service");
        let waits = name.ends_with(".service") && host.unit(&format!("{base}.socket"))?.active;
        let start = !(unit.active || waits);
        let enable = !["enabled", "static", "indirect", "alias", "generated"].contains(&unit.enabled.as_str());
        if !(start || enable) {
            continue;
        }
        let mut argv = vec!["systemctl"];
        let (verb, inverse): (&[&str], &[&str]) = match (enable, start) {
            (true, true) => (&["enable", "--now"], &["disable", "--now"]),
            (true, false) => (&["enable"], &["disable"]),
            _ => (&["start"], &["stop"]),
        };
        argv.extend(verb);
        argv.extend(["--", name]);
        let effect = Effect::Unit {
            name: (*name).to_string(),
            exists: Some(true),
            enabled: enable.then(|| "enabled".to_string()),
            active: start.then_some(true),
        };
        let words = |enabled: bool, active: bool| {
            let enabled = if enabled { "enabled" } else { "disabled" };
            format!("{enabled}, {}", if active { "running" } else { "stopped" })
        };
        let diff = Diff::changed("unit", *name, words(!enable, !start), words(true, true));
        let mut run = Run::new(argv, vec![effect]);
        let mut undo = vec!["systemctl"];
        undo.extend(inverse);
        undo.extend(["--", name]);
        run.undo = Some(undo.into_iter().map(String::from).collect());
        plan.push(Op::Run(run), vec![diff]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::host::{Model, Package, Unit};

    const CONF: &str = "# The user\n#user = \"root\"\n\ngroup = \"kvm\" # mine\n";

    fn host(os: &str) -> Machine {
        machine(&[("/etc/os-release", os), ("/etc/libvirt/qemu.conf", CONF), ("/var/lib/", "")])
    }

    fn running() -> Unit {
        Unit { exists: true, enabled: "enabled".to_string(), active: true }
    }

    #[test]
    fn installs_runs_and_sets() {
        let host = host("ID=centos\nVERSION_ID=7\n");
        let nvram =
            "/usr/share/edk2.git/ovmf-x64/OVMF_CODE-pure-efi.fd:/usr/share/edk2.git/ovmf-x64/OVMF_VARS-pure-efi.fd";
        let parameters =
            json!({"settings": {"user": "root", "nvram": [nvram], "group": null, "relaxed_acs_check": true}});
        let done = shown(&apply(&host, "libvirt", parameters.clone()).unwrap());
        for part in [
            "package libvirt",
            "+user = \"root\"\n",
            "-group = \"kvm\" # mine\n",
            "+relaxed_acs_check = 1\n",
            "unit libvirtd.service\ndisabled, stopped → enabled, running\n",
        ] {
            assert!(done.contains(part), "{part}: {done}");
        }
        // Nothing runs yet when the file is changed, so that nothing is restarted; and nothing is left to do.
        assert!(!done.contains("restarted"), "{done}");
        assert!(apply(&host, "libvirt", parameters).unwrap().is_empty());
        let done = shown(&apply(&host, "libvirt", json!({"settings": {"user": "qemu"}})).unwrap());
        assert!(done.contains("running → restarted"), "{done}");
    }

    #[test]
    fn a_restart_that_was_missed_is_made_up_for() {
        let host = host("ID=debian\nVERSION_ID=12\n");
        host.put_unit("libvirtd.service", running()).unwrap();
        let parameters = json!({"packages": [], "settings": {"user": "root"}});
        let next = plan(&host, "libvirt", parameters.clone()).unwrap();
        // Killed after the file was written: the first two actions only.
        for action in
            next.actions.iter().take_while(|action| !shown(std::slice::from_ref(action)).contains("restarted"))
        {
            crate::host::model::predict(&host, &action.op).unwrap();
        }
        let done = shown(&apply(&host, "libvirt", parameters).unwrap());
        assert_eq!(done, "unit libvirtd.service\nrunning → restarted\n");
    }

    #[test]
    fn one_sort_of_daemons() {
        let units = |host: &Machine, parameters| shown(&apply(host, "libvirt", parameters).unwrap());
        let fedora = host("ID=fedora\nVERSION_ID=41\n");
        assert!(units(&fedora, json!({})).contains("unit virtqemud.socket"));
        let old = host("ID=fedora\nVERSION_ID=41\n");
        old.put_unit("libvirtd.service", running()).unwrap();
        assert_eq!(units(&old, json!({"packages": []})), "");
        let error = plan(&old, "libvirt", json!({"packages": [], "daemons": "modular"})).unwrap_err();
        assert!(error.to_string().contains("libvirtd is in use"), "{error}");
        // Debian's daemon ends by itself and waits behind its socket.
        let debian = host("ID=debian\nVERSION_ID=12\n");
        debian.put_unit("libvirtd.service", Unit { active: false, ..running() }).unwrap();
        debian.put_unit("libvirtd.socket", running()).unwrap();
        assert_eq!(units(&debian, json!({"packages": []})), "");
    }

    #[test]
    fn what_the_package_brings_is_unknown_before() {
        let host = machine(&[("/etc/os-release", "ID=debian\nVERSION_ID=12\n")]);
        for name in ["qemu-system-x86", "qemu-utils", "libvirt-daemon-system", "libvirt-clients", "dnsmasq-base"] {
            let package = Package {
                version: Some("1".to_string()),
                ..serde_json::from_value(json!({"name": name, "version": null})).unwrap()
            };
            host.put_package(name, Some(package)).unwrap();
        }
        let error = plan(&host, "libvirt", json!({"settings": {"user": "root"}})).unwrap_err();
        assert!(error.is_unknown(), "{error}");
        for (settings, why) in [
            (json!({"a b": 1}), "can't be the name"),
            (json!({"a": 1.5}), "can't be written"),
            (json!({"a": [1]}), "can't be written"),
            (json!({"a": {"b": 1}}), "can't be written"),
            (json!({"a": "x\ny"}), "line break"),
        ] {
            let error = plan(&host, "libvirt", json!({"settings": settings})).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
