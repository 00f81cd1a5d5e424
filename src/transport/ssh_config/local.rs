//! Who runs this, and where.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Who runs this, and where: what `~`, `%u`, `%l` and relative names mean.
#[derive(Clone)]
pub struct Local {
    /// The user's name.
    pub user: String,
    /// The user's number.
    pub uid: u32,
    /// The home folder: `$HOME`, or what the account says.
    pub home: PathBuf,
    /// This machine's name.
    pub name: String,
    /// Where the system's configuration is: `/etc/ssh`.
    pub system: PathBuf,
    /// The variables of the environment.
    pub variable: Arc<Variables>,
}

/// The value of a variable of the environment.
pub type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("user", &self.user).field("home", &self.home).finish_non_exhaustive()
    }
}

impl Local {
    /// As it is.
    pub fn here() -> Local {
        let uid = rustix::process::getuid().as_raw();
        let account = account(&uid.to_string());
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let user = account.as_ref().map(|account| account.name.clone());
        Local {
            uid,
            home: home.or_else(|| account.map(|account| account.home)).unwrap_or_else(|| PathBuf::from("/")),
            user: user.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| uid.to_string()),
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            system: PathBuf::from("/etc/ssh"),
            variable: Arc::new(|name| std::env::var(name).ok()),
        }
    }

    /// `~/.ssh`.
    pub fn ssh_folder(&self) -> PathBuf {
        self.home.join(".ssh")
    }
}

/// A user's account.
pub(super) struct Account {
    pub name: String,
    pub home: PathBuf,
}

/// The account of a name or number. `/etc/passwd` first, as it costs nothing; `getent` knows those of directory
/// services, which a static program can't ask for itself.
pub(super) fn account(key: &str) -> Option<Account> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.trim_end().split(':').collect();
        let [name, _, number, _, _, home, _] = fields.as_slice() else { return None };
        (*name == key || *number == key).then(|| Account { name: (*name).into(), home: PathBuf::from(home) })
    };
    let known = std::fs::read_to_string("/etc/passwd").ok();
    if let Some(account) = known.and_then(|text| text.lines().find_map(parse)) {
        return Some(account);
    }
    let mut getent = Command::new("getent");
    let output = getent.args(["--", "passwd", key]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().find_map(parse)
}
