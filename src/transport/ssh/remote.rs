//! A command at the far end, and the frames that an agent there speaks.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use ssh2::Channel;

use super::session::{Link, Stop};
use crate::agent::protocol::{Reply, Request};
use crate::agent::{GREETING, frame};
use crate::transport::Pipe;

/// As much of what the far end says on standard error is kept.
const WORDS: usize = 4096;
/// As much may come before the greeting: banners, and what a `.bashrc` says.
pub(super) const NOISE: usize = 64 * 1024;
/// Read at once.
const PORTION: usize = 32 * 1024;
/// How long is waited for the rest of what a far end says that is gone.
const LINGER: Duration = Duration::from_secs(1);

/// Long past the end of every run. Silence ends a wait earlier.
fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(365 * 86400)
}

/// One command.
pub(super) struct Talk {
    channel: Channel,
    /// What came and was not taken yet.
    pub out: Vec<u8>,
    /// The last that came on standard error.
    pub words: Vec<u8>,
    /// Nothing more comes.
    pub ended: bool,
    portion: Box<[u8]>,
}

impl Talk {
    pub fn open(link: &mut Link, command: &str, until: Instant) -> Result<Talk, Stop> {
        let mut channel = link.drive(until, |session| session.channel_session())?;
        link.drive(until, |_| channel.exec(command))?;
        let portion = vec![0; PORTION].into_boxed_slice();
        Ok(Talk { channel, out: Vec::new(), words: Vec::new(), ended: false, portion })
    }

    /// Takes what is there, without waiting; says whether anything was. Only then may the socket be waited for: what
    /// libssh2 has taken from it already does not show there.
    pub fn fill(&mut self, link: &mut Link) -> Result<bool, Stop> {
        // A far end that sends what belongs to neither stream does not keep us here.
        const PASSES: usize = 8;
        for _ in 0..PASSES {
            if self.pass(link)? {
                return Ok(true);
            }
            // Looking for one stream takes from the socket what comes for the other meanwhile.
            if self.channel.read_window().available == 0 && (self.ended || !self.channel.eof()) {
                break;
            }
        }
        Ok(false)
    }

    /// Looks at both streams once.
    fn pass(&mut self, link: &mut Link) -> Result<bool, Stop> {
        let mut any = false;
        for number in [0, 1] {
            let mut stream = self.channel.stream(number);
            loop {
                match stream.read(&mut self.portion) {
                    Ok(0) => {
                        if number == 0 {
                            any |= !self.ended;
                            self.ended = true;
                        }
                        break;
                    }
                    Ok(count) => {
                        any = true;
                        let portion = self.portion.get(..count).unwrap_or_default();
                        if number == 0 {
                            self.out.extend_from_slice(portion);
                        } else {
                            self.words.extend_from_slice(portion);
                            let surplus = self.words.len().saturating_sub(WORDS);
                            self.words.drain(..surplus);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // It has to tell the far end that there is room again, and is not through with that.
                        if link.halfway() {
                            link.wait(far_future())?;
                            continue;
                        }
                        break;
                    }
                    Err(error) => return Err(Stop::Io(error)),
                }
            }
        }
        Ok(any)
    }

    /// Waits until something came or all is said.
    pub fn more(&mut self, link: &mut Link, until: Instant) -> Result<(), Stop> {
        while !self.fill(link)? {
            if self.ended {
                return Ok(());
            }
            link.wait(until)?;
        }
        Ok(())
    }

    /// Sends, and takes what comes while there is no room: a far end that waits to be read would otherwise never read.
    pub fn write(&mut self, link: &mut Link, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match self.channel.write(bytes) {
                Ok(count) if count > 0 => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(Stop::Io(error)),
                // Nobody makes room any more.
                _ if self.ended => return Err(Stop::Io(io::ErrorKind::BrokenPipe.into())),
                _ => self.room(link, far_future())?,
            }
        }
        Ok(())
    }

    /// Waits until more can be sent, or something came.
    fn room(&mut self, link: &mut Link, until: Instant) -> Result<(), Stop> {
        // Reading takes from the socket that there is room again, too: waiting for it there then would be in vain.
        if link.halfway() || !self.fill(link)? && self.channel.write_window().remaining == 0 {
            link.wait(until)?;
        }
        Ok(())
    }

    /// Says that nothing more is sent.
    pub fn finish(&mut self, link: &mut Link, until: Instant) -> Result<(), Stop> {
        link.drive(until, |_| self.channel.send_eof())
    }

    /// Reads to the end, and gives back how the command ended.
    pub fn status(&mut self, link: &mut Link, until: Instant) -> Result<i32, Stop> {
        while !self.ended {
            self.more(link, until)?;
            let surplus = self.out.len().saturating_sub(NOISE);
            self.out.drain(..surplus);
        }
        link.drive(until, |_| self.channel.close())?;
        link.drive(until, |_| self.channel.wait_close())?;
        self.channel.exit_status().map_err(Stop::Ssh)
    }

    /// What was said on both streams, for a message.
    pub fn said(&self) -> String {
        let end = |bytes: &[u8]| {
            let bytes = bytes.get(bytes.len().saturating_sub(WORDS)..).unwrap_or_default();
            let text = String::from_utf8_lossy(bytes);
            let plain: String = text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect();
            plain.trim().to_string()
        };
        let (out, words) = (end(&self.out), end(&self.words));
        if out.is_empty() || words.is_empty() { format!("{out}{words}") } else { format!("{out}\n{words}") }
    }

    /// Skips everything up to the agent's greeting; false when the command ended without one.
    pub fn greeted(&mut self, link: &mut Link, until: Instant) -> Result<bool, Stop> {
        let greeting = GREETING.as_bytes();
        let mut from = 0;
        loop {
            let place = self.out.get(from..).unwrap_or_default();
            if let Some(place) = place.windows(greeting.len()).position(|bytes| bytes == greeting) {
                self.out.drain(..from + place + greeting.len());
                return Ok(true);
            }
            if self.out.len() > NOISE {
                let error = "64 KiB came before this program's greeting";
                return Err(Stop::Io(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            if self.ended {
                return Ok(false);
            }
            from = self.out.len().saturating_sub(greeting.len() - 1);
            self.more(link, until)?;
        }
    }
}

/// An agent at the far end of an SSH session.
pub struct Remote {
    talk: Talk,
    link: Link,
    /// How much of what came is taken already.
    taken: usize,
}

impl Remote {
    pub(super) fn new(talk: Talk, link: Link) -> Remote {
        Remote { talk, link, taken: 0 }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        Ok(self.talk.write(&mut self.link, bytes)?)
    }

    /// Waits for `count` bytes; `None` when the far end closed first.
    ///
    /// # Errors
    /// When the connection is gone, or at `until` (`TimedOut`).
    pub fn receive_bytes(&mut self, count: usize, until: Option<Instant>) -> io::Result<Option<Vec<u8>>> {
        if !self.have(count, until)? {
            return Ok(None);
        }
        let bytes = self.waiting().get(..count).map(<[u8]>::to_vec);
        self.take(count);
        Ok(bytes)
    }

    fn waiting(&self) -> &[u8] {
        self.talk.out.get(self.taken..).unwrap_or_default()
    }

    /// Waits until so many bytes are there; false when the far end closed first.
    fn have(&mut self, count: usize, until: Option<Instant>) -> io::Result<bool> {
        let until = until.unwrap_or_else(far_future);
        while self.waiting().len() < count {
            if self.talk.ended {
                return Ok(false);
            }
            self.talk.more(&mut self.link, until)?;
        }
        Ok(true)
    }

    fn take(&mut self, count: usize) {
        self.taken = self.taken.saturating_add(count).min(self.talk.out.len());
        // Not for every frame: what is behind it would be moved each time.
        if self.taken == self.talk.out.len() || self.taken > 1 << 20 {
            self.talk.out.drain(..self.taken);
            self.taken = 0;
            // A long answer must not hold its memory for the rest of the run.
            self.talk.out.shrink_to(1 << 18);
        }
    }
}

impl Pipe for Remote {
    fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, request)?;
        self.send_bytes(&bytes)
    }

    fn receive(&mut self, until: Option<Instant>) -> io::Result<Option<Reply>> {
        const HEAD: usize = 4;
        if !self.have(HEAD, until)? {
            return if self.waiting().is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let Some(length) = self.waiting().first_chunk::<HEAD>().map(|length| u32::from_be_bytes(*length)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        // Too long a frame is refused by `frame::read` below, before more of it is waited for.
        let size = HEAD.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let whole = size > 1 << 30 || self.have(size, until)?;
        let mut bytes = self.waiting();
        let reply = frame::read(&mut bytes);
        if whole {
            self.take(size);
        }
        reply
    }

    fn last_words(&mut self) -> String {
        let until = Instant::now() + LINGER;
        while !self.talk.ended {
            if self.talk.more(&mut self.link, until).is_err() {
                break;
            }
        }
        let mut words = String::from_utf8_lossy(&self.talk.words).trim().to_string();
        if let Some(child) = self.link.child_status() {
            words = format!("{words}\n{child}").trim().to_string();
        }
        words
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The end of its input ends the agent. Nothing is waited for: what does not go now will never. Nor is a farewell
        // said: sshd is gone the moment it reads one, and does not hand on what came before it (that the run is over).
        let _ = self.talk.channel.send_eof();
        // With the socket shut down nothing would block, and libssh2 frees all that it holds.
        self.link.cut();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::ssh::Keepalive;
    use crate::transport::ssh::session::Socket;
    use crate::transport::testing::{Server, server, soon};

    /// A session in which somebody has logged in.
    fn link(server: &Server) -> Link {
        let stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        let socket = Socket { fd: stream.into(), tcp: true, address: None, child: None };
        let mut link = Link::new(socket, Keepalive::default()).unwrap();
        link.drive(soon(20), |session| session.handshake()).unwrap();
        let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
        let (user, key) = (String::from_utf8(user).unwrap(), server.path("key"));
        link.drive(soon(20), |session| session.userauth_pubkey_file(user.trim(), None, &key, None)).unwrap();
        link
    }

    /// Found under load, where it took until the next sign of life: what makes room comes after there was none, and
    /// before what the far end says is looked at.
    #[test]
    fn room_that_is_heard_of_while_reading_is_not_waited_for() {
        let Some(server) = server("") else { return };
        let mut link = link(&server);
        let mut talk = Talk::open(&mut link, "sleep 1; exec cat >/dev/null", soon(20)).unwrap();
        let bytes = vec![0; 1 << 16];
        loop {
            match talk.channel.write(&bytes) {
                Ok(_) => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => panic!("{error}"),
                Err(_) if link.halfway() => link.wait(soon(20)).unwrap(),
                Err(_) => break,
            }
        }
        assert_eq!(talk.channel.write_window().remaining, 0);
        // The far end takes it all, and says so.
        std::thread::sleep(Duration::from_secs(2));
        talk.room(&mut link, soon(0)).unwrap();
        assert!(talk.channel.write_window().remaining > 0);
    }
}
