//! The lab: workstations that really boot, in QEMU: kernel, GRUB, initramfs, systemd, vfio-pci, and the program over SSH.
//!
//! ```text
//! cargo test --test lab                        the everyday part
//! cargo test --test lab -- --all               everything
//! cargo test --test lab -- debian/site         scenarios whose name holds the word
//! cargo test --test lab -- el/site --keep      its machine stays, and says how to get in
//! cargo test --test lab -- --list              the names
//! cargo test --test lab -- --all --resume      … without what an interrupted run has done
//! cargo test --test lab -- debian/cuts --cuts 3
//! ```
//!
//! `VFIO_PROVISION_LAB=all` is `--all`, `VFIO_PROVISION_LAB=off` skips. What it is made of, and its numbers: docs/lab.md.

mod lab {
    pub mod boots;
    pub mod cuts;
    pub mod guests;
    pub mod image;
    pub mod kernel;
    pub mod late;
    pub mod machine;
    pub mod options;
    pub mod passed;
    pub mod program;
    pub mod refusals;
    pub mod report;
    pub mod site;
    pub mod undo;
}

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use lab::image::Kind;
use lab::options::Options;
use lab::report::{Outcome, Report};
use lab::{boots, cuts, guests, image, kernel, late, passed, refusals, site, undo};

/// What a scenario needs to know.
pub struct Lab {
    options: Options,
    name: String,
    kind: Kind,
    report: Report,
}

/// A scenario: its name, the machine, whether it is one of every day, and what it does. It panics where something is wrong.
struct Scenario {
    name: &'static str,
    kind: Kind,
    everyday: bool,
    run: fn(&mut Lab),
}

const fn scenario(name: &'static str, kind: Kind, everyday: bool, run: fn(&mut Lab)) -> Scenario {
    Scenario { name, kind, everyday, run }
}

const SCENARIOS: &[Scenario] = &[
    scenario("debian/site", Kind::Debian, true, site::site),
    scenario("debian/undo", Kind::Debian, false, undo::undo),
    scenario("debian/rollback", Kind::Debian, false, undo::rollback),
    scenario("debian/refusals", Kind::Debian, false, refusals::refusals),
    scenario("debian/boots", Kind::Debian, false, boots::boots),
    scenario("debian/late", Kind::Debian, false, late::debian),
    scenario("debian/pages", Kind::Debian, false, guests::pages),
    scenario("debian/guest", Kind::Debian, false, guests::guest),
    scenario("debian/cuts", Kind::Debian, false, cuts::cuts),
    scenario("el/site", Kind::El, false, site::site),
    scenario("el/undo", Kind::El, false, undo::undo),
    scenario("el/rollback", Kind::El, false, undo::rollback),
    scenario("el/boots", Kind::El, false, boots::boots),
    scenario("el/late", Kind::El, false, late::el),
    scenario("el/cuts", Kind::El, false, cuts::cuts),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The making of images calls this program too.
    if let [verb, from, to, release] = &arguments[..]
        && verb == "rename-kernel"
    {
        return kernel::rename(from.as_ref(), to.as_ref(), release);
    }
    let options = Options::read(&arguments);
    let chosen: Vec<&Scenario> = SCENARIOS.iter().filter(|one| options.wants(one.name, one.everyday)).collect();
    if options.list {
        for one in chosen {
            println!("{}: test", one.name);
        }
        return;
    }
    if options.off {
        println!("lab: skipped (switched off)");
        return;
    }
    if let Some(why) = image::why_not() {
        println!("lab: skipped ({why})");
        return;
    }
    let outcomes = run(&options, chosen);
    print!("{}", lab::report::summary(&outcomes));
    if outcomes.iter().any(|outcome| !outcome.passed) {
        std::process::exit(1);
    }
}

/// The scenarios of one machine run one after another, as some begin where another has ended; the two machines' at the same
/// time.
fn run(options: &Options, chosen: Vec<&'static Scenario>) -> Vec<Outcome> {
    let (debian, el): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|one| one.kind == Kind::Debian);
    let all = |some: Vec<&Scenario>| some.into_iter().map(|one| run_one(options, one)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| all(el));
        let mut outcomes = all(debian);
        outcomes.extend(beside.join().expect("a scenario's panic is caught"));
        outcomes
    })
}

fn run_one(options: &Options, one: &Scenario) -> Outcome {
    if options.resume
        && let Some(outcome) = passed::earlier(one.name, one.kind)
    {
        println!("{} (earlier)", outcome.line());
        return outcome;
    }
    println!("lab: {} …", one.name);
    passed::forget(one.name);
    let begun = Instant::now();
    let mut lab = Lab { options: options.clone(), name: one.name.into(), kind: one.kind, report: Report::default() };
    let well = catch_unwind(AssertUnwindSafe(|| (one.run)(&mut lab))).is_ok();
    let outcome = Outcome { name: one.name.into(), passed: well, took: begun.elapsed(), report: lab.report };
    println!("{}", outcome.line());
    if well {
        passed::remember(one.kind, &outcome);
    }
    outcome
}
