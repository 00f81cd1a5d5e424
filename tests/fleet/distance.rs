//! What a run costs over a distance: counted, not timed.

use std::time::Duration;

use crate::fleet::{Controller, Far, Running, fleet, wait_until};

/// Ten copies, ten lines, five folders, five templates.
pub fn thirty() -> String {
    let mut text = String::from("- hosts: all\n  gather_facts: false\n  tasks:\n    - ping:\n");
    for n in 0..10 {
        text += &format!("    - copy: {{dest: /etc/thirty.{n}, content: 'number {n}'}}\n");
        text += &format!("    - lineinfile: {{path: /etc/thirty.lines, line: 'line {n}', create: true}}\n");
    }
    for n in 0..5 {
        text += &format!("    - file: {{path: /etc/thirty.d/{n}, state: directory}}\n");
        text += &format!("    - template: {{src: t.j2, dest: /etc/thirty.d/{n}/t}}\n");
    }
    text
}

/// The distance itself, proven with OpenSSH's own client: a login waits for the host several times, one after another, and
/// each time costs what it should; and what waits for nobody is not counted.
#[test]
fn distance_is_counted() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(1);
    let round_trip = Duration::from_millis(100);
    let far = [Far::from(fleet, &hosts[0], round_trip)];
    let controller = Controller::far(fleet, &hosts, &far);
    let login = |script: &str| {
        let mut ssh = controller.command("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=known_hosts", "-i"]).arg(fleet.key());
        ssh.args(["-p", &far[0].port().to_string(), &format!("root@{}", far[0].address()), script]);
        far[0].round_trips();
        let said = Running::of(ssh).end(Duration::from_secs(30));
        said.code(0);
        (said.took, far[0].round_trips())
    };
    // A busy machine can only make it longer.
    let (took, trips) = (0..5).map(|_| login("true")).min().unwrap();
    // Banner, key exchange, services, authentication, channel: between 5 and 10, whichever way they are counted.
    assert!((5..=10).contains(&trips), "{trips} round trips for a login");
    let least = round_trip * u32::try_from(trips).unwrap();
    assert!(took > least && took < least * 3, "{took:?} for a login of {trips} round trips");
    let (_, many) = login("dd if=/dev/zero bs=64k count=4 2>/dev/null");
    assert!(many <= trips + 2, "256 kB in one direction: {many} round trips, {trips} for nothing");
}

/// Over 30 ms of distance, 30 tasks with nothing to change cost at most 2 round trips more than none.
#[test]
fn thirty_tasks_cost_two_round_trips() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(1);
    let far = [Far::from(fleet, &hosts[0], Duration::from_millis(30))];
    let controller = Controller::far(fleet, &hosts, &far);
    controller.write("thirty.yml", &thirty()).write("t.j2", "{{ inventory_hostname }}\n");
    controller.write("none.yml", "- hosts: all\n  gather_facts: false\n  tasks:\n    - ping:\n");
    controller.apply("thirty.yml", &[]).code(0);
    let count = |play: &str| {
        far[0].round_trips();
        let said = controller.apply(play, &[]);
        said.code(0);
        assert_eq!(said.count(&hosts[0].name(), "changed"), 0, "{}", said.all());
        far[0].round_trips()
    };
    // Two sides that work while data is on its way can only add to the count, so the least of a few is the truth.
    let least = |play: &str| (0..3).map(|_| count(play)).min().unwrap();
    let (none, thirty) = (least("none.yml"), least("thirty.yml"));
    eprintln!("round trips over 30 ms: {none} for none, {thirty} for 30 tasks");
    assert!(none > 3, "a login alone costs more than {none}: is it counted?");
    assert!(thirty <= none + 2, "30 tasks cost {thirty} round trips, none {none}");
}

/// Bytes that nothing makes smaller.
fn noise(words: usize) -> Vec<u8> {
    let mut noise = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(|| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise.to_le_bytes()
    })
    .take(words)
    .flatten()
    .collect()
}

/// What the far end has is not sent again.
#[test]
fn large_files_travel_once() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(1);
    let far = [Far::from(fleet, &hosts[0], Duration::ZERO)];
    let controller = Controller::far(fleet, &hosts, &far);
    std::fs::write(controller.path("large"), noise(500_000)).unwrap();
    let bytes = std::fs::read(controller.path("large")).unwrap();
    controller.write(
        "large.yml",
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {src: large, dest: /srv/large}\n",
    );
    let sent = || {
        let before = far[0].bytes().0;
        controller.apply("large.yml", &[]).code(0);
        far[0].bytes().0 - before
    };
    let first = sent();
    assert!((4_000_000..9_000_000).contains(&first), "{first} bytes for a file of 4 MB");
    assert_eq!(std::fs::read(hosts[0].path("/srv/large")).unwrap(), bytes);
    let again = sent();
    assert!(again < 200_000, "{again} bytes for a file that is there");
}

/// What had come before the connection was cut is not sent again.
#[test]
fn a_file_that_was_cut_goes_on() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(1);
    let far = [Far::from(fleet, &hosts[0], Duration::from_millis(20))];
    let controller = Controller::far(fleet, &hosts, &far);
    let bytes = noise(1_250_000);
    std::fs::write(controller.path("large"), &bytes).unwrap();
    controller.write(
        "large.yml",
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {src: large, dest: /srv/large}\n",
    );
    let run = controller.start_apply("large.yml", &[]);
    // It travels in base64, and what came of it is kept in parts of 4 MiB.
    wait_until("half of it", || far[0].bytes().0 > 8_000_000);
    far[0].cut();
    let said = run.end(Duration::from_secs(30));
    said.code(4);
    assert_eq!(said.count(&hosts[0].name(), "unreachable"), 1);
    wait_until("the agent's end", || hosts[0].count("agent-") == 0);
    assert!(!hosts[0].path("/srv/large").exists(), "half a file is in place");

    let before = far[0].bytes().0;
    controller.apply("large.yml", &[]).code(0);
    let rest = far[0].bytes().0 - before;
    assert_eq!(std::fs::read(hosts[0].path("/srv/large")).unwrap(), bytes);
    assert!(rest < 9_000_000, "{rest} bytes for the rest of 10 MB");
    assert_eq!(hosts[0].sh("find /var/lib/vfio-provision -size +100k"), "", "what came is kept twice");
}
