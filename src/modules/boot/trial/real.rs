//! The real GRUB in a machine without a system: its "kernel" writes its command line to the serial port and restarts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::tests::{debian, put};
use super::*;
use crate::host::model::predict;
use crate::host::overlay::testing::{apply, plan};
use serde_json::json;

const GRUB: &str = "/usr/lib/grub/i386-pc";
const LONGEST: Duration = Duration::from_secs(120);

/// A bzImage by its header (kernel: Documentation/arch/x86/boot.rst), and a few instructions behind it.
fn kernel() -> Vec<u8> {
    let mut image = vec![0u8; 1024];
    let code: &[u8] = &[
        0x8b, 0xb6, 0x28, 0x02, 0x00, 0x00, // mov esi, [esi + 0x228]: the command line
        0xac, 0x84, 0xc0, 0x74, 0x14, // next: lodsb; test al, al; jz end
        0x88, 0xc3, 0x66, 0xba, 0xfd, 0x03, // mov bl, al; mov dx, 0x3fd
        0xec, 0xa8, 0x20, 0x74, 0xfb, // wait: in al, dx; test al, 0x20; jz wait
        0x88, 0xd8, 0x66, 0xba, 0xf8, 0x03, 0xee, // mov al, bl; mov dx, 0x3f8; out dx, al
        0xeb, 0xe7, // jmp next
        0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfe, // end: the keyboard controller's reset
    ];
    let mut set = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[1]);
    set(0x1f4, &[16, 0, 0, 0]);
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    set(0x202, b"HdrS");
    set(0x206, &[0x06, 0x02]);
    set(0x211, &[1]);
    set(0x214, &0x10_0000u32.to_le_bytes());
    set(0x22c, &0x37ff_ffffu32.to_le_bytes());
    set(0x230, &0x0100_0000u32.to_le_bytes());
    set(0x238, &2047u32.to_le_bytes());
    image.extend_from_slice(code);
    image.resize(2048, 0);
    image
}

fn must(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    assert!(ended.success(), "{program} {arguments:?}");
}

fn is_there(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|folder| Path::new(folder).join(program).exists())
}

/// The command lines of the first boots of a machine whose /boot this is, and GRUB's own file afterwards.
fn boots(boot: &Path, count: usize, writable: bool) -> (Vec<String>, String) {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).display().to_string();
    fs::write(path("early.cfg"), "serial --unit=0\nterminal_output serial\nset root=(hd0,msdos1)\n").unwrap();
    let modules = "biosdisk part_msdos ext2 normal linux loadenv test echo serial true search ls configfile boot gzio";
    let core = path("core.img");
    let mut arguments = vec!["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", &core, "-c"];
    let early = path("early.cfg");
    arguments.push(&early);
    arguments.extend(modules.split(' '));
    must("grub-mkimage", &arguments);
    // QEMU loads it as it loads a kernel, so nothing has to be installed on the disk.
    let mut bytes = fs::read(format!("{GRUB}/lnxboot.img")).unwrap();
    bytes.extend(fs::read(&core).unwrap());
    fs::write(path("grub"), bytes).unwrap();
    let part = path("part.img");
    fs::File::create(&part).unwrap().set_len(15 << 20).unwrap();
    must("mkfs.ext4", &["-q", "-F", "-d", &boot.display().to_string(), &part]);
    let mut disk = vec![0u8; 1 << 20];
    // One partition of type 83, behind the first MiB.
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&2048u32.to_le_bytes());
    disk[458..462].copy_from_slice(&(15u32 << 11).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(fs::read(&part).unwrap());
    fs::write(path("disk.img"), disk).unwrap();
    let serial = path("serial.log");
    let drive =
        format!("file={},format=raw,if=virtio,readonly={}", path("disk.img"), if writable { "off" } else { "on" });
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-accel", "tcg", "-m", "128", "-display", "none", "-monitor", "none", "-net", "none"])
        .args(["-kernel", &path("grub"), "-drive", &drive, "-serial", &format!("file:{serial}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let mut said = String::new();
    let lines = |said: &str| -> Vec<String> {
        let found = said.match_indices("BOOT_IMAGE=").map(|(at, _)| said[at..].to_string());
        found.map(|text| text.split(['\r', '\n', '\u{1b}']).next().unwrap_or_default().to_string()).collect()
    };
    while begun.elapsed() < LONGEST && lines(&said).len() <= count {
        std::thread::sleep(Duration::from_millis(200));
        said = String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).into_owned();
        assert!(qemu.try_wait().unwrap().is_none(), "QEMU has ended: {said}");
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    let found = lines(&said);
    assert!(found.len() > count, "{} boots in {LONGEST:?}: {said}", found.len());
    let image = fs::read(path("disk.img")).unwrap();
    fs::write(&part, &image[1 << 20..]).unwrap();
    let env = Command::new("debugfs").args(["-R", "cat /boot/grub/vfio-provision.env", &part]).output().unwrap();
    (found[..count].to_vec(), String::from_utf8_lossy(&env.stdout).into_owned())
}

#[test]
fn grub_boots_the_trial_once_and_then_what_was_before() {
    let tools = ["grub-mkimage", "mkfs.ext4", "debugfs", "qemu-system-x86_64"];
    if let Some(missing) = tools.iter().find(|tool| !is_there(tool)) {
        eprintln!("skipped: no {missing} here");
        return;
    }
    if !Path::new(GRUB).join("lnxboot.img").exists() {
        eprintln!("skipped: no {GRUB} here (package grub-pc-bin)");
        return;
    }
    let host = debian();
    let menu = host.read_text("/boot/grub/grub.cfg").unwrap().unwrap();
    let start = "serial --unit=0\nterminal_output serial\nset timeout=0\nfunction load_video {\n  true\n}\n";
    put(&host, "/boot/grub/grub.cfg", &format!("{start}{menu}"));
    apply(&host, "kernel_cmdline", json!({"present": ["iommu=pt"]})).unwrap();
    let armed = plan(&host, "reboot", json!({"reasons": "x"})).unwrap();
    for action in armed.actions.iter().filter(|action| !matches!(action.op, Op::Run(_))) {
        predict(&host, &action.op).unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    let grub = root.path().join("boot/grub");
    fs::create_dir_all(&grub).unwrap();
    for name in ["grub.cfg", "custom.cfg", "vfio-provision.env"] {
        fs::write(grub.join(name), host.read_text(&format!("/boot/grub/{name}")).unwrap().unwrap()).unwrap();
    }
    let checked = Command::new("grub-script-check").arg(grub.join("custom.cfg")).status().unwrap();
    assert!(checked.success());
    let (image, initrd) = ("boot/vmlinuz-6.1.0-18-amd64", root.path().join("boot/initrd.img-6.1.0-18-amd64"));
    fs::write(root.path().join(image), kernel()).unwrap();
    fs::write(&initrd, vec![1u8; 4096]).unwrap();
    let is_trial = |line: &String| line.contains(" iommu=pt ") && line.contains(TOKEN) && line.contains(" panic=25 ");
    let is_before = |line: &String| line.ends_with("root=UUID=u1 ro quiet");

    // It panics: once, and never again.
    let (lines, env) = boots(root.path(), 3, true);
    assert!(is_trial(&lines[0]) && is_before(&lines[1]) && is_before(&lines[2]), "{lines:#?}");
    assert_eq!(env, env_block("tried").unwrap());
    // GRUB can't write: not even once.
    let (lines, env) = boots(root.path(), 2, false);
    assert!(lines.iter().all(is_before), "{lines:#?}");
    assert_eq!(env, env_block("armed").unwrap());
    // The kernel on trial is not there: the one from before boots at once.
    let custom = fs::read_to_string(grub.join("custom.cfg")).unwrap();
    let other = custom.replacen("if linux\t/boot/vmlinuz-6.1.0-18-amd64", "if linux\t/boot/vmlinuz-gone", 1);
    assert_ne!(custom, other);
    fs::write(grub.join("custom.cfg"), other).unwrap();
    let (lines, _) = boots(root.path(), 2, true);
    assert!(lines.iter().all(is_before), "{lines:#?}");
    // Nor its initramfs.
    let other = custom.replacen("if initrd\t/boot/initrd.img-6.1.0-18-amd64", "if initrd\t/boot/initrd-gone", 1);
    assert_ne!(custom, other);
    fs::write(grub.join("custom.cfg"), other).unwrap();
    let (lines, _) = boots(root.path(), 2, true);
    assert!(lines.iter().all(is_before), "{lines:#?}");
    // Without our lines what the menu says counts again.
    fs::write(grub.join("custom.cfg"), grub::without(&custom)).unwrap();
    let (lines, _) = boots(root.path(), 1, true);
    assert!(lines[0].ends_with("quiet iommu=pt"), "{lines:#?}");
}
