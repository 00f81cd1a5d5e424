//! What sudo, su and doas say until the child greets, what is answered, and what went wrong if it never does.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Become, Method, Output, locked};
use crate::host::Error;

/// As much of what is said is kept.
const KEPT: usize = 4096;
/// An open line behind which nothing comes for so long is a question.
const QUIET: Duration = Duration::from_millis(150);

/// Why a child did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The tool is not installed.
    NoTool,
    /// It asked for a password, and there is none.
    Wanted,
    /// It asked, and did not like the answer.
    Wrong,
    /// It asked and got an answer; whether that was right is not known.
    Asked,
    /// Nothing that could be understood, for too long.
    Silent,
    /// Its words say it.
    Other,
}

/// All that is known about what is said.
pub(super) struct Voice {
    said: Mutex<String>,
    output: Output,
    /// The terminal, where the answer goes there and the frames do not.
    answer: Mutex<Option<File>>,
    password: Mutex<Option<String>>,
    had_password: bool,
    asked: AtomicUsize,
    greeted: AtomicBool,
    listening: AtomicUsize,
    wake: Mutex<Option<PipeWriter>>,
    /// The exact question, where it is ours.
    question: Option<&'static str>,
}

/// Starts the threads that listen.
pub(super) struct Listener {
    voice: Arc<Voice>,
    wake: PipeReader,
}

impl Voice {
    pub fn new(
        output: Output,
        answer: Option<File>,
        password: Option<String>,
        question: Option<&'static str>,
    ) -> io::Result<(Arc<Voice>, Listener)> {
        let (reader, writer) = io::pipe()?;
        let voice = Arc::new(Voice {
            said: Mutex::default(),
            output,
            answer: Mutex::new(answer),
            had_password: password.is_some(),
            password: Mutex::new(password),
            asked: AtomicUsize::new(0),
            greeted: AtomicBool::new(false),
            listening: AtomicUsize::new(0),
            wake: Mutex::new(Some(writer)),
            question,
        });
        Ok((Arc::clone(&voice), Listener { voice, wake: reader }))
    }

    /// What was said so far; of much, the end.
    pub fn said(&self) -> String {
        locked(&self.said).replace('\r', "")
    }

    /// Keeps words that came another way.
    pub fn hear(&self, bytes: &[u8]) {
        let mut said = locked(&self.said);
        said.push_str(&String::from_utf8_lossy(bytes));
        let surplus = said.len().saturating_sub(KEPT);
        let surplus = (surplus..said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(0);
        said.drain(..surplus);
    }

    /// From now on nothing is a question.
    pub fn greeted(&self) {
        self.greeted.store(true, Ordering::SeqCst);
        *locked(&self.password) = None;
        // What was said about the password is nobody's last word.
        locked(&self.said).clear();
    }

    /// Stops listening.
    pub fn hush(&self) {
        *locked(&self.answer) = None;
        *locked(&self.wake) = None;
    }

    /// Waits for what is still on its way; something that the child left behind may hold its end open, so not for ever.
    pub fn finish(&self, until: Instant) {
        while self.listening.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.hush();
    }

    pub fn verdict(&self) -> Verdict {
        let said = self.said();
        let wrong =
            ["incorrect password", "no password was provided", "Authentication fail", "incorrect authentication"];
        match self.asked.load(Ordering::SeqCst) {
            0 if said.contains("a password is required") || said.contains("Authentication required") => Verdict::Wanted,
            0 => Verdict::Other,
            _ if !self.had_password => Verdict::Wanted,
            1 if !wrong.iter().any(|words| said.contains(words)) => Verdict::Asked,
            _ => Verdict::Wrong,
        }
    }

    /// A second question means that the password was wrong; no answer then makes the tool give up.
    fn asked(&self) {
        if self.greeted.load(Ordering::SeqCst) {
            return;
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let password = locked(&self.password).take();
        let mut answer = locked(&self.answer);
        let mut output = locked(&self.output);
        let to = answer.as_mut().or(output.as_mut());
        let taken = match (password, to) {
            (Some(password), Some(to)) => to.write_all(format!("{password}\n").as_bytes()).is_ok(),
            _ => false,
        };
        if !taken {
            *output = None;
            *answer = None;
            if self.question.is_none() {
                // Hanging up the terminal is what su and doas hear.
                *locked(&self.wake) = None;
            }
        }
    }

    /// Takes the words; is the last line left open behind a colon?
    fn take(&self, bytes: &[u8]) -> bool {
        self.hear(bytes);
        match self.question {
            Some(question) => {
                let mut times = 0;
                {
                    let mut said = locked(&self.said);
                    while let Some(place) = said.find(question) {
                        said.replace_range(place..place + question.len(), "");
                        times += 1;
                    }
                }
                (0..times).for_each(|_| self.asked());
                false
            }
            None => is_question(&locked(&self.said)),
        }
    }
}

/// Does a text end with a line that waits for an answer? Tools begin what they say with their own name and a colon.
pub(super) fn is_question(said: &str) -> bool {
    let line = said.rsplit(['\n', '\r']).next().unwrap_or_default().trim();
    let names = ["su", "sudo", "doas", "sh", "/bin/sh"];
    line.strip_suffix([':', '：']).is_some_and(|rest| !rest.trim().is_empty() && !names.contains(&rest.trim()))
}

impl Listener {
    /// Listens in a thread of its own until the other end closes or nobody wants to hear it any more.
    pub fn listen(&self, from: OwnedFd) -> io::Result<()> {
        let (voice, wake) = (Arc::clone(&self.voice), self.wake.try_clone()?);
        voice.listening.fetch_add(1, Ordering::SeqCst);
        let listen = move || {
            hear(from, &wake, &voice);
            voice.listening.fetch_sub(1, Ordering::SeqCst);
        };
        std::thread::Builder::new().name("words".into()).spawn(listen).map(|_| ()).inspect_err(|_| {
            self.voice.listening.fetch_sub(1, Ordering::SeqCst);
        })
    }
}

fn hear(from: OwnedFd, wake: &PipeReader, voice: &Voice) {
    let mut from = File::from(from);
    let mut bytes = [0; 1024];
    let mut open = false;
    let quiet = Timespec { tv_sec: 0, tv_nsec: QUIET.subsec_nanos().into() };
    loop {
        let mut ready = [PollFd::new(&from, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
        match poll(&mut ready, open.then_some(&quiet)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(0) => {
                open = false;
                voice.asked();
                continue;
            }
            Ok(_) => {}
        }
        let [words, wake] = ready;
        if words.revents().is_empty() {
            if wake.revents().is_empty() {
                continue;
            }
            return;
        }
        // A terminal that nobody has open any more answers with an error: that is its end.
        match from.read(&mut bytes) {
            Ok(count @ 1..) => open = voice.take(bytes.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// A start that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub verdict: Verdict,
    words: String,
}

impl Failure {
    pub fn new(verdict: Verdict, words: String) -> Failure {
        Failure { verdict, words }
    }

    /// `Defaults requiretty`, and tools that only ask on a terminal.
    pub fn wants_terminal(&self) -> bool {
        let signs = [
            "must have a tty",
            "a terminal is required",
            "must be run from a terminal",
            "must be a tty",
            "no tty present",
        ];
        signs.iter().any(|sign| self.words.contains(sign))
    }

    /// A program that was written a moment ago and that another process still seems to write.
    pub fn is_busy(&self) -> bool {
        self.words.contains("Text file busy")
    }

    /// The tool let us in, but the program can't be run from where it is.
    pub fn cannot_execute(&self, program: &Path) -> bool {
        self.words.contains(&*program.to_string_lossy()) && !self.is_forbidden()
            || self.words.contains("ermission denied") && self.verdict == Verdict::Other
    }

    /// Rules say no.
    pub fn is_forbidden(&self) -> bool {
        ["is not allowed to", "may not run", "not in the sudoers", "not permitted"]
            .iter()
            .any(|words| self.words.contains(words))
    }

    /// For people.
    pub fn error(self, user: &Become, method: Method, program: &Path, patience: Duration) -> Error {
        let tool = method.name();
        let lines: Vec<&str> = self.words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let words = lines.join("\n");
        let about = |what: &str| {
            let mut message = format!("can't become {} by {tool}", user.user);
            for part in [what, &words].into_iter().filter(|part| !part.is_empty()) {
                message.push_str(if part.contains('\n') { ":\n" } else { ": " });
                message.push_str(part);
            }
            Error::failed(message)
        };
        let whose = match method {
            Method::Su => format!("su wants the password of {}", user.user),
            _ => format!("{tool} wants the password of who logs in, not that of {}", user.user),
        };
        match self.verdict {
            Verdict::NoTool => about("").hint(format!(
                "install {tool}, set ansible_become_method to one that is there (sudo, su, doas), or log in as {}",
                user.user
            )),
            Verdict::Wanted => about("it wants a password")
                .hint(format!("{whose}: -K asks for it once, ansible_become_password holds it")),
            Verdict::Wrong => about("the password is wrong").hint(whose),
            Verdict::Silent => about(&format!("after {} s it still waits for something", patience.as_secs())).hint(
                "its words are above; what it asks for can't be answered here: change its settings for this user",
            ),
            _ if self.words.contains("is not in the sudoers") || self.words.contains("may not run") => {
                about("").hint(format!("let {tool} allow it on that machine (`visudo`), or log in as another user"))
            }
            _ if self.words.contains("is not allowed to") => about("")
                .hint(format!("the rule for this user must allow {} (any arguments), or ALL", program.display())),
            _ if self.words.contains("not permitted") && method == Method::Doas => {
                about("").hint("doas.conf on that machine must permit it")
            }
            Verdict::Asked => about("").hint(format!("if the password is wrong: {whose}")),
            Verdict::Other if words.is_empty() => about("it ended without a word"),
            Verdict::Other => about(""),
        }
    }
}
