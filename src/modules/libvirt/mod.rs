//! Guests and what they need: firmware, drivers for Windows, libvirt itself, domains, volumes, networks.

pub mod xml;
