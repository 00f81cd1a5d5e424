//! Giving devices to guests.

pub mod acs_override;
pub mod bind;
pub mod boot;
pub mod check;
pub mod persist;
pub mod select;
pub mod storage;
pub mod unsafe_interrupts;

pub use boot::predict_boot;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
