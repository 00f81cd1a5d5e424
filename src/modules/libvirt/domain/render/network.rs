//! Network interfaces.

use super::*;
use crate::modules::libvirt::domain::params::Interface;

/// Is it the network card with this MAC address?
fn is_card(part: &Part, mac: &str) -> bool {
    part.stated
        .as_ref()
        .is_some_and(|device| device.name == "interface" && devices::mac(device).as_deref() == Some(mac))
}

impl Build<'_> {
    /// `interfaces`.
    pub(super) fn interfaces(&mut self) -> Result<()> {
        for (at, interface) in self.domain.interfaces.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("interfaces[{at}]");
            let (stated, chosen) = self.interface(&interface.0, &what)?;
            let mac = devices::mac(&stated);
            // A card is found again by its address: two with one would change places for ever.
            if let Some(mac) = mac.filter(|mac| self.parts.iter().any(|part| is_card(part, mac))) {
                return Err(Error::parameters(format!("{what}: another card of this guest has the MAC address {mac}")));
            }
            match chosen {
                Some(chosen) => {
                    let why = self.preset_name();
                    self.device_with(&what, stated, &why, chosen);
                }
                None => self.device(&what, stated),
            }
        }
        Ok(())
    }

    fn interface(&self, interface: &Interface, what: &str) -> Result<(Element, Option<Element>)> {
        let user = interface.user.is_some_and(|user| user.0);
        let mut element = Element::new("interface");
        let source = Element::new("source");
        let (kind, source) = match (&interface.bridge, &interface.network, &interface.direct, user, interface.hostdev) {
            (Some(bridge), None, None, false, None) => ("bridge", Some(source.with("bridge", &*bridge.0))),
            (None, Some(network), None, false, None) => {
                let group = interface.portgroup.as_deref();
                ("network", Some(source.with("network", &*network.0).with_some("portgroup", group)))
            }
            (None, None, Some(dev), false, None) => {
                let modes = ["bridge", "vepa", "private", "passthrough"];
                let mode = one_of(&format!("{what}.mode"), interface.mode.as_deref().unwrap_or("bridge"), &modes)?;
                ("direct", Some(source.with("dev", &*dev.0).with("mode", mode)))
            }
            (None, None, None, true, None) => ("user", None),
            (None, None, None, false, Some(address)) => {
                element.set("managed", "yes");
                ("hostdev", Some(source.child(host::source_address(address.0).with("type", "pci"))))
            }
            _ => {
                return Err(Error::parameters(
                    "interfaces: give each exactly one of bridge, network, direct, user, hostdev",
                ));
            }
        };
        for (name, given, fits) in [
            ("portgroup", interface.portgroup.is_some(), kind == "network"),
            ("mode", interface.mode.is_some(), kind == "direct"),
            ("model", interface.model.is_some(), kind != "hostdev"),
            ("queues", interface.queues.is_some(), kind != "hostdev"),
        ] {
            if given && !fits {
                return Err(Error::parameters(format!("{what}: {name} does not go with {kind}")));
            }
        }
        let mac = match &interface.mac {
            Some(mac) => Some(Element::new("mac").with("address", mac_address(mac)?)),
            None => None,
        };
        // https://www.qemu.org/docs/master: the models QEMU has on x86; libvirt takes any word.
        const MODELS: [&str; 12] = [
            "virtio",
            "virtio-transitional",
            "virtio-non-transitional",
            "e1000",
            "e1000e",
            "igb",
            "rtl8139",
            "ne2k_pci",
            "pcnet",
            "vmxnet3",
            "i82551",
            "usb-net",
        ];
        let default = self.preset.map_or("virtio", |preset| preset.nic);
        let model = one_of(&format!("{what}.model"), interface.model.as_deref().unwrap_or(default), &MODELS)?;
        let virtio = model.starts_with("virtio");
        let mut driver = Element::new("driver");
        if let Some(name) = &interface.driver {
            driver.set("name", one_of(&format!("{what}.driver"), name, &["vhost", "qemu"])?);
        }
        if let Some(queues) = interface.queues {
            driver.set("queues", queues.to_string());
        }
        if !driver.attributes.is_empty() && !virtio {
            return Err(Error::parameters(format!(
                "{what}: driver and queues are for model virtio, and this is {model}"
            )));
        }
        let modelled = kind != "hostdev";
        let model = Element::new("model").with("type", model);
        let stated_model = modelled && (interface.model.is_some() || self.preset.is_none());
        let link = some_of(&format!("{what}.link"), interface.link.as_deref(), &["up", "down"])?;
        if interface.mtu == Some(0) {
            return Err(Error::parameters(format!("{what}: mtu must be at least 1")));
        }
        let filter = match (&interface.filter, interface.filter_parameters.is_empty()) {
            (Some(filter), _) => {
                let mut element = Element::new("filterref").with("filter", filter);
                for (name, value) in &interface.filter_parameters {
                    element = element.child(Element::new("parameter").with("name", name).with("value", &*value.0));
                }
                Some(element)
            }
            (None, false) => return Err(Error::parameters(format!("{what}: filter_parameters go with a filter"))),
            (None, true) => None,
        };
        let element = element
            .with("type", kind)
            .child_some(mac)
            .child_some(source)
            .child_some(vlan(&interface.vlan, what)?)
            .child_some(interface.target.as_ref().map(|name| Element::new("target").with("dev", &*name.0)))
            .child_some(stated_model.then(|| model.clone()))
            .child_some(Some(driver).filter(|driver| !driver.attributes.is_empty()))
            .child_some(filter)
            .child_some(link.map(|state| Element::new("link").with("state", state)))
            .child_some(interface.mtu.map(|size| Element::new("mtu").with("size", size.to_string())))
            .child_some(interface.isolated.map(|flag| Element::new("port").with("isolated", yes_no(flag))))
            .child_some(boot_order(interface.boot)?)
            .child_some(rom(interface.rom_bar, interface.rom_file.as_ref()));
        let element = with_xml(element, what, interface.xml.as_ref())?;
        let chosen = (modelled && !stated_model).then(|| Element::new("interface").child(model));
        Ok((element, chosen))
    }
}

fn vlan(tags: &[u16], what: &str) -> Result<Option<Element>> {
    if tags.is_empty() {
        return Ok(None);
    }
    if tags.iter().any(|tag| !(1..=4094).contains(tag)) {
        return Err(Error::parameters(format!("{what}: a VLAN's number is 1 to 4094")));
    }
    let mut element = Element::new("vlan").with_some("trunk", (tags.len() > 1).then_some("yes"));
    for tag in tags {
        element = element.child(Element::new("tag").with("id", tag.to_string()));
    }
    Ok(Some(element))
}

fn mac_address(text: &str) -> Result<String> {
    let bytes: Vec<&str> = text.split(':').collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let first = bytes.first().and_then(|first| u8::from_str_radix(first, 16).ok());
    match first {
        Some(first) if bytes.len() == 6 && bytes.iter().all(hex) => {
            if first & 1 == 1 {
                return Err(Error::parameters(format!(
                    "mac: {text} is a multicast address; its first byte must be even"
                )));
            }
            Ok(text.to_ascii_lowercase())
        }
        _ => Err(Error::parameters(format!("mac: `{text}` is not a MAC address, such as 52:54:00:12:34:56"))),
    }
}
