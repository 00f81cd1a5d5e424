//! Disks, drives and folders of the host.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::modules::libvirt::values::{FromShort, Short, Size};
use crate::modules::params::{Flag, List, Text};

/// A disk or a drive.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The image file or (below /dev) block device. A CD-ROM drive may be empty.
    pub path: Option<String>,
    /// A storage pool, instead of `path`.
    pub pool: Option<String>,
    /// The volume in `pool`.
    pub volume: Option<Text>,
    /// A disk on the network, instead of `path`.
    pub network: Option<NetworkDisk>,
    /// `disk`, `cdrom`, `lun` or `floppy`.
    pub device: Option<String>,
    /// The name in the guest's order, such as `vda`: what tells disks apart. Unless given, a disk that the guest has already
    /// keeps its own, and a new one gets the next free one of its bus.
    pub target: Option<String>,
    /// `virtio`, `sata`, `ide`, `scsi`, `usb`, `fdc`. By default disks are on virtio, CD-ROM drives on sata, or ide with
    /// machine `pc`; a preset (`os`) may know better.
    pub bus: Option<String>,
    /// `qcow2` or `raw`; by default what the path's ending says.
    pub format: Option<String>,
    /// `none`, `writeback`, `writethrough`, `directsync`, `unsafe`.
    pub cache: Option<String>,
    /// `native`, `threads`, `io_uring`.
    pub io: Option<String>,
    /// `unmap` or `ignore`.
    pub discard: Option<String>,
    /// `on`, `off` or `unmap`.
    pub detect_zeroes: Option<Text>,
    /// Which of the guest's I/O threads serves it (`virtio` only), from 1; see `iothreads`.
    pub iothread: Option<u32>,
    /// Number of queues (`virtio` only); as many as virtual CPUs where QEMU chooses.
    pub queues: Option<u32>,
    /// What happens to the guest at an error: `stop`, `report`, `ignore`, `enospace`.
    pub error_policy: Option<String>,
    /// `on`: what is read of a backing file is kept in the image.
    pub copy_on_read: Option<Flag>,
    /// The guest can't write.
    pub readonly: Option<Flag>,
    /// Several guests may use it at once.
    pub shareable: Option<Flag>,
    /// The serial number that the guest sees.
    pub serial: Option<Text>,
    /// World wide name: 16 hexadecimal digits in quotes.
    pub wwn: Option<Text>,
    /// The vendor's name that a SCSI disk shows, at most 8 characters.
    pub vendor: Option<Text>,
    /// The product's name that a SCSI disk shows, at most 16 characters.
    pub product: Option<Text>,
    /// Rotations a minute that the guest sees: 1 for a solid-state disk (`sata`, `scsi`, `ide`).
    pub rotation_rate: Option<u32>,
    /// Does a disk on `usb` look removable?
    pub removable: Option<Flag>,
    /// Bytes of a sector as the guest addresses it: 512 or 4096.
    pub logical_block_size: Option<u32>,
    /// Bytes that the disk writes at once.
    pub physical_block_size: Option<u32>,
    /// May the guest start when the image is missing (CD-ROM drives): `mandatory`, `requisite`, `optional`?
    pub startup_policy: Option<String>,
    /// Limits of what the guest reads and writes.
    pub limits: Option<DiskLimits>,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
    /// More of libvirt's XML: elements as they stand inside `<disk>`.
    pub xml: Option<String>,
}

impl FromShort for Disk {
    fn from_short(text: &str) -> Result<Disk, String> {
        Ok(Disk { path: Some(text.to_string()), ..Disk::default() })
    }
}

/// A disk that another machine serves.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkDisk {
    /// `rbd`, `iscsi`, `nbd`, `gluster`, `nfs`, `http`, `https`, `ftp`, `ftps`, `ssh`, `sheepdog`, `tftp`, `vxhs`.
    pub protocol: String,
    /// What it is called there: pool/image (rbd), iqn…/lun (iscsi), export (nbd), path (http).
    pub name: Option<Text>,
    /// Who serves it.
    #[serde(default)]
    pub hosts: List<Short<NetworkHost>>,
    /// The user to log in as (rbd, iscsi).
    pub username: Option<Text>,
    /// UUID of libvirt's secret with the password or key.
    pub secret_uuid: Option<String>,
    /// Or the usage by which that secret is known.
    pub secret_usage: Option<Text>,
}

/// A machine that serves a disk.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkHost {
    /// Its name or address.
    pub name: Option<Text>,
    /// The port; the protocol's own by default.
    pub port: Option<u16>,
    /// A socket on this machine instead (nbd).
    pub socket: Option<String>,
}

impl FromShort for NetworkHost {
    fn from_short(text: &str) -> Result<NetworkHost, String> {
        Ok(NetworkHost { name: Some(Text(text.to_string())), ..NetworkHost::default() })
    }
}

/// Limits of a disk, each per second: in total, or of reading and writing apart.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskLimits {
    /// Bytes, with their unit.
    pub total_bytes: Option<Size>,
    /// Bytes read.
    pub read_bytes: Option<Size>,
    /// Bytes written.
    pub write_bytes: Option<Size>,
    /// Operations.
    pub total_iops: Option<u64>,
    /// Reads.
    pub read_iops: Option<u64>,
    /// Writes.
    pub write_iops: Option<u64>,
}

/// A folder of the host in the guest.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filesystem {
    /// The folder on the host.
    pub source: Option<String>,
    /// The name the guest mounts it by.
    pub target: Text,
    /// `virtiofs` (default; the guest's memory becomes shared) or `9p`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The guest can't write.
    pub readonly: Option<Flag>,
    /// Whose files they are: `passthrough` (default), `mapped`, `squash`. virtiofs knows `passthrough` alone.
    pub accessmode: Option<String>,
    /// What the guest may keep (virtiofs): `none`, `auto`, `always`.
    pub cache: Option<String>,
    /// Extended attributes (virtiofs)?
    pub xattr: Option<Flag>,
    /// Length of the queue (virtiofs), such as 1024.
    pub queue: Option<u32>,
    /// virtiofsd's path.
    pub binary: Option<String>,
    /// The socket of a virtiofsd that somebody else runs, instead of `source`.
    pub socket: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<filesystem>`.
    pub xml: Option<String>,
}
