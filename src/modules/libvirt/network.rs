//! `libvirt_network`: a virtual network.

mod live;
pub mod params;
mod render;
mod rules;

pub use params::LibvirtNetwork;

use super::threeway::{self, keep, state_file, without_stamp};
use super::xml::{self, Element};
use super::{URI, virsh};
use crate::change::{Diff, Effect, Op, Plan};
use crate::host::version::compare_rpm;
use crate::host::{Error, Host, Result, Virt, VirtKind};
use crate::modules::Module;
use live::live;
use params::State;
use rules::Network;

/// The folder of our own for networks.
const KIND: &str = "networks";

/// Where the last intent is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    /// In the network's own metadata.
    Metadata,
    /// In a file of ours: libvirt before 2.1.0 (EL 7.3) drops the metadata of networks.
    File,
}

impl LibvirtNetwork {
    fn effect(&self, state: Option<&Virt>) -> Vec<Effect> {
        vec![Effect::Virt { kind: VirtKind::Network, name: self.name.clone(), state: state.cloned() }]
    }

    fn path(&self, what: &str) -> String {
        format!("{}: {what}", self.name)
    }

    fn unreadable(&self, why: &str) -> Error {
        Error::failed(format!("can't read the XML that libvirt has of the network {}: {why}", self.name))
    }

    fn read(&self, text: &str) -> Result<Element> {
        let mut network = xml::parse(text).map_err(|why| self.unreadable(&why))?;
        // libvirt keeps whichever of the two it was given: its own default network has a netmask.
        for ip in network.elements_mut().filter(|child| child.name == "ip" && child.attribute("prefix").is_none()) {
            let mask = ip.attribute("netmask").and_then(|mask| mask.parse::<std::net::Ipv4Addr>().ok()).map(u32::from);
            if let Some(mask) = mask.filter(|mask| mask.leading_ones() + mask.trailing_zeros() == 32) {
                ip.unset("netmask");
                ip.set("prefix", mask.leading_ones().to_string());
            }
        }
        Ok(network)
    }

    /// What was asked for last time, and where that is kept from now on.
    fn last(&self, host: &dyn Host, current: Option<&Element>) -> Result<(Option<Element>, Keeps)> {
        if let Some(stamp) = current.and_then(threeway::stamped) {
            return Ok((Some(stamp), Keeps::Metadata));
        }
        let file = host.read_text(&state_file(KIND, &self.name, "xml"))?;
        let last = file.and_then(|text| xml::parse(&text).ok()).filter(|_| current.is_some());
        let version = host.query(&["virsh", "--version"])?.map(|output| output.stdout.trim().to_string());
        let old = version.is_some_and(|version| !version.is_empty() && compare_rpm(&version, "2.1.0").is_lt());
        Ok((last, if old { Keeps::File } else { Keeps::Metadata }))
    }

    /// Defines or changes the network; answers it as it is then.
    fn plan_definition(&self, host: &dyn Host, plan: &mut Plan, old: Option<&Virt>) -> Result<Virt> {
        let (wanted, absent) = self.render()?;
        let current = old.map(|old| self.read(&old.xml)).transpose()?;
        let (last, keeps) = self.last(host, current.as_ref())?;
        let mut state = old.cloned().unwrap_or_default();
        let (document, diffs) = match &current {
            None => (wanted.clone(), vec![Diff::added("network", &self.name, wanted.print())]),
            Some(current) => {
                self.same_uuid(current)?;
                let merged = self.merge(&wanted, &absent, current, last.as_ref());
                for left in &merged.left_alone {
                    plan.notes.push(format!("{}: {left} is not described here and stays as it is", self.name));
                }
                let diffs = merged.changes.into_iter().map(|change| Diff {
                    kind: "network".to_string(),
                    path: self.path(&change.path),
                    before: change.before,
                    after: change.after,
                });
                (merged.xml, diffs.collect())
            }
        };
        let unmarked =
            keeps == Keeps::Metadata && current.as_ref().and_then(threeway::stamped).as_ref() != Some(&wanted);
        let document = if keeps == Keeps::Metadata { threeway::with_stamp(&document, &wanted) } else { document };
        if !diffs.is_empty() || unmarked {
            state.xml = document.print();
            let mut run = virsh(&["net-define", "/dev/stdin"], self.effect(Some(&state)));
            run.stdin = Some(document.print());
            match old {
                None => run.undo = Some(virsh(&["net-undefine", &self.name], Vec::new()).argv),
                Some(old) => run.undo = Some(self.plan_backup(host, plan, old)?),
            }
            plan.push(Op::Run(run), diffs);
        }
        if keeps == Keeps::File {
            keep(host, plan, KIND, &state_file(KIND, &self.name, "xml"), &wanted.print())?;
        }
        Ok(state)
    }

    /// Writes down what is there; answers the command that puts it back.
    fn plan_backup(&self, host: &dyn Host, plan: &mut Plan, old: &Virt) -> Result<Vec<String>> {
        let before = state_file(KIND, &self.name, "before.xml");
        keep(host, plan, KIND, &before, &old.xml)?;
        Ok(virsh(&["net-define", &before], Vec::new()).argv)
    }

    fn merge(&self, wanted: &Element, absent: &[&str], current: &Element, last: Option<&Element>) -> threeway::Merged {
        let mut current = current.clone();
        let mode = current.get("forward").map_or("isolated", |forward| forward.attribute("mode").unwrap_or("nat"));
        let had_a_bridge = matches!(mode, "nat" | "route" | "open" | "isolated");
        if had_a_bridge == self.has_no_bridge_of_its_own() {
            // A bridge of libvirt's own and one that the host has are two things, and what libvirt filled in of the one
            // (name, MAC, spanning tree) it refuses of the other.
            current.retain(|child| !matches!(child.name.as_str(), "bridge" | "mac"));
        }
        let mut merged = threeway::merge(&Network, wanted, &current, last);
        for name in absent {
            let gone: Vec<String> = merged.xml.named(name).map(threeway::describe).collect();
            merged.changes.extend(gone.into_iter().map(|before| threeway::Change {
                path: (*name).to_string(),
                before: Some(before),
                after: None,
            }));
            merged.xml.retain(|child| child.name != *name);
        }
        // libvirt prints the first card here too, and refuses another one.
        if let Some(forward) = merged.xml.get_mut("forward")
            && let Some(first) = forward.get("interface").and_then(|card| card.attribute("dev")).map(str::to_string)
        {
            forward.set("dev", first);
        }
        merged
    }

    fn same_uuid(&self, current: &Element) -> Result<()> {
        let bare = |uuid: &str| uuid.replace('-', "").to_ascii_lowercase();
        match (&self.uuid, current.text_at(&["uuid"])) {
            (Some(stated), Some(has)) if bare(stated) != bare(&has) => Err(Error::refused(format!(
                "the network {} has the UUID {has}, and that can't be changed to {stated}",
                self.name
            ))
            .hint("leave `uuid` out, or remove the network first (`state: absent`)")),
            _ => Ok(()),
        }
    }

    /// What the network runs with, which may be older than its definition.
    fn running(&self, host: &dyn Host, old: &Virt, defined: &Element) -> Result<Option<Element>> {
        let ask = |arguments: &[&str]| -> Result<Option<String>> {
            let argv: Vec<&str> = ["virsh", "-q", "-c", URI, "net-dumpxml"].iter().chain(arguments).copied().collect();
            Ok(host.query(&argv)?.filter(|output| output.code == 0).map(|output| output.stdout))
        };
        let Some(text) = ask(&[&self.name])? else { return self.read(&old.xml).map(Some) };
        let running = self.read(&text)?;
        if live(defined, &running) == live::Live::default() {
            return Ok(None);
        }
        // In a dry run the definition may be one that is only foreseen; then what runs is foreseen with it.
        match ask(&["--inactive", &self.name])? {
            Some(text) if text == old.xml => Ok(Some(running)),
            _ => self.read(&old.xml).map(Some),
        }
    }

    /// A network that runs and goes on running: changed at once where libvirt can, else said.
    fn plan_live(&self, host: &dyn Host, plan: &mut Plan, old: &Virt, state: &mut Virt) -> Result<bool> {
        let defined = self.read(&state.xml)?;
        let Some(running) = self.running(host, old, &defined)? else { return Ok(false) };
        let live = live(&defined, &running);
        if !live.updates.is_empty() {
            // What runs is not part of what is foreseen; that it is changed must be.
            state.xml.push_str("<!-- and so it runs -->\n");
        }
        // What is told as a change of the definition is not told twice.
        let told = plan.actions.iter().any(|action| !action.diffs.is_empty());
        for update in live.updates {
            let argv = |command: &str, xml: &Element| {
                let xml = xml.print();
                let parent = update.parent.map(|parent| parent.to_string());
                let mut argv = vec!["net-update", &self.name, command, update.section, xml.trim_end(), "--live"];
                if let Some(parent) = &parent {
                    argv.extend(["--parent-index", parent.as_str()]);
                }
                virsh(&argv, self.effect(Some(state)))
            };
            let mut run = argv(update.command, &update.xml);
            run.undo = Some(argv(update.undo.0, &update.undo.1).argv);
            let (before, after) = match update.command {
                "delete" => (Some(threeway::describe(&update.xml)), None),
                "modify" => (Some(threeway::describe(&update.undo.1)), Some(threeway::describe(&update.xml))),
                _ => (None, Some(threeway::describe(&update.xml))),
            };
            let path = self.path(&format!("running: {}", update.path));
            let diff = Diff { kind: "network".to_string(), path, before, after };
            plan.push(Op::Run(run), if told { Vec::new() } else { vec![diff] });
        }
        if !live.waits.is_empty() {
            plan.warnings.push(format!(
                "the network {} is running: {} takes effect when it is stopped and started again",
                self.name,
                live.waits.join(", ")
            ));
        }
        Ok(!live.waits.is_empty())
    }

    fn plan_absent(&self, host: &dyn Host, current: Option<Virt>) -> Result<Plan> {
        let mut plan = Plan::nothing();
        plan.set("name", self.name.as_str());
        let Some(mut state) = current else { return Ok(plan) };
        let shown = without_stamp(&self.read(&state.xml)?).print();
        let back = self.plan_backup(host, &mut plan, &state)?;
        if state.active {
            state.active = false;
            let mut run = virsh(&["net-destroy", &self.name], self.effect(Some(&state)));
            run.undo = Some(virsh(&["net-start", &self.name], Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("network", self.path("state"), "running", "stopped")]);
        }
        let mut run = virsh(&["net-undefine", &self.name], self.effect(None));
        run.undo = Some(back);
        plan.push(Op::Run(run), vec![Diff::removed("network", &self.name, shown)]);
        let stamp = state_file(KIND, &self.name, "xml");
        if host.exists(&stamp)? {
            plan.push(Op::Remove { path: stamp }, Vec::new());
        }
        Ok(plan)
    }
}

impl Module for LibvirtNetwork {
    const NAME: &'static str = "libvirt_network";
    const SUMMARY: &'static str = "Define, change and start a virtual network of libvirt's";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        if self.name.is_empty() || self.name.starts_with(['-', '.']) || self.name.contains(['/', '\n']) {
            return Err(Error::parameters(format!("`{}` can't be the name of a network", self.name)));
        }
        let current = host.virt(VirtKind::Network, &self.name)?;
        if self.state == State::Absent {
            return self.plan_absent(host, current);
        }
        let mut plan = Plan::nothing();
        let mut state = self.plan_definition(host, &mut plan, current.as_ref())?;
        let defined = self.read(&state.xml)?;
        let mut restart_required = false;
        if let Some(old) = current.filter(|old| old.active && self.active.0) {
            restart_required = self.plan_live(host, &mut plan, &old, &mut state)?;
        }
        if self.autostart.0 != state.autostart {
            state.autostart = self.autostart.0;
            let (before, after) = if state.autostart { ("no", "yes") } else { ("yes", "no") };
            let mut argv = vec!["net-autostart", self.name.as_str()];
            argv.extend((!state.autostart).then_some("--disable"));
            let mut run = virsh(&argv, self.effect(Some(&state)));
            let mut undo = vec!["net-autostart", self.name.as_str()];
            undo.extend(state.autostart.then_some("--disable"));
            run.undo = Some(virsh(&undo, Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("network", self.path("autostart"), before, after)]);
        }
        if self.active.0 != state.active {
            state.active = self.active.0;
            let (verb, before, after) =
                if state.active { ("net-start", "stopped", "running") } else { ("net-destroy", "running", "stopped") };
            let mut run = virsh(&[verb, &self.name], self.effect(Some(&state)));
            let undo = if state.active { "net-destroy" } else { "net-start" };
            run.undo = Some(virsh(&[undo, &self.name], Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("network", self.path("state"), before, after)]);
        }
        plan.set("name", self.name.as_str());
        plan.set("bridge", defined.get("bridge").and_then(|bridge| bridge.attribute("name")));
        plan.set("restart_required", restart_required);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::change::{Action, Op, Plan};
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
            "\n  <forward mode='nat'/>\n",
            "\n  <uuid>1</uuid>\n  <forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>\n  \
             <bridge name='virbr1' stp='on' delay='0'/>\n",
        );
        host.put_virt(VirtKind::Network, "lab", Some(virt)).unwrap();
        assert!(apply(&host, "libvirt_network", parameters.clone()).unwrap().is_empty());
        parameters["dhcp"]["end"] = json!("192.168.150.200");
        let next = plan(&host, "libvirt_network", parameters.clone()).unwrap();
        assert_eq!((next.warnings.len(), &next.result["restart_required"]), (0, &json!(false)));
        let ran = |plan: &Plan| -> Vec<String> {
            let argv = |action: &Action| match &action.op {
                Op::Run(run) => Some(run.argv[3..].join(" ")),
                _ => None,
            };
            plan.actions.iter().filter_map(argv).collect()
        };
        assert_eq!(
            ran(&next),
            [
                "net-define /dev/stdin",
                "net-update lab delete ip-dhcp-range <range start='192.168.150.10' end='192.168.150.99'/> --live \
                 --parent-index 0",
                "net-update lab add-last ip-dhcp-range <range start='192.168.150.10' end='192.168.150.200'/> --live \
                 --parent-index 0",
            ]
        );
        let done = shown(&apply(&host, "libvirt_network", parameters.clone()).unwrap());
        assert_eq!(done, "network lab: ip dhcp range end\n192.168.150.99 → 192.168.150.200\n");
        parameters["mode"] = json!("isolated");
        let next = plan(&host, "libvirt_network", parameters.clone()).unwrap();
        assert_eq!(next.warnings.len(), 1);
        assert_eq!(next.result["restart_required"], true);
        let done = shown(&apply(&host, "libvirt_network", parameters.clone()).unwrap());
        assert!(done.starts_with("network lab: forward\n"), "{done}");
        let done = apply(&host, "libvirt_network", json!({"name": "lab", "state": "absent"})).unwrap();
        assert_eq!(shown(&done).matches("network lab").count(), 2);
        assert!(!shown(&done).contains("intent"), "{}", shown(&done));
        assert_eq!(host.virt(VirtKind::Network, "lab").unwrap(), None::<Virt>);
    }

    #[test]
    fn what_is_stated_no_more_goes_away_and_what_others_added_stays() {
        let host = machine(&[]);
        let mut parameters = json!({"name": "lab", "address": "10.9.0.1/16", "mtu": 9000, "bridge": "virbr9",
            "dhcp": {"start": "10.9.0.10", "end": "10.9.0.99",
                "hosts": [{"mac": "52:54:00:AA:00:01", "ip": "10.9.0.5"}, {"mac": "52:54:00:AA:00:02", "ip": "10.9.0.6"}]},
            "dns": {"hosts": {"10.9.0.7": ["a", "b"]}},
            "portgroups": [{"name": "fast", "default": true}]});
        apply(&host, "libvirt_network", parameters.clone()).unwrap();
        let mut virt = host.virt(VirtKind::Network, "lab").unwrap().unwrap();
        let by_hand = "<host mac='52:54:00:aa:00:09' ip='10.9.0.9'/></dhcp>";
        virt.xml = virt.xml.replace("</dhcp>\n  </ip>\n  <portgroup", &format!("{by_hand}\n  </ip>\n  <portgroup"));
        assert!(virt.xml.contains(by_hand), "{}", virt.xml);
        host.put_virt(VirtKind::Network, "lab", Some(virt)).unwrap();
        let left = plan(&host, "libvirt_network", parameters.clone()).unwrap();
        assert!(left.actions.is_empty(), "{:#?}", left.actions);
        assert_eq!(left.notes, ["lab: ip dhcp host 52:54:00:aa:00:09 is not described here and stays as it is"]);
        for name in ["mtu", "bridge", "dns", "portgroups"] {
            parameters.as_object_mut().unwrap().remove(name);
        }
        parameters["dhcp"]["hosts"].as_array_mut().unwrap().pop();
        let done = shown(&apply(&host, "libvirt_network", parameters.clone()).unwrap());
        let paths: Vec<&str> = done.lines().filter_map(|line| line.strip_prefix("network lab: ")).collect();
        assert_eq!(paths, ["ip dhcp host 52:54:00:aa:00:02", "mtu", "dns", "portgroup fast"], "{done}");
        let xml = host.virt(VirtKind::Network, "lab").unwrap().unwrap().xml;
        assert!(xml.contains("bridge name='virbr9'") && xml.contains("52:54:00:aa:00:09"), "{xml}");
        let other = json!({"name": "lab", "uuid": "9d2e07dc-bc8b-4afa-9fc2-2587aea917a0", "address": "10.9.0.1/16"});
        apply(&host, "libvirt_network", json!({"name": "lab", "state": "absent"})).unwrap();
        apply(&host, "libvirt_network", other.clone()).unwrap();
        let mut another = other;
        another["uuid"] = json!("8d2e07dc-bc8b-4afa-9fc2-2587aea917a0");
        assert!(plan(&host, "libvirt_network", another).unwrap_err().to_string().contains("can't be changed"));
    }

    #[test]
    fn everything_that_can_be_said() {
        let host = machine(&[]);
        let parameters = json!({"name": "lab", "mode": "nat", "address": "10.9.0.1/16", "tftp": "/srv/tftp",
            "addresses": ["fd00:5::1/64", {"address": "10.10.0.1/24", "dhcp": {"ranges": ["10.10.0.5-10.10.0.9"]}}],
            "dhcp": {"start": "10.9.0.10", "end": "10.9.0.99", "lease": "12 hours", "boot": "pxelinux.0"},
            "nat": {"ports": "2000-3000", "addresses": "192.0.2.1-192.0.2.4", "ipv6": true},
            "forward_dev": "eth0", "stp": false, "delay": 2, "mac": "52:54:00:AA:00:01",
            "domain": {"name": "lab.example", "local_only": true}, "routes": [{"to": "10.20.0.0/16", "via": "10.9.0.2"}],
            "dns": {"forward_plain_names": false, "forwarders": ["192.0.2.53", "x.example=192.0.2.54", "y.example="],
                "txt": {"a": "b c"}, "srv": [{"service": "ldap", "protocol": "tcp", "port": 389}]},
            "portgroups": [{"name": "a", "vlan": {"tags": [4, 5], "native": 5}, "bandwidth": {"inbound": {"average": 9}}}],
            "bandwidth": {"outbound": {"average": 1000, "peak": 2000, "burst": 10}}, "isolated_ports": true,
            "ipv6": true, "dnsmasq_options": ["dhcp-option=3"]});
        apply(&host, "libvirt_network", parameters).unwrap();
        let xml = host.virt(VirtKind::Network, "lab").unwrap().unwrap().xml;
        for part in [
            "<tag id='5' nativeMode='untagged'/>",
            "<vlan trunk='yes'>",
            "<forwarder domain='y.example'/>",
            "<lease expiry='12' unit='hours'/>",
            "<ip family='ipv6' address='fd00:5::1' prefix='64'/>",
            "<dnsmasq:option value='dhcp-option=3'/>",
            "<port isolated='yes'/>",
        ] {
            assert!(xml.contains(part), "{part} in {xml}");
        }
        for (name, cards) in [("macvtap", json!(["eth0", "eth1"])), ("vepa", json!("eth0"))] {
            let parameters = json!({"name": name, "mode": name, "cards": cards});
            apply(&host, "libvirt_network", parameters).unwrap();
        }
        apply(&host, "libvirt_network", json!({"name": "vf", "mode": "hostdev", "physical_function": "eth2"})).unwrap();
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
            (json!({"name": "a", "mode": "vepa"}), "cards go with"),
            (json!({"name": "a", "mode": "open", "address": "10.0.0.1/8", "nat": {}}), "how mode nat works"),
            (json!({"name": "a", "address": "10.0.0.1/8", "mtu": 1}), "mtu must be"),
            (json!({"name": "a", "address": "10.0.0.1/8", "vlan": {"tags": [1, 2], "trunk": false}}), "a VLAN has one"),
            (json!({"name": "a", "address": "10.0.0.1/8", "dhcp": {"lease": "1 minute"}}), "two minutes"),
            (json!({"name": "a", "address": "10.0.0.1/8", "routes": [{"to": "fd00::/8", "via": "10.0.0.2"}]}), "IPv6"),
            (
                json!({"name": "a", "address": "fd00::1/64", "dhcp": {"hosts": [{"mac": "52:54:00:00:00:01", "ip": "fd00::2"}]}}),
                "DUID",
            ),
            (json!({"name": ".a", "address": "10.0.0.1/8"}), "can't be the name"),
        ] {
            let error = plan(&machine(&[]), "libvirt_network", parameters).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
