//! An agent in this process: the same frames, over two pipes.

use std::io::{self, PipeReader, PipeWriter};
use std::thread::JoinHandle;

use super::Pipe;
use crate::agent::protocol::{Reply, Request};
use crate::agent::{frame, serve};
use crate::host::Error;

pub(super) struct Thread {
    input: PipeReader,
    output: Option<PipeWriter>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

pub(super) fn start() -> Result<Thread, Error> {
    let trouble = |e: io::Error| Error::failed(format!("can't start an agent: {e}"));
    let (agent_input, output) = io::pipe().map_err(trouble)?;
    let (input, agent_output) = io::pipe().map_err(trouble)?;
    let thread = std::thread::Builder::new()
        .name("agent".into())
        .spawn(move || serve(agent_input, io::BufWriter::new(agent_output)))
        .map_err(trouble)?;
    Ok(Thread { input, output: Some(output), thread: Some(thread) })
}

impl Pipe for Thread {
    fn send(&mut self, request: &Request) -> io::Result<()> {
        match &mut self.output {
            Some(output) => frame::write(output, request),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    fn receive(&mut self) -> io::Result<Option<Reply>> {
        frame::read(&mut self.input)
    }
    fn last_words(&mut self) -> String {
        self.output = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(_)) => "the agent crashed: please report it".into(),
            _ => String::new(),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Closing its input ends the agent; waiting for it makes what it clears away be gone when we are.
        self.output = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
