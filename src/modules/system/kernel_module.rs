//! `modprobe`: a kernel module is loaded, now and at every boot.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{put_text, with_line};
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Result};
use crate::modules::Module;

/// Loads or unloads a kernel module, and lets it be loaded at every boot.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Modprobe {
    /// The module, such as `vfio-pci`.
    name: String,
    /// Its parameters, such as `nested=1`. With `persistent: present` they are written to /etc/modprobe.d too.
    #[serde(default)]
    params: String,
    /// `present` loads it now, `absent` unloads it. Default: present.
    #[serde(default)]
    state: State,
    /// `present` has it loaded at every boot (/etc/modules-load.d/NAME.conf), `absent` takes that back, `disabled` leaves
    /// the files alone. Default: disabled.
    #[serde(default)]
    persistent: Persistent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Loaded.
    #[default]
    Present,
    /// Not loaded.
    Absent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Persistent {
    /// At every boot.
    Present,
    /// Not at boot.
    Absent,
    /// The files are left alone.
    #[default]
    Disabled,
}

/// The kernel takes `-` and `_` for the same.
fn plain(name: &str) -> String {
    name.trim().replace('-', "_")
}

/// Is it part of the running kernel itself?
fn is_built_in(host: &dyn Host, name: &str) -> Result<bool> {
    let Some(release) = host.read_line("/proc/sys/kernel/osrelease")? else { return Ok(false) };
    let list = host.read(&format!("/lib/modules/{release}/modules.builtin"))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&list).lines().any(|line| {
        let file = line.trim().rsplit('/').next().unwrap_or("");
        plain(file.strip_suffix(".ko").unwrap_or(file)) == name
    }))
}

/// Is this a line of modules-load.d(5) that names the module?
fn names(line: &str, module: &str) -> bool {
    let line = line.trim();
    // /etc/modules of Debian may have parameters behind the name.
    !line.starts_with(['#', ';']) && line.split_whitespace().next().is_some_and(|word| plain(word) == module)
}

/// The parameters of an `options` line of modprobe.d(5) for this module.
fn options<'a>(line: &'a str, module: &str) -> Option<Vec<&'a str>> {
    let mut words = line.split_whitespace();
    (words.next() == Some("options") && words.next().is_some_and(|word| plain(word) == module)).then(|| words.collect())
}

impl Modprobe {
    fn plan_files(&self, host: &dyn Host, plan: &mut Plan, module: &str) -> Result<()> {
        let own = format!("/etc/modules-load.d/{}.conf", self.name);
        let own_options = format!("/etc/modprobe.d/{}.conf", self.name);
        let load = host.read_text(&own)?;
        let set = host.read_text(&own_options)?;
        if self.persistent == Persistent::Present {
            let mut places: Vec<String> = host
                .list("/etc/modules-load.d")?
                .into_iter()
                .map(|file| format!("/etc/modules-load.d/{file}"))
                .collect();
            places.push("/etc/modules".into());
            let mut known = false;
            for place in places {
                let text = host.read(&place)?.unwrap_or_default();
                known |= String::from_utf8_lossy(&text).lines().any(|line| names(line, module));
            }
            if !known {
                let after = with_line(load.as_deref().unwrap_or(""), &self.name);
                put_text(host, plan, &own, load.as_deref(), Some(&after))?;
            }
            let wanted: Vec<&str> = self.params.split_whitespace().collect();
            if !wanted.is_empty() {
                let text = set.as_deref().unwrap_or("");
                let line = format!("options {} {}", self.name, wanted.join(" "));
                let has = text.lines().any(|old| options(old, module).is_some_and(|old| old == wanted));
                if !has {
                    let kept: String =
                        text.split_inclusive('\n').filter(|line| options(line, module).is_none()).collect();
                    put_text(host, plan, &own_options, set.as_deref(), Some(&with_line(&kept, &line)))?;
                }
            }
            return Ok(());
        }
        let without = |text: &str, ours: &dyn Fn(&str) -> bool| -> Option<String> {
            let rest: String = text.split_inclusive('\n').filter(|line| !ours(line)).collect();
            (!rest.trim().is_empty()).then_some(rest)
        };
        if let Some(text) = load.as_deref().filter(|text| text.lines().any(|line| names(line, module))) {
            put_text(host, plan, &own, Some(text), without(text, &|line| names(line, module)).as_deref())?;
        }
        if let Some(text) = set.as_deref().filter(|text| text.lines().any(|line| options(line, module).is_some())) {
            let rest = without(text, &|line| options(line, module).is_some());
            put_text(host, plan, &own_options, Some(text), rest.as_deref())?;
        }
        Ok(())
    }

    /// A loaded module keeps the parameters it was loaded with.
    fn warn_of_other_parameters(&self, host: &dyn Host, plan: &mut Plan, module: &str) -> Result<()> {
        for (key, wanted) in self.params.split_whitespace().filter_map(|param| param.split_once('=')) {
            let path = format!("/sys/module/{module}/parameters/{key}");
            let Some(now) = host.read_line(&path)? else { continue };
            let bool_of = |text: &str| match text {
                "Y" | "y" | "1" => Some(true),
                "N" | "n" | "0" => Some(false),
                _ => None,
            };
            let same = now == wanted || (bool_of(&now).is_some() && bool_of(&now) == bool_of(wanted));
            if !same {
                plan.warnings.push(format!(
                    "{} is loaded with {key}={now}; {key}={wanted} counts when it is loaded again, at the latest after a reboot",
                    self.name
                ));
            }
        }
        Ok(())
    }
}

impl Module for Modprobe {
    const NAME: &'static str = "modprobe";
    const SUMMARY: &'static str = "Load or unload a kernel module, now and at every boot";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let module = plain(&self.name);
        if module.is_empty()
            || !module.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            || self.name.starts_with('-')
        {
            return Err(Error::parameters(format!("`{}` is not the name of a kernel module", self.name)));
        }
        if self.params.contains('\n') {
            return Err(Error::parameters("`params` has more than one line"));
        }
        let mut plan = Plan::nothing();
        if self.persistent != Persistent::Disabled {
            self.plan_files(host, &mut plan, &module)?;
        }
        let folder = format!("/sys/module/{module}");
        let loaded = host.exists(&folder)?;
        match self.state {
            State::Present if loaded => self.warn_of_other_parameters(host, &mut plan, &module)?,
            State::Present if is_built_in(host, &module)? => {}
            State::Present => {
                let words = ["modprobe", self.name.as_str()].into_iter().chain(self.params.split_whitespace());
                let mut run = Run::new(words, vec![Effect::Folder { path: folder }]);
                run.undo = Some(["modprobe", "-r", self.name.as_str()].map(String::from).to_vec());
                let after = if self.params.trim().is_empty() { "loaded" } else { self.params.trim() };
                plan.push(Op::Run(run), vec![Diff::added("kernel_module", &self.name, after)]);
            }
            State::Absent if is_built_in(host, &module)? => {
                return Err(Error::refused(format!("{} is built into the kernel and can't be unloaded", self.name)));
            }
            State::Absent if loaded => {
                let mut run = Run::new(["modprobe", "-r", self.name.as_str()], vec![Effect::Gone { path: folder }]);
                run.undo = Some(["modprobe", self.name.as_str()].map(String::from).to_vec());
                plan.push(Op::Run(run), vec![Diff::removed("kernel_module", &self.name, "loaded")]);
            }
            State::Absent => {}
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::Host;
    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn loaded_now_and_at_boot_and_taken_back() {
        let machine = machine(&[("/etc/modules-load.d/", ""), ("/etc/modprobe.d/", "")]);
        let parameters = json!({"name": "kvm-intel", "params": "nested=1", "persistent": "present"});
        let done = apply(&machine, "modprobe", parameters).unwrap();
        assert!(shown(&done).ends_with("kernel_module kvm-intel\n+ nested=1\n"), "{}", shown(&done));
        let read = |path: &str| machine.read_text(path).unwrap();
        assert_eq!(read("/etc/modules-load.d/kvm-intel.conf").as_deref(), Some("kvm-intel\n"));
        assert_eq!(read("/etc/modprobe.d/kvm-intel.conf").as_deref(), Some("options kvm-intel nested=1\n"));
        apply(&machine, "modprobe", json!({"name": "kvm_intel", "state": "absent"})).unwrap();
        assert!(!machine.exists("/sys/module/kvm_intel").unwrap());
        apply(&machine, "modprobe", json!({"name": "kvm-intel", "state": "absent", "persistent": "absent"})).unwrap();
        assert_eq!(read("/etc/modules-load.d/kvm-intel.conf"), None);
    }

    #[test]
    fn what_is_built_in_or_named_elsewhere_is_there() {
        let machine = machine(&[
            ("/proc/sys/kernel/osrelease", "6.1.0\n"),
            ("/lib/modules/6.1.0/modules.builtin", "kernel/drivers/vfio/vfio-pci.ko\n"),
            ("/etc/modules", "# x\nvfio_pci ids=1:2\n"),
        ]);
        let parameters = json!({"name": "vfio-pci", "persistent": "present"});
        assert!(apply(&machine, "modprobe", parameters).unwrap().is_empty());
        assert!(plan(&machine, "modprobe", json!({"name": "vfio-pci", "state": "absent"})).is_err());
    }

    #[test]
    fn other_lines_stay_and_other_parameters_are_told() {
        let machine = machine(&[
            ("/etc/modprobe.d/kvm.conf", "# mine\noptions kvm halt_poll_ns=0\noptions kvm_intel nested=0\n"),
            ("/etc/modules-load.d/kvm.conf", "kvm\n"),
            ("/sys/module/kvm/parameters/ignore_msrs", "N\n"),
        ]);
        let parameters = json!({"name": "kvm", "params": "ignore_msrs=1", "persistent": "present"});
        let answer = plan(&machine, "modprobe", parameters.clone()).unwrap();
        assert_eq!(answer.warnings.len(), 1);
        apply(&machine, "modprobe", parameters).unwrap();
        assert_eq!(
            machine.read_text("/etc/modprobe.d/kvm.conf").unwrap().as_deref(),
            Some("# mine\noptions kvm_intel nested=0\noptions kvm ignore_msrs=1\n")
        );
        assert!(plan(&machine, "modprobe", json!({"name": "../x"})).is_err());
    }
}
