//! Firmware descriptors (QEMU's docs/interop/firmware.json): which firmware a distribution has, and for what.

use indexmap::IndexMap;
use serde::Deserialize;

use crate::host::{Family, FileKind, Host, Result};

/// Where they are; a file in a later folder masks one of the same name in an earlier one, an empty one hides it. (libvirt
/// reads a third folder only for guests of a user's own session.) As in libvirt, every file counts whose name does not begin
/// with a dot, whatever it ends in.
const FOLDERS: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];

/// What a firmware must be able to do.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The guest's machine type: `q35`, `pc` or an exact one.
    pub machine: String,
    /// Must it enforce Secure Boot? One that can is not chosen for a guest that must not, as with libvirt's
    /// `<feature enabled='no' name='secure-boot'/>`.
    pub secure_boot: bool,
    /// Must Microsoft's keys be in its variables, or not be? `None`: no matter.
    pub enrolled_keys: Option<bool>,
}

/// A UEFI firmware with its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// The code file.
    pub loader: String,
    /// The variables that a new guest begins with.
    pub nvram_template: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// The descriptor it was found in; `None` for a distribution that has none.
    pub descriptor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Descriptor {
    #[serde(default)]
    interface_types: Vec<String>,
    mapping: Mapping,
    #[serde(default)]
    targets: Vec<Target>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    mode: Option<String>,
    executable: Option<Blob>,
    nvram_template: Option<Blob>,
}

#[derive(Debug, Deserialize)]
struct Blob {
    filename: String,
    format: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
    #[serde(default)]
    machines: Vec<String>,
}

impl Descriptor {
    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|have| have == feature)
    }

    /// Code and variables in two files: the only way a guest has variables of its own.
    fn split(&self) -> Option<(&Blob, &Blob)> {
        let mode = self.mapping.mode.as_deref().unwrap_or("split");
        if self.mapping.device != "flash" || mode != "split" {
            return None;
        }
        Some((self.mapping.executable.as_ref()?, self.mapping.nvram_template.as_ref()?))
    }

    fn serves(&self, wish: &Wish) -> bool {
        let target = |target: &Target| {
            target.architecture == "x86_64" && target.machines.iter().any(|pattern| fits(pattern, &wish.machine))
        };
        let secure = self.has("secure-boot") == wish.secure_boot;
        // What needs SMM would not start in a guest without it; and a guest that is told that its variables are safe needs
        // SMM to keep them so (libvirt: `loader secure='yes'`).
        let secure = secure && self.has("requires-smm") == wish.secure_boot;
        // Keys without Secure Boot mean nothing; libvirt refuses that wish too.
        let keys =
            wish.enrolled_keys.is_none_or(|keys| self.has("enrolled-keys") == keys && (wish.secure_boot || !keys));
        self.interface_types.iter().any(|kind| kind == "uefi") && self.targets.iter().any(target) && secure && keys
    }
}

/// What the names of all versions of an alias begin with.
fn family(machine: &str) -> Option<&'static str> {
    match machine {
        "q35" => Some("pc-q35-"),
        "pc" => Some("pc-i440fx-"),
        _ => None,
    }
}

/// Does a machine type fit a pattern such as `pc-q35-*`? An alias fits where every version of it does.
fn fits(pattern: &str, machine: &str) -> bool {
    match family(machine) {
        Some(family) => pattern == machine || is_for_all(pattern, family),
        None => glob(pattern.as_bytes(), machine.as_bytes()),
    }
}

fn is_for_all(pattern: &str, family: &str) -> bool {
    pattern.strip_suffix('*').is_some_and(|begin| family.starts_with(begin))
}

/// Does this pattern fit some versions of an alias and others not?
fn is_for_some(pattern: &str, family: &str) -> bool {
    let fixed = pattern.find(['*', '?']).map_or(pattern, |end| pattern.get(..end).unwrap_or_default());
    !is_for_all(pattern, family) && (fixed.starts_with(family) || (fixed != pattern && family.starts_with(fixed)))
}

/// The version that an alias stands for here, as libvirt knows it; asked only where it makes a difference.
fn version_of(host: &dyn Host, machine: &str, descriptors: &Valid) -> Result<Option<String>> {
    let Some(family) = family(machine) else { return Ok(None) };
    let mut patterns = descriptors.iter().flat_map(|(_, one)| &one.targets).flat_map(|target| &target.machines);
    if !patterns.any(|pattern| is_for_some(pattern, family)) {
        return Ok(None);
    }
    let argv = ["virsh", "-q", "-c", super::URI, "domcapabilities", "--arch", "x86_64", "--machine", machine];
    let said = host.query(&argv)?.filter(|output| output.code == 0);
    let capabilities = said.and_then(|output| super::xml::parse(&output.stdout).ok());
    Ok(capabilities.and_then(|all| all.text_at(&["machine"])).filter(|version| version.starts_with(family)))
}

/// `*` is anything and `?` one character, as GLib's patterns have it, which libvirt uses.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stood, and how far the text was then.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(one) if one == byte || *one == b'?' => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// Descriptors with their paths.
type Valid = Vec<(String, Descriptor)>;

/// All valid descriptors, in the order in which they are tried; and the names of those that can't be read.
fn all(host: &dyn Host) -> Result<(Valid, Vec<String>)> {
    let mut paths: IndexMap<String, String> = IndexMap::new();
    for folder in FOLDERS {
        for name in host.list(folder)? {
            let path = format!("{folder}/{name}");
            if !name.starts_with('.') && host.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::File) {
                paths.insert(name, path);
            }
        }
    }
    paths.sort_keys();
    let (mut valid, mut broken) = (Vec::new(), Vec::new());
    for path in paths.into_values() {
        let text = host.read(&path)?.unwrap_or_default();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice(&text) {
            Ok(descriptor) => valid.push((path, descriptor)),
            Err(_) => broken.push(path),
        }
    }
    Ok((valid, broken))
}

/// Descriptors that can't be read; they are passed over.
///
/// # Errors
/// Trouble reading the machine.
pub fn broken(host: &dyn Host) -> Result<Vec<String>> {
    all(host).map(|(_, broken)| broken)
}

/// The first firmware that can do what is wished.
///
/// # Errors
/// Trouble reading the machine.
pub fn choose(host: &dyn Host, wish: &Wish) -> Result<Option<Firmware>> {
    let (descriptors, _) = all(host)?;
    let machine = version_of(host, &wish.machine, &descriptors)?.unwrap_or_else(|| wish.machine.clone());
    let exact = Wish { machine, ..wish.clone() };
    for (path, descriptor) in &descriptors {
        if let Some((code, vars)) = descriptor.split().filter(|_| descriptor.serves(&exact)) {
            return Ok(Some(Firmware {
                loader: code.filename.clone(),
                nvram_template: vars.filename.clone(),
                format: code.format.clone().unwrap_or_else(|| "raw".to_string()),
                descriptor: Some(path.clone()),
            }));
        }
    }
    if descriptors.is_empty() { without_descriptors(host, wish) } else { Ok(None) }
}

/// The variables that belong to a code file, where the machine knows.
///
/// # Errors
/// Trouble reading the machine.
pub fn template_of(host: &dyn Host, loader: &str) -> Result<Option<String>> {
    let (descriptors, _) = all(host)?;
    let found = descriptors.iter().filter_map(|(_, descriptor)| descriptor.split());
    let mut templates = found.filter(|(code, _)| code.filename == loader).map(|(_, vars)| vars.filename.clone());
    Ok(templates.next())
}

/// Code, variables, whether it enforces Secure Boot, whether keys are enrolled.
type Known = (&'static str, &'static str, bool, bool);

/// Packages from before there were descriptors: where their files are.
fn without_descriptors(host: &dyn Host, wish: &Wish) -> Result<Option<Firmware>> {
    const KRAXEL: Known = (
        "/usr/share/edk2.git/ovmf-x64/OVMF_CODE-pure-efi.fd",
        "/usr/share/edk2.git/ovmf-x64/OVMF_VARS-pure-efi.fd",
        false,
        false,
    );
    let Ok(os) = host.os() else { return Ok(None) };
    let known: &[Known] = match os.family {
        // EL7's package has only the build for Secure Boot, which also boots without it where its variables have no keys.
        Family::El | Family::Fedora => &[
            KRAXEL,
            ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd", false, false),
            ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd", false, false),
            ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.secboot.fd", true, true),
        ],
        Family::Debian | Family::Ubuntu => &[
            ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", false, false),
            ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd", false, false),
            ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", true, true),
        ],
        Family::Arch => &[
            ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd", false, false),
            ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd", false, false),
        ],
        Family::Suse => &[
            ("/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin", false, false),
            ("/usr/share/qemu/ovmf-x86_64-ms-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-ms-4m-vars.bin", true, true),
        ],
    };
    for (code, vars, secure, keys) in known {
        let fits = *secure == wish.secure_boot && wish.enrolled_keys.is_none_or(|wished| wished == *keys);
        if fits && host.exists(code)? {
            return Ok(Some(Firmware {
                loader: (*code).to_string(),
                nvram_template: (*vars).to_string(),
                format: "raw".to_string(),
                descriptor: None,
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    fn descriptor(code: &str, features: &str) -> String {
        format!(
            r#"{{"description": "x", "interface-types": ["uefi"], "mapping": {{"device": "flash",
            "executable": {{"filename": "/{code}", "format": "raw"}},
            "nvram-template": {{"filename": "/{code}.vars", "format": "raw"}}}},
            "targets": [{{"architecture": "x86_64", "machines": ["pc-q35-*"]}}], "features": [{features}], "tags": []}}"#
        )
    }

    fn wish(machine: &str, secure_boot: bool) -> Wish {
        Wish { machine: machine.to_string(), secure_boot, enrolled_keys: secure_boot.then_some(true) }
    }

    #[test]
    fn first_in_order_that_fits_and_masks_count() {
        let secure = descriptor("secure", "\"secure-boot\", \"requires-smm\", \"enrolled-keys\"");
        let plain = descriptor("plain", "\"acpi-s3\"");
        let second = descriptor("second", "");
        let stateless = descriptor("stateless", "").replace("\"flash\",", "\"flash\", \"mode\": \"stateless\",");
        let files = [
            ("/usr/share/qemu/firmware/10-broken.json", "{"),
            ("/usr/share/qemu/firmware/15-stateless.json", stateless.as_str()),
            ("/usr/share/qemu/firmware/20-secure.json", secure.as_str()),
            ("/usr/share/qemu/firmware/40-plain.json", plain.as_str()),
            ("/usr/share/qemu/firmware/50-second.json", second.as_str()),
            ("/usr/share/qemu/firmware/.hidden.json", "x"),
            ("/usr/share/qemu/firmware/folder/", ""),
        ];
        let chosen = |host: &dyn Host, machine, secure| {
            choose(host, &wish(machine, secure)).unwrap().map(|firmware| firmware.loader)
        };
        let host = machine(&files);
        assert_eq!(chosen(&host, "q35", false).as_deref(), Some("/plain"));
        assert_eq!(chosen(&host, "pc-q35-7.2", true).as_deref(), Some("/secure"));
        assert_eq!(chosen(&host, "pc", false), None);
        assert_eq!(broken(&host).unwrap(), ["/usr/share/qemu/firmware/10-broken.json"]);
        assert_eq!(template_of(&host, "/second").unwrap().as_deref(), Some("/second.vars"));
        let mut masked = files.to_vec();
        masked.push(("/etc/qemu/firmware/40-plain.json", ""));
        assert_eq!(chosen(&machine(&masked), "q35", false).as_deref(), Some("/second"));
        let mut earlier = files.to_vec();
        let local = descriptor("local", "");
        earlier.push(("/etc/qemu/firmware/30-local.json", local.as_str()));
        assert_eq!(chosen(&machine(&earlier), "q35", false).as_deref(), Some("/local"));
    }

    #[test]
    fn patterns_as_glib_has_them() {
        for (pattern, machine, fit) in [
            ("pc-q35-*", "q35", true),
            ("pc-*", "q35", true),
            ("*", "pc", true),
            ("q35", "q35", true),
            ("pc-q35-2.?", "q35", false),
            ("pc-q35-2.?", "pc-q35-2.4", true),
            ("pc-q35-2.?", "pc-q35-2.10", false),
            ("*440fx*", "pc-i440fx-7.2", true),
            ("pc-i440fx-*.0", "pc-i440fx-7.0", true),
            ("pc-i440fx-*.0", "pc-i440fx-7.2", false),
            ("microvm", "pc", false),
        ] {
            assert_eq!(fits(pattern, machine), fit, "{pattern} {machine}");
        }
        assert!(is_for_some("pc-q35-2.?", "pc-q35-") && is_for_some("*-7.2", "pc-q35-"));
        assert!(!is_for_some("pc-q35-*", "pc-q35-") && !is_for_some("microvm", "pc-q35-"));
    }

    #[test]
    fn the_seeds_package_has_no_descriptors() {
        let host = machine(&[
            ("/etc/os-release", "ID=centos\nVERSION_ID=7\n"),
            ("/usr/share/edk2.git/ovmf-x64/OVMF_CODE-pure-efi.fd", "x"),
        ]);
        let firmware = choose(&host, &wish("pc", false)).unwrap().unwrap();
        assert_eq!(firmware.nvram_template, "/usr/share/edk2.git/ovmf-x64/OVMF_VARS-pure-efi.fd");
        assert_eq!(choose(&host, &wish("q35", true)).unwrap(), None);
    }
}
