//! Files and folders.

pub mod authorized_key;
pub mod blockinfile;
pub mod common;
pub mod copy;
pub mod file;
pub mod get_url;
pub mod ini_file;
pub mod lineinfile;
pub mod pattern;
pub mod replace;
pub mod slurp;
pub mod stat;
pub mod tempfile;
pub mod template;
