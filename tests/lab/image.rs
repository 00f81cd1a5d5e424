//! Disk images of the lab's machines, from scratch, kept under target/lab by the hash of their recipe.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::machine::{self, wait_for_exit};

/// Which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian 12.
    Debian,
    /// A workstation of the Enterprise Linux shape.
    El,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Debian => "debian",
            Kind::El => "el",
        }
    }

    /// The files that say how it is made.
    fn recipe(self) -> &'static [&'static str] {
        match self {
            Kind::Debian => &["common.sh", "debian.sh"],
            Kind::El => &["common.sh", "el.sh", "rpms.sh", "kernel.rs"],
        }
    }

    /// What is in it besides the essential packages.
    fn packages(self) -> &'static str {
        match self {
            Kind::Debian => {
                "linux-image-amd64,initramfs-tools,zstd,systemd-sysv,dbus,udev,kmod,procps,pciutils,openssh-server,\
                 iproute2,ifupdown,isc-dhcp-client,bridge-utils,grub-pc-bin,grub2-common,lsb-release,ca-certificates"
            }
            Kind::El => {
                "systemd-sysv,dbus,udev,kmod,procps,pciutils,openssh-server,iproute2,network-manager,dracut,zstd,dnf,rpm,\
                 grub-pc-bin,grub2-common,ca-certificates"
            }
        }
    }

    /// Sizes of the partitions in MiB: /boot where it is apart, then /.
    fn partitions(self) -> &'static [u64] {
        match self {
            Kind::Debian => &[7168],
            Kind::El => &[768, 8192],
        }
    }
}

const TOOLS: [&str; 11] = [
    "mmdebstrap",
    "qemu-system-x86_64",
    "qemu-img",
    "mkfs.ext4",
    "dpkg-scanpackages",
    "rpmbuild",
    "createrepo_c",
    "ssh",
    "ssh-keygen",
    "strip",
    "zstd",
];
/// Debian's own definition of its repositories, as this machine has it (a mirror may stand there).
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
const ROOT_UUID: &str = "1ab00000-0000-4000-8000-000000000001";
const BOOT_UUID: &str = "1ab00000-0000-4000-8000-000000000002";
const MIB: u64 = 1 << 20;

/// Why there can't be a lab here, if there can't.
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| !has(tool)).collect();
    if !missing.is_empty() {
        return Some(format!("missing: {}", missing.join(", ")));
    }
    match fs::read_to_string("/etc/os-release") {
        Ok(text) if text.lines().any(|line| line == "VERSION_CODENAME=bookworm") => {}
        _ => return Some("the machines are made with Debian 12's packages, and this is not Debian 12".into()),
    }
    if sources().is_none() {
        return Some("no Debian mirror is configured".into());
    }
    None
}

fn has(tool: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|folder| Path::new(folder).join(tool).exists())
}

fn sources() -> Option<PathBuf> {
    SOURCES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// The lab's own folder.
pub fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The folder of the recipes.
pub fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab")
}

/// The key that all machines let in; made once.
pub fn key() -> PathBuf {
    let key = folder().join("key");
    // Several runs may begin at the same time.
    let lock = File::create(folder().join("key.lock")).unwrap();
    lock.lock().unwrap();
    if !key.exists() {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(&key));
    }
    key
}

/// Runs a command to its end and fails with all that it said.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A short hash.
pub fn hash(text: &[u8]) -> String {
    format!("{:x}", Sha256::digest(text))[..16].to_string()
}

/// The disk of a machine as it is before anybody has provisioned it.
pub fn disk(kind: Kind) -> PathBuf {
    let public = fs::read_to_string(key().with_extension("pub")).unwrap();
    let sources = sources().expect("asked before");
    let mut recipe = format!("1 {} {:?} {public}", kind.packages(), kind.partitions());
    recipe += &fs::read_to_string(&sources).unwrap();
    for file in kind.recipe() {
        recipe += &fs::read_to_string(recipes().join(file)).unwrap();
    }
    let folder = folder();
    let name = format!("{}-{}", kind.name(), hash(recipe.as_bytes()));
    let done = folder.join(format!("{name}.img"));
    let lock = File::create(folder.join(format!("{}.lock", kind.name()))).unwrap();
    lock.lock().unwrap();
    if done.exists() {
        return done;
    }
    println!("lab: the image {name} is made …");
    // What was begun for the same recipe is gone on with; everything else of this machine is of no use any more.
    let work = folder.join(format!("{name}.work"));
    for old in fs::read_dir(&folder).unwrap().flatten() {
        if old.file_name().to_string_lossy().starts_with(&format!("{}-", kind.name())) && old.path() != work {
            if old.path().is_dir() { fs::remove_dir_all(old.path()) } else { fs::remove_file(old.path()) }.unwrap();
        }
    }
    fs::create_dir_all(&work).unwrap();
    let (begun, root) = (work.join("begun"), work.join("root"));
    if !root.exists() {
        if begun.exists() {
            fs::remove_dir_all(&begun).unwrap();
        }
        run(Command::new("mmdebstrap")
            .args(["--mode=root", "--variant=minbase", "--format=directory", "--quiet", "--skip=cleanup/apt"])
            .arg(format!("--include={}", kind.packages()))
            .arg(format!("--customize-hook=sh {}/{}.sh \"$1\"", recipes().display(), kind.name()))
            .args(["bookworm".as_ref(), begun.as_os_str(), sources.as_os_str()])
            .env("LAB_RECIPE", recipes())
            .env("LAB_OUT", &work)
            .env("LAB_PROGRAM", std::env::current_exe().unwrap())
            .env("LAB_PUBLIC_KEY", public.trim())
            .env("LAB_ROOT_UUID", ROOT_UUID)
            .env("LAB_BOOT_UUID", BOOT_UUID));
        fs::rename(&begun, &root).unwrap();
    }
    let image = work.join("disk.img");
    partitions(kind, &root, &image);
    first_boot(&work, &image, kind);
    fs::rename(&image, &done).unwrap();
    fs::remove_dir_all(&work).unwrap();
    done
}

/// A disk with one partition table and ext4 file systems, filled from a folder: nothing is mounted.
fn partitions(kind: Kind, root: &Path, image: &Path) {
    let sizes = kind.partitions();
    let file = File::create(image).unwrap();
    file.set_len((1 + sizes.iter().sum::<u64>()) * MIB).unwrap();
    let mut table = [0u8; 66];
    let mut start = MIB;
    let boot = root.with_file_name("boot");
    for (n, size) in sizes.iter().enumerate() {
        // An entry of the DOS partition table: active, no cylinders, Linux, first sector, sectors.
        let entry = &mut table[n * 16..(n + 1) * 16];
        entry[0] = if n == 0 { 0x80 } else { 0 };
        entry[1..4].fill(0xff);
        entry[4] = 0x83;
        entry[5..8].fill(0xff);
        entry[8..12].copy_from_slice(&u32::try_from(start / 512).unwrap().to_le_bytes());
        entry[12..16].copy_from_slice(&u32::try_from(size * MIB / 512).unwrap().to_le_bytes());
        let apart = sizes.len() > 1 && n == 0;
        let (from, uuid, label) = if apart {
            if !boot.exists() {
                fs::rename(root.join("boot"), &boot).unwrap();
                fs::create_dir(root.join("boot")).unwrap();
            }
            (boot.as_path(), BOOT_UUID, "boot")
        } else {
            (root, ROOT_UUID, "root")
        };
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-U", uuid, "-L", label, "-E", &format!("offset={start}"), "-d"])
            .arg(from)
            .arg(image)
            .arg(format!("{}k", size * 1024)));
        start += size * MIB;
    }
    table[64] = 0x55;
    table[65] = 0xaa;
    // The disk's signature, which GRUB and Linux tell disks apart by.
    file.write_all_at(&[0x1a, 0xb0, 0x1a, 0xb0], 440).unwrap();
    file.write_all_at(&table, 446).unwrap();
}

/// Boots once with the kernel from outside, so that the boot loader can be installed on the disk.
fn first_boot(work: &Path, image: &Path, kind: Kind) {
    let serial = work.join("serial.log");
    let root = if kind == Kind::Debian { "/dev/vda1" } else { "/dev/vda2" };
    let mut child = machine::nice()
        .args(["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
        .args(["-m", "1536", "-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot"])
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw,cache=unsafe", image.display()))
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .arg("-kernel")
        .arg(work.join("vmlinuz"))
        .arg("-initrd")
        .arg(work.join("initrd"))
        .arg("-append")
        .arg(format!("root={root} rw console=ttyS0 init=/lab-first-boot panic=5 no_timer_check mitigations=off"))
        .spawn()
        .unwrap();
    let ended = wait_for_exit(&mut child, Duration::from_secs(900));
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    let said = String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).into_owned();
    assert!(
        ended && said.contains("LAB-FIRST-BOOT-IS-DONE"),
        "the first boot did not get through:\n{}",
        machine::tail(&said, 80)
    );
}
