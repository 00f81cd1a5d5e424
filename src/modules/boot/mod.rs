//! Kernel, kernel command line, initramfs, and the boot loaders that hold them together.

pub mod cmdline;
pub mod grub_default;
pub mod grubenv;
