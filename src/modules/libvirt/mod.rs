//! Guests and what they need: firmware, drivers for Windows, libvirt itself, domains, volumes, networks.

pub mod daemon;
pub mod descriptors;
pub mod device_acl;
pub mod domain;
pub mod evdev;
pub mod hooks;
pub mod import;
pub mod lint;
pub mod looking_glass;
pub mod network;
pub mod ovmf;
pub mod pool;
pub mod qemu_conf;
pub mod single_gpu;
pub mod swtpm;
pub mod threeway;
pub mod values;
pub mod virtio_win;
pub mod volume;
pub mod xml;

use ovmf::fetch;

use crate::change::{Effect, Run};

/// Which libvirt is spoken to: the system's.
pub const URI: &str = "qemu:///system";

/// A virsh command.
pub fn virsh(arguments: &[&str], effects: Vec<Effect>) -> Run {
    let argv = ["virsh", "-c", URI].iter().chain(arguments).map(|word| (*word).to_string());
    Run::new(argv, effects)
}
