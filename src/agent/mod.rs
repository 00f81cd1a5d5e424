//! The far end: runs modules, does actions, keeps the journal. It reads frames and answers frames, and knows nothing of
//! what carries them.

pub mod child;
pub mod frame;
pub mod journal;
pub mod protocol;
pub mod session;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::host::{Error, Folder, Live, Machine, Overlay, Result};
use protocol::{Hello, MachineKind, Mode, Reply, Request};
use session::Session;

/// What an agent that is a process of its own says first: before it, what goes in may still be meant for sudo.
pub const GREETING: &str = "vfio-provision agent\n";

/// Greets, then serves a controller on standard input and output.
///
/// # Errors
/// As [`serve`].
pub fn serve_on_stdio() -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(GREETING.as_bytes())?;
    output.flush()?;
    serve(io::stdin().lock(), output)
}

/// Serves one controller until it says that it is done or goes away.
///
/// # Errors
/// When the pipe breaks or carries something that is no frame.
pub fn serve(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let Some(Request::Hello(hello)) = frame::read::<Request>(&mut input)? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the controller did not say hello"));
    };
    let mut session = match open(&hello) {
        Ok(session) => session,
        Err(error) => return frame::write(&mut output, &Reply::Refused { error }),
    };
    frame::write(&mut output, &Reply::Ready { version: env!("CARGO_PKG_VERSION").to_string() })?;
    while let Some(request) = frame::read::<Request>(&mut input)? {
        match request {
            Request::Task(task) => {
                // A controller that went away must not stop an action half-way: its absence shows when the task is over.
                let mut lost = None;
                let outcome = session.task(&task, &mut |reply| {
                    if lost.is_none() {
                        lost = frame::write(&mut output, &reply).err();
                    }
                });
                if let Some(error) = lost {
                    return Err(error);
                }
                frame::write(&mut output, &Reply::Done { id: task.id, outcome: Box::new(outcome) })?;
            }
            Request::Assume { ops } => session.assume(&ops),
            Request::Hello(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a second hello")),
            // Between two tasks there is nothing to stop but what would come.
            Request::End | Request::Stop => break,
        }
    }
    Ok(())
}

fn open(hello: &Hello) -> Result<Session> {
    if hello.version != env!("CARGO_PKG_VERSION") {
        return Err(Error::failed(format!(
            "the controller is version {} and the program on this machine is {}",
            hello.version,
            env!("CARGO_PKG_VERSION")
        )));
    }
    let (machine, unpacked): (Box<dyn Machine>, _) = match &hello.machine {
        MachineKind::Live => (Box::new(Live::new()), None),
        MachineKind::Folder { root, recorded } => {
            // A dry run touches nothing: a recorded machine that is not there yet is unpacked elsewhere for it.
            let elsewhere = (hello.mode == Mode::Plan && recorded.is_some() && !root.exists()).then(|| {
                static UNPACKED: AtomicUsize = AtomicUsize::new(0);
                let number = UNPACKED.fetch_add(1, Ordering::Relaxed);
                std::env::temp_dir().join(format!("vfio-provision-{}-{number}", std::process::id()))
            });
            let folder = Folder::open_or_unpack(elsewhere.as_ref().unwrap_or(root), recorded.as_deref())?;
            (Box::new(folder), elsewhere)
        }
    };
    let journal = match hello.mode {
        Mode::Plan => None,
        Mode::Apply => machine.state_folder().map(|folder| journal::Journal::new(&folder, &hello.run)),
    };
    let machine: Box<dyn Machine> = match hello.mode {
        Mode::Plan => Box::new(Overlay::new(machine)),
        Mode::Apply => machine,
    };
    Ok(Session::new(machine, hello.mode, journal, hello.pins.clone(), unpacked))
}
