//! Ctrl-C. Once: the actions under way are finished and no new one is begun. Twice: the program stops now, and every
//! machine holds old or new content, never half of it.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The exit code of a run that was interrupted: what a shell says of a program that SIGINT ended.
pub const EXIT_CODE: u8 = 130;

type LastWords = Box<dyn Fn() + Send>;

#[derive(Default)]
struct State {
    level: AtomicU8,
    asleep: Mutex<()>,
    wake: Condvar,
    last_words: Mutex<Option<LastWords>>,
}

/// Whether the user wants the run to end; clones are one.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<State>);

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interrupt({})", self.level())
    }
}

impl Interrupt {
    /// How often it was said: 0, 1, or 2 for "now".
    pub fn level(&self) -> u8 {
        self.0.level.load(Ordering::SeqCst)
    }

    /// No new action is to be begun.
    pub fn is_raised(&self) -> bool {
        self.level() > 0
    }

    /// Says it once more; answers how often it has been said.
    pub fn raise(&self) -> u8 {
        let before =
            self.0.level.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |level| Some(level.saturating_add(1).min(2)));
        let _asleep = self.0.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.wake.notify_all();
        before.unwrap_or(0).saturating_add(1).min(2)
    }

    /// Sleeps, but not on after an interrupt; was it slept to the end?
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut asleep = self.0.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_raised() {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return true;
            };
            (asleep, _) = self.0.wake.wait_timeout(asleep, left).unwrap_or_else(PoisonError::into_inner);
        }
        false
    }

    /// What is done just before the program stops at the second interrupt: writing down where it stood.
    pub(super) fn on_second(&self, words: Option<LastWords>) {
        *self.0.last_words.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }

    fn say_last_words(&self) {
        if let Ok(words) = self.0.last_words.try_lock()
            && let Some(words) = words.as_ref()
        {
            words();
        }
    }

    /// Listens to SIGINT, SIGTERM and SIGHUP until the program ends. SIGHUP stays ignored under `nohup`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(&self) -> std::io::Result<()> {
        let mut wanted = vec![SIGINT, SIGTERM];
        if !ignored(SIGHUP) {
            wanted.push(SIGHUP);
        }
        let mut signals = Signals::new(wanted)?;
        let interrupt = self.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                // A terminal that goes away and a service manager may say it many times and mean one thing.
                if signal != SIGINT && interrupt.is_raised() {
                    continue;
                }
                if interrupt.raise() == 1 {
                    eprintln!("\ninterrupted: what is under way is finished, nothing new is begun (Ctrl-C: stop now)");
                } else {
                    interrupt.say_last_words();
                    eprintln!(
                        "\nstopped; what was under way on a machine is finished or undone there, never half done"
                    );
                    std::process::exit(i32::from(EXIT_CODE));
                }
            }
        })?;
        Ok(())
    }
}

/// Was this program started with that signal ignored?
fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_twice_at_most_and_ends_sleep() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.is_raised());
        assert!(interrupt.sleep(Duration::from_millis(1)), "nothing disturbed it");
        let other = interrupt.clone();
        let sleeper = std::thread::spawn(move || {
            let begun = Instant::now();
            (other.sleep(Duration::from_secs(60)), begun.elapsed())
        });
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(interrupt.raise(), 1);
        let (slept, took) = sleeper.join().unwrap();
        assert!(!slept && took < Duration::from_secs(30), "woken after {took:?}");
        assert_eq!((interrupt.raise(), interrupt.raise(), interrupt.level()), (2, 2, 2));
    }
}
