//! Which packages are there, which are wanted, and what brings the one to the other.

use super::interrupted;
use super::manager::{Manager, Options, Verb};
use super::query::{self, Found};
use super::spec::{Source, Spec};
use crate::change::action::Pin;
use crate::change::{Content, Diff, Effect, Op, Plan};
use crate::host::version::{compare_deb, compare_rpm};
use crate::host::{Error, Host, Result};
use crate::modules::system::make_folders;

/// Where downloaded package files are kept.
const CACHE: &str = "/var/cache/vfio-provision/packages";
/// Its time tells when this program last had apt read the repositories.
const APT_STAMP: &str = "/var/cache/vfio-provision/apt-updated";

/// Packages that must be there, and how to get them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Install<'a> {
    /// `name`, `name-version` (RPM), `name=version`, the path of a package file, or a URL.
    pub names: &'a [&'a str],
    /// Hex SHA-256 of what the URL in `names` gives.
    pub sha256: Option<&'a str>,
    /// Upgrade what is there to the newest.
    pub latest: bool,
    /// Repositories that are switched on for this (yum, dnf).
    pub enablerepo: &'a [&'a str],
    /// Repositories that are switched off for this (yum, dnf).
    pub disablerepo: &'a [&'a str],
    /// The release that is preferred for this (apt), such as `bookworm-backports`.
    pub default_release: Option<&'a str>,
    /// A version older than the installed one is fine.
    pub allow_downgrade: bool,
    /// Other packages may be removed (dnf), held ones changed (apt).
    pub allow_erasing: bool,
    /// Signatures are not checked.
    pub no_gpg_check: bool,
    /// Install what is recommended too; `None` is the machine's own choice.
    pub recommends: Option<bool>,
    /// Read the repositories anew before; `None`: when the lists are older than the definitions (apt).
    pub update_cache: Option<bool>,
    /// Units that come with the packages, so that a dry run knows them.
    pub units: &'a [&'a str],
    /// What else becomes of the machine when these are installed (a kernel's files in /boot).
    pub effects: &'a [Effect],
}

/// One package that must change.
struct Missing {
    spec: Spec,
    /// The version that is there.
    before: Option<String>,
    /// The version that will be there, where it is known.
    after: Option<String>,
    /// An upgrade to exactly `after`.
    exact: bool,
    downgrade: bool,
}

/// Kernels are installed beside each other, never instead of each other.
fn is_installed_beside(name: &str) -> bool {
    name.starts_with("kernel") && !["headers", "tools", "srpm", "rpm", "abi"].iter().any(|part| name.contains(part))
}

fn is_older(manager: Manager, a: &str, b: &str) -> bool {
    match manager {
        Manager::Apt => compare_deb(a, b).is_lt(),
        _ => compare_rpm(a, b).is_lt(),
    }
}

/// What must be done so that these packages are there. Empty when they are.
///
/// # Errors
/// Names that are none, a downgrade that nobody allowed, a machine whose packages can't be read.
pub fn install(host: &dyn Host, wanted: &Install) -> Result<Plan> {
    let manager = Manager::of(host)?;
    if !(manager.has_repository_ids() || wanted.enablerepo.is_empty() && wanted.disablerepo.is_empty()) {
        return Err(Error::parameters(format!(
            "enablerepo and disablerepo are for yum and dnf, and this machine has {}",
            manager.name()
        )));
    }
    let mut specs: Vec<Spec> = Vec::new();
    for name in wanted.names {
        let spec = Spec::parse(name, manager, wanted.sha256)?;
        match specs.iter().find(|other| other.name == spec.name) {
            Some(other) if *other == spec => {}
            Some(_) => {
                return Err(Error::parameters(format!("the package {} is asked for twice, differently", spec.name)));
            }
            None => specs.push(spec),
        }
    }
    let mut options = Options {
        enablerepo: wanted.enablerepo,
        disablerepo: wanted.disablerepo,
        default_release: wanted.default_release,
        allow_downgrade: wanted.allow_downgrade,
        allow_erasing: wanted.allow_erasing,
        no_gpg_check: wanted.no_gpg_check,
        recommends: wanted.recommends,
        refresh: wanted.update_cache.unwrap_or(false),
    };
    let mut plan = Plan::nothing();
    let mut missing = missing(host, manager, wanted, specs, &options)?;
    if missing.is_empty() {
        return Ok(plan);
    }
    plan.extend(interrupted::finish(host, manager)?);

    let fetches = missing.iter().any(|m| m.spec.source == Source::Repository);
    let unknown = missing.iter().filter(|m| m.after.is_none() && m.spec.source == Source::Repository);
    let names: Vec<&str> = unknown.map(|m| m.spec.name.as_str()).collect();
    let stale = if !fetches || manager != Manager::Apt {
        None
    } else {
        match wanted.update_cache {
            Some(true) => Some("as they are".to_string()),
            Some(false) => None,
            None => why_apt_lists_are_old(host, &names)?,
        }
    };
    if let Some(why) = stale {
        plan.extend(apt_update(host, &why)?);
    } else {
        let known = query::candidates(host, manager, &names, &options)?;
        for one in missing.iter_mut().filter(|m| m.after.is_none()) {
            one.after = known.get(&one.spec.name).cloned();
        }
    }
    if manager == Manager::Yum && options.refresh {
        let run = manager.run(["yum", "-q", "clean", "expire-cache"].map(String::from).to_vec());
        plan.push(Op::Run(run), Vec::new());
    }
    if options.refresh && manager == Manager::Apt {
        options.refresh = false;
    }

    for one in &missing {
        if let Source::Url { url, sha256 } = &one.spec.source {
            download(host, &mut plan, url, sha256.as_deref())?;
        }
    }
    for downgrade in [false, true] {
        let group: Vec<&Missing> = missing.iter().filter(|m| m.downgrade == downgrade).collect();
        if !group.is_empty() {
            push_run(&mut plan, manager, &options, wanted, &group, downgrade)?;
        }
    }
    Ok(plan)
}

fn missing(
    host: &dyn Host,
    manager: Manager,
    wanted: &Install,
    specs: Vec<Spec>,
    options: &Options,
) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    for spec in specs {
        let Found { package, satisfied } = query::find(host, manager, &spec)?;
        let before = package.as_ref().and_then(|package| package.version.clone());
        let after = spec.foreseen();
        if satisfied {
            if !wanted.latest || spec.version.is_some() || spec.source != Source::Repository {
                continue;
            }
            let Some(name) = package.map(|package| package.name) else { continue };
            let newest = query::candidates(host, manager, &[&name], options)?.remove(&name);
            match (newest, &before) {
                (Some(newest), Some(old)) if is_older(manager, old, &newest) => {
                    let spec = Spec { name, ..spec };
                    missing.push(Missing { spec, before, after: Some(newest), exact: true, downgrade: false });
                }
                _ => {}
            }
            continue;
        }
        let downgrade = match (&before, &after) {
            (Some(old), Some(new)) => is_older(manager, new, old) && !is_installed_beside(&spec.name),
            _ => false,
        };
        if downgrade && !wanted.allow_downgrade {
            let (name, old) = (&spec.name, before.unwrap_or_default());
            let new = after.unwrap_or_default();
            return Err(Error::refused(format!("{name} {old} is installed, and {new} is older"))
                .hint("add `allow_downgrade: true` if the older one is meant"));
        }
        missing.push(Missing { spec, before, after, exact: false, downgrade });
    }
    Ok(missing)
}

fn push_run(
    plan: &mut Plan,
    manager: Manager,
    options: &Options,
    wanted: &Install,
    group: &[&Missing],
    downgrade: bool,
) -> Result<()> {
    // apt, pacman and zypper have one verb for both directions.
    let verb = if downgrade && manager.has_repository_ids() { Verb::Downgrade } else { Verb::Install };
    let mut argv = manager.command(verb, options);
    let mut effects = Vec::new();
    let mut diffs = Vec::new();
    for one in group {
        let Spec { name, version, source } = &one.spec;
        argv.push(match (source, version, &one.after) {
            (Source::Url { url, .. }, _, _) => cached(url),
            (Source::File(path), _, _) => path.clone(),
            (Source::Repository, Some(version), _) => manager.at_version(name, version)?,
            (Source::Repository, None, Some(after)) if one.exact && manager.has_repository_ids() => {
                manager.at_version(name, after)?
            }
            (Source::Repository, None, _) => name.clone(),
        });
        let after = one.after.clone().unwrap_or_else(|| "installed".to_string());
        diffs.push(match &one.before {
            Some(before) if !is_installed_beside(name) => Diff::changed("package", name, before, after),
            _ => Diff::added("package", name, after),
        });
        effects.push(Effect::Package { name: name.clone(), version: one.after.clone(), present: true });
    }
    for unit in wanted.units {
        effects.push(Effect::Unit { name: unit.to_string(), exists: Some(true), enabled: None, active: None });
    }
    effects.extend(wanted.effects.iter().cloned());
    let mut run = manager.run(argv);
    run.effects = effects;
    if group.iter().all(|one| one.before.is_none()) {
        let mut undo = manager.command(Verb::Remove, &Options::default());
        undo.extend(group.iter().map(|one| one.spec.name.clone()));
        run.undo = Some(undo);
    }
    plan.push(Op::Run(run), diffs);
    Ok(())
}

fn cached(url: &str) -> String {
    let name = url.split(['?', '#']).next().unwrap_or(url).rsplit('/').next().unwrap_or("package");
    format!("{CACHE}/{name}")
}

fn download(host: &dyn Host, plan: &mut Plan, url: &str, sha256: Option<&str>) -> Result<()> {
    let path = cached(url);
    let what = match sha256 {
        Some(sha256) if host.sha256(&path)?.as_deref() == Some(sha256) => return Ok(()),
        Some(sha256) => format!("{url} (sha256 {sha256})"),
        None => {
            plan.pins.push(Pin { url: url.to_string(), path: path.clone() });
            plan.warnings.push(format!("{url} has no sha256: the first one seen is kept in the lock file, and holds"));
            if host.exists(&path)? {
                return Ok(());
            }
            url.to_string()
        }
    };
    make_folders(host, plan, CACHE)?;
    let diff = Diff::added("download", &path, what);
    let (url, sha256) = (url.to_string(), sha256.map(str::to_string));
    plan.push(Op::Download { url, path, sha256, mode: Some(0o644) }, vec![diff]);
    Ok(())
}

/// Why apt shall read the repositories anew before it installs these packages, if it shall.
fn why_apt_lists_are_old(host: &dyn Host, names: &[&str]) -> Result<Option<String>> {
    if apt_lists_are_old(host)? {
        return Ok(Some(OLDER.into()));
    }
    // What an earlier action of this plan reads anew can't be asked yet.
    if host.stat(APT_STAMP)?.is_some_and(|stat| stat.mtime == 0) {
        return Ok(None);
    }
    let unknown = query::unknown_to_apt(host, names)?;
    Ok(if unknown.is_empty() { None } else { Some(format!("without {}", unknown.join(" and "))) })
}

/// Are apt's lists older than the files that say where they come from? A machine without lists (a recorded one) has
/// nothing to refresh.
pub(super) fn apt_lists_are_old(host: &dyn Host) -> Result<bool> {
    const LISTS: &str = "/var/lib/apt/lists";
    if !host.exists(LISTS)? {
        return Ok(false);
    }
    let mut newest_list = 0;
    for path in [LISTS, "/var/lib/apt/lists/partial", "/var/lib/apt/periodic/update-success-stamp", APT_STAMP] {
        if let Some(stat) = host.stat(path)? {
            // Time zero is what an action of this very plan has just made.
            newest_list = newest_list.max(if path == APT_STAMP && stat.mtime == 0 { i64::MAX } else { stat.mtime });
        }
    }
    if newest_list == i64::MAX {
        return Ok(false);
    }
    if !host.list(LISTS)?.iter().any(|name| name.ends_with("Release") || name.ends_with("_Packages")) {
        return Ok(true);
    }
    let mut sources = vec!["/etc/apt/sources.list".to_string()];
    sources.extend(
        host.list("/etc/apt/sources.list.d")?.into_iter().map(|name| format!("/etc/apt/sources.list.d/{name}")),
    );
    for source in sources {
        if host.stat(&source)?.is_some_and(|stat| stat.mtime == 0 || stat.mtime > newest_list) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is wrong with apt's lists where a repository's definition has changed.
pub(super) const OLDER: &str = "older than the repositories' definitions";

/// Has apt read the repositories anew; `why` says what is wrong with its lists.
pub(super) fn apt_update(host: &dyn Host, why: &str) -> Result<Plan> {
    let mut plan = Plan::nothing();
    let argv = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Update::Error-Mode=any", "update"];
    let run = Manager::Apt.run(argv.map(String::from).to_vec());
    plan.push(Op::Run(run), vec![Diff::changed("package_lists", "apt", why, "read anew")]);
    // apt leaves no mark where nothing was new, so this program leaves its own.
    make_folders(host, &mut plan, "/var/cache/vfio-provision")?;
    let op = Op::WriteFile {
        path: APT_STAMP.into(),
        content: Content::Bytes(Vec::new()),
        mode: Some(0o644),
        owner: None,
        group: None,
        validate: Vec::new(),
    };
    plan.push(op, Vec::new());
    Ok(plan)
}

/// What must be done so that these packages are gone, whatever needs them too.
///
/// # Errors
/// A machine whose packages can't be read.
pub fn remove(host: &dyn Host, names: &[&str], purge: bool) -> Result<Plan> {
    let manager = Manager::of(host)?;
    let mut gone: Vec<(String, Option<String>)> = Vec::new();
    let mut aliases = Vec::new();
    for name in names {
        let spec = Spec::parse(name, manager, None)?;
        let Found { package: Some(package), satisfied } = query::find(host, manager, &spec)? else { continue };
        if !satisfied {
            continue;
        }
        if package.name != spec.name {
            aliases.push(spec.name);
        }
        if !gone.iter().any(|(other, _)| *other == package.name) {
            gone.push((package.name, package.version));
        }
    }
    if gone.is_empty() {
        return Ok(Plan::nothing());
    }
    let mut plan = interrupted::finish(host, manager)?;
    let asked: Vec<String> = gone.iter().map(|(name, _)| name.clone()).collect();
    for (name, version) in query::dependants(host, manager, &asked)? {
        if !gone.iter().any(|(other, _)| *other == name) {
            gone.push((name, version));
        }
    }
    let mut argv = manager.command(Verb::Remove, &Options::default());
    if purge && manager == Manager::Apt {
        argv.push("--purge".into());
    }
    argv.extend(asked.iter().cloned());
    let mut run = manager.run(argv);
    let removed = |name: &String| Effect::Package { name: name.clone(), version: None, present: false };
    run.effects = gone.iter().map(|(name, _)| name).chain(&aliases).map(removed).collect();
    let mut undo = manager.command(Verb::Install, &Options::default());
    undo.extend(gone.iter().map(|(name, _)| name.clone()));
    run.undo = Some(undo);
    let diffs = gone
        .iter()
        .map(|(name, version)| Diff::removed("package", name, version.clone().unwrap_or_else(|| "installed".into())))
        .collect();
    plan.push(Op::Run(run), diffs);
    Ok(plan)
}

/// The version that would be installed under this name; `None` when that can't be told.
///
/// # Errors
/// A distribution this program does not know.
pub fn candidate(host: &dyn Host, name: &str, enablerepo: &[&str]) -> Result<Option<String>> {
    let manager = Manager::of(host)?;
    let options = Options { enablerepo, ..Options::default() };
    Ok(query::candidates(host, manager, &[name], &options)?.remove(name))
}
