//! A machine that runs: QEMU with an emulated VT-d, its serial console, a way in by SSH.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::image;

/// The hardware address of the machine's network card.
pub const MAC: &str = "52:54:00:1a:b0:01";
/// The address that its network gives it.
pub const ADDRESS: &str = "10.0.2.15";
/// How long a boot may take on a machine that has much else to do.
pub const BOOT: Duration = Duration::from_secs(900);

/// Resets that come so many seconds after another one are the firmware's: it takes a kernel longer to get into trouble, and a
/// panic waits for 25 s.
const FIRMWARE: i64 = 15;

/// What differs between machines.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Is there an IOMMU (VT-d)?
    pub iommu: bool,
    /// Does it remap interrupts?
    pub remapping: bool,
    /// Two more cards like the one that guests get.
    pub twins: bool,
    /// A disk controller that can split itself into virtual functions.
    pub sriov: bool,
    /// Is what the disk has promised there after the power was cut, and no more?
    pub honest_disk: bool,
    /// More of QEMU's arguments.
    pub more: Vec<String>,
}

impl Default for Hardware {
    fn default() -> Hardware {
        Hardware { iommu: true, remapping: true, twins: false, sriov: false, honest_disk: false, more: Vec::new() }
    }
}

/// A command that other work on this machine does not starve, and that ends with this program.
pub fn nice() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nice", "-n", "-5"]).stdin(Stdio::null());
    command
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Waits for a process; says whether it has ended.
pub fn wait_for_exit(child: &mut Child, limit: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    false
}

/// A running machine. It is switched off when it goes out of scope; if that is because of a failure, the end of its serial
/// console is printed.
pub struct Machine {
    child: Child,
    folder: PathBuf,
    port: u16,
    resets: Arc<AtomicU32>,
    control: Option<UnixStream>,
    kept: Cell<bool>,
}

/// A disk of one's own over another one that stays as it is.
pub fn overlay(base: &Path, disk: &Path) {
    let form = if base.extension().is_some_and(|end| end == "img") { "raw" } else { "qcow2" };
    image::run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", form, "-b"]).arg(base).arg(disk));
}

impl Machine {
    /// Switches a machine on. `folder` is its own; its disk is `disk.qcow2` there. It is not up yet when this returns.
    pub fn on(folder: &Path, hardware: &Hardware) -> Machine {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let control = folder.join("qmp");
        let _ = fs::remove_file(&control);
        let child = nice()
            .arg("qemu-system-x86_64")
            .args(arguments(folder, hardware, port))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", control.display()))
            .stdout(fs::File::create(folder.join("qemu.log")).unwrap())
            .stderr(fs::OpenOptions::new().append(true).open(folder.join("qemu.log")).unwrap())
            .spawn()
            .unwrap();
        let resets = Arc::new(AtomicU32::new(0));
        let mut machine =
            Machine { child, folder: folder.to_path_buf(), port, resets, control: None, kept: Cell::new(false) };
        machine.watch(&control);
        machine
    }

    /// Counts the machine's resets, as QEMU tells them.
    fn watch(&mut self, control: &Path) {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(control) {
                Ok(stream) => break stream,
                Err(error) => {
                    let ended = self.child.try_wait().unwrap();
                    assert!(
                        ended.is_none() && begun.elapsed() < Duration::from_secs(60),
                        "QEMU does not run ({error}): {}",
                        fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default()
                    );
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        };
        (&stream).write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
        let resets = Arc::clone(&self.resets);
        self.control = stream.try_clone().ok();
        std::thread::spawn(move || {
            let mut last: Option<i64> = None;
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
                if event["event"] != "RESET" || event["data"]["reason"] != "guest-reset" {
                    continue;
                }
                // SeaBIOS finds itself in use after a reset, puts itself back, and resets once more.
                let at = event["timestamp"]["seconds"].as_i64().unwrap_or_default();
                if last.is_none_or(|last| at - last > FIRMWARE) {
                    resets.fetch_add(1, Ordering::SeqCst);
                }
                last = Some(at);
            }
        });
    }

    /// How often it has reset itself since it was switched on.
    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::SeqCst)
    }

    /// Pulls the network cable when the machine next resets itself, and plugs it in a minute later. The thread says whether
    /// that happened.
    pub fn cut_the_line_at_the_next_reset(&self) -> std::thread::JoinHandle<bool> {
        let resets = Arc::clone(&self.resets);
        let seen = resets.load(Ordering::SeqCst);
        let mut control = self.control.as_ref().and_then(|stream| stream.try_clone().ok()).expect("QEMU listens");
        std::thread::spawn(move || {
            let begun = Instant::now();
            while resets.load(Ordering::SeqCst) == seen {
                if begun.elapsed() > Duration::from_secs(3600) {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut set = |up: bool| {
                let line = format!("{{\"execute\":\"set_link\",\"arguments\":{{\"name\":\"net0\",\"up\":{up}}}}}\n");
                control.write_all(line.as_bytes()).is_ok()
            };
            let cut = set(false);
            std::thread::sleep(Duration::from_secs(60));
            set(true) && cut
        })
    }

    /// The port of this machine's SSH on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What came over the serial line so far.
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("serial.log")).unwrap_or_default()).into_owned()
    }

    /// OpenSSH's command line for this machine.
    pub fn ssh_command(&self) -> Vec<String> {
        let mut argv: Vec<String> = ["ssh", "-F", "/dev/null", "-i"].map(String::from).to_vec();
        argv.push(image::key().display().to_string());
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=60",
            "ServerAliveInterval=20",
            "ServerAliveCountMax=9",
        ] {
            argv.extend(["-o".to_string(), option.to_string()]);
        }
        argv.extend(["-p".into(), self.port.to_string(), "root@127.0.0.1".into()]);
        argv
    }

    /// Runs a shell script on the machine, with at most so much time.
    pub fn try_ssh(&self, script: &str, limit: Duration) -> Output {
        Command::new("timeout")
            .arg(limit.as_secs().to_string())
            .args(self.ssh_command())
            .arg(script)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a shell script on the machine; it must succeed. Answers what it printed.
    pub fn ssh(&self, script: &str) -> String {
        let output = self.try_ssh(script, Duration::from_secs(600));
        assert!(
            output.status.success(),
            "`{script}` on the machine ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until it can be logged in to and everything that starts with it has started.
    pub fn wait_until_up(&mut self) {
        let begun = Instant::now();
        loop {
            let output = self.try_ssh("true", Duration::from_secs(90));
            if output.status.success() {
                break;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("QEMU ended with {status} while the machine booted");
            }
            assert!(begun.elapsed() < BOOT, "the machine is not up after {} s", begun.elapsed().as_secs());
            std::thread::sleep(Duration::from_secs(1));
        }
        // `degraded` is as good: some unit of the distribution may not like this hardware.
        let _ = self.try_ssh("systemctl is-system-running --wait", BOOT);
    }

    /// Which boot this is.
    pub fn boot_id(&self) -> String {
        self.ssh("cat /proc/sys/kernel/random/boot_id").trim().to_string()
    }

    /// Has the machine power itself off, and waits for that.
    pub fn power_off(mut self) {
        let _ = self.try_ssh("systemctl poweroff", Duration::from_secs(60));
        assert!(wait_for_exit(&mut self.child, Duration::from_secs(400)), "the machine does not power off");
    }

    /// Restarts it by itself, outside of the program.
    pub fn reboot(&mut self) {
        let old = self.boot_id();
        let _ = self.try_ssh("systemctl reboot", Duration::from_secs(60));
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < BOOT, "the machine did not come back from its reboot");
            std::thread::sleep(Duration::from_secs(2));
            let output = self.try_ssh("cat /proc/sys/kernel/random/boot_id", Duration::from_secs(90));
            if output.status.success() && String::from_utf8_lossy(&output.stdout).trim() != old {
                break;
            }
        }
        self.wait_until_up();
    }

    /// Stops QEMU itself where it stands, all its threads; a machine that is frozen can only go on or be cut.
    pub fn freeze(&self) {
        self.signal("-STOP");
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let stopped = |task: &Path| {
            // proc(5): the state comes after the name, which is in brackets. A thread that has ended meanwhile stands still.
            let text = fs::read_to_string(task.join("stat")).unwrap_or_default();
            text.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        };
        let begun = Instant::now();
        while !fs::read_dir(&tasks).unwrap().flatten().all(|task| stopped(&task.path())) {
            assert!(begun.elapsed() < Duration::from_secs(30), "QEMU does not stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        image::run(Command::new("kill").arg(signal).arg(self.child.id().to_string()));
    }

    /// Cuts the power.
    pub fn cut(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Leaves it running when this program goes on or ends, and says how to get in.
    pub fn keep(&self) {
        self.kept.set(true);
        println!("lab: the machine is kept: {}", self.ssh_command().join(" "));
        println!("lab: its serial console: {}", self.folder.join("serial.log").display());
        println!("lab: press Ctrl-C to switch it off");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let serial = self.serial();
            eprintln!("--- the end of {}", self.folder.join("serial.log").display());
            eprintln!("{}\n---", tail(&serial, 60));
            let log = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
            if !log.trim().is_empty() {
                eprintln!("QEMU said: {}", tail(&log, 20));
            }
        }
        if self.kept.get() {
            // It ends with this program, so this program stays.
            while matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The seed's topology: a card with its audio at 0000:82:00.0 on the second node, a display to start with elsewhere, a network
/// card behind a port of its own, SATA in one group with LPC and SMBus, and two strangers in one group behind a PCI bridge.
fn arguments(folder: &Path, hardware: &Hardware, port: u16) -> Vec<String> {
    let cache = if hardware.honest_disk { "writeback" } else { "unsafe" };
    let disk = folder.join("disk.qcow2");
    let serial = folder.join("serial.log");
    let mut all: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| all.extend(words.iter().map(|word| (*word).to_string()));
    add(&["-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi,tb-size=256"]);
    add(&["-cpu", "max,vendor=GenuineIntel", "-smp", "2,sockets=2,cores=1,threads=1", "-m", "2048"]);
    add(&["-object", "memory-backend-ram,id=m0,size=1280M", "-object", "memory-backend-ram,id=m1,size=768M"]);
    add(&["-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1"]);
    add(&["-nodefaults", "-display", "none", "-monitor", "none", "-rtc", "base=utc"]);
    add(&["-serial", &format!("file:{}", serial.display())]);
    if hardware.iommu {
        let remapping = if hardware.remapping { "on" } else { "off" };
        add(&["-device", &format!("intel-iommu,intremap={remapping},caching-mode=on")]);
    }
    add(&["-device", "VGA,id=display,bus=pcie.0,addr=1,romfile="]);
    add(&["-device", "pcie-root-port,id=port1,bus=pcie.0,addr=2,chassis=1,slot=1"]);
    add(&["-netdev", &format!("user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22")]);
    add(&["-device", &format!("virtio-net-pci,netdev=net0,bus=port1,mac={MAC},romfile=")]);
    add(&["-drive", &format!("file={},if=none,id=disk0,format=qcow2,cache={cache}", disk.display())]);
    add(&["-device", "virtio-blk-pci,drive=disk0,bus=pcie.0,addr=3,bootindex=1"]);
    add(&["-device", "pcie-root-port,id=port2,bus=pcie.0,addr=4,chassis=2,slot=2"]);
    add(&["-device", "pcie-pci-bridge,id=bridge1,bus=port2"]);
    add(&["-audiodev", "none,id=silence"]);
    add(&["-device", "AC97,bus=bridge1,addr=1,audiodev=silence", "-device", "ich9-usb-ehci1,bus=bridge1,addr=2"]);
    add(&["-blockdev", "null-co,node-name=nothing,size=67108864,read-zeroes=on"]);
    add(&["-device", "ide-hd,drive=nothing,bus=ide.0"]);
    add(&["-device", "pxb-pcie,id=pxb1,bus=pcie.0,addr=8,bus_nr=128,numa_node=1"]);
    add(&["-device", "pcie-root-port,id=port81,bus=pxb1,chassis=11,slot=11"]);
    add(&["-device", "pcie-root-port,id=port82,bus=pxb1,chassis=12,slot=12"]);
    add(&["-device", "secondary-vga,bus=port82,addr=0x0.0,multifunction=on,romfile="]);
    add(&["-device", "intel-hda,bus=port82,addr=0x0.1"]);
    if hardware.twins {
        for n in [5, 6] {
            add(&["-device", &format!("pcie-root-port,id=port{n},bus=pcie.0,addr={n},chassis={n},slot={n}")]);
            add(&["-device", &format!("secondary-vga,bus=port{n},romfile=")]);
        }
    }
    if hardware.sriov {
        add(&["-device", "pcie-root-port,id=port7,bus=pcie.0,addr=7,chassis=7,slot=7"]);
        add(&["-device", "nvme-subsys,id=subsystem0"]);
        add(&[
            "-device",
            "nvme,serial=lab,subsys=subsystem0,bus=port7,max_ioqpairs=6,msix_qsize=8,sriov_max_vfs=2,\
             sriov_vq_flexible=4,sriov_vi_flexible=2",
        ]);
    }
    all.extend(hardware.more.iter().cloned());
    all
}
