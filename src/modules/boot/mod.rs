//! Kernel, kernel command line, initramfs, and the boot loaders that hold them together.

pub mod argument;
pub mod bls;
pub mod cmdline;
pub mod elrepo;
pub mod grub_cfg;
pub mod grub_default;
pub mod grubenv;
pub mod initramfs;
pub mod kernel;
pub mod kernel_cmdline;
pub mod loader;
pub mod room;
#[cfg(test)]
pub(crate) mod samples;
pub mod template;
pub mod trial;
pub mod unfinished;
pub mod writable;
