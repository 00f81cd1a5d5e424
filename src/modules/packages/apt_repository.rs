//! `apt_repository`: where apt finds packages, as one line or as a `.sources` file, with its key.

use schemars::JsonSchema;
use serde::Deserialize;

use super::install::{OLDER, apt_update};
use super::manager::Manager;
use super::pgp;
use crate::change::{Content, Diff, Op, Plan};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, List, Mode, Text};
use crate::modules::system::make_folders;

/// Defines a repository for apt: with `repo` as one line of a `.list` file, with `uris` as a `.sources` file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AptRepository {
    /// One line as in sources.list, such as `deb [signed-by=/etc/apt/keyrings/x.asc] https://x.org/debian bookworm main`.
    repo: Option<String>,
    /// The name of the `.sources` file, without its folder and suffix. Needed with `uris`.
    name: Option<String>,
    /// The name of the `.list` file for `repo`. Default: made of the address.
    filename: Option<String>,
    /// `deb`, `deb-src` or both. Default: deb.
    types: Option<List<String>>,
    /// Addresses.
    uris: Option<List<String>>,
    /// Suites, such as `bookworm` or `bookworm-backports`.
    suites: Option<List<Text>>,
    /// Components, such as `main`. None for a suite that ends in `/`.
    components: Option<List<String>>,
    /// Architectures. Default: the machine's.
    architectures: Option<List<String>>,
    /// The key: an absolute path on the machine, the armoured text itself (it is put in /etc/apt/keyrings), or a URL
    /// together with `signed_by_sha256`. With `repo` too.
    signed_by: Option<String>,
    /// Hexadecimal SHA-256 of what the URL in `signed_by` gives.
    signed_by_sha256: Option<String>,
    /// Is it used? Default: yes. With `uris` only.
    enabled: Option<Flag>,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
    /// Permission bits of the file, quoted. Default: "0644".
    mode: Option<Mode>,
    /// Have apt read the repositories anew at once. Default: no, the next task that installs something does it.
    #[serde(default)]
    update_cache: Flag,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is defined.
    #[default]
    Present,
    /// It is not.
    Absent,
}

const FOLDER: &str = "/etc/apt/sources.list.d";
const KEYRINGS: &str = "/etc/apt/keyrings";

/// A line without its blanks' width and without what only its order changes; `None` for comments and empty lines.
fn plain(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or("").trim();
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words.first(), Some(&"deb" | &"deb-src")).then(|| words.join(" ").replace("[ ", "[").replace(" ]", "]"))
}

/// A file name made of an address: apt ignores files with other characters in their names.
fn name_of(line: &str) -> String {
    let address = line.split_whitespace().find(|word| word.contains("://")).unwrap_or("repository");
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let name: String = address.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    name.trim_matches('_').to_string()
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !name.starts_with('.')
}

/// Fields of a deb822 stanza (the first of the text), names in lower case, continuation lines joined.
fn fields(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().skip_while(|line| line.trim().is_empty()).take_while(|line| !line.trim().is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        match (line.starts_with([' ', '\t']), line.split_once(':')) {
            (true, _) => {
                if let Some((_, values)) = found.last_mut() {
                    values.extend(words(line));
                }
            }
            (false, Some((key, value))) => found.push((key.trim().to_lowercase(), words(value))),
            (false, None) => {}
        }
    }
    found.sort();
    found
}

impl AptRepository {
    /// Puts the key in place, and answers the path that the definition names.
    fn key(&self, host: &dyn Host, plan: &mut Plan, name: &str) -> Result<Option<String>> {
        let Some(key) = self.signed_by.as_deref().map(str::trim) else { return Ok(None) };
        if key.starts_with('/') {
            return Ok(Some(key.to_string()));
        }
        if pgp::is_armoured(key) {
            if pgp::fingerprints(key.as_bytes()).is_empty() {
                return Err(Error::parameters("the text in `signed_by` is not a whole OpenPGP key"));
            }
            let path = format!("{KEYRINGS}/{name}.asc");
            let text = format!("{key}\n");
            let before = host.read(&path)?;
            if before.as_deref() != Some(text.as_bytes()) {
                make_folders(host, plan, KEYRINGS)?;
                let diff = Diff::file(&path, before.as_deref(), Some(text.as_bytes()));
                plan.push(write(&path, text, Some(0o644)), vec![diff]);
            }
            return Ok(Some(path));
        }
        if !key.contains("://") {
            return Err(Error::parameters(format!("`signed_by: {key}` is neither a path nor a URL nor a key")));
        }
        let sha256 = self.signed_by_sha256.as_deref().map(str::to_ascii_lowercase).ok_or_else(|| {
            Error::parameters(format!("the key {key} has no sha256 to know it by"))
                .hint("add `signed_by_sha256:` with what sha256sum prints for the file")
        })?;
        if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::parameters(format!("`{sha256}` is not a SHA-256: it has 64 hexadecimal digits")));
        }
        // apt takes armoured keys from .asc files and binary ones from .gpg files (apt-secure(8)).
        let suffix = if key.ends_with(".gpg") || key.ends_with(".pgp") { "gpg" } else { "asc" };
        let path = format!("{KEYRINGS}/{name}.{suffix}");
        if host.sha256(&path)?.as_deref() != Some(&sha256) {
            make_folders(host, plan, KEYRINGS)?;
            let diff = Diff::added("download", &path, format!("{key} (sha256 {sha256})"));
            let (url, target) = (key.to_string(), path.clone());
            plan.push(Op::Download { url, path: target, sha256: Some(sha256), mode: Some(0o644) }, vec![diff]);
        }
        Ok(Some(path))
    }

    fn plan_line(&self, host: &dyn Host, plan: &mut Plan, repo: &str) -> Result<()> {
        if repo.starts_with("ppa:") {
            return Err(Error::parameters(format!("`{repo}`: PPAs are defined by their address"))
                .hint("deb [signed-by=…] https://ppa.launchpadcontent.net/OWNER/NAME/ubuntu SUITE main"));
        }
        let mut line = plain(repo).ok_or_else(|| {
            Error::parameters(format!("`{repo}` is not a repository"))
                .hint("it begins with `deb` or `deb-src`, then the address")
        })?;
        let name = match &self.filename {
            Some(name) => name.strip_suffix(".list").unwrap_or(name).to_string(),
            None => name_of(&line),
        };
        if !is_file_name(&name) {
            return Err(Error::parameters(format!("apt would not read a file named `{name}`"))
                .hint("letters, digits, hyphens, underscores and dots are fine"));
        }
        let mut files = vec!["/etc/apt/sources.list".to_string()];
        files.extend(
            host.list(FOLDER)?
                .into_iter()
                .filter(|file| file.ends_with(".list"))
                .map(|file| format!("{FOLDER}/{file}")),
        );
        if self.state == State::Absent {
            // The address is what counts: the options in brackets may be any.
            let bare = |line: &str| match (line.split_once(" ["), line.split_once("] ")) {
                (Some((kind, _)), Some((_, rest))) => format!("{kind} {rest}"),
                _ => line.to_string(),
            };
            for path in files {
                let Some(text) = host.read_text(&path)? else { continue };
                let ours = |old: &str| plain(old).is_some_and(|old| bare(&old) == bare(&line));
                let rest: String = text.split_inclusive('\n').filter(|old| !ours(old)).collect();
                if rest == text {
                    continue;
                }
                let keep = path == "/etc/apt/sources.list" || !rest.trim().is_empty();
                let diff = Diff::file(&path, Some(text.as_bytes()), keep.then_some(rest.as_bytes()));
                plan.push(if keep { write(&path, rest, None) } else { Op::Remove { path } }, vec![diff]);
            }
            return Ok(());
        }
        if let Some(key) = self.key(host, plan, &name)? {
            if line.contains('[') {
                return Err(Error::parameters(
                    "options in brackets and `signed_by` both: put `signed-by=` into the brackets",
                ));
            }
            let (kind, rest) = line.split_once(' ').unwrap_or((&line, ""));
            line = format!("{kind} [signed-by={key}] {rest}");
        }
        for path in files {
            let text = host.read_text(&path)?.unwrap_or_default();
            if text.lines().any(|old| plain(old).as_deref() == Some(&line)) {
                return Ok(());
            }
        }
        let path = format!("{FOLDER}/{name}.list");
        let before = host.read_text(&path)?;
        let text = before.as_deref().unwrap_or("");
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        self.put(host, plan, &path, before.as_deref(), format!("{text}{newline}{line}\n"))
    }

    fn put(&self, host: &dyn Host, plan: &mut Plan, path: &str, before: Option<&str>, after: String) -> Result<()> {
        make_folders(host, plan, FOLDER)?;
        let diff = Diff::file(path, before.map(str::as_bytes), Some(after.as_bytes()));
        plan.push(write(path, after, self.mode.map(|mode| mode.0)), vec![diff]);
        Ok(())
    }

    fn plan_stanza(&self, host: &dyn Host, plan: &mut Plan) -> Result<()> {
        let name = self.name.as_deref().or(self.filename.as_deref()).unwrap_or("");
        let name = name.strip_suffix(".sources").unwrap_or(name);
        if !is_file_name(name) {
            return Err(Error::parameters("`name` is missing, or not one that apt reads")
                .hint("it becomes /etc/apt/sources.list.d/NAME.sources: letters, digits, - _ ."));
        }
        let path = format!("{FOLDER}/{name}.sources");
        let before = host.read_text(&path)?;
        if self.state == State::Absent {
            if let Some(text) = before {
                plan.push(Op::Remove { path: path.clone() }, vec![Diff::file(&path, Some(text.as_bytes()), None)]);
            }
            return Ok(());
        }
        let list = |what: &str, list: Option<Vec<&str>>, needed: bool| -> Result<Option<String>> {
            let words = list.unwrap_or_default().join(" ");
            if words.contains(|c: char| c.is_control()) {
                return Err(Error::parameters(format!("`{what}` has more than one line")));
            }
            match words.trim() {
                "" if needed => Err(Error::parameters(format!("`{what}` is missing for a repository with `name`"))),
                "" => Ok(None),
                words => Ok(Some(words.to_string())),
            }
        };
        let suites: Option<Vec<&str>> =
            self.suites.as_ref().map(|list| list.iter().map(|text| text.0.as_str()).collect());
        let flat = suites.iter().flatten().all(|suite| suite.ends_with('/'));
        let key = self.key(host, plan, name)?;
        let enabled = self.enabled.filter(|flag| !flag.0).map(|_| "no".to_string());
        let all = [
            ("Enabled", enabled),
            ("Types", Some(list("types", strings(&self.types), false)?.unwrap_or_else(|| "deb".into()))),
            ("URIs", list("uris", strings(&self.uris), true)?),
            ("Suites", list("suites", suites, true)?),
            ("Components", list("components", strings(&self.components), !flat)?),
            ("Architectures", list("architectures", strings(&self.architectures), false)?),
            ("Signed-By", key),
        ];
        let text: String =
            all.into_iter().filter_map(|(key, value)| value.map(|value| format!("{key}: {value}\n"))).collect();
        if before.as_deref().is_none_or(|before| fields(before) != fields(&text)) {
            self.put(host, plan, &path, before.as_deref(), text)?;
        }
        Ok(())
    }
}

fn strings(list: &Option<List<String>>) -> Option<Vec<&str>> {
    list.as_ref().map(|list| list.iter().map(String::as_str).collect())
}

fn write(path: &str, text: String, mode: Option<u32>) -> Op {
    Op::WriteFile {
        path: path.to_string(),
        content: Content::Bytes(text.into_bytes()),
        mode,
        owner: None,
        group: None,
        validate: Vec::new(),
    }
}

impl Module for AptRepository {
    const NAME: &'static str = "apt_repository";
    const SUMMARY: &'static str = "Define a repository for apt";
    const ALIASES: &'static [&'static str] = &["deb822_repository"];

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let manager = Manager::of(host)?;
        if manager != Manager::Apt {
            return Err(Error::failed(format!("this machine has {}, and apt_repository is for apt", manager.name())));
        }
        let mut plan = Plan::nothing();
        match (&self.repo, &self.uris, &self.name) {
            (Some(repo), None, None) => self.plan_line(host, &mut plan, repo)?,
            (None, _, Some(_)) | (None, Some(_), _) => self.plan_stanza(host, &mut plan)?,
            _ => return Err(Error::parameters("give either `repo`, or `name` with `uris`, `suites` and `components`")),
        }
        if self.update_cache.0 && !plan.actions.is_empty() {
            plan.extend(apt_update(host, OLDER)?);
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::pgp::tests::KEY;
    use super::*;
    use crate::host::overlay::testing::{apply, machine, plan};

    const DEBIAN: (&str, &str) = ("/etc/os-release", "ID=debian\nVERSION_ID=12\n");

    #[test]
    fn one_line_is_added_once_and_taken_out() {
        let list = "/etc/apt/sources.list";
        let machine = machine(&[DEBIAN, (list, "deb http://deb.debian.org/debian  bookworm main # x\n")]);
        let there = json!({"repo": "deb http://deb.debian.org/debian bookworm main"});
        assert!(apply(&machine, "apt_repository", there).unwrap().is_empty());
        let repo = "deb [arch=amd64 signed-by=/k.asc] https://x.org/debian stable main";
        apply(&machine, "apt_repository", json!({"repo": repo})).unwrap();
        assert_eq!(machine.read_text(&format!("{FOLDER}/x_org_debian.list")).unwrap(), Some(format!("{repo}\n")));
        let absent = json!({"repo": "deb https://x.org/debian stable main", "state": "absent"});
        apply(&machine, "apt_repository", absent).unwrap();
        assert!(!machine.exists(&format!("{FOLDER}/x_org_debian.list")).unwrap());
    }

    #[test]
    fn a_sources_file_with_its_key() {
        let machine = machine(&[DEBIAN, ("/var/lib/apt/lists/", "")]);
        let parameters = json!({
            "name": "backports", "uris": "http://deb.debian.org/debian", "suites": "bookworm-backports",
            "components": ["main", "contrib"], "signed_by": KEY, "update_cache": true,
        });
        let done = apply(&machine, "deb822_repository", parameters.clone()).unwrap();
        assert!(
            done.iter().any(|action| matches!(&action.op, Op::Run(run) if run.argv.ends_with(&["update".to_string()])))
        );
        assert_eq!(
            machine.read_text(&format!("{FOLDER}/backports.sources")).unwrap().as_deref(),
            Some(
                "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm-backports\nComponents: main contrib\n\
                 Signed-By: /etc/apt/keyrings/backports.asc\n"
            )
        );
        assert_eq!(
            machine.read_text("/etc/apt/keyrings/backports.asc").unwrap().as_deref(),
            Some(format!("{}\n", KEY.trim()).as_str())
        );
        apply(&machine, "apt_repository", json!({"name": "backports", "state": "absent"})).unwrap();
        assert!(!machine.exists(&format!("{FOLDER}/backports.sources")).unwrap());
    }

    #[test]
    fn another_hand_may_have_written_the_same() {
        let text = "# mine\nsuites: a\nTypes: deb\nURIs:\n  http://x/\nComponents: main\n";
        let machine = machine(&[DEBIAN, ("/etc/apt/sources.list.d/x.sources", text)]);
        let parameters = json!({"name": "x", "uris": "http://x/", "suites": "a", "components": "main"});
        assert!(apply(&machine, "apt_repository", parameters).unwrap().is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        let machine = machine(&[DEBIAN]);
        for parameters in [
            json!({}),
            json!({"repo": "http://x/"}),
            json!({"repo": "ppa:x/y"}),
            json!({"repo": "deb http://x/ a b", "name": "x"}),
            json!({"repo": "deb http://x/ a b", "filename": "../x"}),
            json!({"name": "x", "uris": "http://x/"}),
            json!({"name": "x", "uris": "http://x/", "suites": "a"}),
            json!({"name": "x", "uris": "http://x/", "suites": "a", "components": "b", "signed_by": "https://k"}),
            json!({"name": "x", "uris": "http://x/\nTrusted: yes", "suites": "a", "components": "b"}),
        ] {
            assert!(plan(&machine, "apt_repository", parameters.clone()).is_err(), "{parameters}");
        }
    }
}
