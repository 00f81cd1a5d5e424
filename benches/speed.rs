//! How long the things take that a person waits for. The aims and what was measured: `docs/benchmarks.md`.
//!
//! Start-up is measured beside a floor, a process that does nothing: what a machine needs to start any program says
//! nothing about this one, so the two are told apart.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tempfile::TempDir;
use vfio_provision::agent::protocol::{Mode, Status};
use vfio_provision::change::Diff;
use vfio_provision::diag::Diagnostic;
use vfio_provision::host::Folder;
use vfio_provision::inventory::Inventory;
use vfio_provision::playbook::{LoadOptions, Loader};
use vfio_provision::report::json::Json;
use vfio_provision::report::text::{Options, Text};
use vfio_provision::report::{Event, Files, Finished, HostRecap, Mask, Recap, Reporter, Sink, TaskId};
use vfio_provision::run::{Settings, prepare};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vfio-provision");
const HOSTS: usize = 1000;
const GROUPS: usize = 100;
const TASKS: usize = 200;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Ends with what is wrong: a benchmark of something that fails measures nothing.
fn fine<T>(result: Result<T, Vec<Diagnostic>>) -> T {
    result.unwrap_or_else(|errors| {
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}", shown.join("\n"))
    })
}

/// Runs a program to its end, and nobody reads what it says.
fn start(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{program}: {status}");
}

fn start_up(c: &mut Criterion) {
    let floor = ["/bin/true", "/usr/bin/true"].into_iter().find(|path| Path::new(path).exists());
    let mut group = c.benchmark_group("start-up");
    group.bench_function("usage text", |b| b.iter(|| start(PROGRAM, &["--help"])));
    let Some(floor) = floor else { return };
    group.bench_function("floor: a process that does nothing", |b| b.iter(|| start(floor, &[])));
    group.finish();

    // In turns, so that whatever else the machine does weighs on both.
    let time = |program: &str, arguments: &[&str]| -> Duration {
        let begun = Instant::now();
        start(program, arguments);
        begun.elapsed()
    };
    let (mut ours, mut nothing): (Vec<_>, Vec<_>) =
        (0..200).map(|_| (time(PROGRAM, &["--help"]), time(floor, &[]))).unzip();
    ours.sort_unstable();
    nothing.sort_unstable();
    let (ours, nothing) = (ours[ours.len() / 2], nothing[nothing.len() / 2]);
    println!(
        "start-up in turns, medians of 200: {ours:.2?} to the usage text, {nothing:.2?} for nothing, ratio {:.2}\n",
        ours.as_secs_f64() / nothing.as_secs_f64()
    );
}

/// 1,000 hosts in 100 groups: each in one of 90, each of those within one of 9 others, and one above all of them.
fn many_hosts() -> TempDir {
    let mut text = String::new();
    let regions = 9;
    let racks = GROUPS - regions - 1;
    for rack in 0..racks {
        writeln!(text, "[rack{rack:02}]").unwrap();
        for host in (rack..HOSTS).step_by(racks) {
            let (high, low) = (host / 250, host % 250 + 1);
            writeln!(
                text,
                "ws{host:04}.example.org ansible_host=10.0.{high}.{low} slot={host} note=\"row {rack}, place {low}\""
            )
            .unwrap();
        }
        writeln!(text, "\n[rack{rack:02}:vars]\nrack={rack}\nswitch=10.1.{rack}.1\ncards=['10de:13ba', '10de:0fbc']\n")
            .unwrap();
    }
    for region in 0..regions {
        writeln!(text, "[region{region}:children]").unwrap();
        (region..racks).step_by(regions).for_each(|rack| writeln!(text, "rack{rack:02}").unwrap());
        writeln!(text, "\n[region{region}:vars]\nregion={region}\nntp=10.2.{region}.1\n").unwrap();
    }
    writeln!(text, "[workstations:children]").unwrap();
    (0..regions).for_each(|region| writeln!(text, "region{region}").unwrap());
    writeln!(text, "\n[workstations:vars]\nansible_user=admin\nansible_become=true").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("inventory.ini"), text).unwrap();
    std::fs::create_dir(folder.path().join("group_vars")).unwrap();
    std::fs::write(folder.path().join("group_vars/all.yml"), "timezone: Europe/Berlin\nbridge: {nic: eno1}\n").unwrap();
    folder
}

fn inventory(c: &mut Criterion) {
    let folder = many_hosts();
    let paths = [folder.path().join("inventory.ini")];
    let everything = || {
        let inventory = fine(Inventory::load(&paths));
        for host in inventory.hosts() {
            black_box(inventory.vars_of(host, None).unwrap());
            black_box(inventory.own_magic_of(host));
        }
        black_box(inventory.shared_magic());
        inventory
    };
    let read = everything();
    assert_eq!((read.hosts().count(), read.groups().count()), (HOSTS, GROUPS + 2));
    assert_eq!(read.vars_of("ws0999.example.org", None).unwrap().len(), 12);
    c.bench_function("inventory: 1,000 hosts, 100 groups, all their variables", |b| b.iter(everything));

    // What a run makes of it: connections too, and nothing that grows with the square of the hosts.
    let playbook = folder.path().join("ping.yml");
    std::fs::write(&playbook, "- hosts: all\n  gather_facts: false\n  tasks:\n    - ping:\n").unwrap();
    let settings = Settings {
        playbooks: vec![playbook],
        inventories: paths.to_vec(),
        limit: None,
        forks: 1,
        ..Settings::default()
    };
    c.bench_function("a run over 1,000 hosts, made ready", |b| {
        b.iter_batched(|| settings.clone(), |settings| fine(prepare(settings)), BatchSize::PerIteration);
    });
}

/// 200 tasks such as people write: conditions, loops, templates, blocks, handlers.
fn many_tasks() -> TempDir {
    let mut text = String::from(
        "- hosts: all\n  vars: {card: '0000:82:00.0', names: [a, b]}\n  handlers:\n    - name: again\n      service: {name: libvirtd, state: restarted}\n  tasks:\n",
    );
    for number in 0..TASKS / 5 {
        write!(
            text,
            "    - name: A folder for guest {number}
      file: {{path: '/var/lib/guests/{number}', state: directory, mode: '0750', owner: root}}
      tags: [guests, guest{number}]
    - name: Its settings
      copy:
        dest: /etc/guests/{number}.conf
        content: |
          card={{{{ card }}}}
          memory={{{{ memory | default(4096) }}}}
          {{% for name in names %}}
          name={{{{ name }}}}
          {{% endfor %}}
      notify: again
      when:
        - card is defined
        - number | default({number}) | int > 2
    - block:
        - name: A line for each name
          lineinfile:
            path: /etc/guests.list
            regexp: '^{{{{ item }}}}-{number}='
            line: '{{{{ item }}}}-{number}={{{{ card }}}}'
          loop: '{{{{ names }}}}'
          register: line{number}
        - name: Kernel line {number}
          kernel_cmdline: {{present: ['option{number}=1'], absent: [quiet]}}
          become: true
      when: card != ''
    - name: What came of it
      debug: {{msg: '{{{{ line{number} }}}}'}}
"
        )
        .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tasks.yml"), text).unwrap();
    folder
}

fn playbook(c: &mut Criterion) {
    let folder = many_tasks();
    let paths = [folder.path().join("tasks.yml")];
    let compile = || fine(Loader::new(LoadOptions { roles_path: Vec::new() }).load(&paths));
    let mut tasks = 0;
    compile().plays.iter().for_each(|play| play.visit(&mut |_| tasks += 1));
    assert_eq!(tasks, TASKS);
    c.bench_function("playbook: 200 tasks, compiled", |b| b.iter(compile));
}

/// Throws everything away.
struct Nobody;

impl Reporter for Nobody {
    fn event(&mut self, event: &Event) {
        black_box(event);
    }
    fn recap(&mut self, recap: &Recap) {
        black_box(recap);
    }
}

fn site(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(repository().join(name), to).unwrap();
    };
    copy("inventory.example");
    copy("host_vars/ws01.yml");
    Folder::open_or_unpack(folder.path().join(".sandbox/ws01"), Some("centos7-seed")).unwrap();
    let settings = Settings {
        playbooks: vec![repository().join("playbooks/site.yml")],
        inventories: vec![PathBuf::from(folder.path()).join("inventory.example")],
        forks: 2,
        ..Settings::default()
    };
    let plan = || {
        let sink = Arc::new(Sink::new(Box::new(Nobody), Mask::default()));
        fine(prepare(settings.clone())).execute(Mode::Plan, &sink).unwrap()
    };
    let finish = plan();
    assert!(finish.changes() && !finish.failed() && !finish.unreachable());
    c.bench_function("site.yml on the sandbox, planned", |b| b.iter(plan));
    c.bench_function("site.yml, read and checked", |b| b.iter(|| fine(prepare(settings.clone()))));
}

/// 1,000 hosts with 30 tasks each, of which 3 change something: what telling of it costs.
fn reports(c: &mut Criterion) {
    let content = "a line of a file that all hosts get\n".repeat(50);
    let run = |sink: &Sink| {
        let hosts: Vec<String> = (0..HOSTS).map(|n| format!("ws{n:04}")).collect();
        sink.event(Event::Play { name: "Site".into(), hosts: hosts.clone() });
        let mut recap = Recap::default();
        for host in &hosts {
            for task in 0..30 {
                let id = TaskId {
                    host: host.clone(),
                    play: "Site".into(),
                    role: Some("base".into()),
                    task: format!("Task {task}"),
                    module: "copy".into(),
                    item: None,
                };
                let changes = task % 10 == 0;
                let diffs = if changes { vec![Diff::file("/etc/x", None, Some(content.as_bytes()))] } else { vec![] };
                sink.event(Event::Started { id: id.clone() });
                if changes {
                    sink.event(Event::Shown { id: id.clone(), diffs: diffs.clone() });
                }
                sink.event(Event::Finished(Box::new(Finished {
                    id,
                    status: if changes { Status::Changed } else { Status::Ok },
                    diffs,
                    result: serde_json::json!({"changed": changes, "dest": "/etc/x"}),
                    notes: vec![],
                    warnings: vec![],
                    error: None,
                    ignored: false,
                    duration: Duration::from_millis(5),
                })));
            }
            sink.event(Event::HostDone { host: host.clone() });
            recap.hosts.insert(host.clone(), HostRecap::default());
        }
        sink.recap(&recap);
    };
    let text = || Box::new(Text::new(std::io::sink(), Options { diff: true, verbose: 0 }));
    let mut group = c.benchmark_group("1,000 hosts × 30 tasks told");
    group.sample_size(10);
    group.bench_function("as text", |b| b.iter(|| run(&Sink::new(text(), Mask::default()))));
    group.bench_function("as text, a secret for each host", |b| {
        b.iter(|| {
            let sink = Sink::new(text(), Mask::default());
            (0..HOSTS).for_each(|n| sink.hide(&format!("password-{n:04}-of-a-host")));
            run(&sink);
        });
    });
    group.bench_function("as JSON lines", |b| {
        b.iter(|| run(&Sink::new(Box::new(Json::new(std::io::sink())), Mask::default())));
    });
    let folder = tempfile::tempdir().unwrap();
    group.bench_function("as text with --report", |b| {
        b.iter(|| {
            let files = Files::begin(&folder.path().join("report")).map_err(|error| vec![error]);
            run(&Sink::new(text(), Mask::default()).and(Box::new(fine(files))));
        });
    });
    group.finish();
}

/// What comparing guests costs besides libvirt's own time: parameters and libvirt's XML are read, the one is rendered, compared
/// with the other and with what was stated last time.
fn guests(c: &mut Criterion) {
    use vfio_provision::modules::libvirt::domain::render::{Context, render};
    use vfio_provision::modules::libvirt::domain::{LibvirtDomain, compare, intent};
    use vfio_provision::modules::libvirt::xml;

    let seed = |name: &str| std::fs::read_to_string(repository().join("tests/cases/seed").join(name)).unwrap();
    let parameters: serde_json::Value = serde_yaml::from_str(&seed("win8.yml")).unwrap();
    let mut defined = xml::parse(&seed("win8.dump.xml")).unwrap();
    let domain: LibvirtDomain = serde_json::from_value(parameters.clone()).unwrap();
    let stated = render(&domain, &Context::default()).unwrap();
    intent::put(&mut defined, &intent::kept(&stated.intent));
    let dump = defined.print();
    let compared = || {
        let domain: LibvirtDomain = serde_json::from_value(parameters.clone()).unwrap();
        let current = xml::parse(&dump).unwrap();
        let context = Context { current: Some(current.clone()), ..Context::default() };
        let wanted = render(&domain, &context).unwrap();
        let merged = compare::merge(&wanted, &current, intent::last(&current).as_ref());
        assert!(merged.changes.is_empty(), "{:?}", merged.changes);
        assert_eq!(intent::last(&current), Some(intent::kept(&wanted.intent)));
    };
    let mut group = c.benchmark_group("guests");
    group.bench_function("one compared", |b| b.iter(compared));
    group.sample_size(10);
    group.bench_function("200 compared", |b| b.iter(|| (0..200).for_each(|_| compared())));
    group.finish();
}

criterion_group!(benches, start_up, inventory, playbook, site, reports, guests);
criterion_main!(benches);
