//! Networking.

pub mod link;
pub mod marks;
pub mod place;
