//! For the kill test only: the process ends itself in the middle of an action, as a power cut would.
//!
//! `VFIO_PROVISION_FAILPOINT=N[:POINT]` sends SIGKILL to this very process at the N-th action it performs (counted from
//! 1), at the point `before` (the default), `written`, `renamed` or `after`. Without the variable nothing happens.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The variable that arms it.
pub const VARIABLE: &str = "VFIO_PROVISION_FAILPOINT";

/// A place in the middle of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before anything is done; it is here that actions are counted.
    Before,
    /// The temporary file is written and synced, the old one still stands.
    Written,
    /// The new file is in place, its folder not synced yet.
    Renamed,
    /// Everything is done.
    After,
}

static ACTIONS: AtomicUsize = AtomicUsize::new(0);
static ARMED: OnceLock<Option<(usize, Point)>> = OnceLock::new();

/// Says that the action has come to this point; the process may end here.
pub fn hit(point: Point) {
    let action = match point {
        Point::Before => ACTIONS.fetch_add(1, Ordering::SeqCst) + 1,
        _ => ACTIONS.load(Ordering::SeqCst),
    };
    let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().as_deref().and_then(parse));
    if *armed == Some((action, point)) {
        // The signal can't be caught: nothing is flushed, nothing dropped, no temporary removed.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

fn parse(text: &str) -> Option<(usize, Point)> {
    let (number, point) = text.split_once(':').unwrap_or((text, "before"));
    let point = match point {
        "before" => Point::Before,
        "written" => Point::Written,
        "renamed" => Point::Renamed,
        "after" => Point::After,
        _ => return None,
    };
    Some((number.parse().ok()?, point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_an_action_and_a_point() {
        assert_eq!(parse("3"), Some((3, Point::Before)));
        assert_eq!(parse("12:renamed"), Some((12, Point::Renamed)));
        assert_eq!(parse("1:soon"), None);
        assert_eq!(parse(""), None);
    }
}
