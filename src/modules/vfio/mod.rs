//! Giving devices to guests.

pub mod storage;
