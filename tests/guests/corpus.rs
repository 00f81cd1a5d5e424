//! Guests of every kind (`tests/guests/corpus`): what is stated holds in what libvirt makes of it; each single edit is shown
//! alone, and done; and whatever is edited, nothing else moves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use vfio_provision::change::executor;
use vfio_provision::host::model::predict;
use vfio_provision::host::{Host, Live, Overlay};
use vfio_provision::modules::libvirt::import;
use vfio_provision::modules::libvirt::xml::{self, Element, Node};

use super::quick::Quick;
use super::{full, plan_on, yaml};

/// A guest of the corpus.
pub struct Guest {
    pub name: String,
    pub parameters: Value,
}

pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/corpus"))
}

/// All guests of the corpus, in the order of their names.
pub fn guests() -> Vec<Guest> {
    let mut guests: Vec<Guest> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yml"))
        .map(|path| {
            let parameters = yaml(&std::fs::read_to_string(&path).unwrap());
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert_eq!(parameters["name"], name.as_str());
            Guest { name, parameters }
        })
        .collect();
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    guests
}

/// Random numbers that are the same again for the same seed (xorshift64*, Vigna 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end.max(1) as u64).unwrap()
    }
}

fn seed() -> u64 {
    std::env::var("VFIO_PROVISION_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122)
}

/// One edit: where, and what stands there then.
#[derive(Clone, Debug)]
struct Edit {
    pointer: String,
    value: Value,
    /// How many things it may show: two where it makes another device of it.
    most: usize,
}

impl Edit {
    fn on(&self, parameters: &Value) -> Value {
        let mut edited = parameters.clone();
        *edited.pointer_mut(&self.pointer).unwrap() = self.value.clone();
        edited
    }
}

/// Other words that a field can have. Fields that tell a device from others, or of which another value needs other fields
/// to change with them, are not here.
fn other_words(field: &str, parent: &str, text: &str) -> Option<(String, usize)> {
    let pick = |words: &[&str]| words.iter().find(|word| **word != text).map(|word| ((*word).to_string(), 1));
    match (parent, field) {
        (_, "cache") if parent == "disks" || parent == "cdroms" => pick(&["writeback", "unsafe"]),
        (_, "discard") => pick(&["unmap", "ignore"]),
        (_, "detect_zeroes") => pick(&["off", "on"]),
        (_, "error_policy") => pick(&["stop", "report"]),
        (_, "startup_policy") => pick(&["optional", "requisite"]),
        (_, "on_poweroff" | "on_reboot" | "on_crash") => pick(&["restart", "destroy"]),
        ("interfaces", "model") => pick(&["e1000e", "virtio", "rtl8139"]),
        ("interfaces", "bridge" | "network" | "direct") => Some((format!("{text}9"), 1)),
        ("interfaces", "mac") => Some(("52:54:00:12:34:56".to_string(), 1)),
        ("interfaces", "link") => pick(&["up", "down"]),
        ("graphics", "keymap") => pick(&["de", "en-us"]),
        ("graphics", "listen") if text.contains('.') => pick(&["127.0.0.1", "0.0.0.0"]),
        (_, "passwd") => Some((format!("{text}1"), 1)),
        (_, "serial" | "title" | "description" | "kernel_args" | "manufacturer" | "product" | "family") => {
            Some((format!("{text}x"), 1))
        }
        (_, "path") if text.starts_with("/srv/") => Some((text.replacen("/srv/", "/srv/other/", 1), 1)),
        (_, "kernel" | "initrd" | "nvram" | "rom_file") => Some((format!("{text}2"), 1)),
        ("", "memballoon") => pick(&["none", "virtio"]),
        ("", "clock") => pick(&["utc", "localtime"]),
        ("clock", "tickpolicy") => pick(&["delay", "catchup"]),
        ("watchdog", "action") => pick(&["reset", "poweroff"]),
        ("features", "msrs_unknown") => pick(&["ignore", "fault"]),
        (_, "memory" | "vram" | "read_bytes" | "write_bytes" | "total_bytes") => {
            let (number, unit) = text.split_once(' ')?;
            Some((format!("{} {unit}", number.parse::<u32>().ok()?.checked_mul(2)?), 1))
        }
        _ => None,
    }
}

/// Every edit of a single stated value.
fn edits(parameters: &Value) -> Vec<Edit> {
    let mut edits = Vec::new();
    collect(parameters, "", "", "", &mut edits);
    edits
}

fn collect(value: &Value, pointer: &str, field: &str, parent: &str, edits: &mut Vec<Edit>) {
    let mut push = |value: Value, most| edits.push(Edit { pointer: pointer.to_string(), value, most });
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                // What is inside of a list of devices or of a map belongs to it.
                let parent = if parent.is_empty() { field } else { parent };
                collect(value, &format!("{pointer}/{key}"), key, parent, edits);
            }
        }
        Value::Array(list) if field == "boot" && list.len() > 1 => push(list.iter().rev().cloned().collect(), 1),
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate() {
                let short = if parent.is_empty() { field } else { parent };
                match value {
                    Value::String(text) if matches!(short, "disks" | "cdroms") => {
                        if let Some((text, most)) = other_words("path", short, text) {
                            edits.push(Edit { pointer: format!("{pointer}/{at}"), value: json!(text), most });
                        }
                    }
                    Value::Object(map) => {
                        for (key, value) in map {
                            collect(value, &format!("{pointer}/{at}/{key}"), key, short, edits);
                        }
                    }
                    _ => {}
                }
            }
        }
        // Both are of many parts that go together, or of the device's very self.
        Value::Bool(_) if matches!(field, "smm" | "loader_secure" | "acpi" | "user" | "primary") => {}
        Value::Bool(flag) => push(json!(!flag), 1),
        Value::Number(number) => {
            let other = match (parent, field) {
                ("", "vcpus") | ("interfaces", "queues" | "mtu") | ("hyperv", _) | ("", "iothreads") => {
                    number.as_u64().map(|n| n + 1)
                }
                ("graphics", "port") => Some(5999),
                ("rng" | "limits", _) => number.as_u64().map(|n| n * 2),
                ("features", "spinlocks") => Some(8190),
                ("vsock", "cid") => Some(9),
                _ => None,
            };
            if let Some(other) = other {
                push(json!(other), 1);
            }
        }
        Value::String(text) => {
            if let Some((text, most)) = other_words(field, parent, text) {
                push(json!(text), most);
            }
        }
        Value::Null => {}
    }
}

/// What must never move: UUID, MAC addresses, and where each device stands.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    uuid: Option<String>,
    nvram: Option<String>,
    /// What tells a device from others: what it is (bus, model), and its MAC and place.
    devices: BTreeMap<String, (String, Option<Element>, Option<Element>)>,
}

fn kept(domain: &Element) -> Kept {
    let mut devices = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for device in domain.get("devices").unwrap().elements() {
        let child = |name: &str, attribute: &str| {
            device.get(name).and_then(|child| child.attribute(attribute)).unwrap_or_default().to_string()
        };
        let own = |name: &str| device.attribute(name).unwrap_or_default().to_string();
        let name = match device.name.as_str() {
            "disk" => child("target", "dev"),
            "interface" => child("mac", "address"),
            "controller" => format!("{} {}", own("type"), own("index")),
            "hostdev" => device.get("source").map(Element::print).unwrap_or_default(),
            "input" => format!("{} {}", own("type"), own("bus")),
            "filesystem" => child("target", "dir"),
            _ => String::new(),
        };
        let mut key = format!("{} {name}", device.name);
        let count = counts.entry(key.clone()).or_default();
        *count += 1;
        if *count > 1 {
            key = format!("{key} #{count}");
        }
        let what = format!("{} {} {}", child("target", "bus"), child("model", "type"), own("model"));
        // libvirt marks the first function of a slot when another one comes to it; that moves nothing.
        let mut address = device.get("address").cloned();
        address.iter_mut().for_each(|address| address.unset("multifunction"));
        devices.insert(key, (what, device.get("mac").cloned(), address));
    }
    let nvram = domain.text_at(&["os", "nvram"]);
    Kept { uuid: domain.text_at(&["uuid"]), nvram, devices }
}

impl Kept {
    /// What moved although nobody asked for it. A device that is gone, or has become another, may.
    fn moved(&self, after: &Kept) -> Vec<String> {
        let mut moved = Vec::new();
        if self.uuid != after.uuid {
            moved.push(format!("uuid: {:?} to {:?}", self.uuid, after.uuid));
        }
        for (key, before) in &self.devices {
            if let Some(now) = after.devices.get(key)
                && before.0 == now.0
                && (&before.1, &before.2) != (&now.1, &now.2)
            {
                moved.push(format!("{key}: {:?} {:?} to {:?} {:?}", before.1, before.2, now.1, now.2));
            }
        }
        moved
    }
}

/// One guest on the machine, with the round "foresee, do, look again" on it.
struct Bench<'a> {
    host: &'a Quick,
    name: String,
}

enum Applied {
    Done(Vec<String>),
    /// The module, or libvirt, says that this can't be.
    Refused(String),
}

type Outcome<T> = std::result::Result<T, String>;

impl Bench<'_> {
    fn domain(&self) -> Element {
        xml::parse(&self.host.domain(&self.name).unwrap()).unwrap()
    }

    fn apply(&self, parameters: &Value) -> Outcome<Applied> {
        let ask = |host: &dyn Host| plan_on(host, "libvirt_domain", parameters);
        let wanted = match ask(self.host) {
            Ok(plan) => plan,
            Err(why) if why.to_string().contains("unknown field") => return Err(why.to_string()),
            Err(why) => return Ok(Applied::Refused(why.to_string())),
        };
        let shown = wanted.actions.iter().flat_map(|action| &action.diffs).map(|diff| diff.path.clone()).collect();
        // What is foreseen converges, and what is done too.
        let foreseen = Overlay::new(self.host);
        for action in &wanted.actions {
            predict(&foreseen, &action.op).map_err(|e| e.to_string())?;
        }
        let left = |plan: vfio_provision::change::Plan| -> Outcome<()> {
            if plan.actions.is_empty() {
                return Ok(());
            }
            let diffs: Vec<_> = plan.actions.iter().flat_map(|action| &action.diffs).collect();
            Err(format!("{diffs:#?}"))
        };
        let again = ask(&foreseen).map_err(|e| e.to_string())?;
        left(again).map_err(|why| format!("a dry run does not converge: {why}"))?;
        for action in &wanted.actions {
            match executor::perform(&Live::new(), &action.op, &mut |_| ()) {
                Ok(_) => {}
                // What libvirt does not allow together (`io: native` with a cache) is left to it, and nothing has changed.
                Err(why) if why.to_string().contains("unsupported configuration") => {
                    return Ok(Applied::Refused(why.to_string()));
                }
                Err(why) => return Err(format!("{why}\n{:?}", action.diffs)),
            }
        }
        let again = ask(self.host).map_err(|e| e.to_string())?;
        left(again).map_err(|why| format!("did not converge: {why}\n{}", self.domain().print()))?;
        Ok(Applied::Done(shown))
    }

    fn define(&self, parameters: &Value) -> Outcome<()> {
        match self.apply(parameters)? {
            Applied::Done(shown) if shown == [self.name.clone()] => Ok(()),
            Applied::Done(shown) => Err(format!("defining shows {shown:?}")),
            Applied::Refused(why) => Err(format!("refused: {why}")),
        }
    }

    fn remove(&self) -> Outcome<()> {
        let gone = json!({"name": self.name, "state": "absent", "remove_nvram": true});
        match self.apply(&gone)? {
            Applied::Done(_) => Ok(()),
            Applied::Refused(why) => Err(why),
        }
    }

    /// Takes away what is remembered of the last time.
    fn forget(&self) -> Outcome<()> {
        let file = format!("/run/{}.xml", self.name);
        std::fs::write(&file, without_metadata(self.domain()).print()).map_err(|e| e.to_string())?;
        super::try_virsh(&["define", &file])?;
        let _ = std::fs::remove_file(format!("/var/lib/vfio-provision/domains/{}.xml", self.name));
        Ok(())
    }

    /// Without a memory of the last time nothing that is stated is missed.
    fn adopt(&self, parameters: &Value) -> Outcome<()> {
        self.forget()?;
        let again = plan_on(self.host, "libvirt_domain", parameters).map_err(|e| e.to_string())?;
        let diffs: Vec<_> = again.actions.iter().flat_map(|action| &action.diffs).collect();
        if !diffs.is_empty() {
            return Err(format!("not the same when nothing is remembered: {diffs:#?}"));
        }
        match self.apply(parameters)? {
            Applied::Done(shown) if shown.is_empty() => Ok(()),
            _ => Err("not the same when nothing is remembered".to_string()),
        }
    }

    /// One edit: shown alone, done, and nothing else moves.
    fn edit(&self, parameters: &Value, edit: &Edit) -> Outcome<bool> {
        let before = self.domain();
        let shown = match self.apply(&edit.on(parameters))? {
            Applied::Refused(_) => return Ok(false),
            Applied::Done(shown) => shown,
        };
        let after = self.domain();
        if shown.is_empty() || shown.len() > edit.most {
            return Err(format!("shows {shown:?}"));
        }
        let moved = kept(&before).moved(&kept(&after));
        if moved.is_empty() { Ok(true) } else { Err(format!("moves {moved:#?}")) }
    }
}

#[derive(Default)]
struct Tally {
    edits: AtomicUsize,
    refused: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    awaited: Mutex<BTreeSet<String>>,
}

/// What does not hold yet, and why: told, and no failure, until it holds. Then it must go from here.
const AWAITED: &[(&str, &str)] = &[];

impl Tally {
    fn wrong(&self, guest: &str, what: &str, why: &str) {
        if let Some((_, known)) = AWAITED.iter().find(|(name, _)| *name == guest) {
            eprintln!("awaited: {guest}: {what}: {known}\n{why}");
            self.awaited.lock().unwrap().insert(guest.to_string());
            return;
        }
        self.wrong.lock().unwrap().push(format!("{guest}: {what}: {why}"));
    }
}

impl Bench<'_> {
    /// What import makes of the guest as libvirt prints it is the same guest: on paper, and defined anew.
    fn import(&self) -> Outcome<()> {
        let printed = without_metadata(self.domain());
        import::lossless(&printed).map_err(|why| format!("not lossless: {why}"))?;
        let imported = import::import(&printed, import::Options::default()).map_err(|e| e.to_string())?;
        let parameters = Value::Object(imported.params);
        // Where the guest is, and nothing is remembered of it, there is nothing to do.
        self.forget()?;
        match self.apply(&parameters)? {
            Applied::Done(shown) if shown.is_empty() => {}
            Applied::Done(shown) => return Err(format!("what is imported shows {shown:?}\n{parameters:#}")),
            Applied::Refused(why) => return Err(why),
        }
        // Nor with the short one, which leaves to the machine what it keeps.
        let short = import::import(&printed, import::Options { short: true }).map_err(|e| e.to_string())?;
        let short = Value::Object(short.params);
        self.forget()?;
        match self.apply(&short)? {
            Applied::Done(shown) if shown.is_empty() => {}
            Applied::Done(shown) => return Err(format!("what is imported with --short shows {shown:?}\n{short:#}")),
            Applied::Refused(why) => return Err(why),
        }
        self.remove()?;
        self.define(&parameters)?;
        let again = without_metadata(self.domain());
        let (printed, again) = (in_order(said_once(printed)).print(), in_order(said_once(again)).print());
        if again == printed || same_in_another_order(&printed, &again) {
            return Ok(());
        }
        let diff = different_lines(&printed, &again);
        Err(format!("defined anew from what was imported, it is another:\n{diff}\n{parameters:#}"))
    }
}

fn without_metadata(mut domain: Element) -> Element {
    domain.retain(|child| child.name != "metadata");
    domain
}

/// Without what libvirt prints back where somebody wrote it, and which is so where nobody did
/// (<https://libvirt.org/formatdomain.html>: there is no other driver than vfio since 5.6, a mediated device is no display
/// by default, a link is up).
fn said_once(mut domain: Element) -> Element {
    for device in domain.get_mut("devices").into_iter().flat_map(Element::elements_mut) {
        let said = |child: &Element, name: &str, attribute: (&str, &str)| {
            child.name == name && child.print().trim_end() == format!("<{name} {}='{}'/>", attribute.0, attribute.1)
        };
        match device.name.as_str() {
            "hostdev" => {
                device.retain(|child| !said(child, "driver", ("name", "vfio")));
                for name in ["display", "ramfb"] {
                    if device.attribute(name) == Some("off") {
                        device.unset(name);
                    }
                }
            }
            "interface" => {
                device.retain(|child| !said(child, "link", ("state", "up")) && !said(child, "driver", ("name", "vfio")))
            }
            // libvirt numbers consoles by their places when it reads them again, and not before.
            "console" => {
                if let Some(target) = device.get_mut("target") {
                    target.unset("port");
                }
            }
            _ => {}
        }
    }
    domain
}

/// Sorts of devices side by side, and controllers by type and index: libvirt keeps them in the order in which they came,
/// which means nothing.
fn in_order(mut domain: Element) -> Element {
    let key = |node: &Node| match node {
        Node::Element(device) if device.name == "controller" => (device.name.clone(), device.print()),
        Node::Element(device) => (device.name.clone(), String::new()),
        Node::Text(_) => Default::default(),
    };
    if let Some(devices) = domain.get_mut("devices") {
        devices.nodes.sort_by_key(key);
    }
    domain
}

/// Is everything there that is in the other, and in the same order where that means something: what is booted from, disks
/// and interfaces? (Features of a CPU, timers and the like have none.)
fn same_in_another_order(a: &str, b: &str) -> bool {
    let ordered = |text: &str| -> Vec<String> {
        let matters =
            |line: &&str| ["<boot ", "<target dev=", "<mac ", "<qemu:arg"].iter().any(|tag| line.contains(tag));
        let mut lines: Vec<String> = text.lines().filter(matters).map(str::to_string).collect();
        // Disks count on their own bus.
        lines.sort_by_key(|line| line.split(" bus=").nth(1).map(str::to_string));
        lines
    };
    let sorted = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    ordered(a) == ordered(b) && sorted(a) == sorted(b)
}

/// The lines that only one of two texts has; without them all, the texts.
fn different_lines(a: &str, b: &str) -> String {
    let different = lines_of_one(a, b);
    if different.is_empty() { format!("{a}\n{b}") } else { different }
}

fn lines_of_one(a: &str, b: &str) -> String {
    let gone = a.lines().filter(|line| !b.lines().any(|other| other == *line)).map(|line| format!("-{line}\n"));
    let come = b.lines().filter(|line| !a.lines().any(|other| other == *line)).map(|line| format!("+{line}\n"));
    gone.chain(come).collect()
}

/// Guests as others wrote them: taken over as they are, and the same when they are defined from that.
fn written_by_others(host: &Quick, tally: &Tally) {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "xml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bench = Bench { host, name: name.clone() };
        let tried = super::try_virsh(&["define", "--validate", &path.to_string_lossy()]).and_then(|_| bench.import());
        if let Err(why) = tried.and_then(|()| bench.remove()) {
            tally.wrong(&name, "xml", &why);
        }
    }
}

/// How many edits of one guest an everyday run tries.
const SAMPLE: usize = 3;
/// How many guests are edited twenty times in a row in an everyday run.
const WALKS: usize = 6;

/// Tries one guest: defined, adopted, edited.
fn one(host: &Quick, guest: &Guest, tally: &Tally, random: &mut Random, walk: bool) {
    let bench = Bench { host, name: guest.name.clone() };
    if let Err(why) = bench.define(&guest.parameters).and_then(|()| bench.adopt(&guest.parameters)) {
        tally.wrong(&guest.name, "define", &why);
        let _ = bench.remove();
        return;
    }
    let mut edits = edits(&guest.parameters);
    while !full() && edits.len() > SAMPLE {
        edits.remove(random.below(edits.len()));
    }
    for edit in &edits {
        let label = format!("{} becomes {}", edit.pointer, edit.value);
        let done = bench.edit(&guest.parameters, edit);
        match done {
            Ok(true) => tally.edits.fetch_add(1, Ordering::Relaxed),
            Ok(false) => tally.refused.fetch_add(1, Ordering::Relaxed),
            Err(why) => {
                tally.wrong(&guest.name, &label, &why);
                0
            }
        };
        // And back again.
        if let Err(why) = bench.apply(&guest.parameters) {
            tally.wrong(&guest.name, &format!("{label}, and back"), &why);
            break;
        }
    }
    if walk && let Err(why) = twenty(&bench, guest, random) {
        tally.wrong(&guest.name, &format!("twenty edits in a row (VFIO_PROVISION_SEED={})", seed()), &why);
    }
    if let Err(why) = bench.import() {
        tally.wrong(&guest.name, "import", &why);
    }
    if let Err(why) = bench.remove() {
        tally.wrong(&guest.name, "absent", &why);
    }
}

/// Twenty edits in a row, each on what the one before left, devices that come and go among them.
fn twenty(bench: &Bench, guest: &Guest, random: &mut Random) -> Outcome<()> {
    let first = kept(&bench.domain());
    let mut parameters = guest.parameters.clone();
    let mut steps = Vec::new();
    let mut spare = 0;
    for _ in 0..20 {
        let mut next = parameters.clone();
        let edits = edits(&parameters);
        let step = match random.below(4) {
            0 => {
                spare += 1;
                let disk = json!({"path": format!("/srv/spare{spare}.qcow2"), "target": format!("vd{}", char::from(b'l' + spare))});
                push(&mut next, "disks", disk);
                format!("disk {spare} comes")
            }
            1 if next["disks"].as_array().is_some_and(|disks| {
                disks.last().is_some_and(|last| last["path"].as_str().is_some_and(|path| path.contains("spare")))
            }) =>
            {
                next["disks"].as_array_mut().unwrap().pop();
                "the last disk goes".to_string()
            }
            2 if spare < 9 => {
                spare += 1;
                let card = json!({"bridge": "br7", "model": "e1000e", "mac": format!("52:54:00:00:00:{spare:02}")});
                push(&mut next, "interfaces", card);
                format!("card {spare} comes")
            }
            _ if !edits.is_empty() => {
                let edit = &edits[random.below(edits.len())];
                next = edit.on(&parameters);
                format!("{} becomes {}", edit.pointer, edit.value)
            }
            _ => continue,
        };
        steps.push(step);
        match bench.apply(&next).map_err(|why| format!("{steps:#?}\n{why}"))? {
            Applied::Done(_) => parameters = next,
            Applied::Refused(_) => {
                steps.pop();
            }
        }
    }
    let moved = first.moved(&kept(&bench.domain()));
    if moved.is_empty() { Ok(()) } else { Err(format!("{steps:#?}\nmoved: {moved:#?}")) }
}

fn push(parameters: &mut Value, list: &str, device: Value) {
    match parameters.get_mut(list) {
        Some(Value::Array(devices)) => devices.push(device),
        _ => parameters[list] = json!([device]),
    }
}

pub fn every_kind() {
    let begun = Instant::now();
    let guests = guests();
    let only = std::env::var("VFIO_PROVISION_GUEST").ok();
    assert!(guests.len() >= 60, "{} guests are too few", guests.len());
    let tally = Tally::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(4) {
            scope.spawn(|| {
                let host = Quick::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(guest) = guests.get(at) else { break };
                    if only.as_ref().is_some_and(|only| *only != guest.name) {
                        continue;
                    }
                    // The same whatever the others do, and however many there are.
                    let mut random = Random(
                        guest.name.bytes().fold(seed(), |all, byte| all.wrapping_mul(31).wrapping_add(u64::from(byte)))
                            | 1,
                    );
                    random.below(2);
                    let walk = full() || only.is_some() || at.is_multiple_of(guests.len() / WALKS);
                    one(&host, guest, &tally, &mut random, walk);
                }
            });
        }
    });
    if only.is_none() {
        written_by_others(&Quick::new(), &tally);
    }
    let (edits, refused) = (tally.edits.into_inner(), tally.refused.into_inner());
    let mut wrong = tally.wrong.into_inner().unwrap();
    let awaited = tally.awaited.into_inner().unwrap();
    for (name, why) in AWAITED.iter().filter(|(name, _)| only.is_none() && !awaited.contains(*name)) {
        wrong.push(format!("{name}: holds by now, so that it need not be awaited any more ({why})"));
    }
    eprintln!("{} guests, {edits} edits ({refused} refused) in {:.1?}", guests.len(), begun.elapsed());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(only.is_some() || refused * 5 < edits, "too many edits are refused");
}
