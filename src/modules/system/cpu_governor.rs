//! `cpu_governor`: how the kernel chooses the speed of the processors.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::steps::Steps;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Result};
use crate::modules::Module;

/// Sets how the kernel chooses the speed of the processors, now and at every boot.
///
/// Where tuned runs, its profile decides; use `tuned` there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuGovernor {
    /// The governor, such as `performance` or `schedutil`. Needed unless `state: absent`.
    governor: Option<String>,
    /// `present` or `absent`, which puts back those that were there before. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Every processor has it.
    #[default]
    Present,
    /// As before.
    Absent,
}

const CPUS: &str = "/sys/devices/system/cpu";
const UNIT: &str = "vfio-provision-governor.service";
const UNIT_FILE: &str = "/etc/systemd/system/vfio-provision-governor.service";
const RECORD: &str = "cpu_governor";

/// The unit that sets it at boot: late enough for the modules of cpufreq, which udev loads.
fn unit(governor: &str) -> String {
    format!(
        "# Written by vfio-provision (cpu_governor); changes are overwritten.\n\
         [Unit]\n\
         Description=Speed of the processors: {governor}\n\
         ConditionPathExistsGlob={CPUS}/cpu*/cpufreq/scaling_governor\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=/bin/sh -c 'echo {governor} | tee {CPUS}/cpu*/cpufreq/scaling_governor >/dev/null'\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

/// The governor of every processor, by its file.
fn governors(host: &dyn Host) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for name in host.list(CPUS)? {
        if name.strip_prefix("cpu").is_none_or(|rest| rest.parse::<u32>().is_err()) {
            continue;
        }
        let path = format!("{CPUS}/{name}/cpufreq/scaling_governor");
        if let Some(now) = host.read_line(&path)? {
            found.insert(path, now);
        }
    }
    Ok(found)
}

impl Module for CpuGovernor {
    const NAME: &'static str = "cpu_governor";
    const SUMMARY: &'static str = "Set how the kernel chooses the speed of the processors";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        match self.state {
            State::Present => self.present(&mut steps)?,
            State::Absent => absent(&mut steps)?,
        }
        Ok(steps.finish())
    }
}

impl CpuGovernor {
    fn present(&self, steps: &mut Steps) -> Result<()> {
        let Some(governor) = self.governor.as_deref().filter(|name| is_name(name)) else {
            return Err(Error::parameters("`governor` is missing, or is no name such as `performance`"));
        };
        let tuned = steps.host().unit("tuned.service")?;
        if tuned.active || tuned.enabled == "enabled" {
            return Err(Error::refused("tuned runs on this machine and sets the governor by its profile")
                .hint("choose a profile with `tuned`, such as virtual-host, or switch tuned off first"));
        }
        let now = governors(steps.host())?;
        if now.is_empty() {
            steps.plan().warnings.push(
                "nothing on this machine changes the speed of the processors (no cpufreq): it is a guest itself, or the \
                 firmware does it"
                    .into(),
            );
            return Ok(());
        }
        for path in now.keys() {
            let list = path.replace("scaling_governor", "scaling_available_governors");
            let known = steps.host().read_line(&list)?.unwrap_or_default();
            if !known.is_empty() && !known.split_whitespace().any(|name| name == governor) {
                return Err(Error::refused(format!("the kernel has no governor `{governor}` on this machine"))
                    .hint(format!("it has: {known}")));
            }
        }
        if steps.kept(RECORD)?.is_none() {
            let text: String = now.iter().map(|(path, name)| format!("{path} {name}\n")).collect();
            steps.keep(RECORD, Some(&text))?;
        }
        steps.file(UNIT_FILE, Some(&unit(governor)), None)?;
        if steps.host().unit(UNIT)?.enabled != "enabled" {
            let effect =
                Effect::Unit { name: UNIT.into(), exists: Some(true), enabled: Some("enabled".into()), active: None };
            let mut run = Run::new(["systemctl", "enable", "--", UNIT], vec![effect]);
            run.undo = Some(["systemctl", "disable", "--", UNIT].map(String::from).to_vec());
            steps.act(Op::Run(run), vec![Diff::changed("unit", UNIT, "disabled", "enabled")])?;
        }
        for (path, before) in now {
            set(steps, &path, &before, governor)?;
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn set(steps: &mut Steps, path: &str, before: &str, after: &str) -> Result<()> {
    if before == after {
        return Ok(());
    }
    let effects = vec![Effect::File { path: path.into(), content: Some(format!("{after}\n")), mode: None }];
    let name = path.strip_prefix("/sys/devices/system/cpu/").unwrap_or(path).split('/').next().unwrap_or(path);
    let diff = Diff::changed("governor", name, before, after);
    steps.act(Op::Poke { path: path.into(), value: after.into(), effects }, vec![diff])
}

fn absent(steps: &mut Steps) -> Result<()> {
    let kept = steps.kept(RECORD)?;
    let there = steps.host().unit(UNIT)?;
    if steps.host().exists(UNIT_FILE)? {
        if there.enabled == "enabled" {
            let effect =
                Effect::Unit { name: UNIT.into(), exists: None, enabled: Some("disabled".into()), active: Some(false) };
            let mut run = Run::new(["systemctl", "disable", "--now", "--", UNIT], vec![effect]);
            run.undo = Some(["systemctl", "enable", "--", UNIT].map(String::from).to_vec());
            steps.act(Op::Run(run), vec![Diff::changed("unit", UNIT, "enabled", "disabled")])?;
        }
        steps.file(UNIT_FILE, None, None)?;
    }
    let Some(kept) = kept else { return Ok(()) };
    let now = governors(steps.host())?;
    for line in kept.lines() {
        if let Some((path, before)) = line.split_once(' ')
            && let Some(now) = now.get(path)
        {
            set(steps, path, now, before)?;
        }
    }
    steps.keep(RECORD, None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::host::{Model, Unit};

    fn host() -> Machine {
        machine(&[
            ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
            ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_available_governors", "performance powersave\n"),
            ("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "schedutil\n"),
            ("/sys/devices/system/cpu/cpufreq/policy0/x", ""),
            ("/etc/systemd/system/", ""),
            ("/var/lib/", ""),
        ])
    }

    #[test]
    fn set_now_and_at_boot_and_taken_back() {
        let host = host();
        let done = apply(&host, "cpu_governor", json!({"governor": "performance"})).unwrap();
        let text = shown(&done);
        assert!(
            text.ends_with("governor cpu0\npowersave → performance\ngovernor cpu1\nschedutil → performance\n"),
            "{text}"
        );
        assert!(text.contains("unit vfio-provision-governor.service\ndisabled → enabled"), "{text}");
        let done = shown(&apply(&host, "cpu_governor", json!({"state": "absent"})).unwrap());
        assert!(
            done.ends_with("governor cpu0\nperformance → powersave\ngovernor cpu1\nperformance → schedutil\n"),
            "{done}"
        );
        assert!(!host.exists(UNIT_FILE).unwrap());
        assert!(apply(&host, "cpu_governor", json!({"state": "absent"})).unwrap().is_empty());
    }

    #[test]
    fn refusals_and_a_machine_without_any() {
        let host = host();
        for (parameters, why) in [
            (json!({}), "`governor` is missing"),
            (json!({"governor": "a b"}), "no name"),
            (json!({"governor": "ondemand"}), "it has: performance powersave"),
        ] {
            let error = plan(&host, "cpu_governor", parameters).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        host.put_unit("tuned.service", Unit { exists: true, enabled: "enabled".into(), active: true }).unwrap();
        let error = plan(&host, "cpu_governor", json!({"governor": "performance"})).unwrap_err().to_string();
        assert!(error.contains("tuned runs"), "{error}");
        let none = plan(&machine(&[]), "cpu_governor", json!({"governor": "performance"})).unwrap();
        assert_eq!((none.actions.len(), none.warnings.len()), (0, 1));
    }

    #[test]
    fn systemd_reads_the_unit() {
        crate::modules::system::steps::verified(UNIT, &unit("performance"));
    }
}
