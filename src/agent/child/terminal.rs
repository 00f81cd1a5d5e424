//! A terminal for tools that want one.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// A session leader gets the first terminal that it opens as its controlling one (credentials(7), tty_ioctl(4)), so a
/// shell under `setsid` is all that is needed. The tool then closes descriptor 3 itself, or never looks at it.
const CONTROLLED: &str = r#"exec 3<>"$1"; shift; exec "$@""#;
/// The same, with the terminal as standard input.
const FROM_TERMINAL: &str = r#"exec 0<>"$1"; shift; exec "$@""#;

pub(super) struct Terminal {
    master: OwnedFd,
    /// Held until the tool has opened it: a terminal that nobody has open reads as hung up.
    slave: File,
    path: OsString,
}

impl Terminal {
    /// A new one in raw mode: what goes in comes out, byte by byte.
    pub fn open() -> io::Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes());
        let flags = i32::try_from(OFlags::NOCTTY.bits()).map_err(io::Error::other)?;
        let slave = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path)?;
        let mut settings = tcgetattr(&slave)?;
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        Ok(Terminal { master, slave, path })
    }

    /// Our side of it.
    pub fn master(&self) -> io::Result<File> {
        Ok(File::from(self.master.try_clone()?))
    }

    /// Lets go of our side: it hangs up when its last copy is closed.
    pub fn let_go(self) -> File {
        self.slave
    }

    /// Runs what is added as arguments, on this terminal.
    pub fn command(&self, from_terminal: bool) -> Command {
        let mut command = Command::new("setsid");
        command.args(["/bin/sh", "-c", if from_terminal { FROM_TERMINAL } else { CONTROLLED }, "sh"]).arg(&self.path);
        command
    }
}
