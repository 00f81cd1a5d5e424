//! What a machine's QEMU is and can be: its path, and the names of its machine types.

use super::normal::{same_family, same_machine};
use crate::host::{Family, Host, Result};
use crate::modules::libvirt::URI;
use crate::modules::libvirt::xml::{self, Element};

/// Where libvirt keeps what it learnt of each QEMU.
const CACHE: &str = "/var/cache/libvirt/qemu/capabilities";

/// QEMU's path: the one that is there, or the one that the distribution's package brings.
pub fn default_emulator(host: &dyn Host) -> Result<Option<String>> {
    let Ok(os) = host.os() else { return Ok(None) };
    let paths: &[&str] = match os.family {
        Family::El => &["/usr/libexec/qemu-kvm"],
        Family::Fedora => &["/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-kvm"],
        Family::Debian | Family::Ubuntu | Family::Arch => &["/usr/bin/qemu-system-x86_64"],
        Family::Suse => &["/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-kvm"],
    };
    for path in paths {
        if host.exists(path)? {
            return Ok(Some((*path).to_string()));
        }
    }
    Ok(paths.first().map(|path| (*path).to_string()))
}

/// An alias of a machine type that only this machine's QEMU knows (`ubuntu` stands for `pc-i440fx-noble`) asks for a version
/// of what it stands for, as `pc` and `q35` do everywhere. Where the guest has one, that is what is wanted.
pub fn resolve_alias(host: &dyn Host, wanted: &mut Element, current: &Element) -> Result<()> {
    let machine =
        |domain: &Element| -> Option<String> { domain.at(&["os", "type"])?.attribute("machine").map(str::to_string) };
    let (Some(stated), Some(has)) = (machine(wanted), machine(current)) else { return Ok(()) };
    if same_machine(&stated, &has) {
        return Ok(());
    }
    let Some(canonical) = canonical(host, &stated)? else { return Ok(()) };
    if same_family(&canonical, &has)
        && let Some(kind) = wanted.get_mut("os").and_then(|os| os.get_mut("type"))
    {
        kind.set("machine", has);
    }
    Ok(())
}

/// What an alias stands for on this machine: from what libvirt has written down, or else by asking it.
fn canonical(host: &dyn Host, alias: &str) -> Result<Option<String>> {
    for file in host.list(CACHE)?.iter().filter(|file| file.ends_with(".xml")) {
        let text = host.read_text(&format!("{CACHE}/{file}")).ok().flatten().unwrap_or_default();
        let Ok(cache) = xml::parse(&text) else { continue };
        let of = |machine: &&Element| machine.attribute("alias") == Some(alias);
        if let Some(name) = cache.named("machine").find(of).and_then(|machine| machine.attribute("name")) {
            return Ok(Some(name.to_string()));
        }
    }
    let Some(answer) = host.query(&["virsh", "-q", "-c", URI, "capabilities"])?.filter(|answer| answer.code == 0)
    else {
        return Ok(None);
    };
    let Ok(capabilities) = xml::parse(&answer.stdout) else { return Ok(None) };
    let machines = capabilities.named("guest").filter_map(|guest| guest.get("arch")).flat_map(Element::elements);
    let mut all = machines.flat_map(|element| std::iter::once(element).chain(element.named("machine")));
    let found = all.find(|element| {
        element.name == "machine" && element.text() == alias && element.attribute("canonical").is_some()
    });
    Ok(found.and_then(|machine| machine.attribute("canonical")).map(str::to_string))
}
