//! A change that could cut the machine off: it stays only if this program comes back over a new connection and says so.

use std::time::{Duration, Instant};

use serde_json::json;

use super::ahead::Asked;
use super::host::HostRun;
use super::link::Link;
use crate::agent::CONFIRM;
use crate::agent::protocol::{self, Outcome, Reply, Status};
use crate::host::Error;
use crate::inventory::{Connection as Reach, ConnectionKind};
use crate::report::{Event, TaskId};

/// After so long a silence on the old connection a new one is tried.
const SILENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest that one try may take.
const ONE_TRY: Duration = Duration::from_secs(10);
/// The machine puts the old state back when its time is over; as long is tried to hear of it.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// What the machine wants to hear, and until when.
pub(super) struct Watched {
    pub token: String,
    pub until: Instant,
}

impl HostRun<'_> {
    /// Waits for a guarded task over the old connection, or a new one where that says nothing any more.
    pub(super) fn guarded(
        &mut self,
        watched: &Watched,
        asked: &Asked,
        id: &TaskId,
        tell: &mut dyn FnMut(Reply),
    ) -> Result<Outcome, Error> {
        loop {
            let next = match &mut self.link {
                Some(link) => link.next(Some(Instant::now() + SILENCE)),
                None => Err(Error::failed("the connection is gone")),
            };
            match next {
                // It failed, and the old state is back: there is nothing to confirm.
                Ok(Some(Reply::Done { outcome, .. })) if outcome.guard.is_none() => return Ok(*outcome),
                Ok(Some(Reply::Done { .. })) | Err(_) => break,
                Ok(Some(reply)) => tell(reply),
                Ok(None) => {
                    if let Ok(Some((link, outcome))) = self.say_it(watched, asked) {
                        self.forsake();
                        self.link = Some(link);
                        return Ok(outcome);
                    }
                    if Instant::now() > watched.until {
                        break;
                    }
                }
            }
        }
        self.forsake();
        loop {
            let text = format!("comes back over a new connection to confirm {}", watched.token);
            self.shared.sink.event(Event::Progress { id: id.clone(), text });
            let error = match self.say_it(watched, asked) {
                Ok(Some((link, outcome))) => {
                    self.link = Some(link);
                    return Ok(outcome);
                }
                Ok(None) => Error::failed("the machine is still at it"),
                Err(error) => error,
            };
            if Instant::now() > watched.until + AFTERWARDS {
                return Err(Error::failed(format!(
                    "the machine can't be reached over its new network, and not over its old one either: {}",
                    error.message
                ))
                .hint("it was to put the old network back by itself; look at its console if it stays away"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Leaves a connection that may be dead.
    pub(super) fn forsake(&mut self) {
        if let Some(mut link) = self.link.take() {
            link.forsake();
        }
    }

    /// Opens a new connection and says the word; `None` while the machine is still at it.
    fn say_it(&self, watched: &Watched, asked: &Asked) -> Result<Option<(Link, Outcome)>, Error> {
        let mut link = self.knock(ONE_TRY)?;
        let until = Instant::now() + ONE_TRY;
        link.boot(until)?;
        let request = protocol::Task {
            module: CONFIRM.into(),
            parameters: json!({"token": watched.token}),
            expect: None,
            ..asked.request.clone()
        };
        link.new_chain();
        link.send(request)?;
        loop {
            match link.next(Some(until))? {
                Some(Reply::Done { outcome, .. }) if outcome.status == Status::Skipped => return Ok(None),
                Some(Reply::Done { outcome, .. }) => return Ok(Some((link, *outcome))),
                Some(_) => {}
                None => return Err(Error::failed("the machine says nothing over the new connection")),
            }
        }
    }

    /// One try to open a new connection to a machine that may not be there just now.
    pub(super) fn knock(&self, longest: Duration) -> Result<Link, Error> {
        let reach = self.reach.as_ref().ok_or_else(|| Error::failed("the host has no connection"))?;
        let longest = u32::try_from(longest.as_secs()).unwrap_or(u32::MAX);
        let timeout = Some(reach.timeout.map_or(longest, |timeout| timeout.min(longest)));
        let mut reach = Reach { timeout, retries: Some(0), ..reach.clone() };
        if reach.kind == ConnectionKind::OpenSsh {
            // A master that lingers (ControlPersist) would carry it over the old connection. The first word counts.
            reach.ssh_arguments.insert(0, ("ansible_ssh_common_args", "-o ControlPath=none".into()));
        }
        self.open_link_to(&reach)
    }

    /// Can this host be come back to over a new connection?
    pub(super) fn is_remote(&self) -> bool {
        self.reach.as_ref().is_some_and(super::link::is_remote)
    }
}
