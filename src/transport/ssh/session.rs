//! A session that never blocks: every step is tried, and what can't go on waits for the socket with a deadline.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown, sockopt};
use ssh2::{BlockDirections, ErrorCode, Session};

use super::Keepalive;

/// LIBSSH2_ERROR_EAGAIN
const AGAIN: ErrorCode = ErrorCode::Session(-37);

/// What carries the bytes of a session.
pub(super) struct Socket {
    pub fd: OwnedFd,
    /// TCP, and not a pair of local sockets.
    pub tcp: bool,
    /// Where it leads, if that is known.
    pub address: Option<IpAddr>,
    /// The command at its other end, if that is one.
    pub child: Option<Child>,
}

/// Why a step did not come about.
#[derive(Debug)]
pub(super) enum Stop {
    /// It took too long.
    Deadline,
    /// The far end gave no sign of life for so long.
    Silent(Duration),
    /// libssh2 says why.
    Ssh(ssh2::Error),
    /// The system says why.
    Io(io::Error),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Stop::Deadline => f.write_str("no answer in time"),
            Stop::Silent(time) => write!(f, "no sign of life for {} s", time.as_secs()),
            Stop::Ssh(error) => f.write_str(words(error)),
            Stop::Io(error) => error.fmt(f),
        }
    }
}

/// libssh2's words for what happens most, in plainer ones.
fn words(error: &ssh2::Error) -> &str {
    match error.code() {
        ErrorCode::Session(-13 | -43 | -7) => "the connection was closed",
        ErrorCode::Session(-2) => "the connection was closed before an SSH server answered",
        ErrorCode::Session(-5 | -8) => "no key exchange or cipher that both sides take, or it was cut short",
        _ => error.message(),
    }
}

impl From<Stop> for io::Error {
    fn from(stop: Stop) -> io::Error {
        let text = stop.to_string();
        match stop {
            Stop::Deadline => io::Error::new(io::ErrorKind::TimedOut, text),
            Stop::Silent(_) => io::Error::new(io::ErrorKind::ConnectionAborted, text),
            Stop::Ssh(error) => io::Error::new(io::Error::from(error).kind(), text),
            Stop::Io(error) => error,
        }
    }
}

/// A session and its socket.
pub(super) struct Link {
    pub session: Session,
    socket: Arc<OwnedFd>,
    tcp: bool,
    pub address: Option<IpAddr>,
    child: Option<Child>,
    keepalive: Keepalive,
    heard: Instant,
    asked: Instant,
    /// Signs of life can be asked for: the far end has let us in.
    pub up: bool,
}

impl Link {
    pub fn new(socket: Socket, keepalive: Keepalive) -> Result<Link, Stop> {
        let mut session = Session::new().map_err(Stop::Ssh)?;
        rustix::io::ioctl_fionbio(&socket.fd, true).map_err(|e| Stop::Io(e.into()))?;
        let fd = Arc::new(socket.fd);
        session.set_tcp_stream(Arc::clone(&fd));
        session.set_blocking(false);
        session.set_keepalive(true, u32::try_from(keepalive.interval().as_secs()).unwrap_or(u32::MAX).max(1));
        let now = Instant::now();
        Ok(Link {
            session,
            socket: fd,
            tcp: socket.tcp,
            address: socket.address,
            child: socket.child,
            keepalive,
            heard: now,
            asked: now,
            up: false,
        })
    }

    /// Repeats a step until it came about.
    pub fn drive<T>(
        &mut self,
        until: Instant,
        mut step: impl FnMut(&mut Session) -> Result<T, ssh2::Error>,
    ) -> Result<T, Stop> {
        loop {
            match step(&mut self.session) {
                Ok(value) => return Ok(value),
                Err(error) if error.code() == AGAIN => self.wait(until)?,
                Err(error) => return Err(Stop::Ssh(error)),
            }
        }
    }

    /// Has libssh2 sent half a packet? Then nothing but the same step may go on: anything else that wants to send is
    /// refused as bad use.
    pub fn halfway(&self) -> bool {
        matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    }

    /// Waits until the session can go on.
    pub fn wait(&mut self, until: Instant) -> Result<(), Stop> {
        self.wait_also(until, None)
    }

    /// Waits until the session can go on, or something else is ready.
    pub fn wait_also(&mut self, until: Instant, other: Option<(BorrowedFd, PollFlags)>) -> Result<(), Stop> {
        let now = Instant::now();
        if now >= until {
            return Err(Stop::Deadline);
        }
        let mut end = until;
        if self.up {
            if now.duration_since(self.heard) >= self.keepalive.limit() {
                return Err(Stop::Silent(self.keepalive.limit()));
            }
            let interval = self.keepalive.interval();
            let mut next = self.heard.max(self.asked) + interval;
            if next <= now {
                // With half a packet under way there is no room for a question; that it does not go on is answer enough.
                if !self.halfway() {
                    self.session.keepalive_send().map_err(Stop::Ssh)?;
                }
                self.asked = now;
                next = now + interval;
            }
            end = end.min(next).min(self.heard + self.keepalive.limit());
        }
        let mut flags = PollFlags::IN;
        if self.halfway() {
            flags |= PollFlags::OUT;
        }
        self.acknowledge_at_once();
        let left = end.saturating_duration_since(now).max(Duration::from_millis(1));
        // Rounded up, or the last part of a millisecond is spent in a loop.
        let left = Timespec::try_from(left).ok();
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::from_borrowed_fd(self.socket.as_fd(), flags));
        if let Some((fd, flags)) = other {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Stop::Io(error.into())),
        }
        if fds.first().is_some_and(|fd| fd.revents().contains(PollFlags::IN)) {
            self.heard = Instant::now();
        }
        self.acknowledge_at_once();
        Ok(())
    }

    /// The kernel forgets this setting by itself, so it is set again around every wait.
    fn acknowledge_at_once(&self) {
        if self.tcp {
            // Slower without, and no worse.
            let _ = sockopt::set_tcp_quickack(&*self.socket, true);
        }
    }

    /// Ends the session where it stands.
    pub fn cut(&self) {
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }

    /// What a proxy's command said when it ended badly.
    pub fn child_status(&mut self) -> Option<String> {
        let child = self.child.as_mut()?;
        // Its end of the pipe closes a little before it is gone.
        let until = Instant::now() + Duration::from_millis(300);
        let status = loop {
            match child.try_wait().ok()? {
                Some(status) => break status,
                None if Instant::now() >= until => return None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        (!status.success()).then(|| format!("the proxy's command ended with {status}"))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // libssh2 frees a session in vain while a closing message would block: with the socket shut down none does.
        let _ = self.session.disconnect(None, "", None);
        self.cut();
        if let Some(mut child) = self.child.take() {
            // The end of its input ends it, after what it still has to pass on; what does not end then is ended.
            let until = Instant::now() + Duration::from_millis(300);
            while child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
