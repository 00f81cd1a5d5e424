//! A log for each host: plain text, each thing with its time, diffs before they are made.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::text::{Options, details, diff_text, word};
use super::{Event, Recap, TaskId, clock, files};

/// So many files are held open; a fleet may have more hosts than a process may have files.
const OPEN: usize = 64;
/// A log is for looking things up: results are in the JSON lines.
const ALL: Options = Options { diff: true, verbose: 1 };

pub(super) struct Logs {
    folder: PathBuf,
    open: HashMap<String, File>,
    /// The play that the next events belong to.
    play: String,
    hosts: HashMap<String, Host>,
}

#[derive(Default)]
struct Host {
    play: String,
    /// The task whose diffs were written before its end.
    shown: Option<TaskId>,
}

impl Logs {
    pub fn new(folder: PathBuf) -> Logs {
        Logs { folder, open: HashMap::new(), play: String::new(), hosts: HashMap::new() }
    }

    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        if let Event::Play { name, .. } = event {
            self.play.clone_from(name);
        }
        let Some(host) = event.host() else { return Ok(()) };
        let mut text = String::new();
        let now = clock::now();
        let about = self.hosts.entry(host.to_string()).or_default();
        if about.play != self.play {
            about.play.clone_from(&self.play);
            text.push_str(&format!("{now} PLAY  {}\n", self.play));
        }
        match event {
            Event::HostBegun { .. } => text.push_str(&format!("{now} begins\n")),
            Event::Shown { id, diffs } => {
                if about.shown.as_ref() != Some(id) {
                    text.push_str(&format!("{now} {}\n", id.title()));
                    about.shown = Some(id.clone());
                }
                text.extend(diffs.iter().map(diff_text));
            }
            Event::Progress { text: word, .. } => text.push_str(&format!("{now}     {word}\n")),
            Event::Finished(finished) => {
                let shown = about.shown.take_if(|id| *id == finished.id).is_some();
                let (_, word) = word(finished.status, finished.ignored);
                let took = finished.duration.as_secs_f64();
                let head = format!("{now} {word}  {} ({took:.3} s)\n", finished.id.title());
                text.push_str(&details(ALL, head, finished));
                if !shown {
                    text.extend(finished.diffs.iter().map(diff_text));
                }
            }
            Event::HostDone { .. } => text.push_str(&format!("{now} done with this play\n")),
            _ => {}
        }
        let done = matches!(event, Event::HostDone { .. });
        let host = host.to_string();
        if !text.is_empty() {
            self.write(&host, &text)?;
        }
        if done {
            self.open.remove(&host);
        }
        Ok(())
    }

    fn write(&mut self, host: &str, text: &str) -> io::Result<()> {
        let text = anstream::adapter::strip_str(text).to_string();
        if !self.open.contains_key(host) {
            if self.open.len() >= OPEN {
                self.open.clear();
            }
            let file = files::open(&path(&self.folder, host), true)?;
            self.open.insert(host.to_string(), file);
        }
        self.open.get_mut(host).map_or(Ok(()), |file| file.write_all(text.as_bytes()))
    }

    pub fn recap(&mut self, recap: &Recap) -> io::Result<()> {
        let now = clock::now();
        for host in &recap.never_begun {
            self.write(host, &format!("{now} never begun\n"))?;
        }
        for (host, recap_of_host) in &recap.hosts {
            if self.hosts.contains_key(host) {
                let line = super::recap::host_line(host, recap_of_host, recap.plan);
                self.write(host, &format!("{now} over: {line}"))?;
            }
        }
        self.open.clear();
        self.hosts.clear();
        Ok(())
    }
}

/// A host's log. Whatever its name, the file lies in the folder.
pub(super) fn path(folder: &Path, host: &str) -> PathBuf {
    let mut name = String::new();
    for (n, byte) in host.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && n > 0);
        if plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name.push_str(".log");
    folder.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_never_leads_out_of_the_folder() {
        let of = |host: &str| path(Path::new("/r"), host).display().to_string();
        assert_eq!(of("ws01.lab"), "/r/ws01.lab.log");
        assert_eq!(of("../x"), "/r/%2e.%2fx.log");
        assert_eq!(of("a/b"), "/r/a%2fb.log");
        assert_eq!(of("fe80::1"), "/r/fe80%3a%3a1.log");
        assert_ne!(of("A%2f"), of("A/"));
    }
}
