//! A controller that wants no more: between two actions everything stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::child::Stopper;

/// Says to all that work for one controller that it wants no more, or is gone.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    asked: AtomicBool,
    children: Mutex<Vec<Stopper>>,
}

impl Stop {
    /// Lets the action under way end, and no other begin.
    pub fn stop(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        for child in self.0.children.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            child.stop();
        }
    }

    /// Was that asked?
    pub fn asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// A child that must hear it too.
    pub(super) fn also(&self, child: Stopper) {
        self.0.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }
}
