//! Facts: what a machine is, read through `Host` only.

pub mod iommu;
pub mod pci;
