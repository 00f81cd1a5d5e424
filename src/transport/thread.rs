//! An agent in this process: the same words, over two channels.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use super::Pipe;
use crate::agent::protocol::{Reply, Request};
use crate::agent::{Stop, serve};
use crate::host::Error;

pub(super) struct Thread {
    replies: Receiver<Reply>,
    requests: Option<Sender<io::Result<Request>>>,
    stop: Stop,
    thread: Option<JoinHandle<io::Result<()>>>,
}

pub(super) fn start() -> Result<Thread, Error> {
    let (requests, heard) = mpsc::channel();
    let (answers, replies) = mpsc::channel();
    let stop = Stop::default();
    let asked = stop.clone();
    let thread = std::thread::Builder::new()
        .name("agent".into())
        .spawn(move || {
            let gone = |_| io::ErrorKind::BrokenPipe.into();
            serve(heard, &asked, &mut |reply| answers.send(reply).map_err(gone))
        })
        .map_err(|e| Error::failed(format!("can't start an agent: {e}")))?;
    Ok(Thread { replies, requests: Some(requests), stop, thread: Some(thread) })
}

impl Pipe for Thread {
    fn send(&mut self, request: &Request) -> io::Result<()> {
        if matches!(request, Request::Stop) {
            self.stop.stop();
        }
        let sent = self.requests.as_ref().and_then(|requests| requests.send(Ok(request.clone())).ok());
        sent.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
    fn receive(&mut self, until: Option<Instant>) -> io::Result<Option<Reply>> {
        let Some(until) = until else { return Ok(self.replies.recv().ok()) };
        match self.replies.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(reply) => Ok(Some(reply)),
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }
    fn last_words(&mut self) -> String {
        self.requests = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(_)) => "the agent crashed: please report it".into(),
            _ => String::new(),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Without requests the agent ends; waiting for it makes what it clears away be gone when we are.
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
