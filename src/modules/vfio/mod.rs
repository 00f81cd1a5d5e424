//! Giving devices to guests.

pub mod bind;
pub mod boot;
pub mod check;
pub mod persist;
pub mod select;
pub mod storage;

pub use boot::predict_boot;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
