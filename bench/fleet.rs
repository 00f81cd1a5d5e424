//! How long a fleet takes, beside a floor and beside others: `docs/fleet.md`. Started by `bench/fleet`.

#[path = "../tests/fleet/mod.rs"]
mod fleet;
#[path = "launch.rs"]
mod launch;
#[path = "peers.rs"]
mod peers;

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use fleet::{Controller, Far, Fleet, Host};
use launch::{Launcher, Program};
use peers::Peer;

/// What may take longer than this is not waited for.
const LONGEST: Duration = Duration::from_secs(900);

struct Options {
    hosts: Vec<usize>,
    distances: Vec<u64>,
    repeat: usize,
    peers: Vec<Peer>,
    crowd: bool,
}

fn options() -> Options {
    let mut options = Options {
        hosts: vec![1, 10, 20],
        distances: vec![0, 30],
        repeat: 10,
        peers: Peer::all().to_vec(),
        crowd: true,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} wants a value"));
        match word.as_str() {
            "--hosts" => options.hosts = value().split(',').map(|n| n.parse().unwrap()).collect(),
            "--distances" => options.distances = value().split(',').map(|n| n.parse().unwrap()).collect(),
            "--repeat" => options.repeat = value().parse().unwrap(),
            "--peers" => {
                let names = value();
                options.peers.retain(|peer| names.split(',').any(|name| name == peer.name()));
            }
            "--no-crowd" => options.crowd = false,
            "--bench" => {}
            other => panic!("unknown option {other}"),
        }
    }
    options
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == "bare") {
        bare(&words[2], &words[3]);
        return;
    }
    if words.get(1).is_some_and(|word| word == "launch") {
        launch::serve();
        return;
    }
    let options = options();
    let Some(fleet) = fleet::fleet() else { return };
    let missing: Vec<&str> = options.peers.iter().filter(|peer| !peer.is_there()).map(Peer::name).collect();
    let peers: Vec<Peer> = options.peers.iter().copied().filter(Peer::is_there).collect();
    if !missing.is_empty() {
        println!("Not there, and left out: {}.\n", missing.join(", "));
    }

    println!("The same 30 tasks (10 copy, 10 lineinfile, 5 file, 5 template) and facts; whole processes, wall clock.");
    println!("In brackets: as many times the floor of the same row, `ssh HOST true` to all hosts at once.\n");
    let head: Vec<&str> = peers.iter().map(Peer::title).collect();
    println!("| hosts | distance | run | floor | bare ssh2 | vfio-provision | {} | its memory |", head.join(" | "));
    println!("| --- | --- | --- | --- | --- | --- | {} --- |", "--- | ".repeat(head.len()));
    for distance in &options.distances {
        for count in &options.hosts {
            let hosts = fleet.take(*count);
            rows(fleet, &hosts, Duration::from_millis(*distance), &peers, options.repeat);
        }
    }
    println!();
    if options.crowd {
        crowd(fleet.program());
        many_hosts(fleet);
    }
}

/// The runs over some hosts: the first one, and one with nothing to do.
fn rows(fleet: &'static Fleet, hosts: &[Host], distance: Duration, peers: &[Peer], repeat: usize) {
    let far: Vec<Far> = hosts.iter().map(|host| Far::from(fleet, host, distance)).collect();
    // Without a distance nothing stands in between.
    let controller =
        if distance.is_zero() { Controller::of(fleet, hosts) } else { Controller::far(fleet, hosts, &far) };
    let places: Vec<(String, u16)> = if distance.is_zero() {
        hosts.iter().map(|host| (host.address(), 22)).collect()
    } else {
        far.iter().map(|far| (far.address().to_string(), far.port())).collect()
    };
    controller.write("thirty.yml", &peers::thirty()).write("t.j2", peers::TEMPLATE);
    let clean = || hosts.iter().for_each(|host| assert_eq!(host.sh("rm -rf /etc/thirty*"), ""));
    let forks = format!("--forks={}", hosts.len());
    let arguments = ["apply", "thirty.yml", "--output", "json", "--limit", "all", &forks];
    let words = [fleet.program().to_str().unwrap()].into_iter().chain(arguments).chain(["-i", "inventory"]);
    let ours = [Program::new(words)];
    let floor = floor(fleet, &places);
    let bare = bare_runs(fleet, &places);
    let mut launcher = Launcher::of(&controller);
    let mut timed = |programs: &[Program]| {
        let ended = launcher.run(programs, LONGEST);
        assert!(ended.succeeded(), "{}", ended.all());
        ended.took
    };
    // In turns, so that whatever else the machine does weighs on all.
    let (mut floors, mut bares, mut firsts, mut agains) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..repeat {
        floors.push(timed(&floor));
        bares.push(timed(&bare));
        if round < 3 {
            clean();
            firsts.push(timed(&ours));
        }
        agains.push(timed(&ours));
    }
    // One run is looked at more closely, and not timed: nothing was to do, and so much memory did it take.
    let said = controller.start(&arguments).end(LONGEST);
    said.code(0);
    for host in hosts {
        assert_eq!(said.count(&host.name(), "failed"), 0, "{}", said.all());
        assert_eq!(said.count(&host.name(), "changed"), 0, "{}", said.all());
    }
    let mut theirs = Vec::new();
    for peer in peers {
        clean();
        peer.prepare(&controller, fleet, hosts, &places);
        let program = [peer.program(&controller, hosts.len())];
        let first = launcher.run(&program, LONGEST);
        let again = launcher.run(&program, LONGEST);
        let done = hosts.iter().all(|host| host.path("/etc/thirty.d/4/t").exists());
        let fine = first.succeeded() && again.succeeded() && done;
        if !fine {
            eprintln!("{} failed:\n{}\n{}", peer.name(), first.all(), again.all());
        }
        theirs.push(fine.then_some((first.took, again.took)));
    }
    let (floor, bare) = (median(floors), median(bares));
    let cell =
        |took: Duration| format!("{:.3} s ({:.2})", took.as_secs_f64(), took.as_secs_f64() / floor.as_secs_f64());
    let row = |what: &str, ours: Duration, theirs: Vec<Option<Duration>>, memory: String| {
        let theirs: Vec<String> = theirs.into_iter().map(|took| took.map_or("failed".into(), cell)).collect();
        let theirs = theirs.iter().map(|cell| format!(" {cell} |")).collect::<String>();
        println!(
            "| {} | {} ms | {what} | {:.3} s | {} | **{}** |{theirs} {memory} |",
            hosts.len(),
            distance.as_millis(),
            floor.as_secs_f64(),
            cell(bare),
            cell(ours),
        );
    };
    let pick =
        |which: fn(&(Duration, Duration)) -> Duration| theirs.iter().map(|both| both.as_ref().map(which)).collect();
    row("first", median(firsts), pick(|both| both.0), String::new());
    row("no-op", median(agains), pick(|both| both.1), format!("{:.1} MB", megabytes(said.memory)));
}

/// OpenSSH's client to all hosts at once, which does nothing there.
fn floor(fleet: &Fleet, places: &[(String, u16)]) -> Vec<Program> {
    let key = fleet.key();
    let options = ["-F", "none", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=known_hosts"];
    let one = |(address, port): &(String, u16)| {
        let mut words: Vec<String> = vec!["/usr/bin/ssh".into()];
        words.extend(options.map(String::from));
        words.extend(["-i".into(), key.display().to_string(), "-p".into(), port.to_string()]);
        words.extend([format!("root@{address}"), "true".into()]);
        Program::new(words)
    };
    places.iter().map(one).collect()
}

fn bare_runs(fleet: &Fleet, places: &[(String, u16)]) -> Vec<Program> {
    let me = std::env::current_exe().unwrap();
    let one = |(address, port): &(String, u16)| {
        let place = format!("{address}:{port}");
        Program::new([me.display().to_string(), "bare".into(), place, fleet.key().display().to_string()])
    };
    places.iter().map(one).collect()
}

/// A login by libssh2 with one exec channel, and nothing else: what this program can't beat.
fn bare(address: &str, key: &str) {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut session = ssh2::Session::new().unwrap();
    session.set_tcp_stream(stream);
    session.handshake().unwrap();
    session.userauth_pubkey_file("root", None, Path::new(key), None).unwrap();
    let mut channel = session.channel_session().unwrap();
    channel.exec("true").unwrap();
    let mut said = String::new();
    channel.read_to_string(&mut said).unwrap();
    channel.wait_close().unwrap();
    assert_eq!(channel.exit_status().unwrap(), 0);
}

/// What the controller needs for 200 hosts at once.
fn crowd(program: &Path) {
    const CROWD: usize = 200;
    println!("| hosts at once | memory of the controller | aim | time |");
    println!("| --- | --- | --- | --- |");
    let fleet: &'static Fleet = Box::leak(Box::new(Fleet::start(CROWD, program)));
    for count in [1, 10, 20, CROWD] {
        let hosts = fleet.take(count);
        let controller = Controller::of(fleet, &hosts);
        controller.write("thirty.yml", &peers::thirty()).write("t.j2", peers::TEMPLATE);
        let forks = format!("--forks={count}");
        let run = || {
            let said =
                controller.start(&["apply", "thirty.yml", "--output", "json", "--limit", "all", &forks]).end(LONGEST);
            said.code(0);
            said
        };
        let (first, again) = (run(), run());
        let memory = megabytes(first.memory.max(again.memory));
        println!("| {count} | {memory:.1} MB | {} MB | {:.2} s no-op |", 20 + count, again.took.as_secs_f64());
    }
    println!();
}

/// 10,000 hosts in one inventory: how long until their batches stand.
fn many_hosts(fleet: &'static Fleet) {
    let controller = Controller::of(fleet, &[]);
    controller.edit("inventory", |text| text.replace("[workstations]\n", "[workstations]\nws[00001:10000]\n"));
    controller
        .write("play.yml", "- hosts: all\n  gather_facts: false\n  serial: [1, 5%, 100%]\n  tasks:\n    - ping:\n");
    let mut took = Vec::new();
    for _ in 0..5 {
        let said = controller.run(&["plan", "play.yml", "--list-hosts"]);
        said.code(0);
        assert!(said.out.contains("ws10000"), "{}", said.all());
        took.push(said.took);
    }
    println!("10,000 hosts in one inventory, `--list-hosts`: {:.3} s (aim: under 1 s).", median(took).as_secs_f64());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn megabytes(kilobytes: u64) -> f64 {
    f64::from(u32::try_from(kilobytes).unwrap_or(u32::MAX)) / 1024.0
}
