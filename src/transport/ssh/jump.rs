//! Through other machines: a session whose bytes travel in a channel of another one.
//!
//! libssh2 wants a socket, so it gets one end of a pair of local ones; a thread carries bytes between the other end and
//! the channel.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use ssh2::Channel;

use super::session::{Link, Socket};
use super::{Ask, Proxy, Target, auth, connect};
use crate::host::Error;

/// As much is under way in each direction.
const ROOM: usize = 64 * 1024;

/// A way to `target` through `hops`, the last of which connects to it.
pub(super) fn through(hops: &[Target], target: &Target, ask: &dyn Ask) -> Result<Socket, Error> {
    let Some((last, before)) = hops.split_last() else {
        return Err(target.failed("a jump through no machine"));
    };
    let last = match before {
        [] => last.clone(),
        before => Target { proxy: Proxy::Jump(before.to_vec()), ..last.clone() },
    };
    let by = |error: Error| Error { message: format!("on the way to {}: {}", target.name, error.message), ..error };
    let mut link = connect::open(&last, ask).map_err(by)?;
    auth::login(&mut link, &last, ask).map_err(by)?;
    let until = Instant::now() + target.connect_timeout;
    let channel = link
        .drive(until, |session| session.channel_direct_tcpip(&target.address, target.port, None))
        .map_err(|stop| {
            target.failed(format!("{} can't connect to {}: {stop}", last.name, target.place())).hint(format!(
                "does {} reach it, and does its sshd allow that (AllowTcpForwarding, PermitOpen)?",
                last.name
            ))
        })?;
    let trouble = |e: io::Error| target.failed(format!("no way through {}: {e}", last.name));
    let (ours, theirs) = UnixStream::pair().map_err(trouble)?;
    theirs.set_nonblocking(true).map_err(trouble)?;
    std::thread::Builder::new()
        .name(format!("jump {}", last.name))
        .stack_size(256 * 1024)
        .spawn(move || {
            // However it ends, what the session at the other end sees is the end of its connection.
            let _ = pump(&mut link, &channel, &theirs);
            let _ = theirs.shutdown(std::net::Shutdown::Both);
            link.cut();
        })
        .map_err(trouble)?;
    Ok(Socket { fd: OwnedFd::from(ours), tcp: false, address: None, child: None })
}

/// Carries bytes both ways until either side ends.
fn pump(link: &mut Link, channel: &Channel, local: &UnixStream) -> io::Result<()> {
    let far_future = || Instant::now() + Duration::from_secs(86400);
    let (mut local_in, mut local_out) = (local, local);
    let mut stream = channel.stream(0);
    let (mut out, mut back): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut bytes = vec![0; ROOM];
    let mut ended = false;
    loop {
        let mut moved = false;
        // Out: what half went must be finished before anything else is tried.
        while !out.is_empty() {
            match stream.write(&out) {
                Ok(count) if count > 0 => {
                    out.drain(..count);
                    moved = true;
                }
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if link.halfway() {
                        link.wait(far_future())?;
                        continue;
                    }
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        while back.len() < ROOM && !ended {
            match stream.read(&mut bytes) {
                Ok(0) => ended = true,
                Ok(count) => {
                    back.extend_from_slice(bytes.get(..count).unwrap_or_default());
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if link.halfway() {
                        link.wait(far_future())?;
                        continue;
                    }
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if !back.is_empty() {
            match local_out.write(&back) {
                Ok(count) => {
                    back.drain(..count);
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if ended && back.is_empty() {
            return Ok(());
        }
        if out.is_empty() {
            match local_in.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    out.extend_from_slice(bytes.get(..count).unwrap_or_default());
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        // Reading takes from the socket that there is room again, too: waiting for it there then would be in vain.
        let room = !out.is_empty() && channel.write_window().remaining > 0;
        if !moved && !room {
            let mut flags = PollFlags::empty();
            if out.is_empty() {
                flags |= PollFlags::IN;
            }
            if !back.is_empty() {
                flags |= PollFlags::OUT;
            }
            link.wait_also(far_future(), Some((local.as_fd(), flags)))?;
        }
    }
}
