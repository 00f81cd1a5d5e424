//! `yum_repository`: a section of a file in /etc/yum.repos.d.

use schemars::JsonSchema;
use serde::Deserialize;

use super::manager::Manager;
use crate::change::{Content, Diff, Op, Plan};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, List, Text};
use crate::modules::system::make_folders;

/// Defines a repository for yum or dnf. What the section has besides what is asked stays, as do all other sections; an
/// option set to the empty string is taken out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct YumRepository {
    /// The repository's id: the name of the section.
    name: String,
    /// What people read (`name=` in the file). Needed for a new repository.
    description: Option<String>,
    /// The file, without its folder and `.repo`. Default: the file that has the section, or `name`.
    file: Option<String>,
    /// The folder of the file. Default: /etc/yum.repos.d.
    #[serde(default = "default_folder")]
    reposdir: String,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
    /// Where the packages are; one URL or several. Replaces `mirrorlist` and `metalink` of the section.
    baseurl: Option<List<Text>>,
    /// URL of a list of mirrors.
    mirrorlist: Option<String>,
    /// URL of a metalink.
    metalink: Option<String>,
    /// Is it used? Default for a new repository: yes, which is what yum takes.
    enabled: Option<Flag>,
    /// Are the packages' signatures checked?
    gpgcheck: Option<Flag>,
    /// Is the signature of the repository itself checked?
    repo_gpgcheck: Option<Flag>,
    /// URLs of the keys.
    gpgkey: Option<List<Text>>,
    /// Packages that are never taken from here; names and patterns.
    #[serde(alias = "excludepkgs")]
    exclude: Option<List<Text>>,
    /// The only packages that are taken from here.
    includepkgs: Option<List<Text>>,
    /// Smaller numbers win (1 to 99).
    priority: Option<Text>,
    /// Smaller numbers are tried first.
    cost: Option<Text>,
    /// Go on without it when it can't be reached.
    skip_if_unavailable: Option<Flag>,
    /// Its packages may replace those of modules (EL8).
    module_hotfixes: Option<Flag>,
    /// How long what was read of it is good, such as `6h`.
    metadata_expire: Option<Text>,
    /// A proxy, or `_none_`.
    proxy: Option<String>,
    /// Is the server's certificate checked?
    sslverify: Option<Flag>,
    /// File with the certificates of authorities.
    sslcacert: Option<String>,
    /// File with the client's certificate.
    sslclientcert: Option<String>,
    /// File with the client's key.
    sslclientkey: Option<String>,
    /// Seconds to wait for a server.
    timeout: Option<Text>,
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

fn default_folder() -> String {
    "/etc/yum.repos.d".into()
}

/// The name in a `[name]` line.
fn section(line: &str) -> Option<&str> {
    let line = line.trim();
    line.strip_prefix('[')?.split_once(']').map(|(name, _)| name.trim())
}

/// An option line and the lines that go on with its value, or one other line.
#[derive(Clone, Debug, PartialEq)]
struct Item {
    key: Option<String>,
    text: String,
}

impl Item {
    fn value(&self) -> &str {
        self.text.split_once('=').map_or("", |(_, value)| value)
    }
}

/// The text in three: before the section, its items, and from the next section on. `None` when it is not there.
fn split<'a>(text: &'a str, name: &str) -> Option<(&'a str, Vec<Item>, &'a str)> {
    let mut start = None;
    let mut end = text.len();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        match (section(line), start) {
            (Some(found), None) if found == name => start = Some(at + line.len()),
            (Some(_), Some(_)) => {
                end = at;
                break;
            }
            _ => {}
        }
        at += line.len();
    }
    let start = start?;
    let (before, rest) = text.split_at(start);
    let (body, after) = rest.split_at(end - start);
    let mut items: Vec<Item> = Vec::new();
    for line in body.split_inclusive('\n') {
        let plain = line.trim();
        let goes_on = line.starts_with([' ', '\t']) && !plain.is_empty();
        if let Some(last) = items.last_mut().filter(|last| goes_on && last.key.is_some()) {
            last.text.push_str(line);
            continue;
        }
        let key = match plain.split_once('=') {
            Some((key, _)) if !plain.starts_with(['#', ';']) => Some(key.trim().to_lowercase()),
            _ => None,
        };
        items.push(Item { key, text: line.to_string() });
    }
    Some((before, items, after))
}

/// Values that mean the same: blanks between the parts of a list, and the many words for yes and no.
fn same(a: &str, b: &str) -> bool {
    let plain = |text: &str| -> Vec<String> {
        text.split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| !word.is_empty())
            .map(|word| match word.to_lowercase().as_str() {
                "1" | "yes" | "true" | "on" => "1".to_string(),
                "0" | "no" | "false" | "off" => "0".to_string(),
                _ => word.to_string(),
            })
            .collect()
    };
    plain(a) == plain(b)
}

impl YumRepository {
    /// Keys and values as asked, in the order of the file. An empty value takes the key out.
    fn wanted(&self) -> Vec<(&'static str, String)> {
        let flag = |flag: Option<Flag>| flag.map(|flag| if flag.0 { "1".to_string() } else { "0".to_string() });
        let list = |list: &Option<List<Text>>, glue: &str| {
            list.as_ref().map(|list| list.iter().map(|text| text.trim()).collect::<Vec<_>>().join(glue))
        };
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.0.clone());
        let lines = "\n        ";
        let mut all = vec![
            ("name", self.description.clone()),
            ("baseurl", list(&self.baseurl, lines)),
            ("mirrorlist", self.mirrorlist.clone()),
            ("metalink", self.metalink.clone()),
            ("enabled", flag(self.enabled)),
            ("gpgcheck", flag(self.gpgcheck)),
            ("repo_gpgcheck", flag(self.repo_gpgcheck)),
            ("gpgkey", list(&self.gpgkey, lines)),
            ("exclude", list(&self.exclude, " ")),
            ("includepkgs", list(&self.includepkgs, " ")),
            ("priority", text(&self.priority)),
            ("cost", text(&self.cost)),
            ("skip_if_unavailable", flag(self.skip_if_unavailable)),
            ("module_hotfixes", flag(self.module_hotfixes)),
            ("metadata_expire", text(&self.metadata_expire)),
            ("proxy", self.proxy.clone()),
            ("sslverify", flag(self.sslverify)),
            ("sslcacert", self.sslcacert.clone()),
            ("sslclientcert", self.sslclientcert.clone()),
            ("sslclientkey", self.sslclientkey.clone()),
            ("timeout", text(&self.timeout)),
        ];
        // One place to get packages from: a list of mirrors that is gone would still be asked beside a new baseurl.
        const PLACES: [&str; 3] = ["baseurl", "mirrorlist", "metalink"];
        if all.iter().any(|(key, value)| PLACES.contains(key) && value.as_ref().is_some_and(|value| !value.is_empty()))
        {
            for (key, value) in &mut all {
                if PLACES.contains(key) && value.is_none() {
                    *value = Some(String::new());
                }
            }
        }
        all.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))).collect()
    }

    /// The file that has the section, or the one where it belongs.
    fn find_file(&self, host: &dyn Host) -> Result<String> {
        let own = format!("{}/{}.repo", self.reposdir, self.file.as_deref().unwrap_or(&self.name));
        if self.file.is_some() {
            return Ok(own);
        }
        for file in host.list(&self.reposdir)?.into_iter().filter(|file| file.ends_with(".repo")) {
            let path = format!("{}/{file}", self.reposdir);
            let text = host.read(&path)?.unwrap_or_default();
            if String::from_utf8_lossy(&text).lines().any(|line| section(line) == Some(&self.name)) {
                return Ok(path);
            }
        }
        Ok(own)
    }

    fn with_section(&self, text: &str) -> Result<String> {
        let wanted = self.wanted();
        let Some((before, mut items, after)) = split(text, &self.name) else {
            let has = |key: &str| wanted.iter().any(|(k, value)| *k == key && !value.is_empty());
            if !(has("baseurl") || has("mirrorlist") || has("metalink")) {
                return Err(Error::parameters(format!(
                    "the repository {} is not there yet and has no address",
                    self.name
                ))
                .hint("give one of `baseurl`, `mirrorlist` and `metalink`"));
            }
            let mut new = text.to_string();
            if !new.is_empty() {
                new.push_str(if new.ends_with('\n') { "\n" } else { "\n\n" });
            }
            new.push_str(&format!("[{}]\n", self.name));
            if !has("name") {
                new.push_str(&format!("name={}\n", self.name));
            }
            for (key, value) in wanted.iter().filter(|(_, value)| !value.is_empty()) {
                new.push_str(&format!("{key}={value}\n"));
            }
            return Ok(new);
        };
        for (key, value) in &wanted {
            let alias = |k: &String| k == key || (*key == "exclude" && k == "excludepkgs");
            let mut found = false;
            items.retain_mut(|item| {
                if !item.key.as_ref().is_some_and(alias) {
                    return true;
                }
                let first = !std::mem::replace(&mut found, true);
                if first && !value.is_empty() && !same(item.value(), value) {
                    let left = item.text.split_once('=').map_or(*key, |(left, _)| left);
                    let blank = if left.ends_with(' ') { " " } else { "" };
                    item.text = format!("{left}={blank}{value}\n");
                }
                first && !value.is_empty()
            });
            if !found && !value.is_empty() {
                // Behind the last option, before the empty lines that part it from the next section.
                let end = items.iter().rposition(|item| item.key.is_some()).map_or(0, |at| at + 1);
                if let Some(last) = end.checked_sub(1).and_then(|at| items.get_mut(at))
                    && !last.text.ends_with('\n')
                {
                    last.text.push('\n');
                }
                items.insert(end, Item { key: Some(key.to_string()), text: format!("{key}={value}\n") });
            }
        }
        let newline = if before.ends_with('\n') { "" } else { "\n" };
        Ok(format!("{before}{newline}{}{after}", items.into_iter().map(|item| item.text).collect::<String>()))
    }

    fn without_section(&self, text: &str) -> String {
        let Some((before, _, after)) = split(text, &self.name) else { return text.to_string() };
        // `before` ends with the section's own heading.
        let before = before.trim_end_matches('\n');
        let before = before.rfind('\n').and_then(|at| before.get(..=at)).unwrap_or("");
        let before = if after.is_empty() { before.trim_end_matches('\n') } else { before };
        let newline = if after.is_empty() && !before.is_empty() { "\n" } else { "" };
        format!("{before}{newline}{after}")
    }
}

impl Module for YumRepository {
    const NAME: &'static str = "yum_repository";
    const SUMMARY: &'static str = "Define a repository for yum or dnf";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let manager = Manager::of(host)?;
        if !manager.has_repository_ids() {
            return Err(Error::failed(format!(
                "this machine has {}, and yum_repository is for yum and dnf",
                manager.name()
            )));
        }
        let is_id = |text: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '+'))
        };
        if !is_id(&self.name) || !self.file.as_deref().is_none_or(is_id) {
            return Err(Error::parameters(format!("`{}` is not a repository's id", self.name))
                .hint("letters, digits and - _ . : are fine; what people read goes into `description`"));
        }
        if let Some((key, _)) = self.wanted().iter().find(|(key, value)| {
            value.lines().skip(1).any(|line| !line.starts_with("        ")) && *key != "name"
                || (*key == "name" && value.contains('\n'))
        }) {
            return Err(Error::parameters(format!("`{key}` has more than one line")));
        }
        let path = self.find_file(host)?;
        let before = host.read_text(&path)?;
        let text = before.as_deref().unwrap_or("");
        let after = match self.state {
            State::Present => Some(self.with_section(text)?),
            State::Absent if before.is_none() => None,
            State::Absent => {
                Some(self.without_section(text)).filter(|left| !left.trim().is_empty() || text.trim().is_empty())
            }
        };
        let mut plan = Plan::nothing();
        if before == after {
            return Ok(plan);
        }
        let diff = Diff::file(&path, before.as_deref().map(str::as_bytes), after.as_deref().map(str::as_bytes));
        let op = match after {
            None => Op::Remove { path },
            Some(after) => {
                make_folders(host, &mut plan, &self.reposdir)?;
                let content = Content::Bytes(after.into_bytes());
                Op::WriteFile { path, content, mode: None, owner: None, group: None, validate: Vec::new() }
            }
        };
        plan.push(op, vec![diff]);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan};

    const EL7: (&str, &str) = ("/etc/os-release", "ID=centos\nVERSION_ID=7\n");
    const ELREPO: &str = "### comment\n\n[elrepo]\nname=ELRepo\nbaseurl=http://elrepo.org/linux/elrepo/el7/$basearch/\n\
        \thttp://mirrors.coreix.net/elrepo/elrepo/el7/$basearch/\nmirrorlist=http://mirrors.elrepo.org/x\nenabled=1\n\n\
        [elrepo-kernel]\nname = Kernels\nbaseurl=http://elrepo.org/linux/kernel/el7/$basearch/\nenabled=0\ngpgcheck=1\n";
    const PATH: &str = "/etc/yum.repos.d/elrepo.repo";

    fn elrepo() -> Machine {
        machine(&[EL7, (PATH, ELREPO)])
    }

    fn text(machine: &Machine) -> String {
        machine.read_text(PATH).unwrap().unwrap_or_default()
    }

    #[test]
    fn a_new_repository_is_a_new_file() {
        let machine = machine(&[EL7]);
        let parameters = json!({
            "name": "kraxel", "description": "qemu firmware", "baseurl": ["https://a/", "https://b/"],
            "gpgcheck": false, "exclude": ["a*", "b"], "priority": 10,
        });
        apply(&machine, "yum_repository", parameters).unwrap();
        assert_eq!(
            machine.read_text("/etc/yum.repos.d/kraxel.repo").unwrap().as_deref(),
            Some(
                "[kraxel]\nname=qemu firmware\nbaseurl=https://a/\n        https://b/\ngpgcheck=0\nexclude=a* b\npriority=10\n"
            )
        );
        apply(&machine, "yum_repository", json!({"name": "kraxel", "state": "absent"})).unwrap();
        assert!(!machine.exists("/etc/yum.repos.d/kraxel.repo").unwrap());
    }

    #[test]
    fn only_what_is_asked_changes_wherever_the_section_is() {
        let machine = elrepo();
        apply(&machine, "yum_repository", json!({"name": "elrepo-kernel", "enabled": true, "priority": 5})).unwrap();
        assert_eq!(text(&machine), ELREPO.replace("enabled=0\ngpgcheck=1\n", "enabled=1\ngpgcheck=1\npriority=5\n"));
        assert!(
            apply(&machine, "yum_repository", json!({"name": "elrepo-kernel", "enabled": "yes"})).unwrap().is_empty()
        );
    }

    #[test]
    fn a_new_address_replaces_the_mirrors() {
        let machine = elrepo();
        apply(&machine, "yum_repository", json!({"name": "elrepo", "baseurl": "https://vault/"})).unwrap();
        assert!(text(&machine).contains("[elrepo]\nname=ELRepo\nbaseurl=https://vault/\nenabled=1\n\n[elrepo-kernel]"));
    }

    #[test]
    fn a_section_goes_and_the_others_stay() {
        let machine = elrepo();
        apply(&machine, "yum_repository", json!({"name": "elrepo-kernel", "state": "absent"})).unwrap();
        let (kept, _) = ELREPO.split_once("\n[elrepo-kernel]").unwrap();
        assert_eq!(text(&machine), kept);
        let machine = elrepo();
        apply(&machine, "yum_repository", json!({"name": "elrepo", "state": "absent"})).unwrap();
        let (_, kept) = ELREPO.split_once("[elrepo-kernel]").unwrap();
        assert_eq!(text(&machine), format!("### comment\n\n[elrepo-kernel]{kept}"));
    }

    #[test]
    fn nonsense_is_refused() {
        let machine = elrepo();
        for parameters in [
            json!({"name": "new", "description": "x"}),
            json!({"name": "a]b", "baseurl": "x"}),
            json!({"name": "a", "baseurl": "x", "file": "../x"}),
            json!({"name": "a", "description": "x\n[b]", "baseurl": "x"}),
            json!({"name": "a", "baseurl": "x\n[b]"}),
        ] {
            assert!(plan(&machine, "yum_repository", parameters.clone()).is_err(), "{parameters}");
        }
    }

    proptest! {
        #[test]
        fn others_keep_their_bytes(before in "(#[a-z ]{0,5}\n|\\[[a-c]\\]\n|[a-z]{1,4} ?= ?[a-z0-9]{0,4}\n| [a-z]{1,3}\n|\n){0,8}") {
            let machine = machine(&[EL7, (PATH, &before)]);
            let parameters = json!({"name": "mine", "baseurl": "http://x/", "file": "elrepo", "enabled": true});
            apply(&machine, "yum_repository", parameters).unwrap();
            prop_assert!(text(&machine).starts_with(before.trim_end_matches('\n')));
            apply(&machine, "yum_repository", json!({"name": "mine", "file": "elrepo", "state": "absent"})).unwrap();
            let left = text(&machine);
            prop_assert_eq!(left.trim_end(), before.trim_end());
        }
    }
}
