//! Bringing a bridge up or down on the running machine, with the tools of the backend.

use super::boot;
use super::bridge::Backend;
use super::link::{self, NET};
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Host, Result};

/// What is brought up or down.
pub struct Change<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// Whose tools.
    pub backend: Backend,
    /// The bridge.
    pub bridge: &'a str,
    /// Its port.
    pub nic: &'a str,
    /// The bridge's hardware address.
    pub mac: Option<&'a str>,
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// Runs commands of which only the last is what counts; the others prepare it.
fn run(plan: &mut Plan, commands: &[&[&str]], last: Vec<Effect>, diff: Diff) {
    let mut effects = Some(last);
    let mut diff = Some(diff);
    let count = commands.len();
    for (n, command) in commands.iter().enumerate() {
        let is_last = n + 1 == count;
        let effects = if is_last { effects.take().unwrap_or_default() } else { Vec::new() };
        let diffs = if is_last {
            diff.take().into_iter().collect()
        } else {
            vec![Diff::added("command", command.first().copied().unwrap_or_default(), command.join(" "))]
        };
        plan.push(Op::Run(Run { argv: argv(command), effects, timeout: Some(120), ..Run::default() }), diffs);
    }
}

/// What the kernel shows once the bridge is up; also used for a boot.
///
/// # Errors
/// When the machine can't be read.
pub fn effects_up<H: Host + ?Sized>(host: &H, bridge: &str, nic: &str, mac: Option<&str>) -> Result<Vec<Effect>> {
    let real = format!("/sys/devices/virtual/net/{bridge}");
    let mut effects = vec![
        Effect::Folder { path: format!("{real}/bridge") },
        Effect::Folder { path: format!("{real}/brif") },
        Effect::Link { path: format!("{NET}/{bridge}"), target: format!("../../devices/virtual/net/{bridge}") },
        Effect::Link { path: format!("{real}/brif/{nic}"), target: format!("{NET}/{nic}/brport") },
        Effect::Link { path: format!("{real}/lower_{nic}"), target: format!("{NET}/{nic}") },
        Effect::Folder { path: format!("{NET}/{nic}/brport") },
        Effect::Link { path: format!("{NET}/{nic}/master"), target: format!("{NET}/{bridge}") },
        Effect::File { path: format!("{real}/operstate"), content: Some("up\n".into()), mode: None },
    ];
    if let Some(mac) = mac {
        effects.push(Effect::File { path: format!("{real}/address"), content: Some(format!("{mac}\n")), mode: None });
    }
    if let Some(routes) = host.read_text("/proc/net/route")? {
        let content = Some(link::routes_moved(&routes, nic, bridge));
        effects.push(Effect::File { path: "/proc/net/route".into(), content, mode: None });
    }
    Ok(effects)
}

/// What the kernel shows once the bridge is gone.
///
/// # Errors
/// When the machine can't be read.
pub fn effects_down<H: Host + ?Sized>(host: &H, bridge: &str) -> Result<Vec<Effect>> {
    let mut effects = Vec::new();
    let ports = host.list(&format!("{NET}/{bridge}/brif"))?;
    for nic in &ports {
        effects.push(Effect::Gone { path: format!("{NET}/{nic}/master") });
        effects.push(Effect::Gone { path: format!("{NET}/{nic}/brport") });
    }
    let real = host.real_path(&format!("{NET}/{bridge}"))?;
    effects.push(Effect::Gone { path: real });
    effects.push(Effect::Gone { path: format!("{NET}/{bridge}") });
    let card = boot::cards(host, &ports)?.into_iter().next();
    if let (Some(routes), Some(nic)) = (host.read_text("/proc/net/route")?, card) {
        let content = Some(link::routes_moved(&routes, bridge, &nic));
        effects.push(Effect::File { path: "/proc/net/route".into(), content, mode: None });
    }
    Ok(effects)
}

/// Stops the card while its old configuration still stands, so that its DHCP client ends too. Only for tools that
/// know an interface by its file alone; it comes before the files.
///
/// # Errors
/// When the machine can't be read.
pub fn before(plan: &mut Plan, change: &Change) -> Result<()> {
    let by_file = match change.backend {
        Backend::Ifupdown => true,
        Backend::Ifcfg => !change.host.unit("NetworkManager")?.active,
        _ => false,
    };
    if by_file {
        let command = argv(&["ifdown", change.nic]);
        let diff = Diff::changed("network", change.nic, "has the address", format!("a port of {}", change.bridge));
        // A card that was never up is no reason to stop.
        plan.push(Op::Run(Run { argv: command, any_code: true, timeout: Some(120), ..Run::default() }), vec![diff]);
    }
    Ok(())
}

/// Brings the bridge up, or its new configuration into force.
///
/// # Errors
/// When the machine can't be read.
pub fn up(plan: &mut Plan, change: &Change) -> Result<()> {
    let Change { host, bridge, nic, .. } = *change;
    let there = host.exists(&format!("{NET}/{bridge}/bridge"))?;
    let effects = effects_up(host, bridge, nic, change.mac)?;
    let state = format!("up, port {nic}");
    let diff = if there {
        Diff::changed("network", bridge, "up with its old configuration", state)
    } else {
        Diff::added("network", bridge, state)
    };
    let manager = host.unit("NetworkManager")?.active;
    let profile = format!("{bridge}-port-{nic}");
    let wait = format!("--interface={bridge}");
    let online: &[&str] = &["/usr/lib/systemd/systemd-networkd-wait-online", &wait, "--timeout=60"];
    let flush: &[&str] = &["ip", "address", "flush", "dev", nic, "scope", "global"];
    let reload: &[&str] = &["nmcli", "connection", "reload"];
    let connect: &[&str] = &["nmcli", "connection", "up", bridge];
    let networkd = host.unit("systemd-networkd")?.active;
    let commands: &[&[&str]] = match change.backend {
        // The bridge brings its port along (autoconnect-slaves), but does not wait for it: the last command does.
        Backend::NetworkManager => &[reload, connect, &["nmcli", "connection", "up", &profile]],
        Backend::Ifcfg if manager => &[reload, connect, &["nmcli", "device", "connect", nic]],
        // initscripts' ifup of a bridge does not fetch its port.
        Backend::Ifcfg => &[flush, &["ifup", bridge], &["ifup", nic]],
        Backend::Netplan if networkd => &[&["netplan", "generate"], &["netplan", "apply"], online],
        Backend::Netplan => &[&["netplan", "generate"], &["netplan", "apply"]],
        Backend::Networkd => &[&["systemctl", "restart", "systemd-networkd.service"], online],
        Backend::Ifupdown if there => &[&["ifdown", bridge], &["ifup", bridge]],
        Backend::Ifupdown => &[flush, &["ifup", bridge]],
    };
    run(plan, commands, effects, diff);
    Ok(())
}

/// Takes the bridge down and gives the card its own configuration back.
///
/// # Errors
/// When the machine can't be read.
pub fn down(plan: &mut Plan, change: &Change) -> Result<()> {
    let Change { host, bridge, nic, .. } = *change;
    let effects = effects_down(host, bridge)?;
    let diff = Diff::removed("network", bridge, format!("up, port {nic}"));
    let commands = commands_down(change)?;
    let commands: Vec<Vec<&str>> = commands.iter().map(|one| one.iter().map(String::as_str).collect()).collect();
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    run(plan, &commands, effects, diff);
    Ok(())
}

fn commands_down(change: &Change) -> Result<Vec<Vec<String>>> {
    let Change { host, bridge, nic, .. } = *change;
    let manager = host.unit("NetworkManager")?.active;
    let delete: &[&str] = &["ip", "link", "delete", bridge, "type", "bridge"];
    let commands: &[&[&str]] = match change.backend {
        // A profile whose file is gone takes its bridge with it.
        Backend::NetworkManager => &[&["nmcli", "connection", "reload"], &["nmcli", "device", "connect", nic]],
        Backend::Ifcfg if manager => &[&["nmcli", "connection", "reload"], &["nmcli", "device", "connect", nic]],
        Backend::Ifcfg | Backend::Ifupdown => &[delete, &["ifup", nic]],
        Backend::Netplan => &[delete, &["netplan", "apply"]],
        Backend::Networkd => &[delete, &["systemctl", "restart", "systemd-networkd.service"]],
    };
    Ok(commands.iter().map(|words| argv(words)).collect())
}

/// What brings the old network into force once its files are back, where it was without the bridge: whatever state the
/// way to the new one was left in.
///
/// # Errors
/// When the machine can't be read.
pub fn back_without(change: &Change) -> Result<Vec<Vec<String>>> {
    let manager = change.host.unit("NetworkManager")?.active;
    let mut commands = match change.backend {
        // initscripts and ifupdown believe that what they have brought up is up.
        Backend::Ifupdown => {
            vec![argv(&["ifdown", "--force", change.bridge]), argv(&["ifdown", "--force", change.nic])]
        }
        Backend::Ifcfg if !manager => vec![argv(&["ifdown", change.bridge]), argv(&["ifdown", change.nic])],
        _ => Vec::new(),
    };
    commands.extend(commands_down(change)?);
    Ok(commands)
}

/// The same where the bridge was there.
///
/// # Errors
/// When the machine can't be read.
pub fn back_with(change: &Change) -> Result<Vec<Vec<String>>> {
    let mut plan = Plan::nothing();
    if change.backend == Backend::Ifupdown {
        plan.push(Op::Run(Run::new(["ifdown", "--force", change.bridge], Vec::new())), Vec::new());
    }
    up(&mut plan, change)?;
    let commands = plan.actions.into_iter().filter_map(|action| match action.op {
        Op::Run(run) => Some(run.argv),
        _ => None,
    });
    Ok(commands.collect())
}
