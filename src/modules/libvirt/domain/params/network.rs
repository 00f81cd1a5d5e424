//! Network interfaces.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::modules::libvirt::values::FromShort;
use crate::modules::params::{Flag, List, Text};

use super::host::Address;

/// A network interface: one of `bridge`, `network`, `direct`, `user`, `hostdev`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// A bridge of the host, such as `br0`.
    pub bridge: Option<Text>,
    /// A libvirt network, such as `default`.
    pub network: Option<Text>,
    /// A port group of `network`.
    pub portgroup: Option<Text>,
    /// A network card of the host, shared by macvtap. The guest and the host don't see each other through it.
    pub direct: Option<Text>,
    /// How `direct` shares the card: `bridge` (default), `vepa`, `private`, `passthrough`.
    pub mode: Option<String>,
    /// QEMU's own network, behind the host's addresses: no privileges, no connection from outside.
    pub user: Option<Flag>,
    /// A virtual function of a network card, given away by its address; libvirt sets its MAC address.
    pub hostdev: Option<Address>,
    /// `virtio` (default), `e1000e`, `e1000`, `rtl8139`, … A preset (`os`) may know better.
    pub model: Option<String>,
    /// The MAC address. Unless given, a new interface gets one made from the inventory's name of the host and the guest's,
    /// and one that is there keeps its own.
    pub mac: Option<String>,
    /// Name of the tap device on the host.
    pub target: Option<Text>,
    /// Queues (`virtio`).
    pub queues: Option<u32>,
    /// Who moves packets (`virtio`): `vhost` (the kernel) or `qemu`.
    pub driver: Option<String>,
    /// VLAN number, or several of a trunk. Only Open vSwitch and SR-IOV know it.
    #[serde(default)]
    pub vlan: List<u16>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Is the cable plugged in: `up` or `down`?
    pub link: Option<String>,
    /// A network filter of libvirt, such as `clean-traffic`.
    pub filter: Option<String>,
    /// Its parameters, such as `IP`.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, Value>")]
    pub filter_parameters: IndexMap<String, Text>,
    /// May it reach other isolated guests of its bridge?
    pub isolated: Option<Flag>,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
    /// Does the guest see the card's boot ROM?
    pub rom_bar: Option<Flag>,
    /// A file with the card's boot ROM.
    pub rom_file: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<interface>`.
    pub xml: Option<String>,
}

impl FromShort for Interface {
    fn from_short(text: &str) -> Result<Interface, String> {
        Ok(match text {
            "user" => Interface { user: Some(Flag(true)), ..Interface::default() },
            network => Interface { network: Some(Text(network.to_string())), ..Interface::default() },
        })
    }
}
