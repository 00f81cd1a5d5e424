//! `bridge`: a bridge over a network card, for guests.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::activate::{self, Change};
use super::backend::{self, Ipv4, Job, Wanted, ifcfg, ifupdown, keyfile, netplan, networkd};
use super::link::{self, NET, Way};
use super::marks;
use super::place::place;
use crate::change::{Guard, Plan};
use crate::host::{Error, Family, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, Text};

/// A bridge over a network card, so that guests stand in the same network as the machine.
///
/// The bridge takes over what the card has now: its addresses, gateway, name servers and hardware address (so that a
/// DHCP server knows it again). The files are always written at once, and the bridge is brought up at once. Where the
/// connection of this run goes through the card, that is guarded: the machine puts its old network back by itself unless
/// this program comes back over a new connection and confirms. On the machine itself nobody can come back: there, a card
/// that someone may be logged in through is left to the next boot.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// The bridge's name.
    #[serde(default = "br0")]
    name: String,
    /// The card that becomes its port: a name (`eno1`), a MAC address in quotes, or `auto` for the card of the default
    /// route.
    #[serde(default = "auto")]
    port: Text,
    /// Who keeps the network configuration. `auto` takes the one that configures the card now.
    #[serde(default)]
    backend: Wish,
    /// Spanning tree. Without it the bridge forwards at once, as guests want it.
    #[serde(default)]
    stp: Flag,
    /// Other addresses than those the card has now; left out, the bridge takes over what the card has.
    ipv4: Option<Ipv4>,
    /// The bridge's hardware address; left out, that of the card.
    mac: Option<Text>,
    /// `now`: bring it up at once. `boot`: with the next boot. `auto`: at once, but on the machine itself with the next
    /// boot if somebody is logged in through the card.
    #[serde(default)]
    activate: Activate,
    /// Seconds within which this program must have come back over a new connection, where the one in use goes through
    /// the card; bringing the bridge up is part of it. Default: 120.
    #[serde(default = "two_minutes")]
    confirm_timeout: u64,
    /// Let unprivileged QEMU (qemu:///session) use the bridge: `allow NAME` in QEMU's bridge.conf.
    #[serde(default)]
    qemu_session: Flag,
    /// `present`, or `absent`: every file is given back byte for byte.
    #[serde(default)]
    state: State,
}

fn br0() -> String {
    "br0".into()
}

fn two_minutes() -> u64 {
    120
}

fn auto() -> Text {
    Text("auto".into())
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Wish {
    #[default]
    Auto,
    Networkmanager,
    Ifcfg,
    Netplan,
    Networkd,
    Ifupdown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Activate {
    #[default]
    Auto,
    Now,
    Boot,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Present,
    Absent,
}

/// Who keeps the network configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// NetworkManager's keyfiles.
    NetworkManager,
    /// network-scripts.
    Ifcfg,
    /// netplan.
    Netplan,
    /// systemd-networkd.
    Networkd,
    /// Debian's interfaces.
    Ifupdown,
}

impl Backend {
    /// Its name as the parameter has it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::NetworkManager => "networkmanager",
            Backend::Ifcfg => "ifcfg",
            Backend::Netplan => "netplan",
            Backend::Networkd => "networkd",
            Backend::Ifupdown => "ifupdown",
        }
    }

    /// By the path of a file that it keeps.
    fn of_path(path: &str) -> Backend {
        [
            (ifcfg::FOLDER, Backend::Ifcfg),
            (keyfile::FOLDER, Backend::NetworkManager),
            (netplan::FOLDER, Backend::Netplan),
            (networkd::FOLDER, Backend::Networkd),
        ]
        .into_iter()
        .find(|(folder, _)| path.starts_with(folder))
        .map_or(Backend::Ifupdown, |(_, backend)| backend)
    }
}

impl Module for Bridge {
    const NAME: &'static str = "bridge";
    const SUMMARY: &'static str = "A bridge over a network card, for guests";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        check_name(&self.name)?;
        match self.state {
            State::Present => self.present(host),
            State::Absent => self.absent(host),
        }
    }
}

/// Interface names have at most 15 bytes, and end up in files of many grammars.
fn check_name(name: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 15 || !name.bytes().all(fine) || name.starts_with(['-', '.']) {
        return Err(Error::parameters(format!("`{name}` can't be the name of an interface"))
            .hint("up to 15 letters, digits, `-`, `_` or `.`, such as br0"));
    }
    Ok(())
}

/// Is the interface an active port of the bridge?
fn is_real(host: &dyn Host, bridge: &str, nic: &str) -> Result<bool> {
    Ok(host.exists(&format!("{NET}/{bridge}/bridge"))?
        && host.list(&format!("{NET}/{bridge}/brif"))?.iter().any(|port| port == nic))
}

impl Bridge {
    fn present(&self, host: &dyn Host) -> Result<Plan> {
        if let Some(ipv4) = &self.ipv4 {
            ipv4.check()?;
        }
        if let Some(mac) = self.mac.as_ref().filter(|mac| !link::is_mac(mac)) {
            return Err(Error::parameters(format!("`{}` is not a hardware address", mac.0))
                .hint("six pairs of hex digits with colons, such as \"0c:c4:7a:aa:bb:01\""));
        }
        let marked = backend::marked(host)?;
        let nic = self.nic(host, &marked)?;
        self.check_nic(host, &nic)?;
        let real = is_real(host, &self.name, &nic)?;
        let ours = marked.iter().any(|(_, _, tag)| tag.bridge == self.name);
        let mut plan = Plan::nothing();
        let way = link::control(host)?;
        let through = match &way {
            Some(way) => link::with_lowers(host, &way.interface)?.contains(&nic),
            None => false,
        };
        tell(&mut plan, &self.name, &nic, way.as_ref(), through, real);
        if real && !ours {
            plan.notes.push(format!("{} over {nic} is there already, made by someone else: left as it is", self.name));
            plan.set("active", true);
            self.qemu(&mut plan, host)?;
            return Ok(plan);
        }

        let nic_mac = link::mac(host, &nic)?;
        let mac = self.mac.as_ref().map(|mac| mac.to_lowercase()).or_else(|| nic_mac.clone());
        let job = Job {
            host,
            name: &self.name,
            nic: &nic,
            nic_mac: nic_mac.as_deref(),
            mac: mac.as_deref(),
            stp: self.stp.0,
            ipv4: self.ipv4.as_ref(),
        };
        let backend = self.backend(&job)?;
        let wanted = match backend {
            Backend::NetworkManager => keyfile::files(&job)?,
            Backend::Ifcfg => ifcfg::files(&job)?,
            Backend::Netplan => netplan::files(&job)?,
            Backend::Networkd => networkd::files(&job)?,
            Backend::Ifupdown => ifupdown::files(&job)?,
        };
        // What we wrote for another card or another backend goes back first.
        let left: Vec<Wanted> = backend::originals(host, &self.name)?
            .into_iter()
            .filter(|old| !wanted.iter().any(|new| new.path == old.path))
            .collect();
        let remote = way.as_ref().is_some_and(|way| way.peer.is_some());
        let now = self.may_activate(host, remote, through)?;
        let change = Change { host, backend, bridge: &self.name, nic: &nic, mac: mac.as_deref() };
        if now && !ours && !real {
            activate::before(&mut plan, &change)?;
        }
        let mut changed = false;
        for file in left.iter().chain(&wanted) {
            changed |= place(&mut plan, host, &file.path, file.content.as_deref(), file.mode)?;
        }
        match (real && !changed, now) {
            (true, _) => {}
            (false, true) => {
                activate::up(&mut plan, &change)?;
                if remote && through {
                    let back = if real { activate::back_with(&change)? } else { activate::back_without(&change)? };
                    self.guard(&mut plan, back);
                }
            }
            (false, false) => plan.reboot.push(if real {
                format!("the new configuration of {} counts from the next boot on", self.name)
            } else {
                format!("{} over {nic} comes with the next boot: the machine is reached through {nic}", self.name)
            }),
        }
        if backend == Backend::Networkd || backend == Backend::Netplan {
            let text: String = wanted.iter().filter_map(|file| file.content.as_deref()).collect();
            if changed && self.ipv4.is_none() && dhcp_in(&text) {
                plan.notes.push(format!(
                    "networkd names itself to a DHCP server by more than the MAC: {} may get another address \
                     than {nic} had",
                    self.name
                ));
            }
        }
        if host.read_line("/proc/sys/net/bridge/bridge-nf-call-iptables")?.as_deref() == Some("1") {
            plan.warnings.push(
                "the firewall of this machine also filters what guests send over the bridge (br_netfilter is \
                 loaded): set \
                 net.bridge.bridge-nf-call-iptables to 0 (sysctl) unless that is wanted"
                    .into(),
            );
        }
        self.qemu(&mut plan, host)?;
        plan.set("name", self.name.as_str());
        plan.set("port", nic.as_str());
        plan.set("backend", backend.name());
        plan.set("mac", json!(mac));
        plan.set("active", real || now);
        Ok(plan)
    }

    /// The card that is meant.
    fn nic(&self, host: &dyn Host, marked: &[(String, String, backend::Tag)]) -> Result<String> {
        let wanted = self.port.trim();
        if link::is_mac(&wanted.to_lowercase()) {
            let wanted = wanted.to_lowercase();
            let mut found = Vec::new();
            for name in host.list(NET)? {
                // A bridge or a VLAN over the card has the card's address too: the one with hardware behind it counts.
                if link::mac(host, &name)?.as_deref() == Some(wanted.as_str()) {
                    let hardware = host.exists(&format!("{NET}/{name}/device"))?;
                    let bridge = host.exists(&format!("{NET}/{name}/bridge"))?;
                    found.push((bridge, !hardware, name));
                }
            }
            found.sort();
            return match found.into_iter().next() {
                Some((false, _, name)) => Ok(name),
                _ => Err(missing(host, &format!("no network card has the hardware address {wanted}"))?),
            };
        }
        if wanted != "auto" {
            return if host.exists(&format!("{NET}/{wanted}"))? {
                Ok(wanted.to_string())
            } else {
                Err(missing(host, &format!("there is no network card `{wanted}` on this machine"))?)
            };
        }
        if let Some((_, _, tag)) = marked.iter().find(|(_, _, tag)| tag.bridge == self.name)
            && host.exists(&format!("{NET}/{}", tag.port))?
        {
            return Ok(tag.port.clone());
        }
        match link::default_interface(host)? {
            Some(name) if name == self.name => {
                let mut ports = Vec::new();
                for port in host.list(&format!("{NET}/{name}/brif"))? {
                    if host.exists(&format!("{NET}/{port}/device"))? {
                        ports.push(port);
                    }
                }
                match ports.as_slice() {
                    [only] => Ok(only.clone()),
                    _ => Err(Error::refused(format!("which port of {name} is meant can't be told"))
                        .hint("name it: `port: eno1`")),
                }
            }
            Some(name) => Ok(name),
            None => {
                Err(missing(host, "`port: auto` means the card of the default route, and there is no default route")?)
            }
        }
    }

    fn check_nic(&self, host: &dyn Host, nic: &str) -> Result<()> {
        let folder = format!("{NET}/{nic}");
        if nic == "lo" || nic == self.name {
            return Err(Error::refused(format!("{nic} can't be the port of {}", self.name)).hint("name a network card"));
        }
        if host.exists(&format!("{folder}/wireless"))? || host.exists(&format!("{folder}/phy80211"))? {
            return Err(Error::refused(format!(
                "{nic} is wireless: an access point takes packets of one address only, so guests behind a bridge \
                 get none"
            ))
            .hint("use a wired card, or a routed network (libvirt_network with `forward: nat`)"));
        }
        if host.exists(&format!("{folder}/bridge"))? {
            return Err(Error::refused(format!("{nic} is a bridge itself: it can't be the port of {}", self.name))
                .hint(format!("use it as it is: `name: {nic}` with its own card as `port`")));
        }
        if let Some(master) = host.read_link(&format!("{folder}/master"))? {
            let master = master.rsplit('/').next().unwrap_or_default().to_string();
            if master != self.name {
                let bridge = host.exists(&format!("{NET}/{master}/bridge"))?;
                return Err(if bridge {
                    Error::refused(format!("{nic} is a port of the bridge {master} already"))
                        .hint(format!("use that one: `name: {master}`"))
                } else {
                    Error::refused(format!("{nic} is a part of {master} (bond or team): it can't be a port as well"))
                        .hint(format!("use `port: {master}`"))
                });
            }
        }
        Ok(())
    }

    /// The backend that configures the card now.
    fn backend(&self, job: &Job) -> Result<Backend> {
        let host = job.host;
        let os = host.os()?;
        let wanted = match self.backend {
            Wish::Auto => None,
            Wish::Networkmanager => Some(Backend::NetworkManager),
            Wish::Ifcfg => Some(Backend::Ifcfg),
            Wish::Netplan => Some(Backend::Netplan),
            Wish::Networkd => Some(Backend::Networkd),
            Wish::Ifupdown => Some(Backend::Ifupdown),
        };
        if wanted == Some(Backend::Ifcfg) && (os.family != Family::El || os.major() >= 10) {
            return Err(Error::refused(format!("{} does not read /etc/sysconfig/network-scripts", os.pretty))
                .hint("use `backend: networkmanager`"));
        }
        if let Some(wanted) = wanted {
            return Ok(wanted);
        }
        let runs = |name: &str| -> Result<bool> {
            let unit = host.unit(name)?;
            Ok(unit.active || unit.enabled.starts_with("enabled"))
        };
        if netplan::file_of(job)?.is_some() {
            return Ok(Backend::Netplan);
        }
        if os.family == Family::El && os.major() < 10 && ifcfg::file_of(job)?.is_some() {
            return Ok(Backend::Ifcfg);
        }
        if ifupdown::file_of(job)?.is_some() {
            return Ok(Backend::Ifupdown);
        }
        let manager = runs("NetworkManager")?;
        if !keyfile::profiles(job)?.is_empty() && (manager || !runs("systemd-networkd")?) {
            return Ok(Backend::NetworkManager);
        }
        if networkd::file_of(job)?.is_some() && (runs("systemd-networkd")? || !manager) {
            return Ok(Backend::Networkd);
        }
        if manager {
            return Ok(Backend::NetworkManager);
        }
        Err(Error::refused(format!("who configures {} can't be told: no configuration of it was found", job.nic)).hint(
            "say `backend:` (networkmanager, ifcfg, netplan, networkd, ifupdown) and `ipv4:`; wicked is not supported",
        ))
    }

    /// May the bridge be brought up (or taken down) while this run goes on?
    fn may_activate(&self, host: &dyn Host, remote: bool, through: bool) -> Result<bool> {
        match self.activate {
            Activate::Boot => Ok(false),
            Activate::Now => Ok(true),
            Activate::Auto if remote => Ok(true),
            // On the machine itself: someone may have typed this into a session that comes in over the card.
            Activate::Auto => Ok(!(through && link::has_ssh_session(host)?)),
        }
    }

    /// What comes could cut this run off: the machine then puts everything back.
    fn guard(&self, plan: &mut Plan, back: Vec<Vec<String>>) {
        let seconds = self.confirm_timeout;
        plan.notes.push(format!(
            "guarded: the machine puts its old network back by itself unless it is reached over a new connection within \
             {seconds} s"
        ));
        plan.guard = Some(Guard { seconds, back });
    }

    fn qemu(&self, plan: &mut Plan, host: &dyn Host) -> Result<()> {
        // RHEL's QEMU has folders of its own name.
        let path = if host.os()?.family == Family::El { "/etc/qemu-kvm/bridge.conf" } else { "/etc/qemu/bridge.conf" };
        let now = host.read_text(path)?;
        let before = marks::original(now.as_deref());
        let line = format!("allow {}", self.name);
        let has = |text: &str| text.lines().any(|l| matches!(l.trim(), "allow all") || l.trim() == line);
        let wanted = self.qemu_session.0 && self.state == State::Present;
        let others: Vec<String> = now
            .as_deref()
            .and_then(marks::block)
            .unwrap_or_default()
            .into_iter()
            .filter(|l| *l != line)
            .map(str::to_string)
            .collect();
        let lines: Vec<String> =
            others.into_iter().chain((wanted && !before.as_deref().is_some_and(has)).then_some(line.clone())).collect();
        let text = if lines.is_empty() { before } else { Some(marks::with_block(before.as_deref(), &lines)) };
        place(plan, host, path, text.as_deref(), None)?;
        Ok(())
    }

    fn absent(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let marked = backend::marked(host)?;
        let first = marked.iter().find(|(_, _, tag)| tag.bridge == self.name);
        let found = first.map(|(path, _, tag)| (Backend::of_path(path), tag.port.clone()));
        for file in backend::originals(host, &self.name)? {
            place(&mut plan, host, &file.path, file.content.as_deref(), file.mode)?;
        }
        self.qemu(&mut plan, host)?;
        let there = host.exists(&format!("{NET}/{}/bridge", self.name))?;
        let way = link::control(host)?;
        if let Some((backend, nic)) = found.filter(|_| there) {
            let through = match &way {
                Some(way) => link::with_lowers(host, &way.interface)?.contains(&nic),
                None => false,
            };
            tell(&mut plan, &nic, &self.name, way.as_ref(), through, false);
            let remote = way.as_ref().is_some_and(|way| way.peer.is_some());
            if self.may_activate(host, remote, through)? {
                let change = Change { host, backend, bridge: &self.name, nic: &nic, mac: None };
                activate::down(&mut plan, &change)?;
                if remote && through {
                    self.guard(&mut plan, activate::back_with(&change)?);
                }
            } else {
                plan.reboot.push(format!("{} goes with the next boot: the machine is reached through it", self.name));
            }
        } else if there && configured_by_nobody(host, &self.name)? {
            plan.reboot.push(format!("{} goes with the next boot", self.name));
        }
        plan.set("active", there);
        Ok(plan)
    }
}

/// Is there a bridge that no file speaks of any more, such as one we were told to take away at the next boot?
fn configured_by_nobody(host: &dyn Host, name: &str) -> Result<bool> {
    let ports = host.list(&format!("{NET}/{name}/brif"))?;
    let mut cards = false;
    for port in ports {
        cards |= host.exists(&format!("{NET}/{port}/device"))?;
    }
    Ok(cards && !super::boot::is_configured(host, name)?)
}

fn dhcp_in(text: &str) -> bool {
    text.lines().map(str::trim).any(|line| matches!(line, "DHCP=yes" | "DHCP=ipv4" | "dhcp4: true" | "dhcp4: yes"))
}

/// Names the card that this machine is reached through, where the address moves.
fn tell(plan: &mut Plan, to: &str, from: &str, way: Option<&Way>, through: bool, real: bool) {
    let Some(way) = way.filter(|_| through && !real) else { return };
    let address = way.address.as_ref().map(|address| format!(" ({address})")).unwrap_or_default();
    let by = match &way.peer {
        Some(peer) => format!(" from {peer}"),
        None => String::new(),
    };
    let (to, from) = if way.interface == to { (from, to) } else { (to, from) };
    plan.notes.push(format!(
        "this machine is reached over {}{address}{by}; the address moves {}to {to}",
        way.interface,
        if way.interface == from { String::new() } else { format!("from {from} ") }
    ));
}

fn missing(host: &dyn Host, what: &str) -> Result<Error> {
    let mut cards = Vec::new();
    for name in host.list(NET)? {
        if host.exists(&format!("{NET}/{name}/device"))? {
            cards.push(name);
        }
    }
    let hint = if cards.is_empty() {
        "this machine has no network card".to_string()
    } else {
        format!("the cards here are {}", cards.join(", "))
    };
    Ok(Error::refused(what).hint(hint))
}
