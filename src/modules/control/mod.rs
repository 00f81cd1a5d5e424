//! control
pub mod play;
