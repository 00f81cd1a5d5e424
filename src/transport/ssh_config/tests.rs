use std::collections::BTreeMap;
use std::process::Command;

use proptest::prelude::*;

use super::*;

fn local() -> Local {
    let mut local = Local::here();
    local.home = "/home/me".into();
    local.system = "/nowhere".into();
    local
}

fn config(text: &str) -> Config {
    let source = Source::new("config", text);
    let lines = read::lines(&source, Origin::Named, &local(), 0).unwrap();
    Config { files: vec![(Origin::Named, lines)], named: None }
}

fn over(arguments: &str) -> Overrides {
    let mut over = Overrides::default();
    over.arguments("ansible_ssh_common_args", "ws01", arguments).unwrap();
    over
}

fn truth(truth: bool) -> String {
    (if truth { "yes" } else { "no" }).to_string()
}

/// What `ssh -G` would say of what we collected.
fn dump(found: &Collected, alias: &str, local: &Local) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut say = |key: &str, value: String| out.entry(key.to_string()).or_default().push(value);
    let host = hostname(found.hostname.as_deref().unwrap_or(alias), alias, local).unwrap().to_lowercase();
    say("hostname", host);
    say("port", found.port.unwrap_or(22).to_string());
    say("user", found.user.clone().unwrap_or_else(|| local.user.clone()));
    for file in &found.identity_files {
        say("identityfile", file.clone());
    }
    for file in &found.certificate_files {
        say("certificatefile", file.clone());
    }
    say("identitiesonly", truth(found.identities_only.unwrap_or(false)));
    say("connectionattempts", found.attempts.unwrap_or(1).to_string());
    let timeout = found.connect_timeout.flatten().map_or("none".to_string(), |time| time.as_secs().to_string());
    say("connecttimeout", timeout);
    say("serveraliveinterval", found.alive_interval.unwrap_or_default().as_secs().to_string());
    say("serveralivecountmax", found.alive_count.unwrap_or(3).to_string());
    say("hashknownhosts", truth(found.hash_known_hosts.unwrap_or(false)));
    say("passwordauthentication", truth(found.password.unwrap_or(true)));
    say("kbdinteractiveauthentication", truth(found.keyboard_interactive.unwrap_or(true)));
    let policy = match found.policy {
        Some(Policy::Strict) => "true",
        Some(Policy::No) => "false",
        Some(Policy::AcceptNew) => "accept-new",
        Some(Policy::Ask) | None => "ask",
    };
    say("stricthostkeychecking", policy.into());
    if let Some(files) = &found.user_known_hosts {
        say("userknownhostsfile", files.join(" "));
    }
    if let Some(files) = &found.global_known_hosts {
        say("globalknownhostsfile", files.join(" "));
    }
    if let Some(alias) = &found.host_key_alias {
        say("hostkeyalias", alias.clone());
    }
    if let Some(agent) = &found.identity_agent {
        say("identityagent", agent.clone());
    }
    let family = match found.addresses.unwrap_or_default() {
        Addresses::Any => "any",
        Addresses::Inet => "inet",
        Addresses::Inet6 => "inet6",
    };
    say("addressfamily", family.into());
    match &found.proxy {
        Some(Proxy::Command(text)) => say("proxycommand", text.clone()),
        Some(Proxy::Jump(jumps)) => {
            let one = |jump: &Jump| {
                let user = jump.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                match jump.port {
                    Some(port) if jump.host.contains(':') => format!("{user}[{}]:{port}", jump.host),
                    Some(port) => format!("{user}{}:{port}", jump.host),
                    None if jump.host.contains(':') => format!("{user}[{}]", jump.host),
                    None => format!("{user}{}", jump.host),
                }
            };
            say("proxyjump", jumps.iter().map(one).collect::<Vec<_>>().join(","));
        }
        _ => {}
    }
    out
}

/// Hosts that each configuration is asked for.
const HOSTS: [&str; 7] = ["web1", "web2", "db.example.org", "WEB1", "10.0.0.1", "bastion", "a-very-other-host"];

const CONFIGS: [&str; 34] = [
    "",
    "Port 2200\nPort 2201\nUser one\nUser two\n",
    "Host web1\n  Port 1\nHost *\n Port 2\n",
    "Host *\n Port 2\nHost web1\n  Port 1\n",
    "Host web? !web2 db.*\n  User pattern\n",
    "Host !web2 *\n  User all-but-web2\n",
    "Host * !web2\n  User all-but-web2\n",
    "Host !web2\n  User nobody\n",
    "HostName=10.1.2.3\nport = 17\nUSER\tsomebody\n",
    "Host web1\nHostName %h.example.com\nHost *.example.com\nUser never\n",
    "Host web*\nHostName %h.Example.COM\nMatch host *.example.com\nUser matched\nPort 99\n",
    "Host web1\nUser u1\nMatch user u1\nPort 71\nMatch user root\nPort 72\n",
    "Match originalhost web1,db.*\nPort 5\nMatch all\nPort 6\n",
    "Match originalhost \"web1,!web1\"\nPort 5\n",
    "Match !originalhost web1\nPort 5\n",
    "Match localuser root user root\nPort 5\nMatch localuser nobody\nUser x\n",
    "Match host=web1\nPort 5\n",
    "Match host web1 # comment\nPort 5\n",
    "Match final\nPort 9\nHost web1\nHostName other\nMatch final host other\nUser finally\n",
    "Host web1\nHostName db.example.org\nHost db.example.org\nPort 8\nMatch final all\nUser f\n",
    "IdentityFile ~/.ssh/a\nIdentityFile \"/tmp/with blank/b\"\nIdentityFile ~/.ssh/a\nIdentitiesOnly yes\n",
    "Host web1\nIdentityFile /x/%h-%r\nHost *\nIdentityFile /y\nCertificateFile /z-cert.pub\n",
    "ProxyJump bastion\nProxyCommand nc %h %p\n",
    "ProxyCommand nc  -X 5 %h   %p # not a comment\nProxyJump bastion\n",
    "Host web*\nProxyJump none\nHost *\nProxyJump me@a:22,ssh://b:23,[2001:db8::1]:24,c\n",
    "ProxyCommand none\nProxyJump x\n",
    "ConnectTimeout 1m30s\nConnectionAttempts 4\nServerAliveInterval 2m\nServerAliveCountMax 7\n",
    "ConnectTimeout none\nServerAliveInterval 0\n",
    "UserKnownHostsFile /a /b \"/c d\"\nUserKnownHostsFile /x\nGlobalKnownHostsFile /g\n",
    "StrictHostKeyChecking accept-new\nHashKnownHosts yes\nHostKeyAlias other\n",
    "Host web1\nStrictHostKeyChecking no\nHost web2\nStrictHostKeyChecking off\nHost db*\nStrictHostKeyChecking yes\n",
    "IdentityAgent none\nAddressFamily inet6\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
    "User \"with blank\" # and a comment\nHostName a#b\nIdentityFile '/single quoted'\nIdentityFile /esc\\ aped\n",
    "# first\n\n   Host web1   \r\n\tUser   tabbed  \r\n  #Port 9\nHost \"web2\" 'db.example.org'\nUser quoted\n",
];

/// The real OpenSSH reads the same from the same text.
#[test]
fn reads_as_openssh_does() {
    let folder = tempfile::tempdir().unwrap();
    let extra = folder.path().join("extra.d");
    std::fs::create_dir(&extra).unwrap();
    std::fs::write(extra.join("1.conf"), "Host web1\nPort 4001\nHost *\n").unwrap();
    std::fs::write(extra.join("2.conf"), "User from-two\nMatch host web2\nPort 4002\n").unwrap();
    std::fs::write(extra.join(".hidden.conf"), "User hidden\n").unwrap();
    std::fs::write(extra.join("deep.inc"), format!("Include {}/2.conf\nHostKeyAlias deep\n", extra.display())).unwrap();
    let mut configs: Vec<String> = CONFIGS.iter().map(|text| (*text).to_string()).collect();
    for text in [
        "Include @/*.conf\nPort 77\n",
        "Host web1\nInclude @/2.conf\nHostKeyAlias still-web1\nHost *\nUser late\n",
        "Host db*\nInclude @/deep.inc /does/not/exist/*\nHost web2\nInclude @/1.conf @/2.conf\n",
    ] {
        configs.push(text.replace('@', &extra.display().to_string()));
    }
    let local = Local::here();
    let path = folder.path().join("config");
    let (mut compared, mut wrong) = (0, Vec::new());
    for text in &configs {
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&Files::Only(path.clone()), &local).unwrap();
        for host in HOSTS {
            let output = Command::new("ssh").arg("-G").arg("-F").arg(&path).arg(host).output();
            let Ok(output) = output else { return eprintln!("skipped: no ssh here") };
            let errors = String::from_utf8_lossy(&output.stderr);
            if errors.contains("jumphost loop") {
                let ours = route(&config, host, &Overrides::default(), &local).unwrap_err().to_string();
                assert!(ours.contains("never ends"), "{host} in:\n{text}\n{ours}");
                continue;
            }
            assert!(output.status.success(), "{text}\n{errors}");
            let mut theirs: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let (key, value) = line.split_once(' ').unwrap_or((line, ""));
                // As it was written; ours is what it means.
                theirs.entry(key.to_string()).or_default().push(value.replace("ssh://", ""));
            }
            let found = collect(&config, host, &Overrides::default(), &local).unwrap();
            for (key, ours) in dump(&found, host, &local) {
                if theirs.get(&key) != Some(&ours) {
                    wrong.push(format!("{key} of {host}: {:?}, and ours: {ours:?}, in:\n{text}", theirs.get(&key)));
                }
                compared += 1;
            }
            // And what they have, we must have, where it does not stand there by itself.
            for key in ["proxyjump", "proxycommand", "hostkeyalias", "identityagent", "certificatefile"] {
                let ours = dump(&found, host, &local);
                if theirs.contains_key(key) && !ours.contains_key(key) {
                    wrong.push(format!("{key} of {host}: {:?}, and ours: nothing, in:\n{text}", theirs.get(key)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 3000, "{compared}");
}

/// What OpenSSH refuses, we refuse with its place.
#[test]
fn mistakes_have_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    for (text, line, part) in [
        ("Port", 1, "`Port` has no value"),
        ("User x\nPort 70000\n", 2, "`Port` must be a port"),
        ("Host *\n  ConnectTimeout soon\n", 2, "must be a time"),
        ("IdentitiesOnly perhaps\n", 1, "must be yes or no"),
        ("StrictHostKeyChecking maybe\n", 1, "accept-new"),
        ("User \"open\n", 1, "a quote is not closed"),
        ("\n\nMatch hots web1\n", 3, "did you mean `host`?"),
        ("Match host\n", 1, "has no value"),
        ("ProxyJump a:b:c,,\n", 1, "must be `none`, or machines"),
        ("ProxyJump -oProxyCommand=x\n", 1, "must be `none`, or machines"),
        ("AddressFamily ipv7\n", 1, "any, inet or inet6"),
        ("ServerAliveCountMax many\n", 1, "a number"),
    ] {
        std::fs::write(&path, text).unwrap();
        let local = local();
        let error = Config::load(&Files::Only(path.clone()), &local)
            .and_then(|config| lookup(&config, "web1", &Overrides::default(), &local))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("config:{line}:")) && error.contains(part), "{text}: {error}");
        let theirs = Command::new("ssh").arg("-G").arg("-F").arg(&path).arg("web1").output();
        // Older ones find an option in the place of a host only when they connect.
        assert!(
            text.contains("-oProxyCommand") || theirs.is_ok_and(|output| !output.status.success()),
            "OpenSSH takes: {text}"
        );
    }
    let error = Config::load(&Files::Only(folder.path().join("none")), &local()).unwrap_err().to_string();
    assert!(error.contains("there is no file"), "{error}");
}

#[test]
fn files_include_one_another_with_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    std::fs::write(&path, format!("Include {}\n", path.display())).unwrap();
    let error = Config::load(&Files::Only(path), &local()).unwrap_err().to_string();
    assert!(error.contains("include one another without end"), "{error}");
}

#[test]
fn the_usual_files_are_read_and_a_file_that_others_may_write_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mut local = Local::here();
    local.home = folder.path().join("home");
    local.system = folder.path().join("etc");
    std::fs::create_dir_all(local.ssh_folder().join("conf.d")).unwrap();
    std::fs::create_dir_all(local.system.join("ssh_config.d")).unwrap();
    let mine = local.ssh_folder().join("config");
    std::fs::write(&mine, "Include conf.d/*\nHost *\n  User mine\n").unwrap();
    std::fs::write(local.ssh_folder().join("conf.d/a"), "Port 7\n").unwrap();
    std::fs::write(
        local.system.join("ssh_config"),
        "Include ssh_config.d/*.conf\nUser system\nGSSAPIAuthentication yes\nKexAlgorithms x\nBindAddress 10.0.0.1\n",
    )
    .unwrap();
    std::fs::write(local.system.join("ssh_config.d/a.conf"), "ConnectTimeout 5\n").unwrap();
    let config = Config::load(&Files::Usual, &local).unwrap();
    let options = lookup(&config, "x", &Overrides::default(), &local).unwrap();
    assert_eq!((options.user.as_str(), options.port), ("mine", 7));
    assert_eq!(options.connect_timeout, Some(Duration::from_secs(5)));
    // What distributions set for everybody is not worth a word; what changes the way is.
    let said: Vec<&str> = options.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(said, ["`BindAddress` is not honoured: the system chooses the address to connect from"]);
    assert!(options.known_as() == "[x]:7");
    std::fs::set_permissions(&mine, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = Config::load(&Files::Usual, &local).unwrap_err().to_string();
    assert!(error.contains("others may write it") && error.contains("chmod go-w"), "{error}");
}

#[test]
fn tokens_and_the_home_folder_are_put_in() {
    let text = "HostName %h.lan\nUser admin\nPort 2222\nIdentityFile ~/keys/%r@%h-%p\nIdentityFile %d/%u/%n\n\
                UserKnownHostsFile ${WHERE}/kh none\nIdentityAgent $SOCKET\nProxyCommand nc -x %h:%p %r %% %n\n\
                CertificateFile /c/%i/%k\nHostKeyAlias key-name\n";
    let mut local = local();
    (local.user, local.uid) = ("me".into(), 1000);
    local.variable = std::sync::Arc::new(|name| Some(format!("/env/{name}")));
    let options = lookup(&config(text), "Web1", &Overrides::default(), &local).unwrap();
    let shown = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    assert_eq!(shown(&options.identity_files), ["/home/me/keys/admin@web1.lan-2222", "/home/me/me/Web1"]);
    assert_eq!(shown(&options.user_known_hosts), ["/env/WHERE/kh"]);
    assert_eq!(shown(&options.certificate_files), ["/c/1000/key-name"]);
    assert_eq!(options.agent, KeyAgent::Socket("/env/SOCKET".into()));
    assert_eq!(options.proxy, Proxy::Command("nc -x web1.lan:2222 admin % Web1".into()));
    assert_eq!(options.known_as(), "key-name");
    for wrong in ["IdentityFile /x/%Z\n", "ProxyCommand nc %d\n", "IdentityFile ${NOT\n", "HostName %p\n"] {
        assert!(lookup(&config(wrong), "a", &Overrides::default(), &local).is_err(), "{wrong}");
    }
    let none = lookup(&config("IdentityFile none\n"), "a", &Overrides::default(), &local).unwrap();
    assert!(none.identity_files.is_empty() && none.identities_named);
}

/// %C is what OpenSSH makes of it.
#[test]
fn the_hash_of_the_connection_is_openssh_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    std::fs::write(&path, "Port 17\nUser u\nControlPath /x/%C\nIdentityFile /x/%C\n").unwrap();
    let local = Local::here();
    let options =
        lookup(&Config::load(&Files::Only(path.clone()), &local).unwrap(), "web1", &Overrides::default(), &local)
            .unwrap();
    let output = Command::new("ssh").arg("-G").arg("-F").arg(&path).arg("web1").output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    let theirs = output.lines().find_map(|line| line.strip_prefix("controlpath ")).unwrap();
    assert_eq!(options.identity_files, [PathBuf::from(theirs)]);
}

#[test]
fn the_inventory_is_stronger_than_the_files_and_arguments_are_between() {
    let text = "User file\nPort 1\nIdentityFile /file\nStrictHostKeyChecking no\nConnectTimeout 1\nProxyJump far\n";
    let mut over = over("-o Port=5 -l args -i '/from args' -oStrictHostKeyChecking=accept-new -J a,b -CTq -4");
    assert_eq!(over.settings.len(), 6);
    over.user = Some("vars".into());
    over.identity_files.push("/vars".into());
    let options = lookup(&config(text), "h", &over, &local()).unwrap();
    assert_eq!((options.user.as_str(), options.port), ("vars", 5));
    let files = ["/vars", "/from args", "/file"].map(PathBuf::from);
    assert_eq!(options.identity_files, files);
    assert_eq!((options.policy, options.addresses), (Some(Policy::AcceptNew), Addresses::Inet));
    assert_eq!(options.connect_timeout, Some(Duration::from_secs(1)));
    let Proxy::Jump(jumps) = &options.proxy else { panic!("{:?}", options.proxy) };
    assert_eq!(jumps.iter().map(|jump| jump.host.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    over.policy = Some(Policy::Strict);
    assert_eq!(lookup(&config(text), "h", &over, &local()).unwrap().policy, Some(Policy::Strict));
}

#[test]
fn arguments_that_only_openssh_takes_are_refused_with_the_way_out() {
    let mut over = Overrides::default();
    assert_eq!(over.arguments("v", "h", "-F /some/file").unwrap(), Some(Files::Only("/some/file".into())));
    assert_eq!(over.arguments("v", "h", "-Fnone").unwrap(), Some(Files::Nothing));
    assert_eq!(over.arguments("v", "h", "-C -o ControlMaster=auto -o ControlPersist=60s").unwrap(), None);
    for (text, part) in [
        ("-L 80:x:80", "ansible_connection=openssh"),
        ("-o", "`-o` has no value"),
        ("-o Port", "-o Port=VALUE"),
        ("-o 'Host=x'", "can't be set"),
        ("host", "is no option"),
        ("-J 'a b'", "-J a b"),
        ("-o 'x", "a quote is not closed"),
    ] {
        let error = over.arguments("ansible_ssh_extra_args", "ws01", text).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("ansible_ssh_extra_args of host `ws01`"), "{text}: {error}");
    }
    let bad = super::tests::over("-o ConnectTimeout=soon");
    let error = lookup(&config(""), "h", &bad, &local()).unwrap_err().to_string();
    assert!(error.contains("ansible_ssh_common_args of host `ws01`:1"), "{error}");
}

#[test]
fn the_way_is_followed_and_a_circle_is_seen() {
    let text = "Host far\nProxyJump mid:2200\nHost mid\nUser m\nProxyJump near,next\nHost near\nProxyCommand nc %h %p\n\
                Host next\nProxyJump never\nHost loop\nProxyJump pool\nHost pool\nProxyJump loop\n\
                Host self\nProxyJump self\n";
    let config = config(text);
    let way =
        route(&config, "far", &Overrides { user: Some("root".into()), ..Overrides::default() }, &local()).unwrap();
    let shown: Vec<String> = way.iter().map(|hop| format!("{}@{}", hop.user, hop.known_as())).collect();
    let me = local().user;
    assert_eq!(shown, [format!("{me}@near"), format!("{me}@next"), "m@[mid]:2200".into(), "root@far".into()]);
    assert_eq!(way[0].proxy, Proxy::Command("nc near 22".into()));
    assert!(way[1..].iter().all(|hop| hop.proxy == Proxy::Direct));
    for host in ["loop", "self"] {
        let error = route(&config, host, &Overrides::default(), &local()).unwrap_err().to_string();
        assert!(error.contains("never ends") && error.contains("ProxyJump none"), "{error}");
    }
}

#[test]
fn what_is_not_honoured_is_said_once() {
    let text = "GSSAPIAuthentication yes\nGSSAPIAuthentication no\nCiphers aes\nPKCS11Provider none\nForwardAgent no\n\
                Match exec \"test -f x\"\nPort 9\nMatch host a exec y\nPort 10\nHost *\nControlMaster auto\n\
                Prot 22\nIgnoreUnknown mac*\nMacOnly yes\nRemoteCommand htop\n";
    let config = config(text);
    let (said, mut shown) = (Said::default(), Vec::new());
    for host in ["a", "b", "a"] {
        let options = lookup(&config, host, &Overrides::default(), &local()).unwrap();
        assert_eq!(options.port, 22);
        shown.extend(
            said.new_ones(&options.warnings)
                .iter()
                .map(|w| format!("{} {}", w.span.as_ref().unwrap().line_column().0, w.message)),
        );
    }
    assert_eq!(
        shown,
        [
            "1 `GSSAPIAuthentication` is not honoured: Kerberos can't log in",
            "3 `Ciphers` is not honoured: the cipher is chosen by libssh2",
            "6 `Match exec` is not honoured: this part is passed over",
            "8 `Match exec` is not honoured: this part is passed over",
            "12 the keyword `Prot` is not known, and passed over",
            "15 `RemoteCommand` is not honoured: this program starts its own",
        ]
    );
}

#[test]
fn every_keyword_that_this_ssh_knows_is_known_here() {
    let Ok(output) = Command::new("ssh").args(["-G", "-F", "none", "x"]).output() else { return };
    let mut unknown = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let keyword = line.split(' ').next().unwrap_or_default().to_lowercase();
        let known = keywords::QUIET.contains(&&*keyword)
            || keywords::QUIET_TOO.contains(&&*keyword)
            || keywords::MISSING.iter().any(|missing| missing.keyword == keyword)
            || keywords::HONOURED.iter().any(|name| name.eq_ignore_ascii_case(&keyword));
        if !known && !keyword.is_empty() {
            unknown.push(keyword);
        }
    }
    // `ssh -G` shows the name that was asked for as if it were a keyword.
    unknown.retain(|keyword| keyword != "host");
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn patterns_fit_as_they_should() {
    for (name, pattern, fits) in [
        ("abc", "a*c", true),
        ("abc", "a?c", true),
        ("abc", "a?", false),
        ("", "*", true),
        ("", "?", false),
        ("aXbXc", "*X*X*", true),
        ("aab", "*ab", true),
        ("ab", "*ab*b", false),
    ] {
        assert_eq!(pattern::fits(name, pattern), fits, "{name} {pattern}");
    }
    assert!(pattern::host_in_list("Web1.Example.org", "*.example.ORG,!db*"));
    assert!(!pattern::host_in_list("db1.example.org", "*.example.org,!db*"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_it_panic(text in "(?s)((Host|Match|Port|IdentityFile|ProxyJump|Include|\"|=|%|\\$\\{|~|,|!|\\PC){0,6}[ \n]){0,8}", host in "\\PC{0,12}") {
        let local = local();
        let source = Source::new("config", text);
        if let Ok(lines) = read::lines(&source, Origin::Named, &local, 0) {
            let config = Config { files: vec![(Origin::Named, lines)], named: None };
            let _ = route(&config, &host, &Overrides::default(), &local);
        }
    }

    #[test]
    fn no_arguments_make_it_panic(text in "\\PC{0,40}") {
        let _ = Overrides::default().arguments("v", "h", &text);
    }

    #[test]
    fn words_in_quotes_come_back(words in proptest::collection::vec("[^\"\\\\\n\0]{0,8}", 0..5)) {
        let text: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        prop_assert_eq!(read::words(&text.join(" ")), Some(words));
    }

    #[test]
    fn a_star_fits_everything(name in "\\PC{0,20}", at in 0usize..20) {
        let start: String = name.chars().take(at).collect();
        let wild = start.contains(['*', '?']);
        let pattern = format!("{start}*");
        prop_assert!(wild || pattern::fits(&name, &pattern));
    }
}
