//! The operating system, its names, and how it was booted.

use serde_json::{Map, Value, json};

use super::line;
use crate::host::{Family, FileKind, Host, Os, Result};

/// The `os` part.
///
/// # Errors
/// When the machine can't be read or its distribution is not known.
pub fn gather(host: &dyn Host) -> Result<Map<String, Value>> {
    let os = host.os()?;
    let version = version(host, &os)?;
    let kernel = line(host, "/proc/sys/kernel/osrelease")?;
    let names = Names::read(host)?;
    let mut facts = Map::new();
    let mut set = |name: &str, value: Value| facts.insert(format!("ansible_{name}"), value);
    set("distribution", distribution(&os).into());
    set("distribution_major_version", version.split('.').next().unwrap_or_default().into());
    set("distribution_version", version.into());
    set("distribution_release", release(host)?.into());
    set("os_family", family(os.family).into());
    set("system", "Linux".into());
    set("architecture", architecture(host, kernel.as_deref())?.into());
    set("kernel", kernel.into());
    set("hostname", names.host.into());
    set("nodename", names.node.into());
    set("fqdn", names.full.into());
    set("domain", names.domain.into());
    set("pkg_mgr", package_manager(host, &os)?.into());
    set("service_mgr", service_manager(host)?.into());
    let cmdline = line(host, "/proc/cmdline")?.unwrap_or_default();
    set("cmdline", last_wins(&cmdline));
    set("proc_cmdline", all_kept(&cmdline));
    set("boot", boot(host)?);
    for (name, file) in [
        ("system_vendor", "sys_vendor"),
        ("product_name", "product_name"),
        ("board_name", "board_name"),
        ("bios_version", "bios_version"),
    ] {
        set(name, line(host, &format!("/sys/class/dmi/id/{file}"))?.into());
    }
    Ok(facts)
}

fn distribution(os: &Os) -> String {
    match os.id.as_str() {
        "centos" => "CentOS".into(),
        "rhel" => "RedHat".into(),
        "rocky" => "Rocky".into(),
        "almalinux" => "AlmaLinux".into(),
        "ol" => "OracleLinux".into(),
        "fedora" => "Fedora".into(),
        "debian" => "Debian".into(),
        "ubuntu" => "Ubuntu".into(),
        "arch" => "Archlinux".into(),
        "opensuse-leap" => "openSUSE Leap".into(),
        "opensuse-tumbleweed" => "openSUSE Tumbleweed".into(),
        "sles" => "SLES".into(),
        other => {
            let mut chars = other.chars();
            chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
        }
    }
}

fn family(family: Family) -> &'static str {
    match family {
        Family::El | Family::Fedora => "RedHat",
        Family::Debian | Family::Ubuntu => "Debian",
        Family::Arch => "Archlinux",
        Family::Suse => "Suse",
    }
}

/// os-release of EL7 and Debian holds only the major version; their older files hold the rest.
fn version(host: &dyn Host, os: &Os) -> Result<String> {
    let numbers = |text: &str| -> Option<String> {
        let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let parts: Vec<&str> = word.split('.').take(2).collect();
        Some(parts.join("."))
    };
    let file = match os.family {
        Family::El => "/etc/redhat-release",
        Family::Debian => "/etc/debian_version",
        _ => return Ok(os.version.clone()),
    };
    let found = line(host, file)?.as_deref().and_then(numbers);
    // A derivative may carry the number of what it was made from.
    let fits = |found: &String| os.version.is_empty() || found.split('.').next() == os.version.split('.').next();
    Ok(found.filter(fits).unwrap_or_else(|| os.version.clone()))
}

fn release(host: &dyn Host) -> Result<String> {
    let text = host.read_text("/etc/os-release")?.unwrap_or_default();
    let codename = text.lines().find_map(|line| line.trim().strip_prefix("VERSION_CODENAME="));
    if let Some(codename) = codename.map(|text| text.trim_matches(['"', '\''])).filter(|text| !text.is_empty()) {
        return Ok(codename.to_string());
    }
    let old = line(host, "/etc/redhat-release")?.unwrap_or_default();
    let inside = old.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(inside, _)| inside);
    Ok(inside.unwrap_or("NA").to_string())
}

fn architecture(host: &dyn Host, kernel: Option<&str>) -> Result<Option<String>> {
    // Since Linux 6.1.
    if let Some(arch) = line(host, "/proc/sys/kernel/arch")? {
        return Ok(Some(arch));
    }
    const KNOWN: [&str; 4] = ["x86_64", "aarch64", "ppc64le", "s390x"];
    if let Some(arch) = KNOWN.iter().find(|arch| kernel.is_some_and(|kernel| kernel.ends_with(*arch))) {
        return Ok(Some((*arch).to_string()));
    }
    let cpu = host.read_text("/proc/cpuinfo")?.unwrap_or_default();
    // `lm` is the flag of x86's long mode.
    let long = cpu.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "lm"));
    Ok(if long {
        Some("x86_64".into())
    } else if cpu.contains("CPU architecture: 8") {
        Some("aarch64".into())
    } else {
        None
    })
}

struct Names {
    node: String,
    host: String,
    full: String,
    domain: String,
}

impl Names {
    fn read(host: &dyn Host) -> Result<Names> {
        let node = match line(host, "/proc/sys/kernel/hostname")? {
            Some(name) => name,
            None => line(host, "/etc/hostname")?.unwrap_or_else(|| "localhost".into()),
        };
        let short = node.split('.').next().unwrap_or_default().to_string();
        let full =
            if node.contains('.') { node.clone() } else { in_hosts(host, &node)?.unwrap_or_else(|| node.clone()) };
        let domain = full.split_once('.').map_or("", |(_, domain)| domain).to_string();
        Ok(Names { node, host: short, full, domain })
    }
}

/// hosts(5): the first name on the line that has ours is the canonical one.
fn in_hosts(host: &dyn Host, name: &str) -> Result<Option<String>> {
    let text = host.read_text("/etc/hosts")?.unwrap_or_default();
    Ok(text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let names: Vec<&str> = line.split_whitespace().skip(1).collect();
        if !names.contains(&name) {
            return None;
        }
        names
            .iter()
            .find(|other| other.split('.').next() == Some(name) && other.contains('.'))
            .map(|name| (*name).to_string())
    }))
}

fn package_manager(host: &dyn Host, os: &Os) -> Result<&'static str> {
    Ok(match os.family {
        Family::El if os.major() <= 7 => "yum",
        Family::El => "dnf",
        Family::Fedora if host.exists("/usr/bin/dnf5")? => "dnf5",
        Family::Fedora => "dnf",
        Family::Debian | Family::Ubuntu => "apt",
        Family::Arch => "pacman",
        Family::Suse => "zypper",
    })
}

fn service_manager(host: &dyn Host) -> Result<&'static str> {
    let runs = host.exists("/run/systemd/system")? || line(host, "/proc/1/comm")?.as_deref() == Some("systemd");
    let installed = host.exists("/usr/lib/systemd/systemd")? || host.exists("/lib/systemd/systemd")?;
    Ok(if runs || installed { "systemd" } else { "service" })
}

/// The kernel's command line as arguments; double quotes keep spaces (Documentation/admin-guide/kernel-parameters).
fn arguments(cmdline: &str) -> Vec<(String, Value)> {
    let mut words: Vec<String> = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for c in cmdline.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
        .into_iter()
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once('=') {
            Some((name, value)) => (name.to_string(), value.into()),
            None => (word, Value::Bool(true)),
        })
        .collect()
}

fn last_wins(cmdline: &str) -> Value {
    Value::Object(arguments(cmdline).into_iter().collect())
}

fn all_kept(cmdline: &str) -> Value {
    let mut all: Map<String, Value> = Map::new();
    for (name, value) in arguments(cmdline) {
        match all.get_mut(&name) {
            Some(Value::Array(list)) => list.push(value),
            Some(old) => *old = json!([old.take(), value]),
            None => {
                all.insert(name, value);
            }
        }
    }
    Value::Object(all)
}

/// UEFI or not, and Secure Boot: the variable's four bytes of attributes are followed by one byte, 1 when it is on
/// (UEFI specification, global variables; Linux's efivarfs).
fn boot(host: &dyn Host) -> Result<Value> {
    const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let efi = host.stat("/sys/firmware/efi")?.is_some_and(|stat| stat.kind == FileKind::Folder);
    let secure = match host.read(SECURE_BOOT) {
        Ok(Some(bytes)) => bytes.get(4) == Some(&1),
        Err(error) if error.is_unknown() => return Err(error),
        _ => false,
    };
    Ok(json!({"efi": efi, "secure_boot": secure}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn a_centos_7_workstation() {
        let m = machine(&[
            ("/etc/os-release", "NAME=\"CentOS Linux\"\nID=\"centos\"\nVERSION_ID=\"7\"\nID_LIKE=\"rhel fedora\"\n"),
            ("/etc/redhat-release", "CentOS Linux release 7.9.2009 (Core)\n"),
            ("/proc/sys/kernel/osrelease", "4.9.2-1.el7.elrepo.x86_64\n"),
            ("/proc/sys/kernel/hostname", "ws1\n"),
            ("/etc/hosts", "127.0.0.1 localhost\n10.0.0.5 ws1.lab.example ws1 # me\n"),
            (
                "/proc/cmdline",
                "ro root=/dev/sda1 console=tty0 console=ttyS0 intel_iommu=on dyndbg=\"file a.c +p\" quiet\n",
            ),
            ("/usr/lib/systemd/systemd", ""),
            ("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\u{6}\0\0\0\u{1}"),
        ]);
        let facts = gather(&m).unwrap();
        for (name, value) in [
            ("distribution", json!("CentOS")),
            ("distribution_version", json!("7.9")),
            ("distribution_major_version", json!("7")),
            ("distribution_release", json!("Core")),
            ("os_family", json!("RedHat")),
            ("pkg_mgr", json!("yum")),
            ("service_mgr", json!("systemd")),
            ("architecture", json!("x86_64")),
            ("hostname", json!("ws1")),
            ("fqdn", json!("ws1.lab.example")),
            ("domain", json!("lab.example")),
            ("boot", json!({"efi": true, "secure_boot": true})),
        ] {
            assert_eq!(facts[&format!("ansible_{name}")], value, "{name}");
        }
        assert_eq!(facts["ansible_cmdline"]["console"], "ttyS0");
        assert_eq!(facts["ansible_cmdline"]["quiet"], true);
        assert_eq!(facts["ansible_cmdline"]["dyndbg"], "file a.c +p");
        assert_eq!(facts["ansible_proc_cmdline"]["console"], json!(["tty0", "ttyS0"]));
    }

    #[test]
    fn debian_and_a_derivative_with_a_version_of_its_own() {
        let m = machine(&[
            ("/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"),
            ("/etc/debian_version", "12.5\n"),
        ]);
        let facts = gather(&m).unwrap();
        assert_eq!(
            (&facts["ansible_distribution_version"], &facts["ansible_distribution_release"]),
            (&json!("12.5"), &json!("bookworm"))
        );
        let m = machine(&[
            ("/etc/os-release", "ID=raspbian\nID_LIKE=debian\nVERSION_ID=\"3\"\n"),
            ("/etc/debian_version", "12.5\n"),
        ]);
        let facts = gather(&m).unwrap();
        assert_eq!(
            (&facts["ansible_distribution_version"], &facts["ansible_distribution"]),
            (&json!("3"), &json!("Raspbian"))
        );
    }
}
