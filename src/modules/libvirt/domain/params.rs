//! The parameters of `libvirt_domain`, in libvirt's words.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::modules::libvirt::values::{FromShort, PciAddress, Short, Size, number};
use crate::modules::params::{Flag, List, Text, yes};

/// What a guest should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Defined as described; neither started nor stopped.
    #[default]
    Present,
    /// Defined and running.
    #[serde(alias = "started")]
    Running,
    /// Defined and not running: it is asked to shut down, never forced.
    #[serde(alias = "shutoff", alias = "stopped")]
    Shutdown,
    /// Not defined. Disks stay; a running guest is refused.
    #[serde(alias = "undefined")]
    Absent,
}

/// A libvirt domain (a guest), from a short description. What is stated holds, what libvirt fills in or others added is
/// left alone, and what an earlier run stated and this one does not is taken away.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtDomain {
    /// The guest's name.
    pub name: Text,
    /// `present` (default: defined, neither started nor stopped), `running`, `shutdown` or `absent`.
    #[serde(default)]
    pub state: State,
    /// Starts with the host? Left alone unless given.
    pub autostart: Option<Flag>,
    /// With `state: absent`: remove the UEFI variables too. They are kept by default.
    #[serde(default)]
    pub remove_nvram: Flag,
    /// The hypervisor: `kvm` (default) or `qemu` (emulation).
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// UUID; libvirt makes one for a new guest, and it is never changed.
    pub uuid: Option<String>,
    /// A short title.
    pub title: Option<String>,
    /// A description.
    pub description: Option<String>,
    /// Memory with its unit, such as "16 GiB". Needed to define a guest.
    pub memory: Option<Size>,
    /// Memory the guest starts with, where it is less than `memory`.
    pub current_memory: Option<Size>,
    /// Number of virtual CPUs; by default as many as `topology` has.
    pub vcpus: Option<u32>,
    /// Sockets, cores and threads. Without it every virtual CPU is a socket of its own, and Windows clients use two at most.
    pub topology: Option<Topology>,
    /// CPU mode (`host-passthrough`, `host-model`, `maximum`) or a model's name, or a map. Without it libvirt gives `qemu64`.
    pub cpu: Option<Short<Cpu>>,
    /// Architecture; `x86_64` by default.
    pub arch: Option<String>,
    /// Machine type: `q35` (default for a new guest), `pc`, or an exact one such as `pc-q35-7.2`.
    pub machine: Option<String>,
    /// `bios`, `ovmf` (found on the machine by its firmware descriptors) or `ovmf-secureboot`. Not together with `loader`.
    pub firmware: Option<Firmware>,
    /// A UEFI firmware's code file, given explicitly.
    pub loader: Option<String>,
    /// Does the explicit `loader` enforce Secure Boot?
    pub loader_secure: Option<Flag>,
    /// Where this guest's UEFI variables are kept; `/var/lib/libvirt/qemu/nvram/NAME_VARS.fd` by default.
    pub nvram: Option<String>,
    /// The variables file that `nvram` is first copied from. Without it an explicit `loader` must be known to libvirt.
    pub nvram_template: Option<String>,
    /// Boot order: `hd`, `cdrom`, `network`, `fd`. (A device can have `boot: 1` instead.)
    #[serde(default)]
    pub boot: List<String>,
    /// ACPI, APIC, PAE, KVM's and Hyper-V's. ACPI and APIC are on by default.
    #[serde(default)]
    pub features: Features,
    /// What the guest's clock shows when it starts: `utc`, `localtime`, or a map with timers.
    pub clock: Option<Short<Clock>>,
    /// `destroy`, `restart`, `preserve` or `rename-restart` when the guest powers off.
    pub on_poweroff: Option<String>,
    /// The same when it reboots.
    pub on_reboot: Option<String>,
    /// The same when it crashes.
    pub on_crash: Option<String>,
    /// QEMU's path. By default the distribution's, and for a guest that exists the one it has.
    pub emulator: Option<String>,
    /// Disks: a path each, or a map.
    pub disks: Option<List<Short<Disk>>>,
    /// CD-ROM drives: the path of an ISO image each, or a map.
    pub cdroms: Option<List<Short<Disk>>>,
    /// Network interfaces.
    pub interfaces: Option<List<Interface>>,
    /// Input devices: `tablet`, `mouse`, `keyboard` (on USB), or a map.
    pub inputs: Option<List<Short<Input>>>,
    /// Cards given to the guest, by the address of one function, such as "0000:82:00.0"; all functions of the card come along.
    pub gpus: Option<List<Short<Pci>>>,
    /// PCI functions given to the guest, exactly these, by address.
    pub pci: Option<List<Short<Pci>>>,
    /// USB devices given to the guest, as "vendor:product" in hexadecimal, such as "046d:c52b", or a map.
    pub usb: Option<List<Short<Usb>>>,
    /// Displays of the emulated card: `vnc`, `spice`, … or a map.
    pub graphics: Option<List<Short<Graphics>>>,
    /// Emulated cards: `virtio`, `qxl`, `cirrus`, `vga`, `none`, or a map.
    pub video: Option<List<Short<Video>>>,
    /// `none` or `virtio`. libvirt adds a virtio one by itself; `none` is better with passthrough, which pins all memory.
    pub memballoon: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<domain>`. Those inside `<devices>` are added to the devices,
    /// others are merged into the element of the same name.
    pub xml: Option<String>,
    /// Checks that this guest is spared, by the names of their rules (docs/lint-rules.md), such as `[open-display]`.
    #[serde(default)]
    pub silence: List<String>,
}

/// Which firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// UEFI without Secure Boot.
    #[serde(alias = "uefi", alias = "efi")]
    Ovmf,
    /// UEFI that enforces Secure Boot, with Microsoft's keys enrolled.
    OvmfSecureboot,
}

/// How virtual CPUs are arranged.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Sockets; 1 by default.
    #[serde(default = "one")]
    pub sockets: u32,
    /// Cores of each socket.
    pub cores: u32,
    /// Threads of each core; 1 by default.
    #[serde(default = "one")]
    pub threads: u32,
}

fn one() -> u32 {
    1
}

/// The guest's CPU.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// `host-passthrough`, `host-model`, `maximum` or `custom`.
    pub mode: Option<String>,
    /// The model's name, for `custom`.
    pub model: Option<String>,
    /// `none`, `partial` or `full`.
    pub check: Option<String>,
    /// Should the guest stay movable to another host (`host-passthrough` only)?
    pub migratable: Option<Flag>,
    /// Single CPU features: name to `require`, `disable`, `force`, `optional` or `forbid`.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub features: IndexMap<String, String>,
}

impl FromShort for Cpu {
    fn from_short(text: &str) -> Result<Cpu, String> {
        Ok(match text {
            "host-passthrough" | "host-model" | "maximum" => Cpu { mode: Some(text.to_string()), ..Cpu::default() },
            model => Cpu { mode: Some("custom".to_string()), model: Some(model.to_string()), ..Cpu::default() },
        })
    }
}

/// What the virtual hardware and hypervisor offer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// ACPI: power button, hot plug; UEFI needs it. On by default.
    pub acpi: Option<Flag>,
    /// APIC. On by default.
    pub apic: Option<Flag>,
    /// Physical address extension; only matters to 32-bit guests.
    pub pae: Option<Flag>,
    /// System management mode; Secure Boot needs it.
    pub smm: Option<Flag>,
    /// VMware's port.
    pub vmport: Option<Flag>,
    /// Who emulates the I/O APIC: `kvm` or `qemu`.
    pub ioapic: Option<String>,
    /// Hide KVM from the guest, for NVIDIA's consumer drivers before 465.
    pub kvm_hidden: Option<Flag>,
    /// Hyper-V enlightenments: `relaxed: true`, `spinlocks: 8191`, `vendor_id: "abcdef"`, …
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, Value>")]
    pub hyperv: IndexMap<String, Value>,
}

/// The guest's clock.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// `utc`, `localtime`, `timezone` or `variable`.
    pub offset: String,
    /// The time zone's name, for `offset: timezone`.
    pub timezone: Option<String>,
    /// Timers.
    #[serde(default)]
    pub timers: List<Timer>,
}

impl FromShort for Clock {
    fn from_short(text: &str) -> Result<Clock, String> {
        Ok(Clock { offset: text.to_string(), ..Clock::default() })
    }
}

/// One timer of the guest.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// `rtc`, `pit`, `hpet`, `kvmclock`, `hypervclock`, `tsc`.
    pub name: String,
    /// Is it there?
    pub present: Option<Flag>,
    /// What happens to ticks that were missed: `delay`, `catchup`, `merge`, `discard`.
    pub tickpolicy: Option<String>,
}

/// A disk or a drive.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The image file or (below /dev) block device. A CD-ROM drive may be empty.
    pub path: Option<String>,
    /// A storage pool, instead of `path`.
    pub pool: Option<String>,
    /// The volume in `pool`.
    pub volume: Option<String>,
    /// `disk`, `cdrom`, `lun` or `floppy`.
    pub device: Option<String>,
    /// The name in the guest's order, such as `vda`: what tells disks apart, so better given. Counted by bus otherwise.
    pub target: Option<String>,
    /// `virtio`, `sata`, `ide`, `scsi`, `usb`, `fdc`. By default disks are on virtio; CD-ROM drives on sata, or ide with machine `pc`.
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
    /// The guest can't write.
    pub readonly: Option<Flag>,
    /// Several guests may use it at once.
    pub shareable: Option<Flag>,
    /// The serial number that the guest sees.
    pub serial: Option<Text>,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
}

impl FromShort for Disk {
    fn from_short(text: &str) -> Result<Disk, String> {
        Ok(Disk { path: Some(text.to_string()), ..Disk::default() })
    }
}

/// A network interface: one of `bridge`, `network`, `direct`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// A bridge of the host, such as `br0`.
    pub bridge: Option<String>,
    /// A libvirt network, such as `default`.
    pub network: Option<String>,
    /// A network card of the host, shared by macvtap.
    pub direct: Option<String>,
    /// `virtio` (default), `e1000e`, `e1000`, `rtl8139`, …
    pub model: Option<String>,
    /// The MAC address. libvirt makes one for a new interface, and it stays.
    pub mac: Option<String>,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
}

/// An input device.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// `tablet`, `mouse` or `keyboard`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `usb` (default), `virtio` or `ps2`.
    pub bus: Option<String>,
}

impl FromShort for Input {
    fn from_short(text: &str) -> Result<Input, String> {
        Ok(Input { kind: text.to_string(), bus: None })
    }
}

/// A PCI device of the host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pci {
    /// Its address, such as "0000:82:00.0".
    pub address: Address,
    /// libvirt takes the device from its driver at start and gives it back afterwards. Yes by default.
    #[serde(default = "yes")]
    pub managed: Flag,
    /// A file with the card's ROM.
    pub rom_file: Option<String>,
    /// Does the guest see the card's ROM?
    pub rom_bar: Option<Flag>,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
}

/// A PCI address as a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub PciAddress);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => PciAddress::parse(&text).map(Address).map_err(serde::de::Error::custom),
            other => Err(serde::de::Error::custom(format!(
                "{other} is not a PCI address: put it in quotes, such as \"0000:82:00.0\""
            ))),
        }
    }
}

impl JsonSchema for Address {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PciAddress".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^([0-9a-fA-F]{1,8}:)?[0-9a-fA-F]{1,2}:[01]?[0-9a-fA-F]\\.[0-7]$",
            "description": "A PCI address in quotes, such as \"0000:82:00.0\""
        })
    }
}

impl FromShort for Pci {
    fn from_short(text: &str) -> Result<Pci, String> {
        let address = Address(PciAddress::parse(text)?);
        Ok(Pci { address, managed: yes(), rom_file: None, rom_bar: None, boot: None })
    }
}

/// A USB device of the host: `vendor` and `product`, or `bus` and `device`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Usb {
    /// Vendor id, four hexadecimal digits in quotes.
    pub vendor: Option<Text>,
    /// Product id, four hexadecimal digits in quotes.
    pub product: Option<Text>,
    /// Bus number, as lsusb prints it.
    pub bus: Option<u32>,
    /// Device number on that bus; changes whenever it is plugged in.
    pub device: Option<u32>,
    /// `mandatory`, `requisite` or `optional`: may the guest start without it?
    pub startup_policy: Option<String>,
    /// libvirt manages it. Yes by default.
    #[serde(default = "yes")]
    pub managed: Flag,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
}

/// Reads the id of a USB vendor or product: hexadecimal, with or without `0x`.
///
/// # Errors
/// For people: what is wrong with it.
pub fn usb_id(text: &str) -> Result<u16, String> {
    let wrong = || format!("`{text}` is not a USB id: write four hexadecimal digits in quotes, such as \"046d\"");
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    number(&format!("0x{digits}")).and_then(|n| u16::try_from(n).ok()).ok_or_else(wrong)
}

impl FromShort for Usb {
    fn from_short(text: &str) -> Result<Usb, String> {
        let (vendor, product) = text.split_once(':').ok_or_else(|| {
            format!("`{text}` is not a USB device: write \"vendor:product\" as lsusb prints it, such as \"046d:c52b\"")
        })?;
        usb_id(vendor)?;
        usb_id(product)?;
        Ok(Usb {
            vendor: Some(Text(vendor.to_string())),
            product: Some(Text(product.to_string())),
            managed: yes(),
            ..Usb::default()
        })
    }
}

/// A display of the emulated graphics card.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Graphics {
    /// `vnc`, `spice`, `sdl`, `egl-headless`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The TCP port; libvirt chooses one by default.
    pub port: Option<u16>,
    /// The address it listens on; libvirt's default is 127.0.0.1.
    pub listen: Option<Text>,
    /// Keyboard layout, such as `en-us`.
    pub keymap: Option<String>,
    /// Password.
    pub passwd: Option<Text>,
}

impl FromShort for Graphics {
    fn from_short(text: &str) -> Result<Graphics, String> {
        Ok(Graphics { kind: text.to_string(), ..Graphics::default() })
    }
}

/// An emulated graphics card.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// `virtio`, `qxl`, `cirrus`, `vga`, `bochs`, `ramfb`, `none`.
    pub model: String,
    /// Video memory with its unit, such as "16 MiB".
    pub vram: Option<Size>,
    /// Secondary memory of `qxl`, with its unit.
    pub ram: Option<Size>,
    /// Framebuffer of `qxl`, with its unit.
    pub vgamem: Option<Size>,
    /// Number of screens.
    pub heads: Option<u32>,
}

impl FromShort for Video {
    fn from_short(text: &str) -> Result<Video, String> {
        Ok(Video { model: text.to_string(), ..Video::default() })
    }
}

impl LibvirtDomain {
    /// Does it describe a guest, or only ask for a state?
    pub fn describes(&self) -> bool {
        self.memory.is_some()
    }

    /// Is something stated that only makes sense with a whole description?
    pub fn describes_in_part(&self) -> bool {
        let device_lists = [
            self.disks.is_some(),
            self.cdroms.is_some(),
            self.interfaces.is_some(),
            self.inputs.is_some(),
            self.gpus.is_some(),
            self.pci.is_some(),
            self.usb.is_some(),
            self.graphics.is_some(),
            self.video.is_some(),
        ];
        let others = [
            self.vcpus.is_some(),
            self.topology.is_some(),
            self.cpu.is_some(),
            self.machine.is_some(),
            self.firmware.is_some(),
            self.loader.is_some(),
            !self.boot.is_empty(),
            self.clock.is_some(),
            self.xml.is_some(),
        ];
        device_lists.into_iter().chain(others).any(|stated| stated)
    }
}
