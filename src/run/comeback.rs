//! A machine that was told to boot again, until it is back: a new connection to an agent that another boot started.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ahead::Asked;
use super::host::HostRun;
use super::link::Link;
use crate::agent::protocol::{self, Outcome, Status};
use crate::host::Error;
use crate::report::{Event, TaskId};

/// As long is waited where the task does not say it.
const TIMEOUT: u64 = 600;
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_secs(2);
/// A machine that accepts a connection and says nothing more is on its way down or up.
const SILENCE: Duration = Duration::from_secs(20);

impl HostRun<'_> {
    /// Waits for a machine that goes down now; `boot` is the boot that it goes down from.
    pub(super) fn come_back(&mut self, boot: Option<String>, asked: &Asked, id: &TaskId, outcome: &mut Outcome) {
        if !self.is_remote() || !matches!(outcome.status, Status::Changed) {
            return;
        }
        let parameters = &asked.request.parameters;
        let number = |key: &str| parameters.get(key).and_then(super::render::number);
        let timeout = number("timeout").or_else(|| number("reboot_timeout")).unwrap_or(TIMEOUT);
        let begun = Instant::now();
        let until = begun + Duration::from_secs(timeout);
        self.forsake();
        let mut last = Error::failed("it was not asked yet");
        loop {
            if Instant::now() + PAUSE > until {
                outcome.status = Status::Unreachable;
                outcome.error = Some(
                    Error::failed(format!("the machine did not come back within {timeout} s: {}", last.message))
                        .hint("look at its console; `timeout:` of the task says how long is waited"),
                );
                return;
            }
            std::thread::sleep(PAUSE);
            let seconds = begun.elapsed().as_secs();
            let text = format!("waits for the machine to come back ({seconds} s): {}", last.message);
            self.shared.sink.event(Event::Progress { id: id.clone(), text });
            match self.new_boot(boot.as_deref(), until) {
                Ok(link) => {
                    self.link = Some(link);
                    break;
                }
                Err(error) => last = error,
            }
        }
        outcome.result.insert("elapsed".into(), begun.elapsed().as_secs().into());
        outcome.result.insert("rebooted".into(), Value::Bool(true));
        if let Some(command) = parameters.get("test_command").and_then(Value::as_str) {
            self.is_well(command, asked, id, until, outcome);
        }
    }

    fn new_boot(&mut self, boot: Option<&str>, until: Instant) -> Result<Link, Error> {
        let mut link = self.knock(SILENCE)?;
        let now = link.boot(until.min(Instant::now() + SILENCE))?;
        match (boot, now) {
            (Some(before), Some(now)) if before == now => Err(Error::failed("it has not gone down yet")),
            _ => Ok(link),
        }
    }

    /// The machine is back when this command succeeds.
    fn is_well(&mut self, command: &str, asked: &Asked, id: &TaskId, until: Instant, outcome: &mut Outcome) {
        let request = protocol::Task {
            module: "command".into(),
            parameters: json!({"cmd": command}),
            expect: None,
            ..asked.request.clone()
        };
        loop {
            let answer = match &mut self.link {
                Some(link) => link.task(request.clone(), &mut |_| ()),
                None => return,
            };
            let why = match answer {
                Ok(answer) if answer.status == Status::Changed => return,
                Ok(answer) => answer.error.map_or_else(String::new, |error| error.message),
                Err(error) => {
                    (outcome.status, outcome.error) = (Status::Unreachable, Some(error));
                    self.link = None;
                    return;
                }
            };
            if Instant::now() + PAUSE > until {
                outcome.status = Status::Failed;
                outcome.error = Some(Error::failed(format!("the machine is back, and `{command}` fails: {why}")));
                return;
            }
            let text = format!("the machine is back; waits for `{command}` to succeed");
            self.shared.sink.event(Event::Progress { id: id.clone(), text });
            std::thread::sleep(PAUSE);
        }
    }
}
