//! `tuned`: the profile by which tuned sets a machine up.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::service::Service;
use super::steps::Steps;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::packages::{Install, install};
use crate::modules::params::{List, Text};

/// Installs tuned, lets it run, and chooses its profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The profile, such as `virtual-host`, which is made for machines with guests. Needed unless `state: absent`.
    profile: Option<String>,
    /// The packages. Default: tuned. An empty list installs nothing.
    packages: Option<List<Text>>,
    /// `present` or `absent`, which puts back the profile that was there before and leaves the package. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// This profile is in force.
    #[default]
    Present,
    /// As before.
    Absent,
}

const UNIT: &str = "tuned.service";
const ACTIVE: &str = "/etc/tuned/active_profile";
const RECORD: &str = "tuned";
/// Where profiles are; from 2.23 on below `profiles`.
const PLACES: [&str; 4] = ["/etc/tuned/profiles", "/etc/tuned", "/usr/lib/tuned/profiles", "/usr/lib/tuned"];
/// Profiles that tuned's own package brings on every distribution.
const USUAL: [&str; 10] = [
    "accelerator-performance",
    "balanced",
    "desktop",
    "latency-performance",
    "network-latency",
    "network-throughput",
    "powersave",
    "throughput-performance",
    "virtual-guest",
    "virtual-host",
];

impl Module for Tuned {
    const NAME: &'static str = "tuned";
    const SUMMARY: &'static str = "Install tuned and choose its profile";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        match self.state {
            State::Present => self.present(&mut steps)?,
            State::Absent => absent(&mut steps)?,
        }
        Ok(steps.finish())
    }
}

fn active(host: &dyn Host) -> Result<String> {
    Ok(host.read_line(ACTIVE)?.unwrap_or_default())
}

fn profiles(host: &dyn Host) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for place in PLACES {
        for name in host.list(place)? {
            if host.exists(&format!("{place}/{name}/tuned.conf"))? && !found.contains(&name) {
                found.push(name);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `tuned-adm profile NAME`, or `tuned-adm off` where there was none.
fn adm(profile: &str) -> Vec<String> {
    let words: &[&str] = if profile.is_empty() { &["tuned-adm", "off"] } else { &["tuned-adm", "profile", profile] };
    words.iter().map(|word| (*word).to_string()).collect()
}

fn choose(steps: &mut Steps, before: &str, after: &str) -> Result<()> {
    let file = |path: &str, content: String| Effect::File { path: path.into(), content: Some(content), mode: None };
    let effects = vec![
        file(ACTIVE, if after.is_empty() { String::new() } else { format!("{after}\n") }),
        file("/etc/tuned/profile_mode", "manual\n".into()),
    ];
    let mut run = Run::new(adm(after), effects);
    run.undo = Some(adm(before));
    let words = |name: &str| if name.is_empty() { "none".to_string() } else { name.to_string() };
    steps.act(Op::Run(run), vec![Diff::changed("tuned", "profile", words(before), words(after))])
}

impl Tuned {
    fn present(&self, steps: &mut Steps) -> Result<()> {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_. ".contains(c));
        let Some(profile) = self
            .profile
            .as_deref()
            .map(str::trim)
            .filter(|name| !name.is_empty() && !name.starts_with('-') && !name.contains(odd))
        else {
            return Err(Error::parameters("`profile` is missing, or is no name such as `virtual-host`"));
        };
        for rival in ["power-profiles-daemon.service", "tlp.service"] {
            let unit = steps.host().unit(rival)?;
            if unit.active || unit.enabled == "enabled" {
                return Err(Error::refused(format!("{rival} runs on this machine, and sets the same things as tuned"))
                    .hint(format!("switch it off first: service, name: {rival}, enabled: false, state: stopped")));
            }
        }
        // Before anything is installed it is known what there was.
        if steps.kept(RECORD)?.is_none() {
            let unit = steps.host().unit(UNIT)?;
            let text = format!("{}\n{} {}\n", active(steps.host())?, unit.enabled == "enabled", unit.active);
            steps.keep(RECORD, Some(&text))?;
        }
        let names: Vec<&str> = match &self.packages {
            Some(given) => given.iter().map(|name| name.0.as_str()).collect(),
            None => vec!["tuned"],
        };
        if !names.is_empty() {
            // What is told of before is what every version of the package has.
            let usual = profile.split_whitespace().all(|name| USUAL.contains(&name));
            let effects: Vec<Effect> = profile
                .split_whitespace()
                .filter(|_| usual)
                .map(|name| Effect::File {
                    path: format!("/usr/lib/tuned/{name}/tuned.conf"),
                    content: None,
                    mode: None,
                })
                .collect();
            let wanted = Install { names: &names, units: &[UNIT], effects: &effects, ..Install::default() };
            let packages = install(steps.host(), &wanted)?;
            if !packages.actions.is_empty() {
                steps.extend(packages)?;
                steps.plan().staged = true;
                return Ok(());
            }
        }
        let known = profiles(steps.host())?;
        for name in profile.split_whitespace() {
            // A recorded machine may have the package without its files: what every version brings is there then.
            if known.iter().any(|known| known == name) || (known.is_empty() && USUAL.contains(&name)) {
                continue;
            }
            if known.is_empty() {
                return Err(Error::unknown(format!("the profile {name}"), "a package brings it"));
            }
            return Err(Error::refused(format!("tuned has no profile `{name}` on this machine"))
                .hint(format!("it has: {}; others are in packages such as tuned-profiles-nfv", known.join(", "))));
        }
        if !steps.module::<Service>(json!({"name": UNIT, "enabled": true, "state": "started"}))? {
            return Ok(());
        }
        if profile.contains("cpu-partitioning") || profile.contains("realtime") {
            steps.plan().notes.push(format!(
                "the profile {profile} has arguments of the kernel of its own, which count from the next boot on"
            ));
        }
        let now = active(steps.host())?;
        if now != profile {
            choose(steps, &now, profile)?;
        }
        steps.plan().set("profile", profile);
        Ok(())
    }
}

fn absent(steps: &mut Steps) -> Result<()> {
    let Some(kept) = steps.kept(RECORD)? else { return Ok(()) };
    let mut lines = kept.lines();
    let before = lines.next().unwrap_or("").to_string();
    let was = lines.next().unwrap_or("");
    if steps.host().unit(UNIT)?.exists {
        let now = active(steps.host())?;
        if now != before {
            choose(steps, &now, &before)?;
        }
        let (enabled, active) = (was.starts_with("true"), was.ends_with("true"));
        let state = if active { "started" } else { "stopped" };
        steps.module::<Service>(json!({"name": UNIT, "enabled": enabled, "state": state}))?;
    }
    steps.keep(RECORD, None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::host::{Model, Unit};

    fn host(more: &[(&str, &str)]) -> Machine {
        let mut files = vec![("/etc/os-release", "ID=centos\nVERSION_ID=7\n"), ("/var/lib/", ""), ("/etc/tuned/", "")];
        files.extend(more);
        machine(&files)
    }

    #[test]
    fn installed_started_and_chosen_then_as_before() {
        let host = host(&[]);
        let done = shown(&apply(&host, "tuned", json!({"profile": "virtual-host"})).unwrap());
        assert!(done.contains("package tuned"), "{done}");
        assert!(done.ends_with("stopped → running\ntuned profile\nnone → virtual-host\n"), "{done}");
        assert!(apply(&host, "tuned", json!({"profile": "virtual-host"})).unwrap().is_empty());
        let done = shown(&apply(&host, "tuned", json!({"state": "absent"})).unwrap());
        assert!(
            done.starts_with("tuned profile\nvirtual-host → none\n") && done.contains("running → stopped"),
            "{done}"
        );
        assert!(apply(&host, "tuned", json!({"state": "absent"})).unwrap().is_empty());
    }

    #[test]
    fn the_profile_that_was_there_comes_back() {
        let host = host(&[
            ("/etc/tuned/active_profile", "balanced\n"),
            ("/usr/lib/tuned/balanced/tuned.conf", ""),
            ("/usr/lib/tuned/profiles/virtual-host/tuned.conf", ""),
        ]);
        host.put_unit(UNIT, Unit { exists: true, enabled: "enabled".into(), active: true }).unwrap();
        let asked = json!({"profile": "virtual-host", "packages": []});
        assert_eq!(shown(&apply(&host, "tuned", asked).unwrap()), "tuned profile\nbalanced → virtual-host\n");
        let done = apply(&host, "tuned", json!({"state": "absent"})).unwrap();
        assert_eq!(shown(&done), "tuned profile\nvirtual-host → balanced\n");
    }

    #[test]
    fn refusals() {
        let host = host(&[("/usr/lib/tuned/balanced/tuned.conf", "")]);
        for (parameters, why) in [
            (json!({}), "`profile` is missing"),
            (json!({"profile": "--x"}), "no name"),
            (json!({"profile": "turbo", "packages": []}), "it has: balanced"),
        ] {
            let error = plan(&host, "tuned", parameters).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        host.put_unit("tlp.service", Unit { exists: true, enabled: "enabled".into(), active: false }).unwrap();
        let error = plan(&host, "tuned", json!({"profile": "balanced"})).unwrap_err().to_string();
        assert!(error.contains("tlp.service runs"), "{error}");
        let fresh = machine(&[("/etc/os-release", "ID=debian\nVERSION_ID=12\n"), ("/var/lib/", "")]);
        let asked = json!({"profile": "realtime-virtual-host", "packages": []});
        assert!(plan(&fresh, "tuned", asked).unwrap_err().is_unknown());
    }
}
