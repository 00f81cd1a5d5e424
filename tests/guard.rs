//! A bridge over the very card that the run comes in through, on machines with a real network back end: it stays only if
//! the controller comes back over a new connection; and machines that are told to boot again. Says `skipped` and why where
//! there are no such machines.

#[path = "fleet/mod.rs"]
mod fleet;

#[path = "guard/ifupdown.rs"]
mod ifupdown;
#[path = "guard/manager.rs"]
mod manager;
#[path = "guard/reboot.rs"]
mod reboot;

/// Hosts that this file's tests have between them.
const HOSTS: usize = 10;
