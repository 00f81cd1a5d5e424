//! A machine that was told to boot again, until it is back: a new connection to an agent that another boot started.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ahead::Asked;
use super::host::HostRun;
use super::link::Link;
use super::task::censor;
use crate::agent::protocol::{self, Outcome, Reply, Status};
use crate::change::{Action, Effect, Op};
use crate::host::Error;
use crate::report::{Event, TaskId};

/// As long is waited where the task does not say it.
const TIMEOUT: u64 = 600;
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_secs(2);
/// A machine that accepts a connection and says nothing more is on its way down or up.
const SILENCE: Duration = Duration::from_secs(20);
/// So much more is waited for a machine that returns by itself from a trial boot that could not be reached.
const RETURN: Duration = Duration::from_secs(180);

impl HostRun<'_> {
    /// Waits for a machine that goes down now; `boot` is the boot that it goes down from. A boot that is `on_trial` is
    /// confirmed, or is over when the machine has returned by itself to what it had before.
    pub(super) fn come_back(
        &mut self,
        boot: Option<String>,
        on_trial: bool,
        asked: &Asked,
        id: &TaskId,
        outcome: &mut Outcome,
    ) {
        if !self.is_remote() || !matches!(outcome.status, Status::Changed) {
            return;
        }
        let parameters = &asked.request.parameters;
        let number = |key: &str| parameters.get(key).and_then(super::render::number);
        let timeout = number("timeout").or_else(|| number("reboot_timeout")).unwrap_or(TIMEOUT);
        let begun = Instant::now();
        let until = begun + Duration::from_secs(timeout);
        // The machine gives a trial as long from its start, then goes down once more.
        let last_until = if on_trial { until + Duration::from_secs(timeout) + RETURN } else { until };
        self.forsake();
        let mut last = Error::failed("it was not asked yet");
        loop {
            if Instant::now() + PAUSE > last_until {
                outcome.status = Status::Unreachable;
                let returns = if on_trial { ", and did not return by itself to what it had before either" } else { "" };
                outcome.error = Some(
                    Error::failed(format!(
                        "the machine did not come back within {timeout} s{returns}: {}",
                        last.message
                    ))
                    .hint(if on_trial {
                        "look at its console; switched off and on again it boots what it had before (docs/boot.md)"
                    } else {
                        "look at its console; `timeout:` of the task says how long is waited"
                    }),
                );
                return;
            }
            std::thread::sleep(PAUSE);
            let seconds = begun.elapsed().as_secs();
            let text = if Instant::now() < until {
                format!("waits for the machine to come back ({seconds} s): {}", last.message)
            } else {
                format!("waits for the machine to return to what it had before ({seconds} s): {}", last.message)
            };
            self.shared.sink.event(Event::Progress { id: id.clone(), text });
            match self.new_boot(boot.as_deref(), last_until) {
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
        if on_trial && outcome.status == Status::Changed {
            self.confirm_trial(asked, id, outcome);
        } else if on_trial {
            outcome.notes.push(
                "the trial boot is not confirmed: the machine returns by itself to what it had before, or has already"
                    .into(),
            );
        }
    }

    /// Asks the task once more, in the new boot and over the new connection: what was on trial becomes the default.
    fn confirm_trial(&mut self, asked: &Asked, id: &TaskId, outcome: &mut Outcome) {
        let mut parameters = json!({"reasons": []});
        if let (Some(trial), Some(all)) = (asked.request.parameters.get("trial"), parameters.as_object_mut()) {
            all.insert("trial".into(), trial.clone());
        }
        // A saved plan says what is done behind the boot as well.
        let expect = asked.request.expect.as_ref().map(|actions| {
            let boots = |action: &Action| matches!(&action.op, Op::Run(run) if run.effects.contains(&Effect::Reboot));
            let behind = actions.iter().position(boots).map_or(actions.len(), |at| at + 1);
            actions.get(behind..).unwrap_or_default().to_vec()
        });
        let request = protocol::Task { module: "reboot".into(), parameters, expect, ..asked.request.clone() };
        let sink = std::sync::Arc::clone(&self.shared.sink);
        let mut tell = |reply: Reply| {
            if let Reply::Shown { mut diffs, .. } = reply {
                if asked.hidden {
                    diffs.iter_mut().for_each(censor);
                }
                sink.event(Event::Shown { id: id.clone(), diffs });
            }
        };
        let Some(link) = &mut self.link else { return };
        let failed =
            |outcome: &mut Outcome, error: Error| (outcome.status, outcome.error) = (Status::Failed, Some(error));
        match link.task(request, &mut tell) {
            Err(error) => {
                self.link = None;
                (outcome.status, outcome.error) = (Status::Unreachable, Some(error));
            }
            Ok(answer) => {
                let said = |key: &str| answer.result.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
                outcome.diffs.extend(answer.diffs.clone());
                outcome.notes.extend(answer.notes.clone());
                match (answer.status, said("trial").as_str()) {
                    (Status::Failed | Status::Unreachable, _) => {
                        let error = answer.error.clone();
                        failed(outcome, error.unwrap_or_else(|| Error::failed("the trial boot can't be confirmed")));
                    }
                    (_, "confirmed") => {
                        outcome.warnings.extend(answer.warnings.clone());
                        outcome.result.insert("trial".into(), "confirmed".into());
                    }
                    (_, "failed") => {
                        outcome.result.insert("trial".into(), "failed".into());
                        let hint = "nothing of it is the default; its console and `journalctl -b -1` may say why, and \
                                    docs/boot.md says what to do";
                        failed(outcome, Error::failed(said("trial_message")).hint(hint));
                    }
                    _ => failed(outcome, Error::failed("the machine is back, and knows nothing of a trial boot")),
                }
            }
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
