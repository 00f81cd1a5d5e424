//! The parameters of `libvirt_domain`, in libvirt's words.

pub mod devices;
pub mod host;
pub mod machine;
pub mod network;
pub mod storage;

pub use devices::*;
pub use host::*;
pub use machine::*;
pub use network::*;
pub use storage::*;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::modules::libvirt::values::{Short, Size};
use crate::modules::params::{Flag, List, Text};

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
    /// Defined and paused: its CPUs stand still, its memory stays.
    #[serde(alias = "suspended")]
    Paused,
    /// Defined and not running: it is asked to shut down, and forced only with `force`.
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
    /// `present` (default: defined, neither started nor stopped), `running`, `paused`, `shutdown` or `absent`.
    #[serde(default)]
    pub state: State,
    /// While it runs: change what can be changed without a restart (drives, network cards, host devices, media, memory
    /// and virtual CPUs within their limits, pins, I/O threads, limits and shares, …). Without it, and for all else, `restart_required` says what waits. No by default.
    #[serde(default)]
    pub live: Flag,
    /// With `state: shutdown`: seconds that it has to shut down by itself; 180 by default.
    pub shutdown_timeout: Option<u64>,
    /// With `state: shutdown`: pull the plug when it has not shut down in that time, or when it can't (it has crashed);
    /// with `state: running`, start anew a guest that has crashed. What was not on its disks is lost. No by default.
    #[serde(default)]
    pub force: Flag,
    /// Starts with the host? Left alone unless given.
    pub autostart: Option<Flag>,
    /// With `state: absent`: remove the UEFI variables too. They are kept by default.
    #[serde(default)]
    pub remove_nvram: Flag,
    /// With `state: absent`: remove the state of its emulated TPM too. It is kept by default.
    #[serde(default)]
    pub remove_tpm: Flag,
    /// What runs in it: `windows-11`, `windows-10`, `windows-8`, `windows-7`, `windows-server-2025` … `windows-server-2008r2`,
    /// `linux`, `freebsd`, `generic` (knows no virtio). Chooses for a NEW guest what is not said here: machine, firmware, TPM, CPU, clock, Hyper-V enlightenments, bus of disks, model of network cards, USB controller,
    /// tablet, random numbers, guest agent. A guest that exists keeps what it has, also when a later version of this program
    /// would choose otherwise.
    pub os: Option<String>,
    /// What the UUID and MAC addresses of a new guest are made from, besides its name; its host's name in the inventory
    /// unless given, so that a host that is installed anew gives its guests what they had.
    pub identity: Option<Text>,
    /// The whole domain as libvirt's XML; whatever else is given here is put into it.
    pub definition: Option<String>,
    /// The same from a file of the controller, looked for in the role's `files/` first.
    pub definition_file: Option<String>,
    /// The same from a template of the controller, looked for in the role's `templates/` first.
    pub definition_template: Option<String>,
    /// The hypervisor: `kvm` (default) or `qemu` (emulation).
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// UUID. Unless given, a new guest gets one made from `identity` and its name, and it is never changed.
    pub uuid: Option<String>,
    /// A short title.
    pub title: Option<String>,
    /// A description.
    pub description: Option<String>,
    /// Memory with its unit, such as "16 GiB". Needed to define a guest.
    pub memory: Option<Size>,
    /// Memory the guest starts with, where it is less than `memory`.
    pub current_memory: Option<Size>,
    /// Its memory in large pages: `true` (the host's default size), "1 GiB", "2 MiB", or a map.
    pub hugepages: Option<Short<Hugepages>>,
    /// How the host keeps its memory.
    pub memory_backing: Option<MemoryBacking>,
    /// Number of virtual CPUs; by default as many as `topology` has.
    pub vcpus: Option<u32>,
    /// Sockets, cores and threads. Without it every virtual CPU is a socket of its own, and Windows clients use two at most;
    /// with a preset or `pinning: auto` a new guest has one socket.
    pub topology: Option<Topology>,
    /// CPU mode (`host-passthrough`, `host-model`, `maximum`) or a model's name, or a map. Without it, and without a preset,
    /// libvirt gives `qemu64`.
    pub cpu: Option<Short<Cpu>>,
    /// Number of I/O threads, for disks with `iothread`.
    pub iothreads: Option<u32>,
    /// Which of the host's CPUs and memory it uses: `auto`, or a map.
    pub pinning: Option<Short<Pinning>>,
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
    /// Format of `loader` and its variables: `raw` (default) or `qcow2` (default where the path ends so).
    pub loader_format: Option<String>,
    /// Where this guest's UEFI variables are kept; `/var/lib/libvirt/qemu/nvram/NAME_VARS.fd` by default.
    pub nvram: Option<String>,
    /// The variables file that `nvram` is first copied from. Without it an explicit `loader` must be known to libvirt.
    pub nvram_template: Option<String>,
    /// A Linux kernel on the host that is started without a boot loader.
    pub kernel: Option<String>,
    /// Its initramfs on the host.
    pub initrd: Option<String>,
    /// Its command line.
    pub kernel_args: Option<String>,
    /// Boot order: `hd`, `cdrom`, `network`, `fd`. (A device can have `boot: 1` instead.)
    #[serde(default)]
    pub boot: List<String>,
    /// Does the firmware offer a boot menu?
    pub boot_menu: Option<Flag>,
    /// ACPI, APIC, PAE, KVM's and Hyper-V's. ACPI and APIC are on by default.
    #[serde(default)]
    pub features: Features,
    /// What the guest's clock shows when it starts: `utc`, `localtime`, or a map with timers.
    pub clock: Option<Short<Clock>>,
    /// May the guest put itself to sleep?
    pub sleep: Option<Sleep>,
    /// `destroy`, `restart`, `preserve` or `rename-restart` when the guest powers off.
    pub on_poweroff: Option<String>,
    /// The same when it reboots.
    pub on_reboot: Option<String>,
    /// The same when it crashes.
    pub on_crash: Option<String>,
    /// What the guest reads about its machine: `host` (what the host's firmware says), or a map.
    pub smbios: Option<Short<Smbios>>,
    /// QEMU's path. By default the distribution's, and for a guest that exists the one it has.
    pub emulator: Option<String>,
    /// Disks: a path each, or a map.
    pub disks: Option<List<Short<Disk>>>,
    /// CD-ROM drives: the path of an ISO image each, or a map.
    pub cdroms: Option<List<Short<Disk>>>,
    /// Folders of the host in the guest (virtiofs, 9p).
    pub filesystems: Option<List<Filesystem>>,
    /// Network interfaces: the name of a libvirt network each (or `user`), or a map.
    #[serde(alias = "networks")]
    pub interfaces: Option<List<Short<Interface>>>,
    /// Input devices: `tablet`, `mouse`, `keyboard` (on USB), or a map.
    pub inputs: Option<List<Short<Input>>>,
    /// Keyboards and mice of the host that it shares with the guest: their paths, or a map each. Both control keys switch.
    pub evdev: Option<List<Short<Evdev>>>,
    /// Cards given to the guest with all their functions, which the guest sees as one device: by the address of one function
    /// ("0000:82:00.0"), by id ("10de:1430"), by vendor (`nvidia`), or a map.
    pub gpus: Option<List<Short<Gpu>>>,
    /// PCI functions given to the guest, exactly these, by address.
    pub pci: Option<List<Short<Pci>>>,
    /// USB devices given to the guest, as "vendor:product" in hexadecimal, such as "046d:c52b", or a map.
    pub usb: Option<List<Short<Usb>>>,
    /// Mediated devices given to the guest, by UUID.
    pub mdevs: Option<List<Short<Mdev>>>,
    /// In short for `graphics` and `video`: `none` (no emulated card at all, as with a card of its own), `vnc`, `spice`.
    pub display: Option<String>,
    /// Displays of the emulated card: `vnc`, `spice`, … or a map.
    pub graphics: Option<List<Short<Graphics>>>,
    /// Emulated cards: `virtio`, `qxl`, `cirrus`, `vga`, `none`, or a map.
    pub video: Option<List<Short<Video>>>,
    /// Memory for Looking Glass: its size such as "32 MiB", the guest's resolution such as "2560x1440", or a map.
    pub looking_glass: Option<Short<LookingGlass>>,
    /// Sound cards: `ich9`, `virtio`, … or a map.
    pub sound: Option<List<Short<Sound>>>,
    /// Where their sound comes out on the host: `none`, `spice`, `pulseaudio`, … or a map.
    pub audio: Option<List<Short<Audio>>>,
    /// Serial ports: `pty`, the path of a file or device, or a map.
    pub serials: Option<List<Short<Character>>>,
    /// Consoles: `pty`, or a map.
    pub consoles: Option<List<Short<Character>>>,
    /// Channels: `guest-agent`, `spice`, `vdagent`, a name, or a map.
    pub channels: Option<List<Short<Channel>>>,
    /// How many USB devices can be sent through `spice`.
    pub usb_redirection: Option<u32>,
    /// Trusted platform module: `true` (version 2.0, emulated), `crb`, `tis`, `passthrough`, `none`, or a map.
    pub tpm: Option<Short<Tpm>>,
    /// Source of random numbers: `true`, a device of the host, `builtin`, `none`, or a map.
    pub rng: Option<Short<Rng>>,
    /// Watchdog: `i6300esb`, `itco`, `none`, or a map.
    pub watchdog: Option<Short<Watchdog>>,
    /// IOMMU inside the guest: `intel`, `virtio`, or a map.
    pub iommu: Option<Short<Iommu>>,
    /// Device by which a crashed guest says so: `isa` (pvpanic), `hyperv`, `pvpanic` (PCI).
    pub panic: Option<String>,
    /// Socket between host and guest: `auto`, or a map.
    pub vsock: Option<Short<Vsock>>,
    /// Controllers whose model matters, such as `qemu-xhci` or `virtio-scsi`.
    pub controllers: Option<List<Short<Controller>>>,
    /// `none` or `virtio`. libvirt adds a virtio one by itself; `none` is better with passthrough, which pins all memory.
    pub memballoon: Option<String>,
    /// Arguments for QEMU as they stand (`<qemu:commandline>`).
    pub qemu_args: Option<List<Text>>,
    /// Environment of QEMU.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub qemu_env: IndexMap<String, Text>,
    /// More of libvirt's XML: elements as they stand inside `<domain>`. An element merges into the one of its name; a device
    /// into the one it names (a disk by its target, an interface by its MAC address or place, a hostdev by its source, a
    /// controller by type and index, …), and is added where there is none.
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

impl LibvirtDomain {
    /// Does it describe a guest, or only ask for a state?
    pub fn describes(&self) -> bool {
        self.memory.is_some() || self.definition.is_some()
    }

    /// Is something stated that only makes sense with a whole description?
    pub fn describes_in_part(&self) -> bool {
        let device_lists = [
            self.disks.is_some(),
            self.cdroms.is_some(),
            self.filesystems.is_some(),
            self.interfaces.is_some(),
            self.inputs.is_some(),
            self.evdev.is_some(),
            self.gpus.is_some(),
            self.pci.is_some(),
            self.usb.is_some(),
            self.mdevs.is_some(),
            self.graphics.is_some(),
            self.video.is_some(),
            self.display.is_some(),
            self.sound.is_some(),
            self.serials.is_some(),
            self.channels.is_some(),
            self.controllers.is_some(),
            self.tpm.is_some(),
            self.looking_glass.is_some(),
        ];
        let others = [
            self.os.is_some(),
            self.vcpus.is_some(),
            self.topology.is_some(),
            self.cpu.is_some(),
            self.pinning.is_some(),
            self.hugepages.is_some(),
            self.machine.is_some(),
            self.firmware.is_some(),
            self.loader.is_some(),
            self.kernel.is_some(),
            !self.boot.is_empty(),
            self.clock.is_some(),
            self.qemu_args.is_some(),
            self.xml.is_some(),
        ];
        device_lists.into_iter().chain(others).any(|stated| stated)
    }
}
