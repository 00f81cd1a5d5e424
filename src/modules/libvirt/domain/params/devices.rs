//! Emulated devices: what a guest shows, plays, reads and talks through.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::modules::libvirt::values::{FromShort, Size};
use crate::modules::params::{Flag, List, Text};

/// An input device.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// `tablet`, `mouse`, `keyboard`, or `passthrough` with `device`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `usb` (default), `virtio` or `ps2`.
    pub bus: Option<String>,
    /// `virtio`, `virtio-transitional`, `virtio-non-transitional` (with `bus: virtio`).
    pub model: Option<String>,
    /// The host's device for `passthrough`, such as /dev/input/event3.
    pub device: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<input>`.
    pub xml: Option<String>,
}

impl FromShort for Input {
    fn from_short(text: &str) -> Result<Input, String> {
        Ok(Input { kind: text.to_string(), ..Input::default() })
    }
}

/// A keyboard or mouse of the host that host and guest take turns with.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evdev {
    /// The device, best below /dev/input/by-id, where names don't change.
    pub device: String,
    /// `all`: the guest's other evdev devices are taken and given back together with this one.
    pub grab: Option<String>,
    /// Does holding a key repeat it?
    pub repeat: Option<Flag>,
    /// The keys that switch: `ctrl-ctrl` (both control keys, default), `alt-alt`, `shift-shift`, `meta-meta`, `scrolllock`,
    /// `ctrl-scrolllock`.
    pub toggle: Option<String>,
}

impl FromShort for Evdev {
    fn from_short(text: &str) -> Result<Evdev, String> {
        let keyboard = text.ends_with("-kbd") || text.ends_with("-event-kbd");
        Ok(Evdev {
            device: text.to_string(),
            grab: keyboard.then(|| "all".to_string()),
            repeat: keyboard.then_some(Flag(true)),
            toggle: None,
        })
    }
}

/// A display of the emulated graphics card.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Graphics {
    /// `vnc`, `spice`, `sdl`, `egl-headless`, `dbus`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The TCP port; libvirt chooses one by default.
    pub port: Option<u16>,
    /// The TCP port of encrypted connections (`spice`).
    pub tls_port: Option<u16>,
    /// The port of VNC through a web browser; -1 lets libvirt choose.
    pub websocket: Option<i32>,
    /// The address it listens on; libvirt's default is 127.0.0.1. `none`: it listens on nothing.
    pub listen: Option<Text>,
    /// A Unix socket it listens on instead.
    pub socket: Option<String>,
    /// Keyboard layout, such as `en-us`.
    pub keymap: Option<String>,
    /// Password.
    pub passwd: Option<Text>,
    /// Until when the password is good, such as "2030-01-31T12:00:00".
    pub passwd_valid_to: Option<String>,
    /// Drawn by the host's card (`spice`, `egl-headless`, `sdl`)?
    pub gl: Option<Flag>,
    /// The host's card that draws, such as /dev/dri/renderD128.
    pub rendernode: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<graphics>`.
    pub xml: Option<String>,
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
    /// `virtio`, `qxl`, `cirrus`, `vga`, `bochs`, `ramfb`, `vmvga`, `none`.
    pub model: String,
    /// Video memory with its unit, such as "16 MiB".
    pub vram: Option<Size>,
    /// Secondary memory of `qxl`, with its unit.
    pub ram: Option<Size>,
    /// Framebuffer of `qxl`, with its unit.
    pub vgamem: Option<Size>,
    /// Number of screens.
    pub heads: Option<u32>,
    /// Is it the card that the guest starts with?
    pub primary: Option<Flag>,
    /// Memory objects that host and guest share (`virtio`)?
    pub blob: Option<Flag>,
    /// 3D drawn by the host's card (`virtio`, with a display that has `gl`)?
    pub accel3d: Option<Flag>,
    /// The screen's size at the beginning, such as "1920x1080".
    pub resolution: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<video>`.
    pub xml: Option<String>,
}

impl FromShort for Video {
    fn from_short(text: &str) -> Result<Video, String> {
        Ok(Video { model: text.to_string(), ..Video::default() })
    }
}

/// A sound card.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sound {
    /// `ich9`, `ich6`, `ich7`, `ac97`, `usb`, `es1370`, `sb16`, `pcspk`, `virtio`.
    pub model: String,
    /// Of `ich6` to `ich9`: `duplex`, `micro`, `output`.
    #[serde(default)]
    pub codecs: List<String>,
    /// The number of the `audio` it plays through.
    pub audio: Option<u32>,
}

impl FromShort for Sound {
    fn from_short(text: &str) -> Result<Sound, String> {
        Ok(Sound { model: text.to_string(), ..Sound::default() })
    }
}

/// Where the guest's sound comes out on the host.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Audio {
    /// `none`, `alsa`, `pulseaudio`, `pipewire`, `jack`, `spice`, `sdl`, `oss`, `coreaudio`, `file`, `dbus`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its number, from 1; counted unless given.
    pub id: Option<u32>,
    /// The server of `pulseaudio`, such as /run/user/1000/pulse/native.
    pub server: Option<String>,
    /// The folder of `pipewire`'s socket, such as /run/user/1000.
    pub runtime_dir: Option<String>,
    /// The file of `file`.
    pub path: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<audio>`, such as `<input>` and `<output>`.
    pub xml: Option<String>,
}

impl FromShort for Audio {
    fn from_short(text: &str) -> Result<Audio, String> {
        Ok(Audio { kind: text.to_string(), ..Audio::default() })
    }
}

/// A serial port, console or channel: what is at the host's end, and how the guest sees it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Character {
    /// The host's end: `pty` (default), `unix`, `file`, `dev`, `tcp`, `null`, `stdio`, `vc`, `pipe`, `spicevmc`,
    /// `qemu-vdagent`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Path of a socket, file, pipe or device.
    pub path: Option<String>,
    /// Of `unix` and `tcp`: does QEMU listen (`bind`, default) or `connect`?
    pub mode: Option<String>,
    /// Of `tcp`: the address.
    pub host: Option<Text>,
    /// Of `tcp`: the port.
    pub port: Option<u16>,
    /// Of `tcp`: `raw` (default), `telnet`, `telnets`, `tls`.
    pub protocol: Option<String>,
    /// Of a channel: its name in the guest, such as `org.qemu.guest_agent.0`.
    pub name: Option<String>,
    /// The kind of port in the guest. Serial ports: `isa-serial`, `usb-serial`, `pci-serial`; consoles: `serial`, `virtio`;
    /// channels: `virtio`.
    pub target: Option<String>,
    /// Its number in the guest.
    pub number: Option<u32>,
    /// Everything that goes through is written to this file.
    pub log: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<serial>`, `<console>` or `<channel>`.
    pub xml: Option<String>,
}

impl FromShort for Character {
    fn from_short(text: &str) -> Result<Character, String> {
        Ok(match text {
            path if path.starts_with("/dev/") => {
                Character { kind: Some("dev".into()), path: Some(path.into()), ..Character::default() }
            }
            path if path.starts_with('/') => {
                Character { kind: Some("file".into()), path: Some(path.into()), ..Character::default() }
            }
            kind => Character { kind: Some(kind.to_string()), ..Character::default() },
        })
    }
}

/// A channel between programs of host and guest.
#[derive(Clone, Debug)]
pub struct Channel(pub Character);

impl FromShort for Channel {
    fn from_short(text: &str) -> Result<Channel, String> {
        let named = |kind: &str, name: &str| {
            Channel(Character { kind: Some(kind.into()), name: Some(name.into()), ..Character::default() })
        };
        Ok(match text {
            "guest-agent" => named("unix", "org.qemu.guest_agent.0"),
            "spice" => named("spicevmc", "com.redhat.spice.0"),
            "vdagent" => named("qemu-vdagent", "com.redhat.spice.0"),
            name if name.contains('.') => named("unix", name),
            other => {
                return Err(format!(
                    "`{other}` is not a channel: write `guest-agent`, `spice`, `vdagent`, a name such as \
                     `org.qemu.guest_agent.0`, or a map"
                ));
            }
        })
    }
}

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Channel, D::Error> {
        Character::deserialize(deserializer).map(Channel)
    }
}

impl JsonSchema for Channel {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Channel".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<Character>()
    }
}

/// A trusted platform module.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tpm {
    /// `tpm-crb` (default of version 2.0) or `tpm-tis`.
    pub model: Option<String>,
    /// `emulator` (default; needs swtpm), `passthrough` (the host's own), `external`, or `none`.
    pub backend: Option<String>,
    /// `2.0` (default) or `1.2`, in quotes; of the emulator.
    pub version: Option<Text>,
    /// The host's device, for `passthrough`: /dev/tpm0 by default. The socket, for `external`.
    pub device: Option<String>,
    /// UUID of libvirt's secret that the emulator's state is encrypted with.
    pub secret: Option<String>,
    /// Is the emulator's state kept when the guest is undefined?
    pub persistent_state: Option<Flag>,
}

impl FromShort for Tpm {
    fn from_short(text: &str) -> Result<Tpm, String> {
        let some = |text: &str| Some(text.to_string());
        Ok(match text {
            "none" | "emulator" | "passthrough" => Tpm { backend: some(text), ..Tpm::default() },
            "crb" | "tis" => Tpm { model: Some(format!("tpm-{text}")), ..Tpm::default() },
            "1.2" | "2.0" => Tpm { version: Some(Text(text.to_string())), ..Tpm::default() },
            model => Tpm { model: some(model), ..Tpm::default() },
        })
    }
    const FLAG: bool = true;
    fn from_flag(flag: bool) -> Option<Tpm> {
        let backend = if flag { "emulator" } else { "none" };
        Some(Tpm { backend: Some(backend.to_string()), ..Tpm::default() })
    }
}

/// A source of random numbers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rng {
    /// `virtio` (default), `virtio-transitional`, `virtio-non-transitional`.
    pub model: Option<String>,
    /// `random` (default: a device of the host), `builtin`, or `none`.
    pub backend: Option<String>,
    /// The device; /dev/urandom by default.
    pub device: Option<String>,
    /// At most so many bytes each `rate_period`.
    pub rate_bytes: Option<u32>,
    /// In milliseconds; a second by default.
    pub rate_period: Option<u32>,
}

impl FromShort for Rng {
    fn from_short(text: &str) -> Result<Rng, String> {
        Ok(match text {
            path if path.starts_with('/') => Rng { device: Some(path.to_string()), ..Rng::default() },
            backend => Rng { backend: Some(backend.to_string()), ..Rng::default() },
        })
    }
    const FLAG: bool = true;
    fn from_flag(flag: bool) -> Option<Rng> {
        let backend = if flag { "random" } else { "none" };
        Some(Rng { backend: Some(backend.to_string()), ..Rng::default() })
    }
}

/// A device that does something when the guest hangs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Watchdog {
    /// `i6300esb`, `ib700`, `itco` (part of q35), or `none`.
    pub model: String,
    /// `reset` (default), `shutdown`, `poweroff`, `pause`, `none`, `dump`, `inject-nmi`.
    pub action: Option<String>,
}

impl FromShort for Watchdog {
    fn from_short(text: &str) -> Result<Watchdog, String> {
        Ok(Watchdog { model: text.to_string(), action: None })
    }
}

/// An IOMMU inside the guest.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Iommu {
    /// `intel`, `virtio`, or `smmuv3` (ARM).
    pub model: String,
    /// Interrupt remapping (`intel`); needs `features: {ioapic: qemu}`.
    pub intremap: Option<Flag>,
    /// Needed for devices of the host that the guest passes on (`intel`).
    pub caching_mode: Option<Flag>,
    /// More than 255 virtual CPUs (`intel`).
    pub eim: Option<Flag>,
    /// Device IOTLB (`intel`).
    pub iotlb: Option<Flag>,
    /// Width of addresses in bits (`intel`): 39 or 48.
    pub aw_bits: Option<u32>,
}

impl FromShort for Iommu {
    fn from_short(text: &str) -> Result<Iommu, String> {
        Ok(Iommu { model: text.to_string(), ..Iommu::default() })
    }
}

/// Memory through which Looking Glass shows the guest's screen.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LookingGlass {
    /// Its size, a power of two: "32 MiB" is enough for 1920x1080, "64 MiB" for 2560x1440, "128 MiB" for 3840x2160.
    pub size: Option<Size>,
    /// Or the guest's resolution, such as "2560x1440": the size is worked out.
    pub resolution: Option<String>,
    /// Frames with 10 bits a colour need twice the memory.
    #[serde(default)]
    pub hdr: Flag,
    /// `shmem` (default: a file in /dev/shm) or `kvmfr` (the kernel module; the device must be in cgroup_device_acl).
    pub backend: Option<String>,
    /// The device of `kvmfr`; /dev/kvmfr0 by default.
    pub device: Option<String>,
    /// More of libvirt's XML: elements as they stand inside `<shmem>`, such as its guest `<address>`.
    pub xml: Option<String>,
}

impl FromShort for LookingGlass {
    fn from_short(text: &str) -> Result<LookingGlass, String> {
        let resolution =
            text.split_once('x').is_some_and(|(w, h)| w.parse::<u32>().is_ok() && h.parse::<u32>().is_ok());
        if resolution {
            return Ok(LookingGlass { resolution: Some(text.to_string()), ..LookingGlass::default() });
        }
        Ok(LookingGlass { size: Some(Size::parse(text)?), ..LookingGlass::default() })
    }
}

/// A controller. libvirt adds those that are needed; state one to choose its model.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// `usb`, `scsi`, `sata`, `pci`, `virtio-serial`, `ide`, `fdc`, `ccid`, `xenbus`, `isa`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its number among those of its type, from 0.
    #[serde(default)]
    pub index: u32,
    /// Such as `qemu-xhci` (usb), `virtio-scsi` (scsi), `pcie-root-port` (pci).
    pub model: Option<String>,
    /// Number of ports (usb, virtio-serial).
    pub ports: Option<u32>,
    /// Queues (`virtio-scsi`).
    pub queues: Option<u32>,
    /// Which of the guest's I/O threads serves it (`virtio-scsi`), from 1.
    pub iothread: Option<u32>,
    /// More of libvirt's XML: elements as they stand inside `<controller>`.
    pub xml: Option<String>,
}

impl FromShort for Controller {
    fn from_short(text: &str) -> Result<Controller, String> {
        Ok(match text {
            "qemu-xhci" | "nec-xhci" | "ich9-ehci1" | "piix3-uhci" => {
                Controller { kind: "usb".into(), model: Some(text.to_string()), ..Controller::default() }
            }
            "virtio-scsi" => Controller { kind: "scsi".into(), model: Some(text.to_string()), ..Controller::default() },
            "pcie-root-port" => {
                return Err("a pcie-root-port needs its number: {type: pci, index: 5, model: pcie-root-port}".into());
            }
            kind => Controller { kind: kind.to_string(), ..Controller::default() },
        })
    }
}

/// A socket between host and guest.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's number, from 3; libvirt chooses one by default.
    pub cid: Option<u32>,
}

impl FromShort for Vsock {
    fn from_short(text: &str) -> Result<Vsock, String> {
        match text {
            "auto" => Ok(Vsock::default()),
            _ => Err(format!("`{text}`: write `auto`, or {{cid: 3}}")),
        }
    }
    const FLAG: bool = true;
    fn from_flag(flag: bool) -> Option<Vsock> {
        flag.then(Vsock::default)
    }
}
