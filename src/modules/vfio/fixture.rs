//! The seed's workstation as sysfs shows it, for tests: a Quadro M2000 with its audio in group 38 on the second
//! socket, a Matrox on the board that the machine starts with, a PERC with the root disk, four i350 ports in one
//! group.

use crate::host::overlay::testing::{Machine, machine};

/// Files of a machine that tests change before they make it.
pub struct Box1 {
    files: Vec<(String, String)>,
}

/// One function: address, path of its parents, class, vendor, device, driver, NUMA node, group, boot_vga.
pub struct Card<'a> {
    pub address: &'a str,
    pub parents: &'a str,
    pub class: &'a str,
    pub id: (&'a str, &'a str),
    pub driver: Option<&'a str>,
    pub group: u32,
    pub boot_vga: Option<&'a str>,
}

pub const GPU_PARENTS: &str = "pci0000:80/0000:80:02.0";

const CARDS: &[Card] = &[
    card("0000:00:00.0", "pci0000:00", "0x060000", ("0x8086", "0x2f00"), None, 0),
    card("0000:00:01.0", "pci0000:00", "0x060400", ("0x8086", "0x2f02"), Some("pcieport"), 1),
    card("0000:00:02.0", "pci0000:00", "0x060400", ("0x8086", "0x2f04"), Some("pcieport"), 2),
    card("0000:00:14.0", "pci0000:00", "0x0c0330", ("0x8086", "0x8d31"), Some("xhci_hcd"), 7),
    card("0000:00:1c.7", "pci0000:00", "0x060400", ("0x8086", "0x8d1e"), Some("pcieport"), 29),
    card("0000:00:1f.0", "pci0000:00", "0x060100", ("0x8086", "0x8d44"), Some("lpc_ich"), 12),
    card("0000:00:1f.2", "pci0000:00", "0x010601", ("0x8086", "0x8d02"), Some("ahci"), 12),
    card("0000:00:1f.3", "pci0000:00", "0x0c0500", ("0x8086", "0x8d22"), Some("i801_smbus"), 12),
    card("0000:01:00.0", "pci0000:00/0000:00:01.0", "0x020000", ("0x8086", "0x1521"), Some("igb"), 24),
    card("0000:01:00.1", "pci0000:00/0000:00:01.0", "0x020000", ("0x8086", "0x1521"), Some("igb"), 24),
    card("0000:02:00.0", "pci0000:00/0000:00:02.0", "0x010400", ("0x1000", "0x005d"), Some("megaraid_sas"), 25),
    Card {
        boot_vga: Some("1"),
        ..card("0000:0a:00.0", "pci0000:00/0000:00:1c.7", "0x030000", ("0x102b", "0x0534"), Some("mgag200"), 30)
    },
    card("0000:80:02.0", "pci0000:80", "0x060400", ("0x8086", "0x2f04"), Some("pcieport"), 34),
    Card {
        boot_vga: Some("0"),
        ..card("0000:82:00.0", GPU_PARENTS, "0x030000", ("0x10de", "0x1430"), Some("nouveau"), 38)
    },
    card("0000:82:00.1", GPU_PARENTS, "0x040300", ("0x10de", "0x0fba"), Some("snd_hda_intel"), 38),
];

pub const fn card<'a>(
    address: &'a str,
    parents: &'a str,
    class: &'a str,
    id: (&'a str, &'a str),
    driver: Option<&'a str>,
    group: u32,
) -> Card<'a> {
    Card { address, parents, class, id, driver, group, boot_vga: None }
}

impl Box1 {
    pub fn seed() -> Box1 {
        let mut seed = Box1 { files: Vec::new() };
        for one in CARDS {
            seed.card(one);
        }
        let perc = "/sys/devices/pci0000:00/0000:00:02.0/0000:02:00.0/host0/target0:2:0/0:2:0:0/block/sda";
        let igb = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0";
        seed.put("/etc/os-release", "ID=\"centos\"\nVERSION_ID=\"7\"\nID_LIKE=\"rhel fedora\"\n")
            .put("/etc/dracut.conf.d/", "")
            .put("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/mapper/cl-root ro quiet intel_iommu=on\n")
            .put("/proc/cpuinfo", "vendor_id\t: GenuineIntel\n")
            .put("/sys/firmware/acpi/tables/DMAR", "recorded\n")
            .put("/sys/class/iommu/dmar0/intel-iommu/ecap", "f00f4a\n")
            .put("/sys/class/iommu/dmar1/intel-iommu/ecap", "f00f4a\n")
            .put("/proc/self/mountinfo", "25 1 253:0 / / rw - xfs /dev/mapper/cl-root rw\n")
            .put("/sys/dev/block/253:0", "-> ../../devices/virtual/block/dm-0")
            .put("/sys/devices/virtual/block/dm-0/slaves/sda2", &format!("-> {perc}/sda2"))
            .put(&format!("{perc}/sda2/partition"), "2\n")
            .put(&format!("{igb}/net/eno1/address"), "0c:c4:7a:aa:bb:01\n")
            .put(&format!("{igb}/net/eno1/flags"), "0x1003\n")
            .put("/sys/class/net/eno1", &format!("-> {igb}/net/eno1"))
            .put(
                "/proc/net/route",
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nmtu\n\
                 eno1\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
            );
        seed
    }

    pub fn put(&mut self, path: &str, content: &str) -> &mut Box1 {
        self.files.retain(|(other, _)| other != path);
        self.files.push((path.into(), content.into()));
        self
    }

    /// Takes away a path, and all below it.
    pub fn drop(&mut self, path: &str) -> &mut Box1 {
        let below = format!("{path}/");
        self.files.retain(|(other, _)| other != path && !other.starts_with(&below));
        self
    }

    pub fn card(&mut self, card: &Card) -> &mut Box1 {
        let real = format!("/sys/devices/{}/{}", card.parents, card.address);
        let link = format!("/sys/bus/pci/devices/{}", card.address);
        self.put(&link, &format!("-> ../../../devices/{}/{}", card.parents, card.address));
        for (name, value) in [
            ("class", card.class),
            ("vendor", card.id.0),
            ("device", card.id.1),
            ("driver_override", "(null)"),
            ("numa_node", if card.address.starts_with("0000:8") { "1" } else { "0" }),
            ("reset", ""),
        ] {
            self.put(&format!("{real}/{name}"), &format!("{value}\n"));
        }
        if let Some(driver) = card.driver {
            self.put(&format!("{real}/driver"), &format!("-> /sys/bus/pci/drivers/{driver}"));
        }
        if let Some(boot) = card.boot_vga {
            self.put(&format!("{real}/boot_vga"), &format!("{boot}\n"));
        }
        self.group(card.address, &real, card.group)
    }

    fn group(&mut self, address: &str, real: &str, group: u32) -> &mut Box1 {
        let groups = "/sys/kernel/iommu_groups";
        self.files.retain(|(path, _)| !(path.starts_with(groups) && path.ends_with(&format!("/devices/{address}"))));
        self.put(&format!("{real}/iommu_group"), &format!("-> ../../../../kernel/iommu_groups/{group}"));
        self.put(&format!("{groups}/{group}/devices/{address}"), &format!("-> {real}"));
        self.put(&format!("{groups}/{group}/reserved_regions"), "0xfee00000 0xfeefffff msi\n")
    }

    /// Puts a function that is there into another group.
    pub fn regroup(&mut self, address: &str, parents: &str, group: u32) -> &mut Box1 {
        self.group(address, &format!("/sys/devices/{parents}/{address}"), group)
    }

    /// Where the files of a function are.
    pub fn real(parents: &str, address: &str, name: &str) -> String {
        format!("/sys/devices/{parents}/{address}/{name}")
    }

    /// The same without an IOMMU that the kernel uses.
    pub fn iommu_off(&mut self) -> &mut Box1 {
        self.files.retain(|(path, _)| {
            !path.starts_with("/sys/kernel/iommu_groups")
                && !path.starts_with("/sys/class/iommu")
                && !path.ends_with("/iommu_group")
        });
        self
    }

    /// A kernel that knows neither driver_override nor boot_vga nor numa_node.
    pub fn legacy(&mut self) -> &mut Box1 {
        self.files.retain(|(path, _)| {
            !["/driver_override", "/boot_vga", "/numa_node", "/reset"].iter().any(|name| path.ends_with(name))
        });
        self
    }

    pub fn make(&self) -> Machine {
        let files: Vec<(&str, &str)> = self.files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        machine(&files)
    }
}
