//! Networking.

pub mod link;
pub mod marks;
