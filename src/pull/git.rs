//! The calls of `git`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{Source, Trouble};
use crate::diag::Diagnostic;
use crate::host::live::search_path;

/// What is set for every call. Hooks, programs that git starts for a repository's sake, and odd ways of transport are off;
/// what the administrator has set up (proxies, certificates, credentials, keys) is not touched.
const SETTINGS: [&str; 11] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.autocrlf=false",
    "core.fileMode=true",
    "gc.auto=0",
    "advice.detachedHead=false",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "transfer.fsckObjects=true",
    "protocol.ext.allow=never",
    "credential.interactive=false",
];

/// What would lead git elsewhere.
const ELSEWHERE: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_EXTERNAL_DIFF",
    "GIT_TEMPLATE_DIR",
];

/// Refuses what git would take for something else than a repository and one name in it, and unsafe ways there.
pub(super) fn check_words(source: &Source) -> Result<(), Trouble> {
    let url = source.url.as_str();
    // gitremote-helpers(7): `ext::COMMAND` runs a command.
    let helper = url.split_once("::").is_some_and(|(name, _)| name.chars().all(|c| c.is_alphanumeric() || c == '-'));
    if url.is_empty() || url.starts_with('-') || helper || url.contains('\n') {
        return Err(Trouble::wrong(format!("`{url}` is neither the URL of a repository nor a path")));
    }
    if !source.verify_signatures && ["http://", "git://"].iter().any(|plain| url.starts_with(plain)) {
        return Err(Trouble::with_help(
            format!("whoever is on the way could change what {url} gives, and this machine would apply it as root"),
            "use https or ssh, or apply only signed commits: --verify-signatures",
        ));
    }
    let reference = source.reference.as_str();
    let odd = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\+".contains(c);
    if reference.is_empty() || reference.starts_with('-') || reference.contains("..") || reference.contains(odd) {
        return Err(Trouble::wrong(format!("`{reference}` is no name of a branch, tag or commit")));
    }
    Ok(())
}

pub(super) struct Git {
    folder: PathBuf,
}

impl Git {
    pub(super) fn new(folder: PathBuf) -> Git {
        Git { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn exists(&self) -> bool {
        self.folder.join(".git").is_dir()
    }

    fn run(&self, arguments: &[&str]) -> Result<Output, Trouble> {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        ELSEWHERE.iter().for_each(|name| {
            command.env_remove(name);
        });
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("PATH", search_path())
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .stdin(Stdio::null());
        // Nobody is there to answer ssh either, and a server that never answers must not hold up the timer.
        if std::env::var_os("GIT_SSH_COMMAND").is_none() && std::env::var_os("GIT_SSH").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15");
        }
        command.output().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Trouble::with_help("`pull` needs the program git, which is not here", "install the package `git`")
            }
            _ => Trouble::wrong(format!("can't run git: {e}")),
        })
    }

    fn fine(&self, arguments: &[&str]) -> Result<Output, Trouble> {
        let output = self.run(arguments)?;
        if output.status.success() { Ok(output) } else { Err(Trouble::Wrong(vec![said(arguments, &output)])) }
    }

    /// What a call prints.
    pub(super) fn text(&self, arguments: &[&str]) -> Result<String, Trouble> {
        Ok(String::from_utf8_lossy(&self.fine(arguments)?.stdout).into_owned())
    }

    /// The one line that a call prints.
    pub(super) fn line(&self, arguments: &[&str]) -> Result<String, Trouble> {
        Ok(self.text(arguments)?.lines().next().unwrap_or_default().to_string())
    }

    /// An empty repository.
    pub(super) fn begin(&self) -> Result<(), Trouble> {
        std::fs::create_dir_all(&self.folder)
            .map_err(|e| Trouble::wrong(format!("can't make {}: {e}", self.folder.display())))?;
        let inside = std::fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_some());
        if inside {
            let message = format!("{} holds files and is no git repository", self.folder.display());
            return Err(Trouble::with_help(message, "name another folder with --directory, or empty that one"));
        }
        self.fine(&["init", "-q", "--template="]).map(|_| ())
    }

    pub(super) fn fetch(&self, source: &Source) -> Result<(), Trouble> {
        let arguments = [
            "fetch",
            "-q",
            "--no-tags",
            "--no-recurse-submodules",
            "--",
            source.url.as_str(),
            source.reference.as_str(),
        ];
        let output = self.run(&arguments)?;
        if output.status.success() {
            return Ok(());
        }
        let error = said(&arguments, &output);
        let help = "is the URL right, does it have that branch or tag, and may this machine's user read it?";
        Err(Trouble::Fetch(error.help(help)))
    }

    /// A signature of the commit, or of the tag that was fetched.
    pub(super) fn verify(&self, commit: &str) -> Result<(), Trouble> {
        let is_tag = self.line(&["cat-file", "-t", "FETCH_HEAD"])? == "tag";
        if is_tag {
            let tag = self.line(&["rev-parse", "--verify", "FETCH_HEAD"])?;
            if self.run(&["verify-tag", &tag])?.status.success() {
                return Ok(());
            }
        }
        let arguments = ["verify-commit", commit];
        let output = self.run(&arguments)?;
        if output.status.success() {
            return Ok(());
        }
        Err(Trouble::Wrong(vec![
            said(&arguments, &output)
                .help("--verify-signatures needs a good signature of a key that this user's GnuPG has"),
        ]))
    }

    /// Does one commit come before another?
    pub(super) fn leads_to(&self, old: &str, new: &str) -> bool {
        self.run(&["merge-base", "--is-ancestor", old, new]).is_ok_and(|output| output.status.success())
    }

    pub(super) fn check_out(&self, commit: &str, submodules: bool) -> Result<(), Trouble> {
        self.fine(&["checkout", "-q", "-f", "--detach", commit])?;
        if submodules {
            self.fine(&["submodule", "-q", "update", "--init", "--recursive", "--force"])?;
        }
        let head = self.line(&["rev-parse", "--verify", "HEAD"])?;
        if head != commit {
            return Err(Trouble::wrong(format!("git has checked out {head} instead of {commit}")));
        }
        Ok(())
    }

    /// git leaves it when it is killed, and then does nothing any more.
    pub(super) fn remove_stale_lock(&self) -> Result<(), Trouble> {
        let path = self.folder.join(".git/index.lock");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Trouble::wrong(format!("can't remove {}: {e}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

/// What git said when it failed. A password in the URL is not shown.
fn said(arguments: &[&str], output: &Output) -> Diagnostic {
    let text = String::from_utf8_lossy(&output.stderr);
    let words: Vec<String> = arguments.iter().map(|word| shown(word)).collect();
    let mut message = format!("`git {}` failed: ", words.join(" "));
    match text.trim() {
        "" => message.push_str(&output.status.to_string()),
        text => message.push_str(text),
    }
    Diagnostic::error(message)
}

/// A URL without what is in it for the login.
fn shown(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_string() };
    match rest.split('/').next().and_then(|authority| authority.rfind('@')) {
        Some(at) => format!("{scheme}://…{}", rest.get(at..).unwrap_or_default()),
        None => word.to_string(),
    }
}
