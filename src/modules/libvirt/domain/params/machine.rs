//! Processors, memory, features, clock and where a guest runs on its host.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::modules::libvirt::values::{FromShort, Size};
use crate::modules::params::{Flag, List, Text};

/// How virtual CPUs are arranged.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Sockets; 1 by default.
    #[serde(default = "one")]
    pub sockets: u32,
    /// Dies of each socket; 1 by default.
    pub dies: Option<u32>,
    /// Cores of each die, or of each socket where there are no dies.
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
    /// The CPU's cache: `passthrough` (the host's), `emulate` or `disable`.
    pub cache: Option<String>,
    /// Single CPU features: name to `require`, `disable`, `force`, `optional` or `forbid`.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub features: IndexMap<String, String>,
    /// More of libvirt's XML: elements as they stand inside `<cpu>`, such as `<numa>`.
    pub xml: Option<String>,
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
    /// Who emulates the I/O APIC: `kvm` or `qemu`. An emulated IOMMU with interrupt remapping needs `qemu`.
    pub ioapic: Option<String>,
    /// The performance monitoring unit.
    pub pmu: Option<Flag>,
    /// A device through which crash dumps of the guest get their layout.
    pub vmcoreinfo: Option<Flag>,
    /// What happens at registers that KVM does not know: `ignore` or `fault`.
    pub msrs_unknown: Option<String>,
    /// Hide KVM from the guest, for NVIDIA's consumer drivers before 465.
    pub kvm_hidden: Option<Flag>,
    /// Tell a Linux guest that its virtual CPUs never wait for a real one; only true when they are pinned.
    pub kvm_hint_dedicated: Option<Flag>,
    /// Let a waiting virtual CPU poll for a moment.
    pub kvm_poll_control: Option<Flag>,
    /// Hyper-V enlightenments, which Windows uses: `relaxed: true`, `spinlocks: 8191`, `vendor_id: "abcdef"`,
    /// `stimer: direct`, … A Windows preset chooses those that its version knows; single ones given here win.
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
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// `rtc`, `pit`, `hpet`, `kvmclock`, `hypervclock`, `tsc`, `platform`.
    pub name: String,
    /// Is it there?
    pub present: Option<Flag>,
    /// What happens to ticks that were missed: `delay`, `catchup`, `merge`, `discard`.
    pub tickpolicy: Option<String>,
    /// What it follows (`rtc`, `platform`): `boot`, `guest`, `wall`, `realtime`.
    pub track: Option<String>,
    /// How the `tsc` is offered: `auto`, `native`, `emulate`, `paravirt`, `smpsafe`.
    pub mode: Option<String>,
    /// Frequency of the `tsc` in Hz.
    pub frequency: Option<u64>,
}

/// May the guest put itself to sleep?
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    /// To memory (S3)? A card that was passed through often does not wake up again.
    pub memory: Option<Flag>,
    /// To disk (S4)?
    pub disk: Option<Flag>,
}

/// The guest's memory in large pages, which the host must have set aside.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hugepages {
    /// Their size: "2 MiB" or "1 GiB". The host's default size unless given.
    pub size: Option<Size>,
    /// Which of the guest's own NUMA nodes they are for, such as "0".
    pub nodeset: Option<Text>,
    /// `hugepages: false`.
    #[serde(skip)]
    pub none: bool,
}

impl FromShort for Hugepages {
    fn from_short(text: &str) -> Result<Hugepages, String> {
        Ok(Hugepages { size: Some(Size::parse(text)?), ..Hugepages::default() })
    }
    const FLAG: bool = true;
    fn from_flag(flag: bool) -> Option<Hugepages> {
        Some(Hugepages { none: !flag, ..Hugepages::default() })
    }
}

/// How the host keeps the guest's memory.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryBacking {
    /// `anonymous`, `file` or `memfd`. virtiofs makes it `memfd`.
    pub source: Option<String>,
    /// May other processes share it (`shared`), or not (`private`)? virtiofs needs it and makes it so.
    pub access: Option<String>,
    /// When it is taken from the host: `immediate` or `ondemand`.
    pub allocation: Option<String>,
    /// Never swapped out.
    pub locked: Option<Flag>,
    /// May the host merge equal pages of several guests? Yes by default.
    pub merge: Option<Flag>,
    /// Its content is given up as soon as the guest stops.
    pub discard: Option<Flag>,
}

/// Which of the host's CPUs and which of its memory a guest uses.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pinning {
    /// Worked out on the machine: virtual CPUs on cores of one NUMA node (`node`, or that of the first GPU), the threads of
    /// a core side by side, the emulator and I/O threads on what is left of the node, memory on the node. CPUs that other
    /// guests are pinned to are avoided as long as there are others. A guest that is pinned well already stays as it is.
    #[serde(default)]
    pub auto: Flag,
    /// With `auto`: this NUMA node instead of that of the GPU.
    pub node: Option<u32>,
    /// CPUs of the host for each virtual CPU in order, such as `["2", "14", "3", "15"]`; an entry may be a set such as "2-5".
    pub vcpus: Option<List<Text>>,
    /// CPUs of the host for QEMU's own threads, such as "0-1,12-13".
    pub emulator: Option<Text>,
    /// CPUs of the host for each I/O thread in order.
    pub iothreads: Option<List<Text>>,
    /// NUMA nodes of the host that memory comes from, such as "1".
    pub memory: Option<Text>,
    /// `strict` (default), `preferred`, `interleave` or `restrictive`.
    pub memory_mode: Option<String>,
}

impl FromShort for Pinning {
    fn from_short(text: &str) -> Result<Pinning, String> {
        match text {
            "auto" => Ok(Pinning { auto: Flag(true), ..Pinning::default() }),
            _ => Err(format!("`{text}` is not a way of pinning: write `auto`, or a map with `vcpus`")),
        }
    }
}

/// What the guest reads about its machine (SMBIOS): names of fields as libvirt has them, such as `manufacturer`, `product`,
/// `serial`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Smbios {
    /// `sysinfo` (default: what stands here), `host` (the host's own) or `emulate`.
    pub mode: Option<String>,
    /// The firmware: `vendor`, `version`, `date`, `release`.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub bios: IndexMap<String, Text>,
    /// The machine: `manufacturer`, `product`, `version`, `serial`, `sku`, `family`. Its `uuid` is always that of the guest.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub system: IndexMap<String, Text>,
    /// The board: `manufacturer`, `product`, `version`, `serial`, `asset`, `location`.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub board: IndexMap<String, Text>,
    /// The case: `manufacturer`, `version`, `serial`, `asset`, `sku`.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub chassis: IndexMap<String, Text>,
    /// Free texts.
    #[serde(default)]
    pub oem_strings: List<Text>,
}

impl FromShort for Smbios {
    fn from_short(text: &str) -> Result<Smbios, String> {
        Ok(Smbios { mode: Some(text.to_string()), ..Smbios::default() })
    }
}
