//! What a running guest's XML says of this one run of it, taken out: the definition is what stays when it stops.

use crate::modules::libvirt::xml::Element;

/// The definition in any `dumpxml`, and what was taken out, in words for people.
pub fn settle(domain: &Element) -> (Element, Vec<String>) {
    let mut copy = domain.clone();
    let running = copy.attribute("id").is_some_and(|id| id != "-1");
    let mut gone = Gone::default();
    copy.unset("id");
    if running {
        gone.add("its number");
    }
    drop_default_partition(&mut copy, running);
    if running {
        security_labels(&mut copy, &mut gone);
        if copy.get("cpu").is_some_and(|cpu| cpu.attribute("check") == Some("full")) {
            gone.warn(
                "the CPU is as QEMU runs it now: if the definition says host-model, or a model without this list of \
                 features, put that back (`virsh dumpxml --inactive` has it)",
            );
        }
    }
    aliases(&mut copy, &mut gone);
    if let Some(devices) = copy.get_mut("devices") {
        for device in devices.elements_mut() {
            always(device);
            if running {
                of_this_run(device, &mut gone);
            }
        }
    }
    (copy, gone.told(running))
}

#[derive(Default)]
struct Gone {
    things: Vec<&'static str>,
    warnings: Vec<&'static str>,
}

impl Gone {
    fn add(&mut self, what: &'static str) {
        if !self.things.contains(&what) {
            self.things.push(what);
        }
    }

    fn warn(&mut self, what: &'static str) {
        self.warnings.push(what);
    }

    fn told(self, running: bool) -> Vec<String> {
        let mut told = Vec::new();
        if running {
            told.push(format!(
                "this is the XML of a running guest; left out is what belongs to this run of it: {}",
                self.things.join(", ")
            ));
        }
        told.extend(self.warnings.into_iter().map(str::to_string));
        told
    }
}

/// libvirt shows the cgroup of a running guest even if nobody chose one.
fn drop_default_partition(domain: &mut Element, running: bool) {
    let default = |element: &Element| {
        element.name == "resource"
            && element.elements().count() == 1
            && element.text_at(&["partition"]).is_some_and(|partition| partition == "/machine")
    };
    if running {
        domain.retain(|child| !default(child));
    }
}

/// Labels that libvirt chose for this run.
fn security_labels(domain: &mut Element, gone: &mut Gone) {
    domain.retain(|child| {
        let chosen = child.name == "seclabel"
            && child.attribute("type") == Some("dynamic")
            && child.attribute("relabel") != Some("no")
            && child.get("baselabel").is_none();
        if chosen {
            gone.add("security labels");
        }
        !chosen
    });
}

/// Names that libvirt gives; those that begin with `ua-` are the user's.
fn aliases(element: &mut Element, gone: &mut Gone) {
    element.retain(|child| {
        let own = child.name == "alias" && !child.attribute("name").is_some_and(|name| name.starts_with("ua-"));
        if own {
            gone.add("aliases");
        }
        !own
    });
    element.elements_mut().filter(|child| child.name != "metadata").for_each(|child| aliases(child, gone));
}

/// What libvirt itself ignores when such XML is defined again.
fn always(device: &mut Element) {
    match device.name.as_str() {
        "interface" => {
            // A tap device that libvirt made up a name for (virDomainNetDefParseXML).
            device.retain(|child| !(child.name == "target" && child.attribute("dev").is_some_and(is_made_up)));
            if let Some(source) = device.get_mut("source") {
                source.unset("portid");
                if source.attribute("network").is_some() {
                    source.unset("bridge");
                }
            }
        }
        "channel" => {
            if let Some(target) = device.get_mut("target") {
                target.unset("state");
            }
            // A socket where libvirt puts those without a path (qemuDomainChrDefDropDefaultPath).
            let folders = ["/var/lib/libvirt/qemu/channel/", "/run/libvirt/qemu/channel/"];
            if device.attribute("type") == Some("unix")
                && let Some(source) = device.get_mut("source")
                && source.attribute("path").is_some_and(|path| folders.iter().any(|f| path.starts_with(f)))
            {
                source.unset("path");
                if source.attribute("mode") == Some("bind") {
                    source.unset("mode");
                }
            }
            device.retain(|child| !(child.name == "source" && is_empty(child)));
        }
        "hostdev" => {
            if let Some(source) = device.get_mut("source") {
                source.unset("missing");
            }
        }
        "disk" => {
            if let Some(source) = device.get_mut("source") {
                source.unset("index");
            }
        }
        "vsock" => {
            if let Some(cid) = device.get_mut("cid")
                && cid.attribute("auto") == Some("yes")
            {
                cid.unset("address");
            }
        }
        _ => {}
    }
}

fn of_this_run(device: &mut Element, gone: &mut Gone) {
    match device.name.as_str() {
        "disk" => {
            let before = device.nodes.len();
            device.retain(|child| !matches!(child.name.as_str(), "backingStore" | "mirror"));
            if device.nodes.len() < before {
                gone.add("chains of backing files");
            }
        }
        "hostdev" => {
            if let Some(source) = device.get_mut("source")
                && source.get("vendor").is_some()
                && source.get("address").is_some()
            {
                source.retain(|child| child.name != "address");
                gone.add("where USB devices are plugged in");
            }
        }
        "graphics" if device.attribute("autoport") == Some("yes") => {
            let kind = device.attribute("type").map(str::to_string);
            for port in ["port", "tlsPort"] {
                device.unset(port);
            }
            if kind.as_deref() == Some("vnc") {
                device.set("port", "-1");
                if device.attribute("websocket").is_some() {
                    device.set("websocket", "-1");
                }
            }
            gone.add("ports of displays");
        }
        "serial" | "console" | "parallel" | "channel" => {
            device.unset("tty");
            if device.attribute("type") == Some("pty") {
                device.retain(|child| child.name != "source");
                gone.add("terminals of serial ports");
            }
        }
        _ => {}
    }
}

/// Names that libvirt and the kernel give to tap devices.
fn is_made_up(name: &str) -> bool {
    ["vnet", "macvtap", "macvlan", "vif"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn is_empty(element: &Element) -> bool {
    element.attributes.is_empty() && element.nodes.is_empty()
}
