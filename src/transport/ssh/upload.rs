//! Starting the agent, and putting it in place where it is not.
//!
//! Where all is as it should be this costs nothing: the program is simply started. Only when that gave no greeting is
//! looked for it elsewhere, and only when it is nowhere is it sent. The commands must pass any login shell (fish, csh):
//! one line, everything in single quotes, without quotes, backslashes or exclamation marks inside.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use super::remote::{NOISE, Remote, Talk};
use super::session::{Link, Stop};
use super::{AgentProgram, Target};
use crate::host::Error;

/// Sent at once.
const PORTION: usize = 256 * 1024;
/// The far end's disk may be slow to take the last bytes and to hash them all.
const HASHING: Duration = Duration::from_secs(120);

/// The folders, best first: `$d` goes through them, `$i` counts. All but the first are in places where others can write,
/// so they must be folders of the user that nobody else may enter (mode 0700: 41c0 as `stat` has it), and no links.
const FOLDERS: &str = "u=$(id -u); h=${HOME:-/nonexistent}; i=0; for d in \"$h/.cache/vfio-provision\" \
    /var/tmp/vfio-provision-$u /tmp/vfio-provision-$u /run/user/$u/vfio-provision /dev/shm/vfio-provision-$u; \
    do i=$((i+1));";
const OURS: &str = "[ \"$(stat -c %u:%f \"$d\" 2>/dev/null)\" = \"$u:41c0\" ]";

const ABSENT: &str = "vfio-provision-absent";
const SEND: &str = "vfio-provision-send";
const NOWHERE: &str = "vfio-provision-nowhere";
const PLACED: &str = "vfio-provision-placed";
const FULL: &str = "vfio-provision-full";
const DAMAGED: &str = "vfio-provision-damaged";
const END: &str = "vfio-provision-end";

/// How a start went.
enum Start {
    Greeted(Talk),
    /// Nothing greeted; what came instead.
    No(Talk),
}

/// Starts the agent, wherever it is, after putting it in place if it is nowhere.
pub(super) fn start(mut link: Link, target: &Target, program: &AgentProgram) -> Result<Remote, Error> {
    let plain = format!("exec ~/.cache/vfio-provision/agent-{} agent", program.sha256);
    if let Start::Greeted(talk) = begin(&mut link, target, &plain)? {
        return Ok(Remote::new(talk, link));
    }
    let find = find(&program.sha256);
    let talk = match begin(&mut link, target, &find)? {
        Start::Greeted(talk) => return Ok(Remote::new(talk, link)),
        Start::No(talk) => talk,
    };
    let said = talk.said();
    let system = said.lines().find_map(|line| line.split_once(ABSENT)).map(|(_, rest)| rest.trim());
    match system {
        Some("Linux x86_64") => {}
        Some(other) => {
            return Err(target
                .failed(format!("this is a {other} machine"))
                .hint("only x86-64 Linux can be set up: the program that does it is built for that"));
        }
        None => {
            let said = if said.is_empty() { "it said nothing".to_string() } else { format!("it said:\n{said}") };
            return Err(target.failed(format!("logged in, but no command can be run there: {said}")).hint(
                "the user needs a login shell that runs commands (ssh HOST /bin/sh -c true), and /bin/sh on the machine",
            ));
        }
    }
    drop(talk);
    send(&mut link, target, program)?;
    match begin(&mut link, target, &find)? {
        Start::Greeted(talk) => Ok(Remote::new(talk, link)),
        Start::No(talk) => Err(target
            .failed(format!("the program was put in place but does not run there:\n{}", talk.said()))
            .hint("does SELinux, fapolicyd or AppArmor on the machine forbid programs in that folder?")),
    }
}

/// Runs a command that should end in the agent's greeting.
fn begin(link: &mut Link, target: &Target, command: &str) -> Result<Start, Error> {
    let until = Instant::now() + target.patience();
    let mut talk = Talk::open(link, command, until).map_err(|stop| no_channel(target, &stop))?;
    match talk.greeted(link, until) {
        Ok(true) => Ok(Start::Greeted(talk)),
        Ok(false) => {
            // Some servers allow one channel at a time: this one has to be gone before the next.
            let until = Instant::now() + target.patience();
            talk.status(link, until).map_err(|stop| target.failed(format!("starting the agent: {stop}")))?;
            Ok(Start::No(talk))
        }
        Err(stop) => {
            let said = talk.said();
            let said = if said.is_empty() { String::new() } else { format!("; it said:\n{said}") };
            let error = target.failed(format!("logged in, but the agent did not start: {stop}{said}"));
            Err(error.hint("does a shell start-up file (.bashrc, .profile) wait for something or never end?"))
        }
    }
}

fn no_channel(target: &Target, stop: &Stop) -> Error {
    target
        .failed(format!("logged in, but the server runs no command: {stop}"))
        .hint("is the account restricted to file transfer, expired or locked, or MaxSessions 0?")
}

/// Looks for the agent in all places and becomes it, or says what machine this is. An empty file, as a power cut leaves
/// it, would do nothing and call that success: so it must say its name.
fn find(sha256: &str) -> String {
    format!(
        "/bin/sh -c '{FOLDERS} [ $i = 1 ] || {OURS} || continue; p=$d/agent-{sha256}; \
         case $([ -x \"$p\" ] && \"$p\" --version 2>/dev/null </dev/null) in vfio-provision*) exec \"$p\" agent;; esac; done; \
         echo; echo {ABSENT} $(uname -sm); exit 97'"
    )
}

/// Makes room in the first folder that takes a program (`skip`: those that did not), says how much of it is there from
/// an earlier try, takes the rest from standard input, checks and renames it. Half a file is kept when the connection
/// was cut, under the name `….part`; who goes on with it first makes it its own by renaming it.
fn place(program: &AgentProgram, skip: &str) -> String {
    let (sha256, size) = (&program.sha256, program.size);
    let kilobytes = size / 1024 + 64;
    format!(
        "/bin/sh -c 'umask 077; n=agent-{sha256}; {FOLDERS} case \" {skip} \" in *\" $i \"*) continue;; esac; \
         if [ $i = 1 ]; then [ -d \"$h\" ] || continue; mkdir -p \"$d\" 2>/dev/null || continue; \
         else mkdir \"$d\" 2>/dev/null; {OURS} || continue; fi; \
         t=$d/try.$$; (echo exit 0 >\"$t\") 2>/dev/null || continue; chmod 700 \"$t\"; \"$t\" 2>/dev/null; r=$?; \
         rm -f \"$t\"; [ $r = 0 ] || continue; \
         p=$d/$n.part.$$; mv \"$d/$n.part\" \"$p\" 2>/dev/null || (: >\"$p\") 2>/dev/null || continue; \
         s=$(wc -c <\"$p\"); s=$((s)); [ $s -le {size} ] || {{ : >\"$p\"; s=0; }}; \
         set -- $(df -Pk \"$d\" 2>/dev/null | tail -n 1); \
         if [ \"${{4:-x}}\" -lt $(({kilobytes}-s/1024)) ] 2>/dev/null; then rm -f \"$p\"; continue; fi; \
         echo; echo {SEND} $i $s \"$d\"; \
         cat >>\"$p\" 2>/dev/null; r=$?; s=$(wc -c <\"$p\"); s=$((s)); \
         if [ $r -ne 0 ]; then rm -f \"$p\"; echo {FULL}; exit 99; fi; \
         if [ $s -ne {size} ]; then mv \"$p\" \"$d/$n.part\"; echo {DAMAGED}; exit 99; fi; \
         c=$(sha256sum <\"$p\"); if [ \"${{c%% *}}\" = {sha256} ]; then :; else rm -f \"$p\"; echo {DAMAGED}; exit 99; fi; \
         chmod 700 \"$p\" && mv -f \"$p\" \"$d/$n\" || {{ rm -f \"$p\"; echo {FULL}; exit 99; }}; \
         find \"$d\" -maxdepth 1 -type f -name \"agent-*\" -mtime +30 -atime +30 -exec rm -f {{}} + 2>/dev/null; \
         find \"$d\" -maxdepth 1 -type f -name \"agent-*.part*\" -mtime +1 -exec rm -f {{}} + 2>/dev/null; \
         echo {PLACED} {END}; exit 0; done; echo; echo {NOWHERE} {END}; exit 98'"
    )
}

/// Sends the program to the first place that takes it.
fn send(link: &mut Link, target: &Target, program: &AgentProgram) -> Result<(), Error> {
    let mut skip = String::new();
    let mut again = true;
    // Five folders, and one more try where half a file from earlier turned out to be another one's.
    for _ in 0..6 {
        let until = Instant::now() + target.patience();
        let mut talk =
            Talk::open(link, &place(program, skip.trim()), until).map_err(|stop| no_channel(target, &stop))?;
        let (folder, have, name) = match invitation(&mut talk, link, until) {
            Ok(Some(invitation)) => invitation,
            Ok(None) => return Err(nowhere(target, program, &talk.said())),
            Err(stop) => {
                return Err(target.failed(format!("putting the program in place: {stop}\n{}", talk.said())));
            }
        };
        let sent = feed(&mut talk, link, program, have);
        let until = Instant::now() + HASHING;
        let status = match sent {
            Ok(()) => talk.finish(link, until).and_then(|()| talk.status(link, until)),
            // The far end closed its side: it says why.
            Err(Trouble::Stop(Stop::Io(_) | Stop::Ssh(_))) => talk.status(link, until),
            Err(Trouble::Stop(stop)) => Err(stop),
            Err(Trouble::Here(why)) => return Err(target.failed(why)),
        };
        status.map_err(|stop| {
            target
                .failed(format!("sending the program ({} MB) was cut off: {stop}", program.size / 1_000_000))
                .hint("the next run goes on where it stopped")
        })?;
        let said = talk.said();
        let has = |word: &str| said.lines().any(|line| line.contains(word));
        if has(PLACED) {
            return Ok(());
        } else if has(FULL) {
            skip.push_str(&format!(" {folder}"));
        } else if again && have > 0 {
            // What was there already was not the first part of this program.
            again = false;
        } else {
            return Err(target.failed(format!("the program arrived damaged in {name}:\n{said}")).hint(
                "was the program replaced just now? Then the next run will do; sha256sum must be on the machine",
            ));
        }
    }
    Err(nowhere(target, program, ""))
}

fn nowhere(target: &Target, program: &AgentProgram, said: &str) -> Error {
    let said = said.replace(NOWHERE, "").replace(END, "");
    target
        .failed(format!("no folder takes the program ({} MB)\n{}", program.size / 1_000_000, said.trim()).trim().to_string())
        .hint(
            "tried ~/.cache, /var/tmp, /tmp, /run/user/UID and /dev/shm: each is noexec, read-only, full or has a folder \
             vfio-provision-UID that belongs to somebody else",
        )
}

/// Waits for the line that says where it goes and how much is there; `None` when there is no place.
fn invitation(talk: &mut Talk, link: &mut Link, until: Instant) -> Result<Option<(u32, u64, String)>, Stop> {
    loop {
        let text = String::from_utf8_lossy(&talk.out);
        // Whole lines only.
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        for line in whole.lines() {
            if let Some(rest) = line.strip_prefix(SEND) {
                let mut words = rest.trim().splitn(3, ' ');
                let (folder, have) = (words.next().map(str::parse), words.next().map(str::parse));
                if let (Some(Ok(folder)), Some(Ok(have))) = (folder, have) {
                    let name = words.next().unwrap_or_default().to_string();
                    talk.out.clear();
                    return Ok(Some((folder, have, name)));
                }
            }
        }
        if talk.ended || talk.out.len() > NOISE {
            return Ok(None);
        }
        talk.more(link, until)?;
    }
}

enum Trouble {
    Stop(Stop),
    Here(String),
}

/// Sends the program from `have` on.
fn feed(talk: &mut Talk, link: &mut Link, program: &AgentProgram, have: u64) -> Result<(), Trouble> {
    let here = |e: std::io::Error| Trouble::Here(format!("can't read {}: {e}", program.path.display()));
    let mut file = File::open(&program.path).map_err(here)?;
    file.seek(SeekFrom::Start(have)).map_err(here)?;
    let mut file = file.take(program.size.saturating_sub(have));
    let mut portion = vec![0; PORTION];
    loop {
        match file.read(&mut portion).map_err(here)? {
            0 => return Ok(()),
            count => talk.write(link, portion.get(..count).unwrap_or_default()).map_err(Trouble::Stop)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> AgentProgram {
        AgentProgram { path: "/p".into(), size: 12_000_000, sha256: "ab".repeat(32) }
    }

    #[test]
    fn every_login_shell_takes_the_commands() {
        for command in [find(&program().sha256), place(&program(), "1 2")] {
            let inner = command.strip_prefix("/bin/sh -c '").unwrap().strip_suffix('\'').unwrap();
            assert!(!inner.contains(['\'', '!', '\\', '\n']), "{inner}");
            let status = std::process::Command::new("/bin/sh").args(["-n", "-c", inner]).status().unwrap();
            assert!(status.success(), "{inner}");
        }
    }
}
