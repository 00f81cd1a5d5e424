//! What can be changed on a machine: an [`Action`] carries its diff and is done by one executor.

pub mod action;
pub mod diff;
pub mod executor;
pub mod failpoint;
pub mod undo;
mod unified;

pub use action::{Action, Content, Effect, Guard, Op, Plan, Run, SENT, Wait};
pub use diff::{Diff, TRIAL_BOOT};
pub use unified::unified;
