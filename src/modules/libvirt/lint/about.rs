//! What the rules may know around a guest, and how it is read of a machine: few reads, only of what this guest touches.

mod files;

use std::collections::{BTreeMap, BTreeSet};

pub use files::Reach;

use super::Wish;
use super::guests::{Claim, claims, claims_in};
use crate::facts::{iommu, pci};
use crate::host::{Host, Result, VirtKind};
use crate::modules::libvirt::values::PciAddress;
use crate::modules::libvirt::xml::{self, Element};
use crate::modules::libvirt::{URI, descriptors, qemu_conf};
use crate::modules::vfio::boot;

/// Facts around a guest. A rule whose facts are `None` is silent.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The `os` that the playbook names, such as `windows-11`.
    pub os: Option<String>,
    /// Will it start with the host?
    pub autostart: Option<bool>,
    /// The other guests of the machine that claim devices of the host.
    pub others: Option<Vec<Other>>,
    /// The PCI devices of the host: the claimed ones, their other functions, and all of their IOMMU groups.
    pub pci: Option<Vec<pci::Device>>,
    /// The addresses of all PCI functions.
    pub functions: Option<BTreeSet<PciAddress>>,
    /// The IOMMU, with the groups of the claimed devices at least.
    pub iommu: Option<AboutIommu>,
    /// Vendor and product of every USB device.
    pub usb: Option<BTreeSet<(u16, u16)>>,
    /// Memory of the machine, in bytes.
    pub memory: Option<u64>,
    /// NUMA nodes.
    pub nodes: Option<Vec<Node>>,
    /// Threads of each CPU's core, itself included; by number.
    pub cpus: Option<BTreeMap<u32, BTreeSet<u32>>>,
    /// Reserved huge pages: NUMA node (`None` for all together), size in bytes, count.
    pub hugepages: Option<Vec<HugePages>>,
    /// Machine types that the host's QEMU has, aliases included.
    pub machines: Option<BTreeSet<String>>,
    /// Bridges.
    pub bridges: Option<BTreeSet<String>>,
    /// libvirt's networks.
    pub networks: Option<BTreeSet<String>>,
    /// libvirt's pools.
    pub pools: Option<BTreeSet<String>>,
    /// What stands at the paths that the guest names.
    pub paths: BTreeMap<String, Reach>,
    /// Is it known which variables belong to the guest's firmware, or are they there already?
    pub variables: Option<bool>,
    /// Is swtpm there?
    pub swtpm: Option<bool>,
}

/// Another guest of the machine.
#[derive(Clone, Debug, Default)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Does it start with the host?
    pub autostart: bool,
    /// What it claims.
    pub claims: Vec<Claim>,
}

/// What the rules need of the IOMMU.
#[derive(Clone, Debug, Default)]
pub struct AboutIommu {
    /// Does the kernel use it?
    pub on: bool,
    /// Can it remap interrupts, or is it allowed to do without? `None` when that can't be told.
    pub interrupts: Option<bool>,
    /// Groups for which firmware reserved memory.
    pub reserved: BTreeSet<u32>,
}

/// A NUMA node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its number.
    pub number: u32,
    /// Its memory, in bytes.
    pub memory: Option<u64>,
    /// Its CPUs.
    pub cpus: BTreeSet<u32>,
}

/// Reserved huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// The NUMA node; `None` for all of them together.
    pub node: Option<u32>,
    /// Bytes of one.
    pub size: u64,
    /// How many are reserved, in use or not.
    pub count: u64,
}

/// A fact that can't be read is not known; the check is no reason for a plan to fail, or to wait for an apply.
fn known<T>(read: Result<T>) -> Option<T> {
    read.ok()
}

/// Reads of the machine what the rules need to know for this guest.
///
/// # Errors
/// When libvirt's guests can't be read: two of them that start with the host must not go unseen.
pub fn about(host: &dyn Host, name: &str, domain: &Element, wish: &Wish) -> Result<About> {
    let mut about = About { os: wish.os.map(str::to_string), autostart: Some(wish.autostart), ..About::default() };
    let claimed = claims(domain);
    if !claimed.is_empty() {
        about.others = Some(others(host, name, &claimed)?);
    }
    let pci: Vec<PciAddress> = claimed.iter().filter_map(Claim::pci).collect();
    if !pci.is_empty() {
        about.functions = known(functions(host));
        let read = about.functions.as_ref().and_then(|all| known(devices(host, &pci, all)));
        about.iommu = known(read_iommu(host, read.as_deref().unwrap_or_default())).flatten();
        about.pci = read.filter(|read| !read.is_empty());
    }
    if claimed.iter().any(|claim| matches!(claim, Claim::Usb(..))) {
        about.usb = known(usb(host)).flatten();
    }
    memory(host, domain, &mut about);
    sources(host, domain, &mut about);
    about.variables = known(variables(host, domain)).flatten();
    if domain.at(&["devices", "tpm", "backend"]).and_then(|b| b.attribute("type")) == Some("emulator") {
        about.swtpm = known(program(host, "swtpm")).flatten();
    }
    about.machines = machines(host, domain, wish.current);
    files::read(host, domain, &mut about.paths);
    Ok(about)
}

/// The other guests that claim any of the same devices.
fn others(host: &dyn Host, name: &str, own: &[Claim]) -> Result<Vec<Other>> {
    let mut others = Vec::new();
    for other in host.virt_names(VirtKind::Domain)?.into_iter().filter(|other| other != name) {
        let Some(virt) = host.virt(VirtKind::Domain, &other)? else { continue };
        // Most guests are told by their text alone: parsing two hundred of them would cost more than all the rest.
        if own.iter().any(|claim| claim.may_be_in(&virt.xml)) {
            let claims = claims_in(&virt.xml);
            others.push(Other { name: other, autostart: virt.autostart, claims });
        }
    }
    Ok(others)
}

const PCI: &str = "/sys/bus/pci/devices";

fn functions(host: &dyn Host) -> Result<BTreeSet<PciAddress>> {
    Ok(host.list(PCI)?.iter().filter_map(|name| PciAddress::parse(name).ok()).collect())
}

/// All functions of a card that the machine has, sorted.
///
/// # Errors
/// Trouble reading sysfs.
pub fn functions_of(host: &dyn Host, card: &PciAddress) -> Result<Vec<PciAddress>> {
    Ok(functions(host)?.into_iter().filter(|address| address.same_card(card)).collect())
}

/// The claimed devices, the other functions of their cards, and everything else in their IOMMU groups.
fn devices(host: &dyn Host, claimed: &[PciAddress], all: &BTreeSet<PciAddress>) -> Result<Vec<pci::Device>> {
    let mut wanted: BTreeSet<PciAddress> =
        all.iter().filter(|function| claimed.iter().any(|claim| claim.same_card(function))).copied().collect();
    let mut read: Vec<pci::Device> = Vec::new();
    let mut groups: BTreeSet<u32> = BTreeSet::new();
    for address in std::mem::take(&mut wanted) {
        read.extend(pci::device(host, of_facts(address))?);
    }
    groups.extend(read.iter().filter(|d| claimed.contains(&of_libvirt(d.address))).filter_map(|d| d.iommu_group));
    for group in groups {
        for name in host.list(&format!("{}/{group}/devices", iommu::GROUPS))? {
            if let Ok(address) = PciAddress::parse(&name)
                && !read.iter().any(|device| of_libvirt(device.address) == address)
            {
                read.extend(pci::device(host, of_facts(address))?);
            }
        }
    }
    wait_for_the_boot(host, &mut read)?;
    Ok(read)
}

/// Devices that vfio-pci takes at the next boot wait for it, as those do whose `driver_override` says so already: an earlier
/// task has bound them, and that the machine must boot again is said there.
fn wait_for_the_boot(host: &dyn Host, read: &mut [pci::Device]) -> Result<()> {
    if read.iter().all(|device| device.driver.as_deref().is_none_or(|driver| driver == "vfio-pci")) {
        return Ok(());
    }
    let waiting = boot::reserved(host, read)?;
    for device in read.iter_mut().filter(|device| waiting.contains(&device.address)) {
        device.driver_override = Some("vfio-pci".to_string());
    }
    Ok(())
}

fn of_facts(address: PciAddress) -> pci::PciAddress {
    let PciAddress { domain, bus, slot, function } = address;
    pci::PciAddress { domain, bus, slot, function }
}

/// The address of a fact as libvirt's.
pub fn of_libvirt(address: pci::PciAddress) -> PciAddress {
    let pci::PciAddress { domain, bus, slot, function } = address;
    PciAddress { domain, bus, slot, function }
}

fn read_iommu(host: &dyn Host, devices: &[pci::Device]) -> Result<Option<AboutIommu>> {
    // A machine of which not even the devices are known tells nothing.
    if devices.is_empty() {
        return Ok(None);
    }
    let mut reserved = BTreeSet::new();
    for group in devices.iter().filter_map(|device| device.iommu_group).collect::<BTreeSet<u32>>() {
        let text = host.read_text(&format!("{}/{group}/reserved_regions", iommu::GROUPS))?.unwrap_or_default();
        if text.lines().any(|line| line.split_whitespace().nth(2) == Some("direct")) {
            reserved.insert(group);
        }
    }
    let on = !host.list(iommu::GROUPS)?.is_empty();
    let parameter = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    let allowed = || -> Result<bool> { Ok(host.read_line(parameter)?.is_some_and(|text| text == "Y" || text == "1")) };
    let interrupts = match iommu::remaps_interrupts(host)? {
        Some(false) => Some(allowed()?),
        other => other,
    };
    Ok(Some(AboutIommu { on, interrupts, reserved }))
}

fn usb(host: &dyn Host) -> Result<Option<BTreeSet<(u16, u16)>>> {
    let folder = "/sys/bus/usb/devices";
    let names = host.list(folder)?;
    let mut found = BTreeSet::new();
    // `1-4:1.0` are interfaces of `1-4`.
    for name in names.iter().filter(|name| !name.contains(':')) {
        let id = |file: &str| -> Result<Option<u16>> {
            let text = host.read_line(&format!("{folder}/{name}/{file}"))?;
            Ok(text.and_then(|text| u16::from_str_radix(&text, 16).ok()))
        };
        if let (Some(vendor), Some(product)) = (id("idVendor")?, id("idProduct")?) {
            found.insert((vendor, product));
        }
    }
    // A machine of which no USB device is known has no USB that could be looked at.
    Ok((!found.is_empty()).then_some(found))
}

/// Memory, nodes, CPUs and huge pages, as far as this guest touches them.
fn memory(host: &dyn Host, domain: &Element, about: &mut About) {
    let field = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.contains(name))?;
        line.split_once(':')?.1.split_whitespace().next()?.parse().ok()
    };
    let meminfo = known(host.read_text("/proc/meminfo")).flatten();
    about.memory = meminfo.as_deref().and_then(|text| field(text, "MemTotal:")).and_then(|kib| kib.checked_mul(1024));
    let pinned = domain.get("cputune").is_some() || domain.get("vcpu").is_some_and(|v| v.attribute("cpuset").is_some());
    let bound = domain.get("numatune").is_some();
    if pinned || bound {
        about.nodes = known(nodes(host, &field)).filter(|nodes| !nodes.is_empty());
    }
    if pinned {
        about.cpus = known(cpus(host)).filter(|cpus| !cpus.is_empty());
    }
    if domain.at(&["memoryBacking", "hugepages"]).is_some() {
        let default = meminfo.as_deref().and_then(|text| field(text, "Hugepagesize:")).map(|kib| kib * 1024);
        about.hugepages = known(hugepages(host, default)).filter(|pages| !pages.is_empty());
    }
}

const NODES: &str = "/sys/devices/system/node";

fn numbers(names: Vec<String>, prefix: &str) -> Vec<u32> {
    names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect()
}

fn nodes(host: &dyn Host, field: &dyn Fn(&str, &str) -> Option<u64>) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for number in numbers(host.list(NODES)?, "node") {
        let list = host.read_line(&format!("{NODES}/node{number}/cpulist"))?.unwrap_or_default();
        let text = host.read_text(&format!("{NODES}/node{number}/meminfo"))?.unwrap_or_default();
        let memory = field(&text, "MemTotal:").and_then(|kib| kib.checked_mul(1024));
        nodes.push(Node { number, memory, cpus: super::cpus::set(&list).unwrap_or_default() });
    }
    Ok(nodes)
}

fn cpus(host: &dyn Host) -> Result<BTreeMap<u32, BTreeSet<u32>>> {
    let folder = "/sys/devices/system/cpu";
    let online = host.read_line(&format!("{folder}/online"))?.and_then(|list| super::cpus::set(&list));
    let numbers: Vec<u32> = match online {
        Some(online) => online.into_iter().collect(),
        None => numbers(host.list(folder)?, "cpu"),
    };
    let mut cpus = BTreeMap::new();
    for number in numbers {
        let list = host.read_line(&format!("{folder}/cpu{number}/topology/thread_siblings_list"))?;
        let siblings = list.and_then(|list| super::cpus::set(&list)).unwrap_or_else(|| BTreeSet::from([number]));
        cpus.insert(number, siblings);
    }
    Ok(cpus)
}

fn hugepages(host: &dyn Host, default: Option<u64>) -> Result<Vec<HugePages>> {
    let mut pages = Vec::new();
    let mut read = |folder: &str, node: Option<u32>| -> Result<()> {
        for name in host.list(folder)? {
            let size = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB")?.parse::<u64>().ok());
            let count = host.read_line(&format!("{folder}/{name}/nr_hugepages"))?.and_then(|text| text.parse().ok());
            if let (Some(size), Some(count)) = (size, count) {
                pages.push(HugePages { node, size: size * 1024, count });
            }
        }
        Ok(())
    };
    read("/sys/kernel/mm/hugepages", None)?;
    for number in numbers(host.list(NODES)?, "node") {
        read(&format!("{NODES}/node{number}/hugepages"), Some(number))?;
    }
    // The default size comes first: it is meant where a guest names none.
    pages.sort_by_key(|pages| (pages.node, Some(pages.size) != default, pages.size));
    Ok(pages)
}

/// Bridges, networks and pools, where the guest names any.
fn sources(host: &dyn Host, domain: &Element, about: &mut About) {
    let devices = || domain.get("devices").into_iter().flat_map(Element::elements);
    let names = |attribute: &'static str| {
        devices().any(|device| device.get("source").is_some_and(|source| source.attribute(attribute).is_some()))
    };
    if names("bridge") {
        // Not every machine that is written down says which links it has.
        about.bridges = known(bridges(host)).flatten();
    }
    // Where libvirt is not yet there, what it has can't be known.
    let virt = |kind| known(host.virt_names(kind)).map(|names| names.into_iter().collect::<BTreeSet<String>>());
    let there = known(host.exists("/etc/libvirt")).unwrap_or(false);
    if names("network") && there {
        about.networks = virt(VirtKind::Network);
    }
    if names("pool") && there {
        about.pools = virt(VirtKind::Pool);
    }
}

fn bridges(host: &dyn Host) -> Result<Option<BTreeSet<String>>> {
    let folder = "/sys/class/net";
    let links = host.list(folder)?;
    if links.is_empty() {
        return Ok(None);
    }
    let mut bridges = BTreeSet::new();
    for link in links {
        let bridge = host.exists(&format!("{folder}/{link}/bridge"))?;
        // Open vSwitch's have no such folder, and show themselves as bridges elsewhere: any other link counts too, only
        // a physical card does not.
        if bridge || !host.exists(&format!("{folder}/{link}/device"))? {
            bridges.insert(link);
        }
    }
    Ok(Some(bridges))
}

/// Does the machine know which variables belong to this guest's firmware, or has it them already?
fn variables(host: &dyn Host, domain: &Element) -> Result<Option<bool>> {
    let Some(os) = domain.get("os") else { return Ok(None) };
    let pflash = os.get("loader").filter(|loader| loader.attribute("type") == Some("pflash"));
    let (Some(loader), Some(nvram)) = (pflash.map(Element::text), os.get("nvram")) else { return Ok(None) };
    let path = nvram.text();
    if nvram.attribute("template").is_some() || (path.starts_with('/') && host.exists(&path)?) {
        return Ok(Some(true));
    }
    let conf = host.read_text("/etc/libvirt/qemu.conf")?.unwrap_or_default();
    let listed = qemu_conf::get(&conf, "nvram").is_some_and(|value| match value {
        qemu_conf::Value::List(list) => list.iter().any(|pair| pair.split(':').next() == Some(loader.as_str())),
        _ => false,
    });
    Ok(Some(listed || descriptors::template_of(host, &loader)?.is_some()))
}

/// Is a program there? `None` on a machine that has no folder of programs.
fn program(host: &dyn Host, name: &str) -> Result<Option<bool>> {
    let mut any = false;
    for folder in ["/usr/bin", "/usr/local/bin"] {
        if host.exists(&format!("{folder}/{name}"))? {
            return Ok(Some(true));
        }
        any |= !host.list(folder)?.is_empty();
    }
    Ok(any.then_some(false))
}

/// Machine types of the host's QEMU. libvirt asks every QEMU binary for that, so it is only asked where the type is
/// another one than libvirt has already accepted for this guest.
fn machines(host: &dyn Host, domain: &Element, current: Option<&Element>) -> Option<BTreeSet<String>> {
    let kind = domain.at(&["os", "type"])?;
    let machine = kind.attribute("machine")?;
    let accepted = current.and_then(|current| current.at(&["os", "type"])?.attribute("machine"));
    if matches!(machine, "pc" | "q35") || accepted == Some(machine) {
        return None;
    }
    let output = known(host.query(&["virsh", "-q", "-c", URI, "capabilities"])).flatten()?;
    let capabilities = xml::parse(&output.stdout).ok().filter(|_| output.code == 0)?;
    let arch = kind.attribute("arch").unwrap_or("x86_64");
    let guests = capabilities.named("guest").filter_map(|guest| guest.get("arch"));
    let found: BTreeSet<String> = guests
        .filter(|guest| guest.attribute("name") == Some(arch))
        .flat_map(|guest| guest.elements().chain(guest.named("domain").flat_map(Element::elements)))
        .filter(|element| element.name == "machine")
        .flat_map(|machine| {
            [Some(machine.text()), machine.attribute("canonical").map(str::to_string)].into_iter().flatten()
        })
        .collect();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Model, Virt};
    use crate::modules::libvirt::lint::{check, plan, rules};
    use crate::modules::libvirt::xml::parse;
    use crate::modules::vfio::fixture::Box1;

    const GUEST: &str = "<domain type='kvm'><name>g</name><memory unit='GiB'>64</memory><vcpu>2</vcpu>
        <memoryBacking><hugepages/></memoryBacking>
        <cputune><vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='1' cpuset='9'/></cputune>
        <numatune><memory mode='strict' nodeset='1'/></numatune><cpu mode='host-passthrough'/>
        <devices><memballoon model='none'/>
        <hostdev mode='subsystem' type='pci' managed='no'><source><address bus='0x82' slot='0'/></source></hostdev>
        <hostdev mode='subsystem' type='usb'><source><vendor id='0x046d'/><product id='0xc52b'/></source></hostdev>
        <interface type='bridge'><source bridge='br1'/></interface>
        <interface type='network'><source network='lan'/></interface>
        <disk type='volume'><source pool='fast' volume='v'/></disk>
        <tpm model='tpm-crb'><backend type='emulator'/></tpm></devices></domain>";

    fn seed() -> Box1 {
        let mut seed = Box1::seed();
        seed.put("/proc/meminfo", "MemTotal:       33554432 kB\nHugepagesize:       2048 kB\n")
            .put("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "1024\n")
            .put("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "1024\n")
            .put("/sys/devices/system/node/node1/cpulist", "1,3\n")
            .put("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:       16777216 kB\n")
            .put("/sys/devices/system/cpu/online", "0-3\n")
            .put("/sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,3\n")
            .put("/sys/bus/usb/devices/1-1/idVendor", "046d\n")
            .put("/sys/bus/usb/devices/1-1/idProduct", "c077\n")
            .put("/sys/class/net/br0/bridge/stp_state", "0\n")
            .put("/etc/libvirt/qemu.conf", "")
            .put("/usr/bin/ls", "x");
        seed
    }

    fn wish() -> Wish<'static> {
        Wish::default()
    }

    #[test]
    fn everything_is_read_of_a_machine() {
        let domain = parse(GUEST).unwrap();
        let about = about(&seed().make(), "g", &domain, &wish()).unwrap();
        assert_eq!(about.memory, Some(32 << 30));
        assert_eq!(about.functions.as_ref().map(|all| all.len() > 10), Some(true));
        // The card, its audio, and nothing of other groups.
        assert_eq!(about.pci.as_ref().map(Vec::len), Some(2));
        let mut found: Vec<&str> = check(&domain, &about).into_iter().map(|finding| finding.rule).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(
            found,
            [
                "bridge-missing",
                "card-incomplete",
                "cpu-missing",
                "cpu-siblings",
                "cpu-node",
                "device-missing",
                "driver-not-vfio",
                "group-not-viable",
                "hugepages",
                "memory-host",
                "memory-node",
                "network-missing",
                "pool-missing",
                "swtpm-missing",
            ]
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_group_that_an_earlier_task_binds_at_the_next_boot_is_not_held_against_the_guest() {
        let domain = parse(GUEST).unwrap();
        let of_cards = |host: &crate::host::overlay::testing::Machine| -> Vec<&str> {
            let found = check(&domain, &about(host, "g", &domain, &wish()).unwrap());
            let about_cards = ["driver-not-vfio", "group-not-viable"];
            found.into_iter().map(|finding| finding.rule).filter(|rule| about_cards.contains(rule)).collect()
        };
        let host = seed().make();
        assert_eq!(of_cards(&host), ["driver-not-vfio", "group-not-viable"]);
        let bound = serde_json::json!({"devices": ["0000:82:00.0"]});
        crate::host::overlay::testing::apply(&host, "vfio_bind", bound).unwrap();
        let audio = of_facts(PciAddress::parse("0000:82:00.1").unwrap());
        assert_eq!(pci::device(&host, audio).unwrap().unwrap().driver.as_deref(), Some("snd_hda_intel"));
        assert_eq!(of_cards(&host), Vec::<&str>::new());
    }

    #[test]
    fn of_a_machine_that_says_nothing_nothing_is_held_against_the_guest() {
        let host = crate::host::overlay::testing::machine(&[("/etc/os-release", "ID=debian\nVERSION_ID=12\n")]);
        let domain = parse(GUEST).unwrap();
        let found = check(&domain, &about(&host, "g", &domain, &wish()).unwrap());
        assert_eq!(found, []);
    }

    #[test]
    fn the_iommu_is_looked_at_without_its_groups() {
        let domain = parse(GUEST).unwrap();
        let off = about(&Box1::seed().iommu_off().make(), "g", &domain, &wish()).unwrap();
        assert_eq!(off.iommu.map(|iommu| iommu.on), Some(false));
        let mut unmapped = Box1::seed();
        unmapped.put("/sys/class/iommu/dmar0/intel-iommu/ecap", "f42\n");
        let read = about(&unmapped.make(), "g", &domain, &wish()).unwrap().iommu.unwrap();
        assert_eq!((read.on, read.interrupts), (true, Some(false)));
        unmapped.put("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
        let read = about(&unmapped.make(), "g", &domain, &wish()).unwrap().iommu.unwrap();
        assert_eq!(read.interrupts, Some(true));
        let mut reserved = Box1::seed();
        reserved.put("/sys/kernel/iommu_groups/38/reserved_regions", "0x0 0xf direct-relaxable\n0x1 0x2 direct\n");
        assert!(about(&reserved.make(), "g", &domain, &wish()).unwrap().iommu.unwrap().reserved.contains(&38));
    }

    #[test]
    fn words_that_libvirt_has_printed_itself_are_none_that_it_does_not_know() {
        let host = seed().make();
        let newer = parse("<domain><name>g</name><devices><watchdog model='newer'/></devices></domain>").unwrap();
        let error = plan(&host, "g", &newer, &wish()).unwrap_err();
        assert!(error.message.contains("`newer` is no model"), "{error}");
        let kept = Wish { current: Some(&newer), ..wish() };
        assert_eq!(plan(&host, "g", &newer, &kept).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn other_guests_count_when_they_claim_the_same() {
        let host = seed().make();
        let other = GUEST.replace("<name>g", "<name>h");
        let virt = Virt { xml: other, autostart: true, ..Virt::default() };
        host.put_virt(VirtKind::Domain, "h", Some(virt)).unwrap();
        let apart =
            Virt { xml: GUEST.replace("0x82", "0x83").replace("046d", "1111"), autostart: true, ..Virt::default() };
        host.put_virt(VirtKind::Domain, "apart", Some(apart)).unwrap();
        let domain = parse(GUEST).unwrap();
        let error = plan(&host, "g", &domain, &Wish { autostart: true, ..wish() }).unwrap_err();
        assert!(error.message.contains("h claims 0000:82:00.0, 046d:c52b too"), "{error}");
        assert!(!error.message.contains("apart"), "{error}");
        let silence = [rules::DEVICE_SHARED_AUTOSTART.name.to_string()];
        let silenced = Wish { autostart: true, silence: &silence, ..wish() };
        assert!(plan(&host, "g", &domain, &silenced).is_ok());
    }
}
