//! The firmware that is chosen is the one that libvirt itself would choose.

use std::fs;

use vfio_provision::host::Live;
use vfio_provision::modules::libvirt::descriptors::{Wish, choose};
use vfio_provision::modules::libvirt::xml;

use super::{try_virsh, virsh};

/// What libvirt chooses: code and, where the guest is started, the template of its variables. `None`: it finds none.
fn libvirts(machine: &str, secure: bool, keys: Option<bool>, start: bool) -> Option<(String, Option<String>)> {
    let flag = |flag: bool| if flag { "yes" } else { "no" };
    let keys = keys.map(|keys| format!("<feature enabled='{}' name='enrolled-keys'/>", flag(keys))).unwrap_or_default();
    // As our own definitions say it: a loader that is safe, and the mode of the processor that keeps it so.
    let (loader, smm) = if secure { ("<loader secure='yes'/>", "<smm state='on'/>") } else { ("", "") };
    let text = format!(
        "<domain type='qemu'><name>f</name><uuid>9d2e07dc-bc8b-4afa-9fc2-2587aea917a0</uuid><memory unit='MiB'>64</memory>\
         <os firmware='efi'><type machine='{machine}'>hvm</type>{loader}<firmware>\
         <feature enabled='{}' name='secure-boot'/>{keys}</firmware></os><features><acpi/>{smm}</features>\
         <devices><memballoon model='none'/></devices></domain>",
        flag(secure)
    );
    fs::write("/run/f.xml", text).unwrap();
    // Newer versions of libvirt choose when a guest is defined.
    if let Err(why) = try_virsh(&["define", "/run/f.xml"]) {
        assert!(why.contains("irmware") || why.contains("Secure boot"), "{why}");
        return None;
    }
    let answer = if start {
        try_virsh(&["start", "--paused", "f"]).map(|_| {
            let domain = xml::parse(&virsh(&["dumpxml", "f"])).unwrap();
            let template =
                domain.at(&["os", "nvram"]).and_then(|nvram| nvram.attribute("template")).map(str::to_string);
            virsh(&["destroy", "f"]);
            (domain.text_at(&["os", "loader"]).unwrap(), template)
        })
    } else {
        try_virsh(&["domxml-to-native", "qemu-argv", "--domain", "f"]).map(|argv| {
            let begin = argv.find("\"filename\":\"/usr/share/OVMF").expect(&argv) + "\"filename\":\"".len();
            (argv[begin..].split('"').next().unwrap().to_string(), None)
        })
    };
    virsh(&["undefine", "f", "--nvram"]);
    match answer {
        Ok(answer) => Some(answer),
        Err(why) => {
            assert!(why.contains("irmware"), "{why}");
            None
        }
    }
}

fn ours(machine: &str, secure_boot: bool, enrolled_keys: Option<bool>) -> Option<(String, String)> {
    let wish = Wish { machine: machine.to_string(), secure_boot, enrolled_keys };
    choose(&Live::new(), &wish).unwrap().map(|firmware| (firmware.loader, firmware.nvram_template))
}

/// All wishes; answers how many have a firmware.
fn same(what: &str, start: bool) -> usize {
    let mut found = 0;
    let all: &[&str] = &["q35", "pc", "pc-q35-7.2", "pc-q35-2.4", "pc-i440fx-6.0"];
    for machine in if start || super::full() || what == "patterns" { all } else { &all[..2] } {
        for secure in [false, true] {
            for keys in [None, Some(false), Some(true)] {
                let start = start && matches!(*machine, "q35" | "pc");
                let (libvirts, ours) = (libvirts(machine, secure, keys, start), ours(machine, secure, keys));
                let label = format!("{what}: machine {machine}, Secure Boot {secure}, keys {keys:?}");
                let loader =
                    |choice: &Option<(String, Option<String>)>| choice.as_ref().map(|(loader, _)| loader.clone());
                assert_eq!(ours.as_ref().map(|(loader, _)| loader.clone()), loader(&libvirts), "{label}");
                if let (Some((_, Some(template))), Some((_, ours))) = (&libvirts, &ours) {
                    assert_eq!(ours, template, "{label}");
                }
                found += usize::from(ours.is_some());
            }
        }
    }
    found
}

const FOLDER: &str = "/etc/qemu/firmware";

fn descriptor(code: &str, vars: &str, machines: &str, features: &str) -> String {
    format!(
        r#"{{"description": "x", "interface-types": ["uefi"], "mapping": {{"device": "flash",
        "executable": {{"filename": "/usr/share/OVMF/{code}", "format": "raw"}},
        "nvram-template": {{"filename": "/usr/share/OVMF/{vars}", "format": "raw"}}}},
        "targets": [{{"architecture": "x86_64", "machines": [{machines}]}}], "features": [{features}], "tags": []}}"#
    )
}

pub fn choices() {
    fs::create_dir_all(FOLDER).unwrap();
    let put = |name: &str, text: &str| fs::write(format!("{FOLDER}/{name}"), text).unwrap();
    let clear = || {
        fs::remove_dir_all(FOLDER).unwrap();
        fs::create_dir_all(FOLDER).unwrap();
    };
    assert!(same("the distribution's", true) >= 4);
    put("60-edk2-x86_64.json", "");
    same("one masked", false);
    clear();
    let two = descriptor("OVMF_CODE.fd", "OVMF_VARS.fd", r#""pc-i440fx-*", "pc-q35-*""#, r#""acpi-s3""#);
    put("45-two.json", &two);
    same("2 MiB before 4 MiB", true);
    clear();
    put("70-two.json", &two);
    same("2 MiB after 4 MiB", false);
    clear();
    // Whatever it ends in; and a name that begins with a dot is none.
    put("45-two", &two);
    put(".44-hidden.json", "{");
    fs::create_dir(format!("{FOLDER}/44-folder.json")).unwrap();
    same("other names", false);
    clear();
    let machines = r#""pc-?440fx-*", "pc-q35-2.?""#;
    put("45-patterns.json", &descriptor("OVMF_CODE.fd", "OVMF_VARS.fd", machines, ""));
    same("patterns", false);
    clear();
    let enrolled = r#""secure-boot", "requires-smm", "enrolled-keys""#;
    put("30-two.json", &descriptor("OVMF_CODE.ms.fd", "OVMF_VARS.ms.fd", r#""pc-q35-*""#, enrolled));
    put("31-lies.json", &descriptor("OVMF_CODE.secboot.fd", "OVMF_VARS.fd", r#""pc-q35-*""#, r#""enrolled-keys""#));
    put("32-new.json", &descriptor("OVMF_CODE.fd", "OVMF_VARS.fd", r#""pc-q35-*""#, r#""something-new""#));
    same("odd features", false);
    clear();
    let combined = two.replace("\"flash\",", "\"flash\", \"mode\": \"combined\",");
    put("40-combined.json", &combined);
    let stateless = two.replace("\"flash\",", "\"flash\", \"mode\": \"stateless\",");
    put("41-stateless.json", &stateless);
    let memory = r#"{"description": "x", "interface-types": ["uefi"], "mapping": {"device": "memory", "filename":
        "/usr/share/OVMF/OVMF_CODE.fd"}, "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["amd-sev"], "tags": []}"#;
    put("39-bios.json", &two.replace("\"uefi\"", "\"bios\""));
    put("38-arm.json", &two.replace("x86_64", "aarch64"));
    same("combined and stateless", false);
    clear();
    // Here libvirt gives up altogether (a broken file, a format it does not know yet) or takes what can't be: ours goes on
    // to one that fits, and says what it passed over.
    let fits = ours("q35", false, None).unwrap();
    put("10-broken.json", "{");
    assert_eq!(libvirts("q35", false, None, false), None);
    assert_eq!(ours("q35", false, None).as_ref(), Some(&fits));
    put("11-memory.json", memory);
    fs::remove_file(format!("{FOLDER}/10-broken.json")).unwrap();
    assert_eq!(ours("q35", false, None).as_ref(), Some(&fits));
}
