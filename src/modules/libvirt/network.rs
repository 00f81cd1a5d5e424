//! `libvirt_network`: a virtual network.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::domain::compare::merge;
use super::domain::render::Wanted;
use super::virsh;
use super::xml::{self, Element};
use crate::change::{Diff, Effect, Op, Plan};
use crate::host::{Error, Host, Result, Virt, VirtKind};
use crate::modules::Module;
use crate::modules::params::{Flag, List, yes};

/// Defines a virtual network of libvirt's, starts it, and lets it start with the host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtNetwork {
    /// Its name.
    name: String,
    /// `present` (default) or `absent`.
    #[serde(default)]
    state: State,
    /// `nat` (default), `route`, `open`, `isolated`, or `bridge` for a bridge that the host has already.
    #[serde(default)]
    mode: Mode,
    /// The bridge's name. Needed for mode `bridge`; libvirt makes one up for a new network of another mode.
    bridge: Option<String>,
    /// The host's own address with its prefix length, such as "192.168.150.1/24".
    address: Option<String>,
    /// Addresses that guests get.
    dhcp: Option<Dhcp>,
    /// The DNS domain of the guests.
    domain: Option<String>,
    /// Does it run? Yes by default.
    #[serde(default = "yes")]
    active: Flag,
    /// Does it start with the host? Yes by default.
    #[serde(default = "yes")]
    autostart: Flag,
}

/// Should there be such a network?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Yes.
    #[default]
    Present,
    /// No.
    Absent,
}

/// How guests reach the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Behind the host's address.
    #[default]
    Nat,
    /// Routed, with the host's firewall.
    Route,
    /// Routed, without rules of libvirt's.
    Open,
    /// Only each other and the host.
    Isolated,
    /// Over a bridge that the host has.
    Bridge,
}

/// Addresses that guests get.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Dhcp {
    /// The first one.
    start: String,
    /// The last one.
    end: String,
    /// Fixed ones.
    #[serde(default)]
    hosts: List<Lease>,
}

/// A guest's fixed address.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lease {
    /// The guest's MAC address.
    mac: String,
    /// The address it gets.
    ip: String,
    /// Its name.
    name: Option<String>,
}

fn address(what: &str, text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::parameters(format!("{what}: `{text}` is not an IP address")))
}

impl LibvirtNetwork {
    fn render(&self) -> Result<Wanted> {
        let mut root = Element::new("network").child(Element::new("name").containing(self.name.as_str()));
        let mut absent = Vec::new();
        let mode = match self.mode {
            Mode::Nat => Some("nat"),
            Mode::Route => Some("route"),
            Mode::Open => Some("open"),
            Mode::Bridge => Some("bridge"),
            Mode::Isolated => None,
        };
        match mode {
            Some(mode) => root = root.child(Element::new("forward").with("mode", mode)),
            None => absent.push("forward"),
        }
        if self.mode == Mode::Bridge {
            if self.bridge.is_none() {
                return Err(Error::parameters("mode bridge needs the name of a bridge: give `bridge`"));
            }
            if self.address.is_some() || self.dhcp.is_some() || self.domain.is_some() {
                return Err(Error::parameters(
                    "mode bridge has no addresses of its own: leave address, dhcp and domain out",
                ));
            }
            absent.extend(["ip", "domain"]);
        }
        root = root.child_some(self.bridge.as_ref().map(|bridge| Element::new("bridge").with("name", bridge)));
        root = root.child_some(self.domain.as_ref().map(|domain| Element::new("domain").with("name", domain)));
        match (&self.address, &self.dhcp) {
            (Some(text), dhcp) => root = root.child(ip(text, dhcp.as_ref())?),
            (None, Some(_)) => return Err(Error::parameters("dhcp needs an address of the host: give `address`")),
            (None, None) if self.mode != Mode::Bridge && self.mode != Mode::Isolated => {
                return Err(Error::parameters("address is missing: give for example address: \"192.168.150.1/24\""));
            }
            (None, None) => {}
        }
        Ok(Wanted { intent: root.clone(), xml: root, absent })
    }

    fn effect(&self, state: Option<&Virt>) -> Vec<Effect> {
        vec![Effect::Virt { kind: VirtKind::Network, name: self.name.clone(), state: state.cloned() }]
    }

    fn plan_definition(&self, plan: &mut Plan, old: Option<&Virt>) -> Result<Virt> {
        let wanted = self.render()?;
        let mut state = old.cloned().unwrap_or_default();
        let (xml, diffs) = match old {
            None => (wanted.xml.clone(), vec![Diff::added("network", &self.name, wanted.xml.print())]),
            Some(old) => {
                let current = xml::parse(&old.xml).map_err(|why| self.unreadable(&why))?;
                let merged = merge(&wanted, &current, None);
                let diffs = merged.changes.into_iter().map(|change| Diff {
                    kind: "network".to_string(),
                    path: format!("{}: {}", self.name, change.path),
                    before: change.before,
                    after: change.after,
                });
                (merged.xml, diffs.collect())
            }
        };
        if !diffs.is_empty() {
            state.xml = xml.print();
            let mut run = virsh(&["net-define", "/dev/stdin"], self.effect(Some(&state)));
            run.stdin = Some(xml.print());
            if old.is_none() {
                run.undo = Some(virsh(&["net-undefine", &self.name], Vec::new()).argv);
            } else if state.active {
                plan.warnings.push(format!(
                    "the network {} is running: what changed takes effect when it is stopped and started again",
                    self.name
                ));
                plan.set("restart_required", true);
            }
            plan.push(Op::Run(run), diffs);
        }
        Ok(state)
    }

    fn unreadable(&self, why: &str) -> Error {
        Error::failed(format!("can't read the XML that libvirt has of the network {}: {why}", self.name))
    }

    fn plan_absent(&self, current: Option<Virt>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(mut state) = current else { return plan };
        if state.active {
            state.active = false;
            let mut run = virsh(&["net-destroy", &self.name], self.effect(Some(&state)));
            run.undo = Some(virsh(&["net-start", &self.name], Vec::new()).argv);
            plan.push(
                Op::Run(run),
                vec![Diff::changed("network", format!("{}: state", self.name), "running", "stopped")],
            );
        }
        let run = virsh(&["net-undefine", &self.name], self.effect(None));
        plan.push(Op::Run(run), vec![Diff::removed("network", &self.name, state.xml)]);
        plan
    }
}

fn ip(text: &str, dhcp: Option<&Dhcp>) -> Result<Element> {
    let wrong = || {
        Error::parameters(format!("address: `{text}` is not an address with its prefix, such as \"192.168.150.1/24\""))
    };
    let (host, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let host: IpAddr = host.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let mut element = match host {
        IpAddr::V4(v4) if prefix <= 32 => {
            // libvirt prints the netmask when it was given one, and the prefix when that: it keeps what it was told.
            Element::new("ip").with("address", v4.to_string()).with("prefix", prefix.to_string())
        }
        IpAddr::V6(v6) if prefix <= 128 => {
            Element::new("ip").with("family", "ipv6").with("address", v6.to_string()).with("prefix", prefix.to_string())
        }
        _ => return Err(wrong()),
    };
    if let Some(dhcp) = dhcp {
        let (start, end) = (address("dhcp.start", &dhcp.start)?, address("dhcp.end", &dhcp.end)?);
        if start.is_ipv4() != host.is_ipv4() || end.is_ipv4() != host.is_ipv4() || start > end {
            return Err(Error::parameters(format!("dhcp: {start} to {end} is no range of addresses beside {host}")));
        }
        let range = Element::new("range").with("start", start.to_string()).with("end", end.to_string());
        let mut list = Element::new("dhcp").child(range);
        for lease in dhcp.hosts.iter() {
            list = list.child(
                Element::new("host")
                    .with("mac", lease.mac.to_ascii_lowercase())
                    .with_some("name", lease.name.as_ref())
                    .with("ip", address("dhcp.hosts", &lease.ip)?.to_string()),
            );
        }
        element = element.child(list);
    }
    Ok(element)
}

impl Module for LibvirtNetwork {
    const NAME: &'static str = "libvirt_network";
    const SUMMARY: &'static str = "Define and start a virtual network of libvirt's";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        if self.name.is_empty() || self.name.starts_with('-') || self.name.contains(['/', '\n']) {
            return Err(Error::parameters(format!("`{}` can't be the name of a network", self.name)));
        }
        let current = host.virt(VirtKind::Network, &self.name)?;
        if self.state == State::Absent {
            return Ok(self.plan_absent(current));
        }
        let mut plan = Plan::nothing();
        let mut state = self.plan_definition(&mut plan, current.as_ref())?;
        if self.autostart.0 != state.autostart {
            state.autostart = self.autostart.0;
            let (before, after) = if state.autostart { ("no", "yes") } else { ("yes", "no") };
            let mut argv = vec!["net-autostart", self.name.as_str()];
            argv.extend((!state.autostart).then_some("--disable"));
            let mut run = virsh(&argv, self.effect(Some(&state)));
            let mut undo = vec!["net-autostart", self.name.as_str()];
            undo.extend(state.autostart.then_some("--disable"));
            run.undo = Some(virsh(&undo, Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("network", format!("{}: autostart", self.name), before, after)]);
        }
        if self.active.0 != state.active {
            state.active = self.active.0;
            let (verb, before, after) =
                if state.active { ("net-start", "stopped", "running") } else { ("net-destroy", "running", "stopped") };
            let mut run = virsh(&[verb, &self.name], self.effect(Some(&state)));
            let undo = if state.active { "net-destroy" } else { "net-start" };
            run.undo = Some(virsh(&[undo, &self.name], Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("network", format!("{}: state", self.name), before, after)]);
        }
        let xml = xml::parse(&state.xml).map_err(|why| self.unreadable(&why))?;
        plan.set("name", self.name.as_str());
        plan.set("bridge", xml.get("bridge").and_then(|bridge| bridge.attribute("name")));
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{apply, machine, plan, shown};
    use crate::host::{Host, Model, Virt, VirtKind};

    #[test]
    fn defined_started_and_changed() {
        let host = machine(&[]);
        let mut parameters = json!({"name": "lab", "address": "192.168.150.1/24",
            "dhcp": {"start": "192.168.150.10", "end": "192.168.150.99"}});
        let done = shown(&apply(&host, "libvirt_network", parameters.clone()).unwrap());
        assert!(done.contains("+  <forward mode='nat'/>"), "{done}");
        assert!(done.contains("network lab: state\nstopped → running\n"), "{done}");
        // What libvirt adds is left alone.
        let mut virt = host.virt(VirtKind::Network, "lab").unwrap().unwrap();
        virt.xml = virt.xml.replace(
            "  <forward mode='nat'/>\n",
            "  <uuid>1</uuid>\n  <forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>\n  \
             <bridge name='virbr1' stp='on' delay='0'/>\n",
        );
        host.put_virt(VirtKind::Network, "lab", Some(virt)).unwrap();
        assert!(apply(&host, "libvirt_network", parameters.clone()).unwrap().is_empty());
        parameters["dhcp"]["end"] = json!("192.168.150.200");
        let next = plan(&host, "libvirt_network", parameters.clone()).unwrap();
        assert_eq!(next.warnings.len(), 1);
        let done = shown(&apply(&host, "libvirt_network", parameters.clone()).unwrap());
        assert_eq!(done, "network lab: ip dhcp range end\n192.168.150.99 → 192.168.150.200\n");
        parameters["mode"] = json!("isolated");
        let done = shown(&apply(&host, "libvirt_network", parameters.clone()).unwrap());
        assert!(done.starts_with("network lab: forward\n"), "{done}");
        let done = apply(&host, "libvirt_network", json!({"name": "lab", "state": "absent"})).unwrap();
        assert_eq!(done.len(), 2);
        assert_eq!(host.virt(VirtKind::Network, "lab").unwrap(), None::<Virt>);
    }

    #[test]
    fn parameters_that_make_no_sense() {
        for (parameters, why) in [
            (json!({"name": "a"}), "address is missing"),
            (json!({"name": "a", "mode": "bridge"}), "give `bridge`"),
            (
                json!({"name": "a", "mode": "bridge", "bridge": "br0", "address": "10.0.0.1/8"}),
                "no addresses of its own",
            ),
            (json!({"name": "a", "address": "10.0.0.1"}), "with its prefix"),
            (json!({"name": "a", "address": "10.0.0.1/33"}), "with its prefix"),
            (
                json!({"name": "a", "address": "10.0.0.1/8", "dhcp": {"start": "10.0.0.9", "end": "10.0.0.2"}}),
                "is no range",
            ),
        ] {
            let error = plan(&machine(&[]), "libvirt_network", parameters).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
