//! What the controller says, in order; parts of files are wanted in the middle of a task, before what was sent ahead.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protocol::{Blob, Request};
use crate::host::{Error, Result};

/// What the controller says.
#[derive(Clone)]
pub(super) struct Inbox(Arc<Mutex<Inner>>);

struct Inner {
    requests: Receiver<io::Result<Request>>,
    waiting: VecDeque<io::Result<Request>>,
}

impl Inbox {
    pub(super) fn new(requests: Receiver<io::Result<Request>>) -> Inbox {
        Inbox(Arc::new(Mutex::new(Inner { requests, waiting: VecDeque::new() })))
    }

    /// The next request; `None` when the controller is gone.
    pub(super) fn next(&self) -> Option<io::Result<Request>> {
        let mut inner = self.inner();
        inner.waiting.pop_front().or_else(|| inner.requests.recv().ok())
    }

    /// The part of a file that was asked for; other requests wait.
    pub(super) fn blob(&self) -> Result<Blob> {
        let mut inner = self.inner();
        loop {
            match inner.requests.recv() {
                Ok(Ok(Request::Blob(blob))) => return Ok(blob),
                Ok(Ok(Request::Stop | Request::End)) | Err(_) => {
                    return Err(Error::failed("the controller went away while it sent a file")
                        .hint("run it once more: what was sent is kept"));
                }
                Ok(other) => inner.waiting.push_back(other),
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
