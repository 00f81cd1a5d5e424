//! JUnit XML of JSON lines, as Jenkins and GitLab read it: a test suite for each host, a test case for each task.
//!
//! The rules are those of Jenkins' schema (xunit-plugin, junit-10.xsd): `system-out` may stand inside a test case, times are
//! seconds with a point, and a time stamp has no zone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use indexmap::IndexMap;

use super::files;
use super::json::{CountsLine, Line, StatusWord, TaskLine};

/// Where a host's lines are: which file, from where, how long. The lines stay in the files; a thousand hosts have much to say.
type Places = Vec<(usize, u64, usize)>;

#[derive(Default)]
struct Suite {
    places: Places,
    counts: Option<CountsLine>,
}

/// Makes one file of reports.
///
/// # Errors
/// When one can't be read or the file can't be written.
pub fn write(reports: &[&Path], to: &Path) -> io::Result<()> {
    let mut suites: IndexMap<String, Suite> = IndexMap::new();
    let mut never = Vec::new();
    let mut readers = Vec::new();
    for (number, report) in reports.iter().enumerate() {
        let mut reader = BufReader::new(File::open(report)?);
        let mut at = 0;
        let mut text = Vec::new();
        loop {
            text.clear();
            let length = reader.read_until(b'\n', &mut text)?;
            if length == 0 {
                break;
            }
            match serde_json::from_slice(&text) {
                Ok(Line::Task(task)) => suites.entry(task.host).or_default().places.push((number, at, length)),
                Ok(Line::Recap(recap)) => {
                    for (host, counts) in recap.hosts {
                        suites.entry(host).or_default().counts = Some(counts);
                    }
                    never.extend(recap.never_begun);
                }
                // A killed run's last line may be cut.
                Ok(Line::Run(_)) | Err(_) => {}
            }
            at += length as u64;
        }
        readers.push(reader);
    }
    files::replace(to, |out| {
        out.write_all(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"vfio-provision\">\n")?;
        for (id, (host, suite)) in suites.iter().filter(|(host, _)| !never.contains(*host)).enumerate() {
            let mut tasks = Vec::with_capacity(suite.places.len());
            for &(number, at, length) in &suite.places {
                let Some(reader) = readers.get_mut(number) else { continue };
                reader.seek(SeekFrom::Start(at))?;
                let mut text = vec![0; length];
                reader.read_exact(&mut text)?;
                if let Ok(Line::Task(task)) = serde_json::from_slice(&text) {
                    tasks.push(*task);
                }
            }
            write_suite(out, id, host, &tasks, suite.counts.as_ref())?;
        }
        for (n, host) in never.iter().enumerate() {
            write_never(out, suites.len() + n, host)?;
        }
        out.write_all(b"</testsuites>\n")
    })
}

/// What a test case is, besides fine.
enum Verdict {
    Fine,
    Skipped(String),
    Failure(String),
    Error(String),
}

/// Failures that a `rescue` took care of come before the one that ended a host's run.
fn verdicts(tasks: &[TaskLine], counts: Option<&CountsLine>) -> Vec<Verdict> {
    let mut rescued = counts.map_or(0, |counts| counts.rescued);
    let message = |task: &TaskLine| task.result["msg"].as_str().unwrap_or("").lines().next().unwrap_or("").to_string();
    let verdict = |task: &TaskLine| match task.status {
        StatusWord::Ok | StatusWord::Changed | StatusWord::WouldChange => Verdict::Fine,
        StatusWord::Skipped => Verdict::Skipped("its conditions did not hold".into()),
        StatusWord::Unknown => Verdict::Skipped("unknown until applied".into()),
        StatusWord::Failed if task.ignored => Verdict::Skipped(format!("failed, ignored: {}", message(task))),
        StatusWord::Failed if rescued > 0 => {
            rescued -= 1;
            Verdict::Skipped(format!("failed, rescued: {}", message(task)))
        }
        StatusWord::Failed => Verdict::Failure(message(task)),
        StatusWord::Unreachable => Verdict::Error(message(task)),
    };
    tasks.iter().map(verdict).collect()
}

fn write_suite(
    out: &mut dyn Write,
    id: usize,
    host: &str,
    tasks: &[TaskLine],
    counts: Option<&CountsLine>,
) -> io::Result<()> {
    let verdicts = verdicts(tasks, counts);
    let count = |which: fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| which(verdict)).count();
    let time: u64 = tasks.iter().map(|task| task.duration_ms).sum();
    let host = escaped(host);
    write!(
        out,
        "  <testsuite name=\"{host}\" id=\"{id}\" hostname=\"{host}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" \
         skipped=\"{}\" time=\"{}\"",
        tasks.len(),
        count(|verdict| matches!(verdict, Verdict::Failure(_))),
        count(|verdict| matches!(verdict, Verdict::Error(_))),
        count(|verdict| matches!(verdict, Verdict::Skipped(_))),
        seconds(time),
    )?;
    // The schemas want a date and time without a zone.
    if let Some(time) = tasks.first().map(|task| task.time.trim_end_matches('Z')).filter(|time| !time.is_empty()) {
        write!(out, " timestamp=\"{}\"", escaped(time))?;
    }
    out.write_all(b">\n")?;
    // Whoever reads it tells test cases apart by name; a task may come more than once.
    let mut seen: IndexMap<String, usize> = IndexMap::new();
    for (task, verdict) in tasks.iter().zip(&verdicts) {
        let mut name = title(task);
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            name.push_str(&format!(" #{times}"));
        }
        write_case(out, &host, &name, task, verdict)?;
    }
    out.write_all(b"  </testsuite>\n")
}

fn write_case(out: &mut dyn Write, host: &str, name: &str, task: &TaskLine, verdict: &Verdict) -> io::Result<()> {
    let (name, time) = (escaped(name), seconds(task.duration_ms));
    write!(out, "    <testcase name=\"{name}\" classname=\"{host}\" time=\"{time}\"")?;
    let diffs: String =
        task.diffs.iter().map(|diff| format!("{} {}\n{}", diff.kind, diff.path, diff.unified)).collect();
    if matches!(verdict, Verdict::Fine) && diffs.is_empty() {
        return out.write_all(b"/>\n");
    }
    out.write_all(b">\n")?;
    let whole = escaped(task.result["msg"].as_str().unwrap_or(""));
    match verdict {
        Verdict::Fine => {}
        Verdict::Skipped(why) => writeln!(out, "      <skipped message=\"{}\"/>", escaped(why))?,
        Verdict::Failure(why) => {
            writeln!(out, "      <failure message=\"{}\" type=\"failed\">{whole}</failure>", escaped(why))?;
        }
        Verdict::Error(why) => {
            writeln!(out, "      <error message=\"{}\" type=\"unreachable\">{whole}</error>", escaped(why))?;
        }
    }
    if !diffs.is_empty() {
        writeln!(out, "      <system-out>{}</system-out>", escaped(&diffs).replace("&#10;", "\n"))?;
    }
    out.write_all(b"    </testcase>\n")
}

fn write_never(out: &mut dyn Write, id: usize, host: &str) -> io::Result<()> {
    let host = escaped(host);
    write!(
        out,
        "  <testsuite name=\"{host}\" id=\"{id}\" hostname=\"{host}\" tests=\"1\" failures=\"0\" errors=\"0\" skipped=\"1\" \
         time=\"0\">\n    <testcase name=\"never begun\" classname=\"{host}\" time=\"0\">\n      \
         <skipped message=\"the run never came to this host\"/>\n    </testcase>\n  </testsuite>\n"
    )
}

/// `role : task (item)`.
pub(super) fn title(task: &TaskLine) -> String {
    let role = task.role.as_ref().map(|role| format!("{role} : ")).unwrap_or_default();
    let item = task.item.as_ref().map(|item| format!(" ({item})")).unwrap_or_default();
    format!("{role}{}{item}", task.task)
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// Text as XML 1.0 takes it, in attributes and elsewhere. What XML has no way to say is replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
