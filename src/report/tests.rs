//! Reporters are fed with events and read as people and programs read them.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::text::{Options, Text};
use super::*;

/// What was written, seen from outside.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl io::Write for Paper {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(text);
        Ok(text.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        anstream::adapter::strip_bytes(&lock(&self.0)).into_vec().try_into().unwrap()
    }
}

fn sink(verbose: u8) -> (Paper, Sink) {
    let paper = Paper::default();
    let text = Text::new(paper.clone(), Options { diff: true, verbose });
    (paper, Sink::new(Box::new(text), Mask::default()))
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{prefix}{n:02}")).collect()
}

fn id(host: &str, task: &str) -> TaskId {
    TaskId { host: host.into(), play: "Site".into(), role: None, task: task.into(), module: "copy".into(), item: None }
}

fn play(hosts: &[String]) -> Event {
    Event::Play { name: "Site".into(), hosts: hosts.to_vec() }
}

fn over(host: &str, task: &str, status: Status) -> Finished {
    Finished {
        id: id(host, task),
        status,
        diffs: vec![],
        result: json!({}),
        notes: vec![],
        warnings: vec![],
        error: None,
        ignored: false,
        duration: Duration::ZERO,
    }
}

fn ok(host: &str, task: &str) -> Event {
    Event::Finished(Box::new(over(host, task, Status::Ok)))
}

fn failed(host: &str, task: &str, error: &str) -> Event {
    let error = Some(error.to_string());
    Event::Finished(Box::new(Finished { error, ..over(host, task, Status::Failed) }))
}

fn change(sink: &Sink, host: &str, task: &str, content: &str) {
    let diffs = vec![Diff::file("/etc/motd", None, Some(content.as_bytes()))];
    sink.event(Event::Shown { id: id(host, task), diffs: diffs.clone() });
    sink.event(Event::Finished(Box::new(Finished { diffs, ..over(host, task, Status::Changed) })));
}

fn done(sink: &Sink, hosts: &[String]) {
    hosts.iter().for_each(|host| sink.event(Event::HostDone { host: host.clone() }));
}

fn recap(hosts: &[String], each: impl Fn(&str) -> HostRecap) -> Recap {
    Recap { hosts: hosts.iter().map(|host| (host.clone(), each(host))).collect(), ..Recap::default() }
}

fn changed() -> HostRecap {
    HostRecap { counts: Counts { ok: 2, changed: 1, ..Counts::default() }, added: 1, ..HostRecap::default() }
}

#[test]
fn one_host_is_told_as_it_goes() {
    let (paper, sink) = sink(0);
    let hosts = names("ws", 1);
    sink.event(play(&hosts));
    sink.event(Event::Started { id: id("ws01", "Greet") });
    sink.event(Event::Shown { id: id("ws01", "Greet"), diffs: vec![Diff::added("unit", "a.service", "enabled")] });
    // The diff is there before the task is over.
    assert_eq!(paper.text(), "\nPLAY  Site  (ws01)\n\n  Greet\n    + unit a.service: enabled\n");
    sink.event(Event::Finished(Box::new(over("ws01", "Greet", Status::Changed))));
    sink.event(ok("ws01", "Other"));
    done(&sink, &hosts);
    sink.recap(&recap(&hosts, |_| changed()));
    assert_eq!(
        paper.text(),
        "\nPLAY  Site  (ws01)\n\n  Greet\n    + unit a.service: enabled\n    changed\n  ok  Other\n\n\
         ws01: 1 added, 0 changed, 0 removed\n"
    );
}

#[test]
fn three_hosts_are_told_task_by_task_whatever_their_pace() {
    let (paper, sink) = sink(0);
    let hosts = names("ws", 3);
    sink.event(play(&hosts));
    // The first is over before the others begin; the third has something of its own.
    for (host, content) in [("ws01", "hello\n"), ("ws03", "hello, third\n"), ("ws02", "hello\n")] {
        sink.event(ok(host, "Before"));
        change(&sink, host, "Greet", content);
        if host == "ws03" {
            sink.event(ok(host, "Only there"));
        }
        sink.event(ok(host, "After"));
        sink.event(Event::HostDone { host: host.into() });
    }
    sink.recap(&recap(&hosts, |_| changed()));
    let expected = "
PLAY  Site  (ws01, ws02, ws03)
  ok  Before  ws01, ws02, ws03

  Greet
    ws01, ws02: the same change
    + file /etc/motd
      @@ -0,0 +1 @@
      +hello
    changed

    ws03
    + file /etc/motd
      @@ -0,0 +1 @@
      +hello, third
    changed
  ok  Only there  ws03
  ok  After  ws01, ws02, ws03

ws01: 1 added, 0 changed, 0 removed
ws02: 1 added, 0 changed, 0 removed
ws03: 1 added, 0 changed, 0 removed
";
    assert_eq!(paper.text(), expected);
}

#[test]
fn forty_hosts_are_folded_and_what_went_wrong_stands_at_the_end() {
    let (paper, sink) = sink(0);
    let mut hosts = names("ws", 40);
    hosts.push("lab-a3".into());
    sink.event(play(&hosts));
    for host in &hosts {
        sink.event(Event::HostBegun { host: host.clone() });
        if host.ends_with('7') {
            sink.event(failed(host, "Greet", &format!("{host} has no disk space left:\n  /dev/vda1")));
            // It is said at once, but not again for each host.
            let text = paper.text();
            let said = text.matches("has no disk space left").count();
            assert_eq!((said, text.contains("ws07 has no disk")), (1, true), "{text}");
        } else if host == "lab-a3" {
            sink.event(ok(host, "Greet"));
        } else {
            change(&sink, host, "Greet", "hello\n");
        }
    }
    done(&sink, &hosts);
    let bad = HostRecap { counts: Counts { failed: 1, ..Counts::default() }, ..HostRecap::default() };
    let mut all = recap(&hosts, |host| match host {
        "lab-a3" => HostRecap::default(),
        host if host.ends_with('7') => bad.clone(),
        _ => changed(),
    });
    all.never_begun = vec!["ws41".into(), "ws42".into(), "ws43".into()];
    all.hosts.insert("ws41".into(), HostRecap::default());
    sink.recap(&all);
    let expected = "
PLAY  Site  (41 hosts)
  failed  Greet  ws07
    ws07 has no disk space left:
      /dev/vda1

  Greet
    ws01…ws06, ws08…ws16, ws18…ws26, ws28…ws36, ws38, ws39, ws40 (36 hosts): the same change
    + file /etc/motd
      @@ -0,0 +1 @@
      +hello
    changed
    failed  ws17, ws27, ws37: the same error as on ws07
    ok  lab-a3

nothing to change: lab-a3
changed: ws01…ws06, ws08…ws16, ws18…ws26, ws28…ws36, ws38, ws39, ws40 (36 hosts); in all 36 added, 0 changed, 0 removed
never begun: ws41, ws42, ws43
44 hosts: 1 nothing to change, 36 changed, 4 failed, 3 never begun

failed:
  ws07, ws17, ws27, ws37  Greet: … has no disk space left
";
    assert_eq!(paper.text(), expected);
}

#[test]
fn a_host_that_never_ends_holds_nothing_back_for_ever() {
    let (paper, sink) = sink(0);
    let hosts = names("ws", 2);
    sink.event(play(&hosts));
    sink.event(ok("ws02", "A"));
    sink.event(Event::HostDone { host: "ws02".into() });
    assert!(!paper.text().contains("ok  A"));
    // The next batch, play or the end: what there is, is told.
    sink.event(Event::Batch { number: 2, of: 2, hosts: vec!["ws03".into()] });
    sink.event(ok("ws03", "A"));
    let text = paper.text();
    assert!(text.ends_with("  ok  A  ws02\n\nBATCH  2 of 2  ws03\n  ok  A\n"), "{text}");
}

#[test]
fn the_diffs_of_a_host_that_was_lost_are_told() {
    let (paper, sink) = sink(0);
    sink.event(play(&names("ws", 2)));
    sink.event(Event::Shown { id: id("ws01", "A"), diffs: vec![Diff::added("unit", "a.service", "enabled")] });
    let lost = Finished { error: Some("gone".into()), ..over("ws01", "A", Status::Unreachable) };
    sink.event(Event::Finished(Box::new(lost)));
    let text = paper.text();
    assert!(text.ends_with("  A\n    ws01\n    + unit a.service: enabled\n    unreachable\n    gone\n"), "{text}");
}

#[test]
fn what_is_alike_but_for_a_word_is_told_apart() {
    let (paper, sink) = sink(0);
    let hosts = names("ws", 2);
    sink.event(play(&hosts));
    for (host, note) in [("ws01", "one"), ("ws02", "two")] {
        let finished = Finished { notes: vec![note.into()], ..over(host, "A", Status::Changed) };
        sink.event(Event::Finished(Box::new(finished)));
    }
    let text = paper.text();
    assert!(text.ends_with("  changed  A  ws01\n    one\n  changed  A  ws02\n    two\n"), "{text}");
}

#[test]
fn a_question_is_not_printed_into() {
    let (paper, sink) = sink(0);
    sink.event(play(&names("ws", 1)));
    let answer = sink.suspend(|| {
        sink.event(ok("ws01", "A"));
        assert!(!paper.text().contains("ok  A"));
        5
    });
    assert_eq!(answer, 5);
    assert!(paper.text().ends_with("  ok  A\n"));
}

fn report(folder: &std::path::Path, hosts: &[String], shard: Option<(usize, usize)>, whole: bool) -> Sink {
    let (_, sink) = sink(0);
    let sink = sink.and(Box::new(Files::begin(folder).unwrap()));
    sink.hide("hunter22");
    sink.event(Event::Run { plan: false, shard });
    sink.event(play(hosts));
    for host in hosts {
        change(&sink, host, "Greet", "the password is hunter22 \u{1b}[31m & <b>\n");
        if host.ends_with('2') {
            sink.event(failed(host, "Break", "it broke\nhint: \"mend\" it"));
        }
    }
    if whole {
        done(&sink, hosts);
        let mut all = recap(hosts, |host| {
            let failed = usize::from(host.ends_with('2'));
            HostRecap { counts: Counts { failed, ..changed().counts }, ..changed() }
        });
        all.never_begun = vec![format!("{}-later", hosts[0])];
        sink.recap(&all);
    }
    sink
}

fn mode(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_report_is_whole_private_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("r");
    let hosts = names("ws", 2);
    report(&place, &hosts, None, true);
    let mut all = String::new();
    for name in ["report.jsonl", "junit.xml", "hosts/ws01.log", "hosts/ws02.log", "hosts/ws01-later.log"] {
        let path = place.join(name);
        assert_eq!(mode(&path), 0o600, "{name}");
        all += &std::fs::read_to_string(path).unwrap();
    }
    assert_eq!(mode(&place), 0o700);
    assert!(!all.contains("hunter22") && all.contains("********"), "{all}");
    assert!(!place.join("report.jsonl.part").exists());
    let log = std::fs::read_to_string(place.join("hosts/ws02.log")).unwrap();
    let log = regex::Regex::new(r"(?m)^[-0-9]{10}T[:0-9]{8}Z ").unwrap().replace_all(&log, "T ").into_owned();
    assert_eq!(
        log,
        "T PLAY  Site\nT Greet\n    + file /etc/motd\n      @@ -0,0 +1 @@\n      \
         +the password is ******** \u{1b}[31m & <b>\nT changed  Greet (0.000 s)\nT failed  Break (0.000 s)\n    \
         it broke\n    hint: \"mend\" it\nT done with this play\n\
         T over: ws02: 1 added, 0 changed, 0 removed; 1 task failed\n"
            .replace("\u{1b}[31m", "")
    );
    // Another run takes its place; what is not ours is left alone.
    report(&place, &names("pc", 1), None, true);
    assert!(!place.join("hosts/ws01.log").exists() && place.join("hosts/pc01.log").exists());
    assert!(Files::begin(folder.path()).is_err(), "a folder of other things was taken");
}

#[test]
fn junit_is_well_formed_and_counts_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    report(folder.path(), &names("ws", 2), None, true);
    let text = std::fs::read_to_string(folder.path().join("junit.xml")).unwrap();
    let mut reader = quick_xml::Reader::from_str(&text);
    let mut cases = 0;
    loop {
        match reader.read_event().unwrap() {
            quick_xml::events::Event::Eof => break,
            quick_xml::events::Event::Start(tag) | quick_xml::events::Event::Empty(tag) => {
                tag.attributes().for_each(|attribute| assert!(attribute.is_ok(), "{attribute:?}"));
                cases += usize::from(tag.name().as_ref() == "testcase");
            }
            _ => {}
        }
    }
    assert_eq!(cases, 4);
    assert!(!text.contains('\u{1b}') && text.contains("\u{fffd}[31m &amp; &lt;b&gt;"), "{text}");
    let ws02 = "name=\"ws02\" id=\"1\" hostname=\"ws02\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\"";
    assert!(text.contains(ws02), "{text}");
    let failure = "<failure message=\"it broke\" type=\"failed\">it broke&#10;hint: &quot;mend&quot; it</failure>";
    assert!(text.contains(failure), "{text}");
    assert!(text.contains("<skipped message=\"the run never came to this host\"/>"), "{text}");
}

#[test]
fn a_killed_run_leaves_what_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let sink = report(folder.path(), &names("ws", 2), None, false);
    std::mem::forget(sink); // nothing is tidied up by whoever is killed
    let lines = std::fs::read_to_string(folder.path().join("report.jsonl.part")).unwrap();
    assert_eq!(lines.lines().count(), 4, "{lines}");
    // Cut in the middle of a line.
    std::fs::write(folder.path().join("report.jsonl.part"), &lines[..lines.len() - 20]).unwrap();
    let found = merge::find(&[folder.path().to_path_buf()]).unwrap();
    let merged = merge::Merged::read(found).unwrap();
    assert_eq!(merged.missing.len(), 1, "{:?}", merged.missing);
    assert_eq!(merged.recap.hosts["ws01"].counts.changed, 1);
    merged.write_junit(&folder.path().join("junit.xml")).unwrap();
    assert!(std::fs::read_to_string(folder.path().join("junit.xml")).unwrap().contains("Greet"));
}

#[test]
fn shards_are_joined_to_the_run_that_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for (n, prefix) in [(1, "a"), (2, "b")] {
        report(&folder.path().join(format!("shard{n}")), &names(prefix, 3), Some((n, 2)), true);
    }
    let read = |place: &std::path::Path| merge::Merged::read(merge::find(&[place.to_path_buf()]).unwrap());
    let merged = read(folder.path()).unwrap();
    assert!(merged.missing.is_empty(), "{:?}", merged.missing);
    let text = anstream::adapter::strip_str(&recap::text(&merged.recap, &merged.troubles)).to_string();
    let expected = "
changed: a01, a03, b01, b03; in all 4 added, 0 changed, 0 removed
never begun: a01-later, b01-later
8 hosts: 4 changed, 2 failed, 2 never begun

failed:
  a02, b02  Break: it broke
";
    assert_eq!(text, expected);
    // The joined report is a report.
    let elsewhere = tempfile::tempdir().unwrap();
    let out = elsewhere.path().join("all.jsonl");
    merged.write(&out).unwrap();
    let again = merge::Merged::read(vec![out.clone()]).unwrap();
    assert_eq!(again.recap.hosts.len(), 6);
    assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), 1 + 8 + 1);
    // A shard that is not there is missed; a host in two is refused.
    let missing = read(&folder.path().join("shard2")).unwrap().missing;
    assert_eq!(missing, ["the report of shard 1/2 is missing"]);
    report(&folder.path().join("shard3"), &names("b", 1), Some((2, 2)), true);
    let errors = read(folder.path()).unwrap_err();
    let error = errors[0].to_string();
    assert!(
        error.contains("b01, b01-later are in two") && error.contains("shard2") && error.contains("shard3"),
        "{error}"
    );
}

/// Runs in a terminal of its own, made by the test below.
#[test]
#[ignore = "draws; `progress_is_drawn_and_gone_at_the_end` runs it"]
fn draws() {
    let screen = Screen::stderr();
    let text = Text::new(screen.above(io::stdout()), Options { diff: true, verbose: 0 });
    let sink = Sink::new(Box::new(text), Mask::default()).on(screen);
    let hosts = names("ws", 40);
    sink.event(play(&hosts));
    sink.event(Event::HostDone { host: "ws40".into() });
    for host in &hosts[..20] {
        sink.event(Event::Started { id: id(host, "Install") });
    }
    sink.event(Event::Progress { id: id("ws01", "Install"), text: "downloading\u{1b}[31m".into() });
    std::thread::sleep(Duration::from_millis(900));
    sink.event(failed("ws02", "Install", "it broke"));
    sink.suspend(|| {
        print!("PROMPT");
        let _ = io::Write::flush(&mut io::stdout());
        std::thread::sleep(Duration::from_millis(500));
        println!(" ANSWERED");
    });
    std::thread::sleep(Duration::from_millis(400));
    done(&sink, &hosts);
    sink.recap(&recap(&hosts, |_| HostRecap::default()));
}

/// What a terminal of 24 lines shows in the end, with what scrolled out above; just enough of one for this.
fn seen(bytes: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let (mut row, mut column) = (0, 0);
    let mut rest = bytes.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(String::new());
                }
            }
            '\u{1b}' => {
                rest.next();
                let number: String = std::iter::from_fn(|| rest.next_if(|c| c.is_ascii_digit() || *c == ';')).collect();
                match rest.next() {
                    Some('A') => row -= number.parse::<usize>().unwrap(),
                    Some('J') => {
                        lines.truncate(row + 1);
                        lines[row] = lines[row].chars().take(column).collect();
                    }
                    Some('K') => lines[row] = lines[row].chars().take(column).collect(),
                    Some('m') => {}
                    other => panic!("{other:?} is not known here"),
                }
            }
            c => {
                let mut line: Vec<char> = lines[row].chars().collect();
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                lines[row] = line.into_iter().collect();
                column += 1;
            }
        }
    }
    lines
}

#[test]
fn progress_is_drawn_and_gone_at_the_end() {
    let own = std::env::current_exe().unwrap();
    let inner = format!(
        "stty cols 60 rows 24; '{}' --exact report::tests::draws --ignored --nocapture --test-threads 1",
        own.display()
    );
    let output = match Command::new("script").args(["-qfec", &inner, "/dev/null"]).env("TERM", "xterm").output() {
        Ok(output) => output,
        Err(error) => panic!("this test needs `script` (util-linux, bsdutils): {error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    // Drawn: the hosts that fit, the rest as a number, the fleet.
    assert!(text.contains("  ws01    0 s  Install: downloading[31m"), "{text}");
    assert!(text.contains("  +10 more"), "{text}");
    assert!(text.contains("1 of 40 hosts done, 20 running, 19 waiting"), "{text}");
    // The failure came above it at once, the prompt stood alone.
    let prompt = text.split("PROMPT").nth(1).unwrap();
    assert!(prompt.starts_with(" ANSWERED"), "{prompt}");
    // And gone.
    let end: Vec<String> = seen(&text).iter().map(|line| line.trim_end().to_string()).collect();
    let from = end.iter().position(|line| line.contains("PLAY  Site")).unwrap();
    let to = end.iter().position(|line| line.contains("nothing to change: ")).unwrap();
    assert_eq!(
        end[from..=to],
        [
            "PLAY  Site  (40 hosts)",
            "  failed  Install  ws02",
            "    it broke",
            "PROMPT ANSWERED",
            "",
            "nothing to change: ws01…ws40 (40 hosts)"
        ],
        "{end:#?}"
    );
}
