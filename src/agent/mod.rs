//! The far end: runs modules, does actions, keeps the journal. It reads frames and answers frames, and knows nothing of
//! what carries them.

pub mod child;
pub mod domains;
pub mod frame;
pub mod history;
pub mod journal;
pub mod lock;
pub mod protocol;
pub mod session;

mod guard;
mod hub;
mod inbox;
mod spool;
mod stop;

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};

use crate::host::{Error, Folder, Live, Machine, Overlay, Result};
use hub::Hub;
use inbox::Inbox;
use protocol::{Hello, MachineKind, Mode, Reply, Request};
use session::Session;

pub use guard::{CONFIRM, watch};
pub use spool::hash;
pub use stop::Stop;

/// What an agent that is a process of its own says first: before it, what goes in may still be meant for sudo.
pub const GREETING: &str = "vfio-provision agent\n";

/// Greets, then serves a controller on standard input and output.
///
/// # Errors
/// As [`serve`].
pub fn serve_on_stdio() -> io::Result<()> {
    let mut output = io::BufWriter::new(io::stdout());
    output.write_all(GREETING.as_bytes())?;
    output.flush()?;
    let stop = Stop::default();
    let (sender, requests) = mpsc::channel();
    let heard = stop.clone();
    // A thread of its own: that the controller wants no more, or is gone, must be noticed in the middle of a task.
    std::thread::Builder::new().name("requests".into()).spawn(move || {
        let mut input = io::BufReader::new(io::stdin());
        loop {
            let request = match frame::read::<Request>(&mut input) {
                Ok(Some(request)) => Ok(request),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let over = matches!(request, Err(_) | Ok(Request::End));
            if matches!(request, Err(_) | Ok(Request::Stop)) {
                heard.stop();
            }
            if sender.send(request).is_err() || over {
                return;
            }
        }
        heard.stop();
    })?;
    serve(requests, &stop, &mut |reply| frame::write(&mut output, &reply))
}

/// Serves one controller until it says that it is done or goes away.
///
/// # Errors
/// When the pipe breaks or carries something that is no frame.
pub fn serve(
    requests: Receiver<io::Result<Request>>,
    stop: &Stop,
    answer: &mut dyn FnMut(Reply) -> io::Result<()>,
) -> io::Result<()> {
    let inbox = Inbox::new(requests);
    let Some(first) = inbox.next() else { return Ok(()) };
    let Request::Hello(hello) = first? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the controller did not say hello"));
    };
    let session = match open(&hello, stop, &inbox) {
        Ok(session) => session,
        Err(error) => return answer(Reply::Refused { error }),
    };
    answer(Reply::Ready { version: env!("CARGO_PKG_VERSION").to_string(), boot: session.boot() })?;
    let mut hub = Hub::new(hello, session, inbox.clone(), stop.clone());
    while let Some(request) = inbox.next() {
        match request? {
            Request::Task(task) => hub.task(*task, answer)?,
            Request::Assume { ops } => hub.assume(&ops),
            Request::Stop => answer(Reply::Stopped)?,
            // Asked for by a task that failed meanwhile.
            Request::Blob(_) => {}
            Request::Hello(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a second hello")),
            Request::End => {
                hub.end();
                break;
            }
        }
    }
    Ok(())
}

fn open(hello: &Hello, stop: &Stop, inbox: &Inbox) -> Result<Session> {
    if hello.version != env!("CARGO_PKG_VERSION") {
        return Err(Error::failed(format!(
            "the controller is version {} and the program on this machine is {}",
            hello.version,
            env!("CARGO_PKG_VERSION")
        )));
    }
    let (machine, unpacked): (Box<dyn Machine>, _) = match &hello.machine {
        MachineKind::Live => (Box::new(Live::new().reached_over_network(hello.remote)), None),
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
    let journal = machine.state_folder().map(|folder| journal::Journal::new(&folder, hello));
    let machine: Box<dyn Machine> = match hello.mode {
        Mode::Plan => Box::new(Overlay::new(machine)),
        Mode::Apply => machine,
    };
    Ok(Session::new(machine, hello.mode, journal, hello.pins.clone(), unpacked, inbox.clone(), stop.clone()))
}
