//! vfio-provision: idempotent provisioning of GPU passthrough workstations.
//!
//! The rooms, and which way the arrows go: see `docs/architecture.md`.

pub mod change;
pub mod diag;
pub mod facts;
pub mod host;
pub mod modules;
pub mod playbook;
pub mod template;
pub mod yaml;
