//! How long comparing guests takes, libvirt's own time aside: what `docs/benchmarks.md` calls guests.
//!
//! Each guest of `tests/guests/corpus` is asked about on a machine that is only written down, where it is defined already:
//! parameters are read, its XML is read and compared, and nothing differs.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use vfio_provision::change::{Effect, Op, Run};
use vfio_provision::host::model::predict;
use vfio_provision::host::{Empty, Host, Overlay};
use vfio_provision::modules::{Side, find};

type Machine = Overlay<Empty>;

fn try_plan(host: &dyn Host, parameters: &Value) -> vfio_provision::host::Result<vfio_provision::change::Plan> {
    let Side::Machine(plan) = find("libvirt_domain").unwrap().side else { panic!("not a module of machines") };
    plan(parameters.clone(), host)
}

fn plan(host: &dyn Host, parameters: &Value) -> vfio_provision::change::Plan {
    try_plan(host, parameters).unwrap_or_else(|why| panic!("{parameters}: {why}"))
}

/// A machine that has firmware, and what of the corpus can be defined there.
fn machine(copies: usize) -> (Machine, Vec<Value>) {
    let machine = Overlay::new(Empty);
    let folder = Path::new("/usr/share/qemu/firmware");
    let file =
        |path: &str, content: &str| Effect::File { path: path.into(), content: Some(content.into()), mode: None };
    let mut effects = vec![file("/etc/os-release", "ID=debian\nVERSION_ID=12\n")];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let content = std::fs::read_to_string(entry.path()).unwrap();
        effects.push(file(&entry.path().to_string_lossy(), &content));
    }
    predict(&machine, &Op::Run(Run::new(["bench"], effects))).unwrap();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let guests: Vec<Value> = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "yml"))
        .map(|path| serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        .collect();
    let mut defined = Vec::new();
    for mut parameters in guests.iter().cycle().cloned() {
        if defined.len() == copies {
            break;
        }
        let name = format!("{}-{}", parameters["name"].as_str().unwrap(), defined.len());
        parameters["name"] = json!(name);
        // Hosts have devices once.
        for field in ["gpus", "pci", "usb", "mdevs", "uuid", "nvram"] {
            parameters.as_object_mut().unwrap().remove(field);
        }
        // What needs something of a real machine is left out.
        let Ok(first) = try_plan(&machine, &parameters) else { continue };
        for action in first.actions {
            predict(&machine, &action.op).unwrap();
        }
        assert!(plan(&machine, &parameters).actions.is_empty(), "{name}");
        defined.push(parameters);
    }
    (machine, defined)
}

fn comparing(c: &mut Criterion) {
    let (machine, guests) = machine(200);
    let mut group = c.benchmark_group("guests");
    group.sample_size(20);
    group.bench_function("comparing one guest, of the corpus in turn", |b| {
        let mut at = 0;
        b.iter(|| {
            at = (at + 1) % guests.len();
            black_box(plan(&machine, &guests[at]))
        });
    });
    group.bench_function("comparing 200 guests on one host", |b| {
        b.iter(|| guests.iter().for_each(|guest| drop(black_box(plan(&machine, guest)))));
    });
    group.finish();
    // The slowest one counts as well as the average.
    let mut each: Vec<(Duration, &Value)> = guests
        .iter()
        .map(|guest| {
            let least = (0..5).map(|_| {
                let begun = Instant::now();
                black_box(plan(&machine, guest));
                begun.elapsed()
            });
            (least.min().unwrap_or_default(), &guest["name"])
        })
        .collect();
    each.sort_by_key(|(time, _)| *time);
    if let (Some(middle), Some(last)) = (each.get(each.len() / 2), each.last()) {
        println!("one guest: {:.2?} in the middle, {:.2?} at most ({})\n", middle.0, last.0, last.1);
    }
}

criterion_group!(benches, comparing);
criterion_main!(benches);
