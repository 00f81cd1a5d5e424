//! vfio-provision: idempotent provisioning of GPU passthrough workstations.
//!
//! The rooms, and which way the arrows go: see `docs/architecture.md`.

pub mod agent;
pub mod change;
pub mod cli;
pub mod diag;
pub mod facts;
pub mod host;
pub mod inventory;
pub mod modules;
mod packed;
pub mod playbook;
pub mod pull;
pub mod report;
pub mod run;
pub mod template;
pub mod transport;
pub mod vault;
pub mod yaml;
