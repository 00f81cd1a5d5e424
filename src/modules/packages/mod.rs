//! Packages, repositories and their keys. Other modules install what they need through [`install`].

pub mod apt_repository;
pub mod install;
mod interrupted;
mod manager;
pub mod package;
mod pgp;
mod query;
pub mod rpm_key;
mod spec;
pub mod yum_repository;

pub use install::{Install, candidate, install, remove};
pub use manager::Manager;
