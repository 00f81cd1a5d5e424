//! Networking.

pub mod activate;
pub mod backend;
pub mod boot;
pub mod bridge;
pub mod link;
pub mod marks;
pub mod place;

pub use boot::predict_boot;

#[cfg(test)]
mod tests;
