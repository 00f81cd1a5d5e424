//! Which Windows a guest runs, and what each of them wants.

use super::rules::{VIRTIO_WIN_TOO_NEW, WINDOWS_11_SECURE_BOOT, WINDOWS_11_TPM, WINDOWS_SOCKETS};
use super::scene::{Scene, is_on};
use crate::modules::libvirt::xml::Element;

/// A Windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// 7, 8 (also 8.1), 10 or 11, where it is known; a server has none.
    pub version: Option<u32>,
    /// Servers use as many sockets as they are given.
    pub server: bool,
}

/// What the playbook says; else libosinfo's mark in the metadata; else the guest's name; else that it has Hyper-V's
/// enlightenments or a clock in local time, which only Windows wants.
pub fn windows(domain: &Element, os: Option<&str>) -> Option<Windows> {
    if let Some(os) = os {
        return named(os);
    }
    if let Some(id) = libosinfo(domain) {
        return named(&id);
    }
    if let Some(windows) = domain.text_at(&["name"]).as_deref().and_then(named) {
        return Some(windows);
    }
    let enlightened = domain.at(&["features", "hyperv"]).is_some();
    let local = domain.get("clock").and_then(|clock| clock.attribute("offset")) == Some("localtime");
    (enlightened || local).then_some(Windows { version: None, server: false })
}

/// `<libosinfo:os id="http://microsoft.com/win/10"/>`, as virt-install and virt-manager write it.
fn libosinfo(domain: &Element) -> Option<String> {
    let info = domain.get("metadata")?.elements().find(|element| element.name.ends_with(":libosinfo"))?;
    let os = info.elements().find(|element| element.name.ends_with(":os"))?;
    os.attribute("id").map(str::to_string)
}

/// `windows-11`, `win7`, `Windows 8.1`, `http://microsoft.com/win/10`; `None` for what is no Windows.
fn named(text: &str) -> Option<Windows> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_prefix("http://microsoft.com/").unwrap_or(&text);
    let rest = text.strip_prefix("windows").or_else(|| text.strip_prefix("win"))?;
    let word = rest.trim_start_matches(['-', '_', '/', ' ']);
    let number: String = word.chars().take_while(char::is_ascii_digit).collect();
    let server = text.contains("server") || word.starts_with("2k") || (number.len() == 4 && number.starts_with("20"));
    // `wine`, `winter` are no Windows.
    if number.is_empty() && rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let version = match number.as_str() {
        _ if server => None,
        "7" => Some(7),
        "8" | "81" => Some(8),
        "10" => Some(10),
        "11" => Some(11),
        _ => None,
    };
    Some(Windows { version, server })
}

/// All rules of this room.
pub fn check(scene: &mut Scene) {
    let Some(windows) = scene.windows else { return };
    if !windows.server {
        sockets(scene);
    }
    drivers(scene, windows);
    if windows.version == Some(11) {
        eleven(scene);
    }
}

/// Windows 10 and 11 of every edition but those for servers and workstations use two sockets at most, and earlier clients
/// too.
fn sockets(scene: &mut Scene) {
    let count: u32 = scene.domain.text_at(&["vcpu"]).and_then(|text| text.parse().ok()).unwrap_or(1);
    match scene.domain.at(&["cpu", "topology"]) {
        None if count > 2 => scene.say(
            WINDOWS_SOCKETS,
            "domain/vcpu",
            format!(
                "without a topology its {count} virtual CPUs are {count} sockets, and Windows clients use two at most"
            ),
            format!("give `topology: {{cores: {count}}}`"),
        ),
        Some(topology) => {
            let sockets: u32 = topology.attribute("sockets").and_then(|text| text.parse().ok()).unwrap_or(1);
            if sockets > 2 {
                scene.say(
                    WINDOWS_SOCKETS,
                    "domain/cpu/topology@sockets",
                    format!("it has {sockets} sockets, and Windows clients use two at most"),
                    "give one socket more cores",
                );
            }
        }
        None => {}
    }
}

/// The last drivers with files for a Windows: release notes of virtio-win.
fn drivers(scene: &mut Scene, windows: Windows) {
    let (last, name) = match windows.version {
        Some(7) => (173, "Windows 7"),
        Some(8) => (189, "Windows 8"),
        _ => return,
    };
    for disk in scene.all("disk") {
        let Some(file) = disk.of("source", "file") else { continue };
        if let Some(release) = virtio_win(file)
            && release > last
        {
            scene.say(
                VIRTIO_WIN_TOO_NEW,
                format!("{}/source@file", disk.place),
                format!("virtio-win 0.1.{release} has no drivers for {name}"),
                format!("the last with them is virtio-win-0.1.{last}.iso"),
            );
        }
    }
}

/// The release in `…/virtio-win-0.1.126.iso`.
fn virtio_win(path: &str) -> Option<u32> {
    let name = path.rsplit('/').next()?;
    let rest = name.strip_prefix("virtio-win-0.1.")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn eleven(scene: &mut Scene) {
    let tpm = scene.all("tpm");
    let version = |device: &super::scene::Device| {
        let backend = device.element.get("backend");
        let kind = backend.and_then(|backend| backend.attribute("type"));
        let version = backend.and_then(|backend| backend.attribute("version"));
        // libvirt emulates a TPM 2.0 unless another is asked for; of the host's own one nothing is known here.
        kind != Some("emulator") || matches!(version, None | Some("2.0" | "default"))
    };
    if !tpm.iter().any(version) {
        scene.say(
            WINDOWS_11_TPM,
            if tpm.is_empty() { "domain/devices" } else { "domain/devices/tpm/backend@version" },
            "Windows 11 wants a TPM 2.0",
            "add <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        );
    }
    let Some(os) = scene.domain.get("os") else { return };
    let loader = os.get("loader");
    let by_name = loader.is_some_and(|loader| {
        let file = loader.text().to_ascii_lowercase();
        file.contains("secboot") || file.contains(".ms.") || file.contains("-ms-")
    });
    let secure = is_on(loader.and_then(|loader| loader.attribute("secure")));
    let feature = os
        .get("firmware")
        .into_iter()
        .flat_map(|firmware| firmware.named("feature"))
        .any(|feature| feature.attribute("name") == Some("secure-boot") && is_on(feature.attribute("enabled")));
    // libvirt's own choice for firmware='efi' is what the descriptors put first, mostly without.
    if !secure && !feature && !by_name {
        scene.say(
            WINDOWS_11_SECURE_BOOT,
            "domain/os",
            "Windows 11 wants firmware that can do Secure Boot",
            "give `firmware: ovmf-secureboot` (with machine q35)",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_windows_a_name_means() {
        for (name, version) in [
            ("windows-11", Some(Some(11))),
            ("win7", Some(Some(7))),
            ("Windows 8.1", Some(Some(8))),
            ("http://microsoft.com/win/10", Some(Some(10))),
            ("http://microsoft.com/win/2k19", Some(None)),
            ("win", Some(None)),
            ("winter", None),
            ("fedora-41", None),
            ("http://fedoraproject.org/fedora/40", None),
        ] {
            assert_eq!(named(name).map(|windows| windows.version), version, "{name}");
        }
        for (name, server) in
            [("windows-server-2008r2", true), ("win2k19", true), ("windows-2022", true), ("windows-10", false)]
        {
            assert_eq!(named(name), Some(Windows { version: if server { None } else { Some(10) }, server }), "{name}");
        }
    }

    #[test]
    fn releases_of_drivers() {
        assert_eq!(virtio_win("/a/virtio-win-0.1.126.iso"), Some(126));
        assert_eq!(virtio_win("/a/virtio-win-0.1.173-2.iso"), Some(173));
        assert_eq!(virtio_win("/a/virtio-win.iso"), None);
    }
}
