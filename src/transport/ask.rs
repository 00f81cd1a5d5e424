//! The one place that asks a person.
//!
//! Many hosts may want something at the same time: whoever asks waits for its turn, and what was answered once is
//! remembered for the run, so that twenty hosts that need the same passphrase ask for it once.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex};

/// What Ctrl-C sends.
const INTERRUPT: u8 = 3;
/// No answer is longer.
const LONGEST: usize = 64 << 10;

/// Somebody who may be asked.
pub trait Ask: Send + Sync {
    /// Asks for something that must not be seen. `None` when nobody is there to ask, or does not want to answer.
    fn secret(&self, prompt: &str) -> Option<String>;

    /// Asks for yes or no.
    fn confirm(&self, prompt: &str) -> Option<bool>;

    /// Gives the terminal to somebody else, such as OpenSSH's client, for as long as `work` takes; nobody else asks
    /// meanwhile. False, and nothing done, when there is no terminal.
    fn lend(&self, work: &mut dyn FnMut()) -> bool;
}

/// Nobody is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Ask for Nobody {
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
    fn confirm(&self, _: &str) -> Option<bool> {
        None
    }
    fn lend(&self, _: &mut dyn FnMut()) -> bool {
        false
    }
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// The terminal that this program was started at, whatever its standard input is.
pub struct Terminal {
    path: PathBuf,
    turn: Mutex<()>,
    before: Hook,
    after: Hook,
}

impl Default for Terminal {
    fn default() -> Terminal {
        Terminal::new(|| (), || ())
    }
}

impl Terminal {
    /// `before` and `after` each question these are called: lines that show progress go out of the way and come back.
    pub fn new(before: impl Fn() + Send + Sync + 'static, after: impl Fn() + Send + Sync + 'static) -> Terminal {
        Terminal {
            path: PathBuf::from("/dev/tty"),
            turn: Mutex::default(),
            before: Box::new(before),
            after: Box::new(after),
        }
    }

    fn open(&self) -> Option<File> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path).ok()?;
        termios::isatty(&file).then_some(file)
    }

    /// Waits for its turn, then asks; the hooks are called around it.
    fn turn<T>(&self, question: impl FnOnce(&mut File) -> io::Result<T>) -> Option<T> {
        let _turn = locked(&self.turn);
        let mut terminal = self.open()?;
        (self.before)();
        let answer = question(&mut terminal);
        (self.after)();
        answer.ok()
    }
}

impl Ask for Terminal {
    fn secret(&self, prompt: &str) -> Option<String> {
        self.turn(|terminal| {
            let quiet = Quiet::new(terminal)?;
            terminal.write_all(shown(prompt).as_bytes())?;
            terminal.flush()?;
            let answer = line(terminal);
            drop(quiet);
            terminal.write_all(b"\n")?;
            answer
        })?
    }

    fn confirm(&self, prompt: &str) -> Option<bool> {
        self.turn(|terminal| {
            for _ in 0..3 {
                terminal.write_all(format!("{} [yes/no] ", shown(prompt)).as_bytes())?;
                terminal.flush()?;
                let Some(answer) = line(terminal)? else { return Ok(None) };
                match answer.trim().to_ascii_lowercase().as_str() {
                    "yes" | "y" => return Ok(Some(true)),
                    "no" | "n" => return Ok(Some(false)),
                    _ => {}
                }
            }
            Ok(None)
        })?
    }

    fn lend(&self, work: &mut dyn FnMut()) -> bool {
        self.turn(|_| {
            work();
            Ok(())
        })
        .is_some()
    }
}

/// Names from the far end must not move the cursor or ring the bell.
fn shown(prompt: &str) -> String {
    prompt.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// A line without its end; `None` when the person gave up: Ctrl-C, or Ctrl-D on an empty line.
fn line(terminal: &mut File) -> io::Result<Option<String>> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    loop {
        match terminal.read(&mut byte) {
            Ok(0) if bytes.is_empty() => return Ok(None),
            Ok(0) => break,
            Ok(_) => match byte {
                [b'\n' | b'\r'] => break,
                [INTERRUPT] => {
                    // What the key means elsewhere it means here, too, now that nothing is hidden any more.
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT);
                    return Ok(None);
                }
                [byte] if bytes.len() < LONGEST => bytes.push(byte),
                _ => {}
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    String::from_utf8(bytes).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A terminal that does not show what is typed, until this is dropped.
///
/// Ctrl-C comes as a letter that ends the line: as a signal it could end this program while nothing is shown, and leave the
/// terminal so.
struct Quiet {
    terminal: File,
    before: termios::Termios,
}

impl Quiet {
    fn new(terminal: &File) -> io::Result<Quiet> {
        let before = termios::tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG);
        quiet.local_modes.insert(LocalModes::ICANON);
        quiet.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        // What was typed before the question is no answer to it.
        termios::tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Quiet { terminal: terminal.try_clone()?, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Secrets that were asked for in this run.
#[derive(Default)]
pub struct Secrets {
    known: Mutex<HashMap<String, Slot>>,
}

/// One secret: whoever looks at it while it is asked for waits.
type Slot = std::sync::Arc<Mutex<Option<Option<String>>>>;

impl Secrets {
    /// The secret called `key`: as it was answered before, or asked for now, at most `tries` times until it is `right`.
    /// `None` when nobody answers; then nobody is asked again for this key.
    pub fn get(
        &self,
        ask: &dyn Ask,
        key: &str,
        prompt: &str,
        tries: usize,
        right: &mut dyn FnMut(&str) -> bool,
    ) -> Option<String> {
        let slot = locked(&self.known).entry(key.to_string()).or_default().clone();
        // Others that want the same wait here; those that want something else do not.
        let mut slot = locked(&slot);
        if let Some(answer) = &*slot {
            return answer.clone();
        }
        let mut answer = None;
        for _ in 0..tries.max(1) {
            match ask.secret(prompt) {
                Some(secret) if right(&secret) => {
                    answer = Some(secret);
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
        *slot = Some(answer.clone());
        answer
    }

    /// Forgets a secret that turned out to be wrong, if it is still the one that is remembered: it may be asked for again.
    pub fn forget(&self, key: &str, wrong: &str) {
        let slot = locked(&self.known).get(key).cloned();
        if let Some(slot) = slot {
            let mut slot = locked(&slot);
            if slot.as_ref().is_some_and(|answer| answer.as_deref() == Some(wrong)) {
                *slot = None;
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
