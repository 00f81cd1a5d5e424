//! The parameters of `libvirt_network`, in libvirt's words.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::modules::libvirt::values::{FromShort, Short};
use crate::modules::params::{Flag, List, Text, yes};

/// Defines a virtual network of libvirt's, starts it, and lets it start with the host. What is stated holds, what libvirt
/// filled in or others added is left alone, and what an earlier run stated and this one does not is taken away.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtNetwork {
    /// Its name.
    pub name: String,
    /// `present` (default) or `absent`.
    #[serde(default)]
    pub state: State,
    /// `nat` (default), `route`, `open`, `isolated`, or `bridge` for a bridge that the host has already. Without a bridge:
    /// `macvtap`, `private`, `vepa` and `passthrough` (cards of the host, in `cards`), `hostdev` (virtual functions).
    #[serde(default)]
    pub mode: Mode,
    /// The bridge's name. Needed for mode `bridge`; libvirt makes one up for a new network of another mode.
    pub bridge: Option<String>,
    /// Does the bridge speak the spanning tree protocol? libvirt's default is yes.
    pub stp: Option<Flag>,
    /// Seconds that the bridge waits before a port forwards; libvirt's default is 0.
    pub delay: Option<u32>,
    /// The zone of firewalld that the bridge is in; libvirt's own zones by default.
    pub zone: Option<String>,
    /// The bridge's MAC address. libvirt makes one for a new network, and it stays.
    pub mac: Option<String>,
    /// The largest packet in bytes, such as 9000; the kernel's default is 1500.
    pub mtu: Option<u32>,
    /// Only through this card of the host (modes `nat` and `route`); through any by default.
    pub forward_dev: Option<String>,
    /// Details of mode `nat`.
    pub nat: Option<Nat>,
    /// Cards of the host, for the modes `macvtap`, `private`, `vepa` and `passthrough`.
    #[serde(default)]
    pub cards: List<String>,
    /// The card whose virtual functions guests get, for mode `hostdev`.
    pub physical_function: Option<String>,
    /// libvirt takes virtual functions from their driver and gives them back (mode `hostdev`)? Yes by default.
    #[serde(default = "yes")]
    pub managed: Flag,
    /// The host's own address with its prefix length, such as "192.168.150.1/24".
    pub address: Option<String>,
    /// Addresses that guests get.
    pub dhcp: Option<Dhcp>,
    /// A folder of files that guests can fetch by TFTP.
    pub tftp: Option<String>,
    /// More addresses of the host, such as one of IPv6, each as a string or as a map with its own `dhcp` and `tftp`.
    #[serde(default)]
    pub addresses: List<Short<Ip>>,
    /// Routes that the host gets while the network runs.
    #[serde(default)]
    pub routes: List<Route>,
    /// The DNS domain of the guests: its name, or a map.
    pub domain: Option<Short<Domain>>,
    /// libvirt's DNS server for this network.
    pub dns: Option<Dns>,
    /// Groups of ports with settings of their own, for interfaces that name one.
    #[serde(default)]
    pub portgroups: List<Portgroup>,
    /// VLAN tags; only for Open vSwitch and virtual functions.
    pub vlan: Option<Vlan>,
    /// How much the whole network may send and receive.
    pub bandwidth: Option<Bandwidth>,
    /// Guests can't reach each other (the kernel's isolated ports)?
    pub isolated_ports: Option<Flag>,
    /// Guests speak IPv6 with each other although the host has no such address here?
    pub ipv6: Option<Flag>,
    /// Guests may change what their cards receive, for macvtap?
    pub trust_guest_rx_filters: Option<Flag>,
    /// How guests' ports join, such as `openvswitch`.
    pub virtualport: Option<String>,
    /// Options for dnsmasq, one each, such as `dhcp-option=3`. libvirt does not check them.
    #[serde(default)]
    pub dnsmasq_options: List<Text>,
    /// UUID; libvirt makes one for a new network, and it is never changed.
    pub uuid: Option<String>,
    /// Does it run? Yes by default.
    #[serde(default = "yes")]
    pub active: Flag,
    /// Does it start with the host? Yes by default.
    #[serde(default = "yes")]
    pub autostart: Flag,
}

/// Should there be such a network?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Yes.
    #[default]
    Present,
    /// No.
    Absent,
}

/// How guests reach the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Behind the host's address.
    #[default]
    Nat,
    /// Routed, with the host's firewall.
    #[serde(alias = "routed")]
    Route,
    /// Routed, without rules of libvirt's.
    Open,
    /// Only each other and the host.
    Isolated,
    /// Over a bridge that the host has.
    Bridge,
    /// Through cards of the host, shared by macvtap; guests reach each other.
    Macvtap,
    /// The same, and guests do not reach each other.
    Private,
    /// The same, and the switch outside sends back what is for another guest.
    Vepa,
    /// A card of the host for one guest each.
    Passthrough,
    /// A virtual function of a card for each guest.
    Hostdev,
}

/// Details of network address translation.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// Ports of the host that are used, such as "1024-65535" (libvirt's default).
    pub ports: Option<Text>,
    /// Addresses of the host that are used, such as "192.0.2.1-192.0.2.4".
    pub addresses: Option<Text>,
    /// IPv6 too? libvirt's default is no.
    pub ipv6: Option<Flag>,
}

/// An address of the host's in this network.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ip {
    /// With its prefix length, such as "fd00:5::1/64".
    pub address: String,
    /// Addresses that guests get.
    pub dhcp: Option<Dhcp>,
    /// A folder of files that guests can fetch by TFTP.
    pub tftp: Option<String>,
    /// Ask no other server for the names of these addresses?
    pub local_ptr: Option<Flag>,
}

impl FromShort for Ip {
    fn from_short(text: &str) -> Result<Ip, String> {
        Ok(Ip { address: text.to_string(), ..Ip::default() })
    }
}

/// Addresses that guests get.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dhcp {
    /// The first one.
    pub start: Option<String>,
    /// The last one.
    pub end: Option<String>,
    /// More of them, each such as "192.168.150.100-192.168.150.120".
    #[serde(default)]
    pub ranges: List<Text>,
    /// How long a guest may keep one, such as "12 hours" or "infinite"; dnsmasq's default is one hour.
    pub lease: Option<Text>,
    /// Fixed ones.
    #[serde(default)]
    pub hosts: List<Lease>,
    /// What guests boot over the network: a file's name, or a map with its server.
    pub boot: Option<Short<Boot>>,
}

/// A guest's fixed address.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The guest's MAC address.
    pub mac: Option<String>,
    /// Its DUID, for IPv6.
    pub id: Option<String>,
    /// The address it gets.
    pub ip: String,
    /// Its name.
    pub name: Option<String>,
}

/// What guests boot over the network.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The file's name.
    pub file: String,
    /// The server that has it; the host itself by default.
    pub server: Option<String>,
}

impl FromShort for Boot {
    fn from_short(text: &str) -> Result<Boot, String> {
        Ok(Boot { file: text.to_string(), server: None })
    }
}

/// A route of the host's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to, with its prefix length, such as "10.20.0.0/16".
    pub to: String,
    /// Through which address of this network.
    pub via: String,
    /// The smaller, the better.
    pub metric: Option<u32>,
}

/// A DNS domain.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Ask no other server for names in it? libvirt's default is no.
    pub local_only: Option<Flag>,
}

impl FromShort for Domain {
    fn from_short(text: &str) -> Result<Domain, String> {
        Ok(Domain { name: text.to_string(), local_only: None })
    }
}

/// libvirt's DNS server for a network.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Is there one? libvirt's default is yes.
    pub enable: Option<Flag>,
    /// Ask others for names without a dot too? libvirt's default is yes.
    pub forward_plain_names: Option<Flag>,
    /// Who is asked for other names: an address, a domain and an address as "example.org=192.0.2.53", or a domain that
    /// nobody is asked about, as "example.org=".
    #[serde(default)]
    pub forwarders: List<Text>,
    /// Names of addresses: the address to its names.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, Vec<String>>")]
    pub hosts: IndexMap<String, List<String>>,
    /// Text records: name to text.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub txt: IndexMap<String, Text>,
    /// Records of services.
    #[serde(default)]
    pub srv: List<Srv>,
}

/// A record of a service.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Srv {
    /// The service, such as `ldap`.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The domain; the network's own by default.
    pub domain: Option<String>,
    /// The server's name.
    pub target: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The smaller, the sooner it is asked.
    pub priority: Option<u16>,
    /// Its share among those of the same priority.
    pub weight: Option<u16>,
}

/// A group of ports.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Portgroup {
    /// Its name.
    pub name: String,
    /// Is it for interfaces that name none?
    pub default: Option<Flag>,
    /// VLAN tags.
    pub vlan: Option<Vlan>,
    /// How much each of its ports may send and receive.
    pub bandwidth: Option<Bandwidth>,
    /// Guests may change what their cards receive?
    pub trust_guest_rx_filters: Option<Flag>,
    /// How its ports join, such as `openvswitch`.
    pub virtualport: Option<String>,
}

/// VLAN tags.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vlan {
    /// The tags; more than one make a trunk.
    pub tags: List<u16>,
    /// Does the guest itself tag its packets? Yes for more than one tag.
    pub trunk: Option<Flag>,
    /// The tag of packets without one, in a trunk.
    pub native: Option<u16>,
}

/// How much may be sent and received.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// What the guest receives.
    pub inbound: Option<Rate>,
    /// What the guest sends.
    pub outbound: Option<Rate>,
}

/// Rates in KiB per second, amounts in KiB.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// On average, in KiB per second.
    pub average: u64,
    /// At most, in KiB per second.
    pub peak: Option<u64>,
    /// How much may go at the speed of `peak`, in KiB.
    pub burst: Option<u64>,
    /// What is there in any case, in KiB per second (only `inbound`).
    pub floor: Option<u64>,
}
