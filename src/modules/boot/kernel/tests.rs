use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::change::Action;
use crate::host::model::predict;
use crate::host::overlay::testing::{Machine, apply, machine, plan};
use crate::host::{Available, Empty, Output, Overlay, Package, Stat, Unit, Virt, VirtKind};
use crate::modules::boot::samples::{self, os};
use crate::modules::boot::{cmdline, grubenv};

const URL: &str = "http://mirror/kernel-ml-4.9.2-1.el7.elrepo.x86_64.rpm";
const NEW: &str = "4.9.2-1.el7.elrepo.x86_64";
const OLD_TITLE: &str = "CentOS Linux (3.10.0-514.el7.x86_64) 7 (Core)";

fn sha() -> String {
    "ab".repeat(32)
}

fn pinned() -> Value {
    json!({"name": "kernel-ml", "url": URL, "sha256": sha(), "minimum": "4.9"})
}

fn el7() -> Machine {
    let env = grubenv::set("", "saved_entry", Some(OLD_TITLE)).unwrap();
    machine(&[
        ("/etc/os-release", os("centos", "7")),
        ("/etc/default/grub", samples::EL7_DEFAULT),
        ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
        ("/boot/grub2/grubenv", &env),
        ("/boot/vmlinuz-3.10.0-514.el7.x86_64", "k"),
        ("/boot/initramfs-3.10.0-514.el7.x86_64.img", "i"),
        ("/proc/sys/kernel/osrelease", "3.10.0-514.el7.x86_64\n"),
        ("/usr/sbin/grubby", ""),
        ("/var/cache/", ""),
    ])
}

fn argvs(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .filter_map(|action| match &action.op {
            Op::Run(run) => Some(run.argv.join(" ")),
            Op::Download { url, .. } => Some(format!("download {url}")),
            _ => None,
        })
        .collect()
}

#[test]
fn el7_a_pinned_kernel_is_installed_and_then_made_the_default() {
    let host = el7();
    let done = apply(&host, "kernel", pinned()).unwrap();
    let argvs = argvs(&done);
    assert_eq!(argvs[0], format!("download {URL}"));
    assert!(argvs[1].starts_with("yum -y install /var/cache/"), "{argvs:?}");
    assert_eq!(argvs[2], format!("grubby --set-default=/boot/vmlinuz-{NEW}"));
    let boot = loader::read(&host).unwrap();
    let default = boot.default_entry().unwrap();
    assert_eq!(default.version.as_deref(), Some(NEW));
    assert!(cmdline::words(&default.args).contains(&"rd.lvm.lv=cl/swap".to_string()), "{}", default.args);
    assert!(host.exists(&format!("/boot/initramfs-{NEW}.img")).unwrap());
    assert!(host.exists(&format!("/lib/modules/{NEW}/kernel/drivers/vfio/vfio_virqfd.ko")).unwrap());
    let again = plan(&host, "kernel", pinned()).unwrap();
    assert_eq!(again.reboot, [format!("the kernel {NEW} is for the next boot, and 3.10.0-514.el7.x86_64 is running")]);
    assert_eq!((&again.result["is_default"], &again.result["is_running"]), (&json!(true), &json!(false)));
    assert_eq!(again.result["installed"], json!([NEW]));
}

#[test]
fn being_installed_being_the_default_and_running_are_three_facts() {
    let host = el7();
    let mut only = pinned();
    only["default"] = json!(false);
    apply(&host, "kernel", only.clone()).unwrap();
    let boot = loader::read(&host).unwrap();
    assert_eq!(boot.default_entry().unwrap().version.as_deref(), Some("3.10.0-514.el7.x86_64"));
    let again = plan(&host, "kernel", only).unwrap();
    assert_eq!((&again.result["is_default"], again.reboot.len()), (&json!(false), 0));
    // An installed one that is new enough needs no source.
    let done = apply(&host, "kernel", json!({"name": "kernel-ml", "minimum": "4.9"})).unwrap();
    assert_eq!(argvs(&done), [format!("grubby --set-default=/boot/vmlinuz-{NEW}")]);
    // And the way back.
    let done = apply(&host, "kernel", json!({"name": "distribution"})).unwrap();
    assert_eq!(argvs(&done), ["grubby --set-default=/boot/vmlinuz-3.10.0-514.el7.x86_64"]);
    assert_eq!(loader::default_entry(&host).unwrap().title, OLD_TITLE);
}

#[test]
fn what_would_not_boot_never_becomes_the_default() {
    let host = el7();
    let mut only = pinned();
    only["default"] = json!(false);
    apply(&host, "kernel", only).unwrap();
    predict(&host, &Op::Remove { path: format!("/boot/initramfs-{NEW}.img") }).unwrap();
    let error = plan(&host, "kernel", pinned()).unwrap_err().to_string();
    assert!(error.contains(&format!("/boot/initramfs-{NEW}.img is missing")), "{error}");
}

#[test]
fn without_grubby_the_entry_is_named_by_its_title() {
    let host = el7();
    predict(&host, &Op::Remove { path: "/usr/sbin/grubby".into() }).unwrap();
    let done = apply(&host, "kernel", pinned()).unwrap();
    assert_eq!(argvs(&done)[2], format!("grub2-set-default CentOS Linux ({NEW}) 7 (Core)"));
}

/// `grub2-set-default 0`, as many do: the package's script puts the new kernel first, and nobody has chosen it.
#[test]
fn a_default_that_is_a_place_in_the_menu_is_named_before_another_kernel_takes_it() {
    for saved in ["0", ""] {
        let host = el7();
        let env = grubenv::set("", "saved_entry", Some(saved)).unwrap();
        let effect = Effect::File { path: "/boot/grub2/grubenv".into(), content: Some(env), mode: None };
        predict(&host, &Op::Run(Run::new(["test"], vec![effect]))).unwrap();
        let mut only = pinned();
        only["default"] = json!(false);
        let done = apply(&host, "kernel", only).unwrap();
        assert_eq!(argvs(&done)[0], "grubby --set-default=/boot/vmlinuz-3.10.0-514.el7.x86_64");
        let Op::Run(run) = &done[0].op else { panic!("{done:#?}") };
        assert_eq!(run.undo.as_ref(), Some(&run.argv), "taken back, the same kernel boots");
        assert_eq!(loader::default_entry(&host).unwrap().title, OLD_TITLE);
        let done = apply(&host, "kernel", pinned()).unwrap();
        let Op::Run(run) = &done[0].op else { panic!("{done:#?}") };
        assert_eq!(run.undo.clone().unwrap_or_default(), ["grub2-set-default", OLD_TITLE]);
        assert_eq!(loader::default_entry(&host).unwrap().version.as_deref(), Some(NEW));
    }
}

#[test]
fn where_nothing_was_saved_taking_it_back_names_what_booted() {
    let host = el7();
    let mut only = pinned();
    only["default"] = json!(false);
    apply(&host, "kernel", only).unwrap();
    let effect = Effect::File {
        path: "/boot/grub2/grubenv".into(),
        content: Some(grubenv::set("", "x", None).unwrap()),
        mode: None,
    };
    predict(&host, &Op::Run(Run::new(["test"], vec![effect]))).unwrap();
    assert_eq!(loader::default_entry(&host).unwrap().version.as_deref(), Some(NEW), "the first of the menu");
    let done = apply(&host, "kernel", json!({"name": "distribution"})).unwrap();
    let Op::Run(run) = &done[0].op else { panic!("{done:#?}") };
    let title = OLD_TITLE.replace("3.10.0-514.el7.x86_64", NEW);
    assert_eq!(run.undo.clone().unwrap_or_default(), ["grub2-set-default".to_string(), title]);
}

#[test]
fn a_default_that_is_written_down_becomes_a_saved_one() {
    let env = grubenv::set("", "saved_entry", Some(OLD_TITLE)).unwrap();
    let fixed = samples::EL7_GRUB_CFG.replace("set default=\"${saved_entry}\"", "set default=\"1\"");
    let host = machine(&[
        ("/etc/os-release", os("centos", "7")),
        ("/etc/default/grub", &samples::EL7_DEFAULT.replace("saved", "1")),
        ("/boot/grub2/grub.cfg", &fixed),
        ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
        ("/boot/grub2/grubenv", &env),
        ("/var/cache/", ""),
    ]);
    apply(&host, "kernel", pinned()).unwrap();
    assert_eq!(loader::default_entry(&host).unwrap().version.as_deref(), Some(NEW));
    assert_eq!(host.read_text("/etc/default/grub").unwrap().as_deref(), Some(samples::EL7_DEFAULT));
}

#[test]
fn the_distributions_kernel_is_the_default_and_left_alone() {
    let debian = [("/etc/os-release", os("debian", "12")), ("/boot/grub/grub.cfg", samples::DEBIAN_GRUB_CFG)];
    assert!(apply(&machine(&debian), "kernel", json!({})).unwrap().is_empty());
    assert!(apply(&machine(&debian), "kernel", json!({"minimum": "6.1"})).unwrap().is_empty());
    let error = plan(&machine(&debian), "kernel", json!({"minimum": "6.1.0-20"})).unwrap_err().to_string();
    assert!(error.contains("the newest is 6.1.0-18-amd64") && error.contains("backports"), "{error}");
    assert!(apply(&machine(&debian[..1]), "kernel", json!({})).unwrap().is_empty());
    assert!(apply(&el7(), "kernel", json!({})).unwrap().is_empty());
}

#[test]
fn refusals() {
    for (parameters, why) in [
        (json!({"name": "kernel-ml"}), "url:"),
        (json!({"name": "kernel-lt"}), "kernel-lt-5.4.278"),
        (json!({"sha256": sha()}), "belongs to `url:`"),
        (json!({"url": URL, "sha256": sha(), "minimum": "6.1"}), "older than `minimum: 6.1`"),
        (json!({"url": URL, "sha256": sha(), "name": "kernel-lt"}), "`url:` gives kernel-ml"),
        (json!({"url": URL.replace("el7", "el9"), "sha256": sha()}), "for Enterprise Linux 9"),
        (json!({"url": "http://x/y.rpm", "sha256": sha()}), "does not end in the name"),
        (json!({"minimum": "4.9"}), "kernel-ml"),
    ] {
        let error = plan(&el7(), "kernel", parameters.clone()).unwrap_err().to_string();
        assert!(error.contains(why), "{parameters}: {error}");
    }
    let debian = machine(&[("/etc/os-release", os("debian", "12")), ("/boot/grub/grub.cfg", samples::DEBIAN_GRUB_CFG)]);
    let error = plan(&debian, "kernel", json!({"name": "kernel-ml"})).unwrap_err().to_string();
    assert!(error.contains("this is Debian GNU/Linux 12"), "{error}");
}

#[test]
fn a_url_without_a_hash_is_pinned_when_first_seen() {
    let first = plan(&el7(), "kernel", json!({"url": URL})).unwrap();
    assert_eq!(first.pins.iter().map(|pin| pin.url.as_str()).collect::<Vec<_>>(), [URL]);
}

#[test]
fn secure_boot_refuses_before_anything_is_installed() {
    for (value, refused) in [("\u{6}\0\0\0\u{1}", true), ("\u{6}\0\0\0\0", false)] {
        let host = el7();
        let path = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c".to_string();
        let effect = Effect::File { path, content: Some(value.into()), mode: None };
        predict(&host, &Op::Run(Run::new(["test"], vec![effect]))).unwrap();
        let answer = plan(&host, "kernel", pinned());
        assert_eq!(
            answer.as_ref().is_err_and(|error| error.message.contains("Secure Boot is on")),
            refused,
            "{answer:?}"
        );
    }
}

/// An empty machine that knows packages and answers queries.
struct Knowing {
    available: HashMap<&'static str, Available>,
    df: &'static str,
}

impl Host for Knowing {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        Empty.raw_lstat(path)
    }
    fn raw_read_link(&self, path: &str) -> Result<String> {
        Empty.raw_read_link(path)
    }
    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        Empty.raw_read(path)
    }
    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        Empty.raw_list(path)
    }
    fn raw_sha256(&self, path: &str) -> Result<String> {
        Empty.raw_sha256(path)
    }
    fn package(&self, name: &str) -> Result<Option<Package>> {
        Empty.package(name)
    }
    fn available(&self, name: &str) -> Result<Option<Available>> {
        Ok(self.available.get(name).cloned())
    }
    fn unit(&self, name: &str) -> Result<Unit> {
        Empty.unit(name)
    }
    fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<Virt>> {
        Empty.virt(kind, name)
    }
    fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>> {
        Empty.virt_names(kind)
    }
    fn query(&self, argv: &[&str]) -> Result<Option<Output>> {
        let df = argv.first() == Some(&"df") && !self.df.is_empty();
        Ok(df.then(|| Output { code: 0, stdout: self.df.into(), stderr: String::new() }))
    }
}

fn el9(df: &'static str, known: bool) -> Overlay<Knowing> {
    let version = "6.9.7-1.el9.elrepo".to_string();
    let kernel = Available { version, ..Available::default() };
    let host = Overlay::new(Knowing { available: known.then_some(("kernel-ml", kernel)).into_iter().collect(), df });
    let effects = [
        ("/etc/os-release", os("rocky", "9.4")),
        ("/boot/grub2/grub.cfg", samples::BLS_GRUB_CFG),
        ("/boot/loader/entries/m9-5.14.0-427.13.1.el9_4.x86_64.conf", samples::EL9_ENTRY),
        ("/boot/loader/entries/m9-0-rescue.conf", samples::EL9_RESCUE),
        ("/boot/grub2/grubenv", &grubenv::set("", "saved_entry", Some("m9-5.14.0-427.13.1.el9_4.x86_64")).unwrap()),
    ]
    .iter()
    .map(|(path, text)| Effect::File { path: path.to_string(), content: Some(text.to_string()), mode: None })
    .collect();
    predict(&host, &Op::Run(Run::new(["test"], effects))).unwrap();
    host
}

/// Plans and does until nothing is left or the module errs.
fn stages(host: &Overlay<Knowing>, parameters: &Value) -> (Vec<Action>, Option<Error>) {
    let mut done = Vec::new();
    for _ in 0..8 {
        match plan(host, "kernel", parameters.clone()) {
            Err(error) => return (done, Some(error)),
            Ok(plan) if plan.actions.is_empty() => return (done, None),
            Ok(plan) => {
                for action in plan.actions {
                    predict(host, &action.op).unwrap();
                    done.push(action);
                }
            }
        }
    }
    panic!("it goes on for ever: {done:#?}");
}

#[test]
fn el9_release_package_then_kernel_then_default() {
    let host = el9("", true);
    let (done, error) = stages(&host, &json!({"name": "kernel-ml"}));
    assert_eq!(error, None);
    let argvs = argvs(&done);
    assert_eq!(argvs[0], "download https://www.elrepo.org/RPM-GPG-KEY-v2-elrepo.org");
    assert!(argvs[1].starts_with("rpm --import /var/cache/"), "{argvs:?}");
    assert_eq!(
        argvs[2..],
        [
            "dnf -y --setopt=localpkg_gpgcheck=1 install https://www.elrepo.org/elrepo-release-9.el9.elrepo.noarch.rpm",
            "dnf -y --enablerepo=elrepo-kernel install kernel-ml",
            "grub2-set-default m9-6.9.7-1.el9.elrepo.x86_64",
        ]
    );
    let default = loader::default_entry(&host).unwrap();
    assert_eq!(default.version.as_deref(), Some("6.9.7-1.el9.elrepo.x86_64"));
    assert_eq!(default.title, "Rocky Linux (6.9.7-1.el9.elrepo.x86_64) 9.4 (Blue Onyx)");
    assert!(default.args.contains("rd.lvm.lv=rl/root"));
    assert!(!host.exists("/lib/modules/6.9.7-1.el9.elrepo.x86_64/kernel/drivers/vfio/vfio_virqfd.ko.xz").unwrap());
    let repositories = host.read_text("/etc/yum.repos.d/elrepo.repo").unwrap().unwrap();
    assert!(repositories.contains("[elrepo-kernel]") && repositories.matches("enabled=1").count() == 1);
}

#[test]
fn a_version_that_nobody_knows_before_is_unknown_and_not_guessed() {
    let (done, error) = stages(&el9("", false), &json!({"name": "kernel-ml"}));
    assert_eq!(argvs(&done).last().map(String::as_str), Some("dnf -y --enablerepo=elrepo-kernel install kernel-ml"));
    assert!(error.is_some_and(|error| error.is_unknown()));
    let (_, error) = stages(&el9("", true), &json!({"name": "kernel-ml", "minimum": "6.12"}));
    assert!(error.is_some_and(|error| error.message.contains("gives kernel-ml 6.9.7-1.el9.elrepo, older than")));
}

#[test]
fn a_full_boot_partition_refuses_before_anything_is_installed() {
    let full = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 200000 180000 20000 90% /boot\n";
    let (done, error) = stages(&el9(full, true), &json!({"name": "kernel-ml"}));
    assert!(done.is_empty());
    assert!(
        error
            .is_some_and(|error| error.message.starts_with("/boot has 19 MiB free, and another kernel needs about 52"))
    );
}

#[test]
fn releases_are_compared_as_versions() {
    for (older, newer) in
        [("4.9.2-1", "4.10"), ("6.1.0-18-amd64", "6.1.0-20"), ("3.10.0-514.el7", "4.9"), ("6.9", "6.10")]
    {
        assert!(compare_releases(older, newer).is_lt(), "{older} {newer}");
    }
    assert!(compare_releases(NEW, "4.9").is_ge() && compare_releases(NEW, "4.9.2-1").is_ge());
    assert!(compare_releases("6.1.0-18-amd64", "6.1.0").is_eq());
}

/// A power cut in the middle of the package's scripts: rpm knows the package, and never runs them again.
#[test]
fn a_kernel_that_was_cut_short_is_finished() {
    let cut = |present: &[&str]| {
        let host = el7();
        let mut effects = vec![
            Effect::Package { name: "kernel-ml".into(), version: Some("4.9.2-1.el7.elrepo".into()), present: true },
            Effect::Folder { path: format!("/lib/modules/{NEW}") },
            Effect::Folder { path: "/etc/dracut.conf.d".into() },
            Effect::File { path: "/usr/bin/dracut".into(), content: Some(String::new()), mode: None },
        ];
        effects.extend(present.iter().map(|path| Effect::File {
            path: path.replace("REL", NEW),
            content: Some("x".into()),
            mode: None,
        }));
        predict(&host, &Op::Run(Run::new(["test"], effects))).unwrap();
        host
    };
    let host = cut(&["/boot/vmlinuz-REL"]);
    let done = argvs(&apply(&host, "kernel", json!({"name": "kernel-ml", "minimum": "4.9"})).unwrap());
    for part in [format!("depmod {NEW}"), format!("dracut --force /var/lib/vfio-provision/initramfs/{NEW}.img {NEW}")] {
        assert!(done.contains(&part), "{part}: {done:#?}");
    }
    assert_eq!(done.last(), Some(&format!("grubby --set-default=/boot/vmlinuz-{NEW}")));
    assert_eq!(loader::default_entry(&host).unwrap().version.as_deref(), Some(NEW));
    // Without its kernel there is nothing to finish.
    let error = plan(&cut(&[]), "kernel", json!({"name": "kernel-ml", "minimum": "4.9"})).unwrap_err();
    assert!(error.message.contains("has no entry for it"), "{error}");
}
