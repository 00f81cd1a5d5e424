//! YAML text to typed plays, tasks, roles and handlers, each with its place; everything that can be known to be wrong
//! is found here, before any host is touched.
//!
//! [`Loader::load`] reads whole sites and reports *all* mistakes. `import_*` is resolved here; `include_*` stays a task
//! and comes back at run time through [`Loader::tasks_file`] and [`Loader::role`], but what is included under a fixed
//! name is read and checked ahead as well.

mod arguments;
mod check;
mod free_form;
mod keys;
mod load;
mod model;
mod parameters;
mod play;
mod role;
mod task;

pub use arguments::{ArgumentOption, ArgumentSpec, Kind, Problem};
pub use load::{LoadOptions, Loader};
pub use model::{
    Become, Block, Common, Crowd, Item, LoopControl, Order, Origin, Play, Role, RoleHead, RoleUse, Rollout, Site, Task,
    Vars, Visit,
};
pub use parameters::check as check_parameters;
pub use role::RoleFrom;

/// Can this name be used in a template? A letter or `_`, then letters, digits and `_`.
pub fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests;
