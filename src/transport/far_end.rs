//! What is said to a far end's shell: starting the agent that is there, and putting one there. Every way of SSH shares it.
//!
//! The login shell may be any (bash, dash, fish, csh), so each script is one word in single quotes for `/bin/sh -c`: no
//! single quote, no backslash, no `!`, one line. What it prints may stand behind banners and the chatter of a
//! `.bashrc`: answers are looked for, not expected first ([`Noise`]).

use crate::agent::GREETING;

/// No folder there can hold a program and run it.
pub const NO_PLACE: i32 = 92;
/// There is no agent of this hash at the far end.
pub const MISSING: i32 = 93;
/// The machine is not one that the program runs on.
pub const FOREIGN: i32 = 94;
/// What arrived has another hash; it was removed.
pub const DAMAGED: i32 = 95;
/// Writing failed: the disk or a quota is full. The next place may do.
pub const UNWRITABLE: i32 = 96;
/// Not all arrived. What did, stays there: the next try goes on behind it.
pub const CUT: i32 = 97;
/// The program is there and does not run, for example as a policy forbids it. The next place may do.
pub const BLOCKED: i32 = 98;
/// The shell can't execute the agent that it found: its folder has become `noexec`.
pub const NOT_EXECUTABLE: i32 = 126;

/// As many folders there are to try; that many can be skipped at most.
pub const PLACES: usize = 5;

/// What [`put`] says when it is ready; the offset from which to send follows, then a line end.
pub const WANTS: &str = "vfio-provision wants ";

/// What stands before an answer may be as long as this.
const LONGEST_NOISE: usize = 1 << 20;

/// `$d` is a folder of this user that nobody else may write. (`ls -n`: mode, links, owner's number.)
const OURS: &str = r#"{ set -- $(ls -ldn "$d" 2>/dev/null);
case "$1" in d????-??-*) [ "$3" = "$u" ] ;; *) false ;; esac; }"#;

/// At home the folder is the user's own, and looking no further saves a process. In folders that all share, the private
/// folder's owner is looked at.
const START: &str = r#"n=agent-@SHA@; f="$HOME/.cache/vfio-provision/$n";
if [ -x "$f" ] && [ -s "$f" ]; then exec "$f" agent; fi;
u=$(id -u);
for b in /var/tmp /tmp "/run/user/$u" /dev/shm; do d=$b/vfio-provision-$u; f=$d/$n;
if [ -x "$f" ] && [ -s "$f" ] && @OURS@; then exec "$f" agent; fi;
done; exit @MISSING@"#;

/// Looking for a place: what is not taken loses the program that it may hold, so that `START` does not find that one.
/// Whether programs run there is tried with a file that the kernel can't tell from a script: the shell runs it itself,
/// unless the kernel forbids to execute anything there.
///
/// Two that send at the same time: the second one takes a file of its own, and can't go on behind a cut.
const PUT: &str = r#"n=agent-@SHA@; s=@SKIP@; u=$(id -u); umask 077; w=;
case "$(uname -s) $(uname -m)" in "Linux x86_64") ;;
*) echo "this is $(uname -s) on $(uname -m)" >&2; exit @FOREIGN@ ;; esac;
for b in "$HOME/.cache" /var/tmp /tmp "/run/user/$u" /dev/shm; do
if [ "$b" = "$HOME/.cache" ]; then
if [ "${HOME:-/}" = / ]; then continue; fi;
d=$b/vfio-provision; if [ -d "$HOME" ]; then mkdir -p "$d" 2>/dev/null; fi;
else d=$b/vfio-provision-$u; if [ -d "$b" ]; then mkdir "$d" 2>/dev/null; fi; fi;
if [ -d "$d" ]; then :; else w="$w; $d can not be made"; continue; fi;
if @OURS@; then :; else w="$w; $d is not this user alone to write"; continue; fi;
if [ "$s" -gt 0 ]; then s=$((s-1)); rm -f "$d/$n"; continue; fi;
t=$d/.try$$; { echo "exit 0" > "$t"; } 2>/dev/null && chmod 700 "$t" && "$t" 2>/dev/null; r=$?; rm -f "$t";
if [ "$r" -gt 0 ]; then w="$w; $d is full, or mounted noexec"; rm -f "$d/$n"; continue; fi;
p=$d/$n.part; o=0;
if command -v flock >/dev/null 2>&1 && true 2>/dev/null > "$d/$n.lock" && exec 9> "$d/$n.lock" && flock -n 9;
then if [ -f "$p" ]; then o=$(wc -c < "$p"); fi; else p=$p.$$; fi;
if [ "$o" -gt @SIZE@ ]; then o=0; fi;
if [ "$o" -eq 0 ]; then rm -f "$p"; fi;
set -- $(df -Pk "$d" 2>/dev/null | tail -n 1);
if [ "${4:-x}" -lt $(((@SIZE@ - o) / 1024 + 64)) ] 2>/dev/null;
then w="$w; $d has $4 KiB free"; rm -f "$d/$n" "$d/$n.lock"; continue; fi;
echo "@WANTS@$((o))";
cat >> "$p" || { echo "can not write $d" >&2; rm -f "$p"; exit @UNWRITABLE@; };
if [ "$(wc -c < "$p")" -lt @SIZE@ ]; then exit @CUT@; fi;
h=$(sha256sum < "$p" 2>/dev/null || openssl dgst -sha256 < "$p" 2>/dev/null);
case "$h" in *@SHA@*) ;;
*) rm -f "$p"; echo "what arrived in $d has the hash ${h:-that nobody can tell: there is no sha256sum}" >&2;
exit @DAMAGED@ ;; esac;
chmod 700 "$p"; sync -d "$p" 2>/dev/null; mv -f "$p" "$d/$n" || exit @UNWRITABLE@;
"$d/$n" --version >/dev/null 2>&1 </dev/null ||
{ echo "$d/$n does not run" >&2; rm -f "$d/$n"; exit @BLOCKED@; };
rm -f "$d/$n.lock"; find "$d" -type f -name "agent-*" -mtime +30 -exec rm -f {} +;
exit 0; done;
echo "no folder can hold it and run it$w" >&2; exit @NO_PLACE@"#;

/// The command that starts the agent: it runs instead of the shell, or the exit code says what is wrong ([`MISSING`],
/// [`NOT_EXECUTABLE`]).
pub fn start(sha256: &str) -> String {
    command(START, sha256, 0, 0)
}

/// The command that puts the program there. It looks for a place, of which the first `skip` are passed over (they failed
/// before), says [`WANTS`] and an offset, then reads the program from there on until its input ends.
/// Exit code 0: it is there, its hash is right, and it runs. Programs that were put there more than a month ago go.
pub fn put(sha256: &str, size: u64, skip: usize) -> String {
    command(PUT, sha256, size, skip)
}

fn command(script: &str, sha256: &str, size: u64, skip: usize) -> String {
    let script = script
        .replace("@OURS@", OURS)
        .replace("@SHA@", sha256)
        .replace("@SIZE@", &size.to_string())
        .replace("@SKIP@", &skip.to_string())
        .replace("@WANTS@", WANTS);
    let codes = [
        ("@MISSING@", MISSING),
        ("@NO_PLACE@", NO_PLACE),
        ("@FOREIGN@", FOREIGN),
        ("@DAMAGED@", DAMAGED),
        ("@UNWRITABLE@", UNWRITABLE),
        ("@CUT@", CUT),
        ("@BLOCKED@", BLOCKED),
    ];
    let script = codes.iter().fold(script, |script, (word, code)| script.replace(word, &code.to_string()));
    format!("/bin/sh -c '{}'", script.replace('\n', " "))
}

/// What to do after [`put`] ended so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterPut {
    /// It is there: start it.
    Start,
    /// Try again with the same `skip`; what arrived is not sent again.
    Again,
    /// Try again with one place more to skip.
    Elsewhere,
    /// Give up.
    GiveUp,
}

/// What to do after [`put`] ended with this code; `skip` as it was, and how many tries there were with it.
pub fn after_put(code: i32, skip: usize, tries: usize) -> AfterPut {
    match code {
        0 => AfterPut::Start,
        CUT | DAMAGED if tries < 3 => AfterPut::Again,
        UNWRITABLE | BLOCKED if skip + 1 < PLACES => AfterPut::Elsewhere,
        _ => AfterPut::GiveUp,
    }
}

/// What a far end's failure means for a person: a sentence, and the way out where there is one.
pub fn explain(code: i32, words: &str) -> (String, Option<&'static str>) {
    let words = words.trim();
    let with = |text: &str| if words.is_empty() { text.to_string() } else { format!("{text}: {words}") };
    match code {
        FOREIGN => (with("this program does not run on that machine"), Some("the far end must be Linux on x86-64")),
        NO_PLACE => (
            with("there is no place for the agent on that machine"),
            Some(
                "it needs some 20 MB, without `noexec`, in the home folder, /var/tmp, /tmp, /run/user/UID or /dev/shm",
            ),
        ),
        DAMAGED => (with("the agent arrives damaged"), Some("look at that machine's memory and disk")),
        UNWRITABLE => (with("the agent can't be written on that machine"), Some("make room there")),
        BLOCKED | NOT_EXECUTABLE => (
            with("the agent is on that machine and can't be executed"),
            Some(
                "a policy there may forbid it (fapolicyd, SELinux, AppArmor, noexec): allow it for ~/.cache/vfio-provision",
            ),
        ),
        CUT => (with("the connection ended while the agent was sent"), None),
        127 => (with("that machine has no /bin/sh where this user may run it"), None),
        _ => (with(&format!("no agent could be started (exit code {code})")), None),
    }
}

/// What comes before an answer: banners, what a `.bashrc` prints.
#[derive(Debug, Default)]
pub struct Noise {
    seen: Vec<u8>,
    looked: usize,
}

/// It went on too long without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

impl Noise {
    /// More came. `Some`: the agent greeted, and this followed already.
    ///
    /// # Errors
    /// When it is too much.
    pub fn greeting(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, TooMuch> {
        self.seen.extend_from_slice(bytes);
        match self.find(GREETING) {
            Some(end) => Ok(Some(self.seen.split_off(end))),
            None => self.enough(),
        }
    }

    /// More came. `Some`: [`put`] is ready, and wants the program from this offset on.
    ///
    /// # Errors
    /// When it is too much.
    pub fn offset(&mut self, bytes: &[u8]) -> Result<Option<u64>, TooMuch> {
        self.seen.extend_from_slice(bytes);
        while let Some(end) = self.find(WANTS) {
            let rest = self.seen.get(end..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                // Look at it once more when its end has come.
                self.looked = end - WANTS.len();
                break;
            };
            let number = rest.get(..length).and_then(|digits| std::str::from_utf8(digits).ok());
            if let Some(offset) = number.and_then(|number| number.trim().parse().ok()) {
                return Ok(Some(offset));
            }
            self.looked = end;
        }
        self.enough()
    }

    /// What was said so far, for messages: the last lines of it.
    pub fn words(&self) -> String {
        let start = self.seen.len().saturating_sub(2000);
        String::from_utf8_lossy(self.seen.get(start..).unwrap_or_default()).trim().to_string()
    }

    fn enough<T>(&self) -> Result<Option<T>, TooMuch> {
        if self.seen.len() > LONGEST_NOISE { Err(TooMuch) } else { Ok(None) }
    }

    /// Where the first marker ends that was not looked at yet.
    fn find(&mut self, marker: &str) -> Option<usize> {
        let rest = self.seen.get(self.looked..)?;
        let found = rest.windows(marker.len()).position(|window| window == marker.as_bytes());
        match found {
            Some(at) => Some(self.looked + at + marker.len()),
            None => {
                self.looked = self.seen.len().saturating_sub(marker.len() - 1).max(self.looked);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
