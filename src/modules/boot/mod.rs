//! Kernel, kernel command line, initramfs, and the boot loaders that hold them together.

pub mod bls;
pub mod cmdline;
pub mod grub_cfg;
pub mod grub_default;
pub mod grubenv;
pub mod loader;
#[cfg(test)]
mod samples;
