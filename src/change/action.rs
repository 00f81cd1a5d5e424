//! Actions: what modules answer and the executor does.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Diff;

/// Where the bytes of a file come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// These bytes.
    Bytes(#[serde(with = "base64_bytes")] Vec<u8>),
    /// A copy of another file on the same machine.
    CopyOf(String),
}

/// One change to a machine, with the diff that the user sees before it is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// What is done.
    pub op: Op,
    /// What it changes; shown before it is done. Empty only for what the user can't care about (a stamp of our own).
    pub diffs: Vec<Diff>,
}

impl Action {
    /// Is it what a saved plan said? `after`: something was done since the whole plan was checked.
    ///
    /// What a guest runs with moves by itself (an agent connects, memory breathes); where it matters, the action is another
    /// one. And after something was done the machine tells what a dry run could only expect: then what is expected next
    /// need not be the same, nor a document for libvirt, which has addresses and defaults in it by then. The commands and
    /// the diffs that a person saw must be.
    pub fn is_as_planned(&self, planned: &Action, after: bool) -> bool {
        self.comparable(after) == planned.comparable(after)
    }

    fn comparable(&self, after: bool) -> Action {
        let mut action = self.clone();
        let (effects, stdin) = match &mut action.op {
            Op::Run(run) => (&mut run.effects, run.stdin.as_mut()),
            Op::Poke { effects, .. } => (effects, None),
            _ => return action,
        };
        let mut is_libvirts = false;
        for effect in effects.iter_mut() {
            if let Effect::Virt { state, .. } = effect {
                is_libvirts = true;
                if let Some(state) = state {
                    state.live = None;
                }
            }
        }
        if after {
            effects.clear();
            if let Some(document) = stdin.filter(|_| is_libvirts) {
                document.clear();
            }
        }
        action
    }
}

/// What the executor can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Replaces or makes a regular file: temporary, fsync, rename, fsync of the folder. The path's links are followed, so
    /// that `/etc/sysconfig/grub` stays a link. What is `None` is kept from the old file, or is 0644 root:root for a new one.
    WriteFile {
        /// Absolute path.
        path: String,
        /// The new content.
        content: Content,
        /// Permission bits.
        mode: Option<u32>,
        /// Owner: a name or a number.
        owner: Option<String>,
        /// Group: a name or a number.
        group: Option<String>,
        /// Commands that must succeed on the temporary file before it is renamed; `%s` stands for its path. A recorded
        /// machine has no commands and skips them.
        validate: Vec<Vec<String>>,
    },
    /// Changes mode, owner or group of what is there already; `None` is kept.
    SetAttributes {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: Option<u32>,
        /// Owner: a name or a number.
        owner: Option<String>,
        /// Group: a name or a number.
        group: Option<String>,
    },
    /// Makes one folder whose parent exists.
    MakeFolder {
        /// Absolute path.
        path: String,
        /// Permission bits; 0755 where `None`.
        mode: Option<u32>,
        /// Owner: a name or a number.
        owner: Option<String>,
        /// Group: a name or a number.
        group: Option<String>,
    },
    /// Makes a symbolic link, or replaces the link or file that is there, atomically.
    Link {
        /// Absolute path of the link.
        path: String,
        /// What is written in it.
        target: String,
    },
    /// Removes a file, a link, or a folder with all that is in it.
    Remove {
        /// Absolute path.
        path: String,
    },
    /// Fetches a URL into a file: resumed if cut, checked, then renamed into place.
    Download {
        /// `http://`, `https://`, `file://`, or [`SENT`] and a name.
        url: String,
        /// Absolute path.
        path: String,
        /// Hex SHA-256 that the content must have.
        sha256: Option<String>,
        /// Permission bits.
        mode: Option<u32>,
    },
    /// Writes to an attribute of the kernel (sysfs, procfs): one write(2), no temporary file.
    Poke {
        /// Absolute path.
        path: String,
        /// What is written.
        value: String,
        /// What is expected to become of the machine.
        effects: Vec<Effect>,
    },
    /// Sets extended attributes (SELinux label, ACL, capabilities) of what is there; others stay. Only a rollback does it:
    /// what is replaced keeps its own.
    SetXattrs {
        /// Absolute path.
        path: String,
        /// Name, and value in base64.
        xattrs: Vec<(String, String)>,
    },
    /// Runs a command.
    Run(Run),
    /// Waits until something is so, and fails when it does not become so; changes nothing. A recorded machine does not wait.
    Wait(Wait),
}

/// The scheme of what the controller itself sends, known by its hash.
pub const SENT: &str = "controller:";

/// What is waited for: a path, or a port of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// Absolute path; `None` when a port is waited for.
    pub path: Option<String>,
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: Option<u16>,
    /// A pattern that must be found in the file, or in what the port says first.
    pub pattern: Option<String>,
    /// Until it is there, or until it is gone.
    pub present: bool,
    /// Seconds before it has failed.
    pub timeout: u64,
    /// Seconds before the first look.
    pub delay: u64,
    /// Seconds between two looks.
    pub pause: u64,
    /// Seconds that one connection may take.
    pub connect_timeout: u64,
    /// What to say when it has failed.
    pub message: Option<String>,
}

/// A command: argv, never a shell string.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What it gets on standard input.
    pub stdin: Option<String>,
    /// Variables added to its environment (`LC_ALL=C.UTF-8` is always there).
    pub env: Vec<(String, String)>,
    /// Where it runs; `/` where `None`.
    pub cwd: Option<String>,
    /// Exit codes that are success; empty means 0 alone. `None` in the list of a `command` task: the caller judges.
    pub ok_codes: Vec<i32>,
    /// Any exit code is success (the caller judges by the result).
    pub any_code: bool,
    /// Seconds after which it is killed; `None`: 3600.
    pub timeout: Option<u64>,
    /// What is expected to become of the machine.
    pub effects: Vec<Effect>,
    /// The command that undoes it, where there is one.
    pub undo: Option<Vec<String>>,
    /// Its output belongs into the task's result (`rc`, `stdout`, `stderr`).
    pub capture: bool,
}

/// What a command is expected to do to the machine as modules see it. A dry run and a recorded machine believe it; a
/// live machine is asked again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A package is installed (`version` where known; `Some("")` is never used) or removed.
    Package {
        /// Its name.
        name: String,
        /// Its version, where it can be known before.
        version: Option<String>,
        /// Installed or removed.
        present: bool,
    },
    /// A unit changes; `None` stays as it is.
    Unit {
        /// Full name with suffix.
        name: String,
        /// The unit file appears or goes.
        exists: Option<bool>,
        /// As `systemctl is-enabled` would print it.
        enabled: Option<String>,
        /// Running or not.
        active: Option<bool>,
    },
    /// A file becomes this. `content: None`: it exists, and what is in it is unknown until applied. A predicted content
    /// need not be what the tool writes byte for byte, but must mean the same to the modules that read it.
    File {
        /// Absolute path.
        path: String,
        /// What will be in it.
        content: Option<String>,
        /// Permission bits; 0644 where `None` and new.
        mode: Option<u32>,
    },
    /// A folder appears, with its parents.
    Folder {
        /// Absolute path.
        path: String,
    },
    /// A link appears or changes.
    Link {
        /// Absolute path of the link.
        path: String,
        /// What is written in it.
        target: String,
    },
    /// A path goes away, with all below it.
    Gone {
        /// Absolute path.
        path: String,
    },
    /// libvirt defines, changes (`Some`) or undefines (`None`) something.
    Virt {
        /// Domain, network or pool.
        kind: crate::host::VirtKind,
        /// Its name.
        name: String,
        /// Its state afterwards.
        state: Option<crate::host::Virt>,
    },
    /// The machine boots again: command line, running kernel and drivers become what the boot configuration says.
    Reboot,
}

/// A module's answer: what must be done so that the machine is as asked, and what `register` sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What is to be done, in order; empty when all is as asked.
    pub actions: Vec<Action>,
    /// What `register` sees besides `changed`, `failed`, `skipped`.
    pub result: Map<String, Value>,
    /// For the person; not a diff.
    pub notes: Vec<String>,
    /// For the person, and they should act on it.
    pub warnings: Vec<String>,
    /// Why the machine must boot again before it is as asked. Independent of `actions`: said on every run until it has.
    pub reboot: Vec<String>,
    /// More may follow once these actions are done (their outcome decides what): the module is asked again and goes on.
    pub staged: bool,
    /// An act by nature (`command`, `reboot`): asking again afterwards proves nothing.
    pub act: bool,
    /// Content seen for the first time, to be pinned in the lock file beside the inventory: URL and path on the machine.
    pub pins: Vec<Pin>,
    /// The actions could cut the machine off: it puts the old state back by itself, unless it is reached again.
    pub guard: Option<Guard>,
}

/// What a machine does by itself when its controller does not come back over a new connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Seconds in which the controller must be back, counted from before the first action.
    pub seconds: u64,
    /// Commands that bring the old state into force once its files are back; each runs whatever the others say.
    pub back: Vec<Vec<String>>,
}

/// A download whose hash nobody gave: the first content seen becomes the one that is expected from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Where it comes from.
    pub url: String,
    /// Where it is on the machine.
    pub path: String,
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Plan {
        Plan::default()
    }
    /// Adds an action.
    pub fn push(&mut self, op: Op, diffs: Vec<Diff>) {
        self.actions.push(Action { op, diffs });
    }
    /// Sets a value that `register` sees.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.result.insert(key.to_string(), value.into());
    }
    /// Puts another plan behind this one.
    pub fn extend(&mut self, other: Plan) {
        self.actions.extend(other.actions);
        self.result.extend(other.result);
        self.notes.extend(other.notes);
        self.guard = self.guard.take().or(other.guard);
        self.warnings.extend(other.warnings);
        self.reboot.extend(other.reboot);
        self.pins.extend(other.pins);
        self.staged |= other.staged;
        self.act |= other.act;
    }
}

impl Run {
    /// A command with its effects.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>, effects: Vec<Effect>) -> Run {
        Run { argv: argv.into_iter().map(Into::into).collect(), effects, ..Run::default() }
    }
}

mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Virt, VirtKind};

    #[test]
    fn what_libvirt_adds_does_not_make_a_saved_plan_outdated() {
        let action = |xml: &str, live: &str, stdin: &str, after: &str| {
            let state = Virt { xml: xml.into(), live: Some(live.into()), active: true, ..Virt::default() };
            let effect = Effect::Virt { kind: VirtKind::Domain, name: "g".into(), state: Some(state) };
            let mut run = Run::new(["virsh", "attach-device", "g"], vec![effect]);
            run.stdin = Some(stdin.into());
            Action { op: Op::Run(run), diffs: vec![Diff::added("domain", "g (running): disk vdb", after)] }
        };
        let planned = action("<a/>", "<l/>", "<disk/>", "source /b");
        for (now, at_once, later) in [
            (action("<a/>", "<m/>", "<disk/>", "source /b"), true, true),
            (action("<b/>", "<m/>", "<disk><address/></disk>", "source /b"), false, true),
            (action("<a/>", "<l/>", "<disk/>", "source /c"), false, false),
        ] {
            assert_eq!((now.is_as_planned(&planned, false), now.is_as_planned(&planned, true)), (at_once, later));
        }
        // Nothing but libvirt's documents is taken so: what another program reads must be the same.
        let other = |stdin: &str| {
            let mut run = Run::new(["chpasswd"], Vec::new());
            run.stdin = Some(stdin.into());
            Action { op: Op::Run(run), diffs: Vec::new() }
        };
        assert!(!other("a").is_as_planned(&other("b"), true));
    }
}
