//! The program over SSH against a fleet of namespaced hosts (`docs/fleet.md`). Says `skipped` and why where there is none.

#[path = "fleet/mod.rs"]
mod fleet;

#[path = "fleet/after.rs"]
mod after;
#[path = "fleet/distance.rs"]
mod distance;
#[path = "fleet/faults.rs"]
mod faults;
#[path = "fleet/logins.rs"]
mod logins;
#[path = "fleet/rollout.rs"]
mod rollout;
