//! The power is cut at moments of the site: each time the machine boots by itself, and the next run converges.
//!
//! A process that is killed leaves of its files what the kernel has of them at that moment. So QEMU is stopped (SIGSTOP), the disk
//! is copied as it then is, and QEMU goes on: the copy is what `kill -9` at that moment would have left, and one run of the site
//! gives as many of them as are asked for. The last is taken by really killing QEMU.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::image::{self, Kind};
use super::machine::{Hardware, Machine, overlay};
use super::passed;
use super::program::Controller;
use super::report::Report;
use super::site::{assert_provisioned, fresh, probe, read_probe};
use crate::Lab;

/// How often the site is begun anew, at most, until there are enough moments: a short step may go by unseen.
const ROUNDS: u32 = 4;
/// Until then, in seconds after its start, a run of the site is cut at any moment.
const LENGTH: u64 = 700;
/// The disk as the power's end has left it.
const LEFT: &str = "left.qcow2";
/// What was seen so long ago may be over.
const FRESH: Duration = Duration::from_millis(700);

/// A small generator (xorshift): the moments shall be the same again for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }

    fn within(&mut self, longest: Duration) -> Duration {
        Duration::from_millis(self.roll(longest.as_millis() as u64))
    }
}

/// A part of the site that shall not be cut in vain.
struct Step {
    what: &'static str,
    /// A word of its process' command line, …
    word: &'static str,
    /// … and one of these. Processes that only ask (dpkg-query, `dnf repoquery`) have none.
    any: &'static [&'static str],
    /// So long after it was seen, at most, the power is cut.
    longest: Duration,
}

fn steps(kind: Kind) -> [Step; 3] {
    let step = |what, word, any, seconds| Step { what, word, any, longest: Duration::from_secs(seconds) };
    match kind {
        Kind::Debian => [
            step("dpkg", "dpkg", &["--unpack", "--configure"], 25),
            step("the initramfs", "mkinitramfs", &[""], 60),
            step("grub.cfg", "grub-mkconfig", &[""], 3),
        ],
        Kind::El => [
            step("dnf", "dnf", &["install"], 25),
            step("dracut", "dracut", &["--force", "--kver"], 60),
            step("grub.cfg", "grub2-mkconfig", &[""], 3),
        ],
    }
}

/// Watches a machine's processes; goes on when it has booted again.
struct Watch {
    seen: Arc<Mutex<[Option<Instant>; 3]>>,
    over: Arc<AtomicBool>,
    child: Arc<Mutex<Option<Child>>>,
}

impl Watch {
    fn new(machine: &Machine, kind: Kind) -> Watch {
        let watch = Watch { seen: Default::default(), over: Default::default(), child: Default::default() };
        let (seen, over, running) = (Arc::clone(&watch.seen), Arc::clone(&watch.over), Arc::clone(&watch.child));
        let steps = steps(kind);
        // The brackets keep the shell from seeing itself.
        let patterns = steps.each_ref().map(|step| format!("[{}]{}", &step.word[..1], &step.word[1..])).join("|");
        let argv = machine.ssh_command();
        let script = format!("while :; do pgrep -fa '{patterns}'; sleep 0.2; done");
        std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let mut command = Command::new(&argv[0]);
                command.args(&argv[1..]).arg(&script).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
                let mut child = command.spawn().unwrap();
                let output = child.stdout.take().unwrap();
                *running.lock().unwrap() = Some(child);
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    for (n, step) in steps.iter().enumerate() {
                        if line.contains(step.word) && step.any.iter().any(|word| line.contains(word)) {
                            seen.lock().unwrap()[n] = Some(Instant::now());
                        }
                    }
                }
                if let Some(mut child) = running.lock().unwrap().take() {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        watch
    }

    /// Does this step run now?
    fn runs(&self, step: usize) -> bool {
        self.seen.lock().unwrap()[step].is_some_and(|at| at.elapsed() < FRESH)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(child) = self.child.lock().unwrap().as_mut() {
            let _ = child.kill();
        }
    }
}

/// A disk as the power's end has left it.
struct Cut {
    folder: PathBuf,
    what: String,
}

/// What is still wanted: so many cuts in each step, and at any moment.
struct Wanted {
    steps: [u32; 3],
    any: u32,
}

impl Wanted {
    fn new(cuts: u32) -> Wanted {
        let each = |n: u32| (cuts + 3 - n) / 4;
        Wanted { steps: [each(0), each(1), each(2)], any: each(3) }
    }

    fn all(&self) -> u32 {
        self.steps.iter().sum::<u32>() + self.any
    }
}

/// Where a folder for each cut is: its disk, and what the runs said.
fn place(lab: &Lab) -> PathBuf {
    image::folder().join("run").join(format!("{}-disks", lab.name.replace('/', "-")))
}

fn folder(lab: &Lab, number: usize) -> PathBuf {
    place(lab).join(format!("{}-{number}", lab.name.replace('/', "-")))
}

/// Applies the site, and takes what is wanted; what this run did not show is still wanted afterwards. Says what the machine
/// was like before.
fn round(lab: &mut Lab, dice: &mut Dice, wanted: &mut Wanted, cuts: &mut Vec<Cut>) -> BTreeMap<String, String> {
    let hardware = Hardware { honest_disk: true, ..Hardware::default() };
    let (machine, controller) = fresh(lab, &hardware);
    let before = probe(&machine);
    let disk = machine.folder().join("disk.qcow2");
    let steps = steps(lab.kind);
    let watch = Watch::new(&machine, lab.kind);
    let playbook = Controller::playbook("site.yml").display().to_string();
    let (mut run, _, _) =
        controller.start(&["apply", &playbook, "-i", "inventory", "--accept-new-host-keys", "--output", "json"]);
    let begun = Instant::now();
    let mut due: [Option<Instant>; 3] = [None; 3];
    let mut moments: Vec<Duration> = (0..wanted.any).map(|_| dice.within(Duration::from_secs(LENGTH))).collect();
    moments.sort();
    moments.reverse();
    while wanted.all() > 0 && run.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(50));
        let mut what = None;
        for (n, step) in steps.iter().enumerate() {
            if wanted.steps[n] == 0 || !watch.runs(n) {
                due[n] = None;
                continue;
            }
            let at = *due[n].get_or_insert_with(|| Instant::now() + dice.within(step.longest));
            if at <= Instant::now() {
                due[n] = None;
                wanted.steps[n] -= 1;
                what = Some(format!("in {}, {} s after the start", step.what, begun.elapsed().as_secs()));
                break;
            }
        }
        if what.is_none() && moments.last().is_some_and(|at| *at <= begun.elapsed()) {
            moments.pop();
            wanted.any -= 1;
            what = Some(format!("{} s after the start", begun.elapsed().as_secs()));
        }
        let Some(what) = what else { continue };
        let folder = folder(lab, cuts.len() + 1);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("what"), &what).unwrap();
        machine.freeze();
        fs::copy(&disk, folder.join(LEFT)).unwrap();
        if wanted.all() > 0 {
            machine.thaw();
        }
        println!("lab:   {}: cut {}: {what}", lab.name, cuts.len() + 1);
        cuts.push(Cut { folder, what });
    }
    machine.cut();
    let _ = run.kill();
    let _ = run.wait();
    before
}

/// As many cuts as asked for: inside of packages, initramfs and grub.cfg, and at any moment.
pub fn cuts(lab: &mut Lab) {
    let earlier = if lab.options.resume { taken(lab) } else { None };
    let (cuts, before) = earlier.unwrap_or_else(|| take(lab));
    for (number, cut) in cuts.iter().enumerate() {
        let survived = cut.folder.join("survived.json");
        let report = match fs::read(&survived) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => {
                let report = survives(lab.kind, number + 1, cut, &before);
                // The disks are of no use any more; what the runs said stays.
                for disk in [LEFT, "disk.qcow2"] {
                    let _ = fs::remove_file(cut.folder.join(disk));
                }
                fs::write(&survived, serde_json::to_vec(&report).unwrap()).unwrap();
                report
            }
        };
        lab.report.add(report);
    }
}

/// Takes the disks, and writes down what they are, so that a run that ends early can be gone on with.
fn take(lab: &mut Lab) -> (Vec<Cut>, BTreeMap<String, String>) {
    let mut dice = Dice(lab.options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let _ = fs::remove_dir_all(place(lab));
    let (mut wanted, mut cuts) = (Wanted::new(lab.options.cuts), Vec::new());
    let mut before = round(lab, &mut dice, &mut wanted, &mut cuts);
    for _ in 1..ROUNDS {
        if wanted.all() > 0 {
            before = round(lab, &mut dice, &mut wanted, &mut cuts);
        }
    }
    assert_eq!(wanted.all(), 0, "not all steps were seen often enough: {:?} {}", wanted.steps, wanted.any);
    let text: String = before.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    fs::write(place(lab).join("before"), text).unwrap();
    fs::write(place(lab).join("of"), passed::stamp(lab.kind)).unwrap();
    (cuts, before)
}

/// What an earlier run has taken, if it took all, of the same machine with the same program.
fn taken(lab: &Lab) -> Option<(Vec<Cut>, BTreeMap<String, String>)> {
    let of = fs::read_to_string(place(lab).join("of")).ok()?;
    let before = fs::read_to_string(place(lab).join("before")).ok()?;
    if of != passed::stamp(lab.kind) {
        return None;
    }
    let folders = (1..).map(|number| folder(lab, number)).take_while(|folder| folder.exists());
    let cuts = folders.map(|folder| Cut { what: fs::read_to_string(folder.join("what")).unwrap(), folder });
    Some((cuts.collect(), read_probe(&before)))
}

/// The machine boots from that disk, and the next run converges.
fn survives(kind: Kind, number: usize, cut: &Cut, before: &BTreeMap<String, String>) -> Report {
    let what = &cut.what;
    overlay(&cut.folder.join(LEFT), &cut.folder.join("disk.qcow2"));
    let mut machine = Machine::on(&cut.folder, &Hardware { honest_disk: true, ..Hardware::default() });
    machine.wait_until_up();
    let controller = Controller::new(&cut.folder, kind, &machine);
    let mut said = controller.play("apply", "site.yml", &[]);
    let mut how = "";
    // A trial boot that was cut can't be told from one that failed: whether it is tried again is for a person (docs/boot.md).
    if said.code == Some(2) && said.failures().contains("not tried again") {
        how = "; the trial boot itself was cut: the rerun says so, and converges with `boot_trial: again`";
        said = controller.play("apply", "site.yml", &["-e", r#"{"boot_trial": "again"}"#]);
    }
    assert_eq!(said.code, Some(0), "after a cut {what} the next run did not converge:\n{}", said.in_short());
    machine.wait_until_up();
    let reboots = machine.resets();
    assert_provisioned(kind, before, &probe(&machine));
    let again = controller.play("apply", "site.yml", &[]).well("the apply after that");
    assert!(again.changes().is_empty(), "({what}) a second time there is nothing to change:\n{}", again.in_short());
    machine.cut();
    Report { boots: 1, reboots, cuts: 1, notes: vec![format!("cut {number}: {what}{how}")], ..Report::default() }
}
