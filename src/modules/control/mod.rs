//! Running, waiting, restarting, telling.

pub mod command;
pub mod ping;
pub mod play;
pub mod reboot;
pub mod setup;
pub mod shell;
pub mod wait_for;
