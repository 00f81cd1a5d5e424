//! Packages, repositories and their keys. Other modules install what they need through [`install`].

pub mod install;
mod manager;
pub mod package;
mod query;
mod spec;

pub use install::{Install, candidate, install, remove};
pub use manager::Manager;
