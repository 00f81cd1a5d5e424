use super::*;
use crate::host::model::predict;
use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
use crate::modules::boot::loader;
use crate::modules::boot::samples::{self, os};
use serde_json::{Value, json};

const OLD: &str = "3.10.0-514.el7.x86_64";
const CUSTOM: &str = "\n### BEGIN /etc/grub.d/41_custom ###\nif [ -f  ${config_directory}/custom.cfg ]; then\n  \
    source ${config_directory}/custom.cfg\nelif [ -z \"${config_directory}\" -a -f  $prefix/custom.cfg ]; then\n  \
    source $prefix/custom.cfg;\nfi\n### END /etc/grub.d/41_custom ###\n";
const ARGS: &str =
    "root=/dev/mapper/cl-root ro crashkernel=auto rd.lvm.lv=cl/root rd.lvm.lv=cl/swap rhgb quiet LANG=en_US.UTF-8";

fn el7_files() -> Vec<(String, String)> {
    let env = grubenv::set("", "saved_entry", Some("CentOS Linux (3.10.0-514.el7.x86_64) 7 (Core)")).unwrap();
    [
        ("/etc/os-release", os("centos", "7")),
        ("/etc/default/grub", samples::EL7_DEFAULT),
        ("/boot/grub2/grub.cfg", &format!("{}{CUSTOM}", samples::EL7_GRUB_CFG)),
        ("/boot/grub2/grubenv", &env),
        (&format!("/boot/vmlinuz-{OLD}"), "kernel"),
        (&format!("/boot/initramfs-{OLD}.img"), "image"),
        ("/etc/systemd/system/", ""),
        ("/proc/cmdline", &format!("BOOT_IMAGE=/vmlinuz-{OLD} {ARGS}\n")),
        ("/proc/sys/kernel/osrelease", &format!("{OLD}\n")),
        ("/proc/sys/kernel/hostname", "ws1\n"),
        ("/proc/sys/kernel/panic", "0\n"),
        ("/proc/sys/kernel/random/boot_id", "11111111-2222-4333-8444-555555555555\n"),
    ]
    .map(|(path, text)| (path.to_string(), text.to_string()))
    .to_vec()
}

fn made(files: &[(String, String)]) -> Machine {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    machine(&files)
}

fn el7() -> Machine {
    made(&el7_files())
}

pub(super) fn debian() -> Machine {
    machine(&[
        ("/etc/os-release", os("debian", "12")),
        ("/etc/default/grub", samples::DEBIAN_DEFAULT),
        ("/boot/grub/grub.cfg", &format!("{}{CUSTOM}", samples::DEBIAN_GRUB_CFG)),
        ("/boot/vmlinuz-6.1.0-18-amd64", "kernel"),
        ("/boot/initrd.img-6.1.0-18-amd64", "image"),
        ("/proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz-6.1.0-18-amd64 root=UUID=u1 ro quiet\n"),
        ("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
        ("/proc/sys/kernel/random/boot_id", "1\n"),
    ])
}

fn el9() -> Machine {
    machine(&[
        ("/etc/os-release", os("rocky", "9.4")),
        ("/boot/grub2/grub.cfg", &format!("{}{CUSTOM}", samples::BLS_GRUB_CFG)),
        ("/boot/grub2/grubenv", &grubenv::set("", "saved_entry", Some("m9-5.14.0-427.13.1.el9_4.x86_64")).unwrap()),
        ("/boot/loader/entries/m9-5.14.0-427.13.1.el9_4.x86_64.conf", samples::EL9_ENTRY),
        ("/boot/loader/entries/m9-0-rescue.conf", samples::EL9_RESCUE),
        ("/boot/vmlinuz-5.14.0-427.13.1.el9_4.x86_64", "kernel"),
        ("/boot/initramfs-5.14.0-427.13.1.el9_4.x86_64.img", "image"),
        (
            "/proc/cmdline",
            "BOOT_IMAGE=(hd0,gpt2)/vmlinuz-5.14.0-427.13.1.el9_4.x86_64 root=/dev/mapper/rl-root ro \
             crashkernel=1G-4G:192M,4G-64G:256M rd.lvm.lv=rl/root rhgb quiet\n",
        ),
        ("/proc/sys/kernel/osrelease", "5.14.0-427.13.1.el9_4.x86_64\n"),
        ("/proc/sys/kernel/random/boot_id", "1\n"),
    ])
}

fn arch() -> Machine {
    machine(&[
        ("/etc/os-release", os("arch", "")),
        ("/boot/loader/loader.conf", "timeout 3\ndefault arch.conf\n"),
        (
            "/boot/loader/entries/arch.conf",
            "title Arch\nsort-key arch\nlinux /vmlinuz-linux\ninitrd /intel-ucode.img\ninitrd /initramfs-linux.img\n\
             options root=/dev/sda2 rw\n",
        ),
        ("/boot/vmlinuz-linux", "kernel"),
        ("/boot/initramfs-linux.img", "image"),
        ("/usr/lib/modules/6.7.1-arch1-1/pkgbase", "linux\n"),
        ("/usr/bin/bootctl", ""),
        ("/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", "x"),
        ("/proc/cmdline", "initrd=\\intel-ucode.img initrd=\\initramfs-linux.img root=/dev/sda2 rw\n"),
        ("/proc/sys/kernel/osrelease", "6.7.1-arch1-1\n"),
        ("/proc/sys/kernel/random/boot_id", "1\n"),
    ])
}

pub(super) fn put(host: &Machine, path: &str, text: &str) {
    let effect = Effect::File { path: path.into(), content: Some(text.into()), mode: None };
    predict(host, &Op::Run(Run::new(["test"], vec![effect]))).unwrap();
}

fn change_line(host: &Machine) {
    apply(host, "kernel_cmdline", json!({"present": ["intel_iommu=on"]})).unwrap();
}

fn line(host: &Machine) -> String {
    host.read_line("/proc/cmdline").unwrap().unwrap()
}

fn boot_again(host: &Machine) {
    predict(host, &Op::Run(Run::new(["reboot"], vec![Effect::Reboot]))).unwrap();
}

/// Arms a trial and goes down, as a live machine does: nothing is asked again before the new boot.
fn go_down(host: &Machine, parameters: Value) -> Vec<Action> {
    let armed = plan(host, "reboot", parameters).unwrap();
    assert!(armed.staged && !armed.act, "{armed:#?}");
    assert_eq!(armed.result["trial"], "armed");
    for action in &armed.actions {
        predict(host, &action.op).unwrap();
    }
    armed.actions
}

fn reasons() -> Value {
    json!({"reasons": "the running kernel's command line does not have intel_iommu=on yet"})
}

/// A changed line is booted once, confirmed, and everything is as if it had always been so.
fn there(host: &Machine, made: &[&str]) {
    let menu: Vec<Option<String>> = made.iter().map(|path| host.read_text(path).unwrap()).collect();
    change_line(host);
    let ended = apply(host, "reboot", reasons()).unwrap();
    let text = shown(&ended);
    assert!(text.contains("it becomes the default when it has come back"), "{text}");
    assert!(text.contains("it has come back, and is the default"), "{text}");
    assert!(line(host).contains("intel_iommu=on"), "{}", line(host));
    assert_eq!(made.iter().map(|path| host.read_text(path).unwrap()).collect::<Vec<_>>(), menu);
    assert!(plan(host, "reboot", json!({})).unwrap().actions.is_empty());
    assert!(plan(host, "kernel_cmdline", json!({"present": ["intel_iommu=on"]})).unwrap().reboot.is_empty());
    // The trial's own arguments are not taken for a change that waits for a boot.
    let boot = loader::read(host).unwrap();
    assert!(change(host, &boot).unwrap().is_none());
    boot_again(host);
    assert!(line(host).contains("intel_iommu=on") && !line(host).contains("panic="), "{}", line(host));
}

/// A changed line is booted once, and the machine comes back without it; it is not tried again before it changes.
fn and_back(host: &Machine) {
    let before = line(host);
    change_line(host);
    go_down(host, reasons());
    assert!(line(host).contains("intel_iommu=on") && line(host).contains(TOKEN), "{}", line(host));
    // It panics.
    boot_again(host);
    let plain = |text: &str| own_args(text);
    assert_eq!(plain(&line(host)), plain(&before));
    let again = plan(host, "kernel_cmdline", json!({"present": ["intel_iommu=on"]})).unwrap();
    assert!(again.warnings.iter().any(|text| text.contains("failed: it did not come up")), "{:?}", again.warnings);
    let error = plan(host, "reboot", reasons()).unwrap_err();
    assert!(error.message.contains("nothing about it has changed since"), "{error}");
    // Who only asks how it went hears it, and nothing is put away: the menu's default is what failed.
    let asked = plan(host, "reboot", json!({})).unwrap();
    assert_eq!((asked.result["trial"].as_str(), asked.actions.len()), (Some("failed"), 0));
    boot_again(host);
    assert_eq!(plain(&line(host)), plain(&before), "and so on every boot");
    // Once more because somebody says so.
    go_down(host, json!({"reasons": "x", "trial": "again"}));
    assert!(line(host).contains(TOKEN));
    boot_again(host);
    // Another line is another trial.
    apply(host, "kernel_cmdline", json!({"present": ["intel_iommu=off"]})).unwrap();
    let other = plan(host, "reboot", reasons()).unwrap();
    assert!(other.warnings.iter().any(|text| text.contains("failed")), "{:?}", other.warnings);
    // Without the change, what was kept for the way back goes.
    apply(host, "kernel_cmdline", json!({"absent": ["intel_iommu"]})).unwrap();
    let gone = apply(host, "reboot", json!({})).unwrap();
    assert!(shown(&gone).contains("the default of the boot menu boots"), "{}", shown(&gone));
    assert_eq!(state(host, &loader::read(host).unwrap()).unwrap(), State::Nothing);
    boot_again(host);
    assert_eq!(plain(&line(host)), plain(&before));
}

#[test]
fn grub_on_enterprise_linux_7() {
    let own = ["/boot/grub2/custom.cfg", "/boot/grub2/vfio-provision.env"];
    there(&el7(), &own);
    and_back(&el7());
}

#[test]
fn grub_on_debian() {
    there(&debian(), &["/boot/grub/custom.cfg", "/boot/grub/vfio-provision.env"]);
    and_back(&debian());
}

#[test]
fn grub_with_entry_files() {
    there(&el9(), &["/boot/grub2/custom.cfg", "/boot/grub2/vfio-provision.env"]);
    and_back(&el9());
}

#[test]
fn systemd_boot_once() {
    let own = [
        "/boot/loader/loader.conf",
        "/boot/loader/entries/vfio-provision-before.conf",
        "/boot/loader/entries/vfio-provision-trial.conf",
    ];
    there(&arch(), &own);
    and_back(&arch());
}

#[test]
fn what_grub_is_given() {
    let host = el7();
    change_line(&host);
    go_down(&host, reasons());
    let text = host.read_text("/boot/grub2/custom.cfg").unwrap().unwrap();
    let cfg = crate::modules::boot::grub_cfg::parse(&text);
    let ids: Vec<_> = cfg.items.iter().map(|item| item.id.clone().unwrap()).collect();
    assert_eq!(ids, ["vfio-provision-trial", "vfio-provision-before"]);
    let before = text.split("menuentry").nth(2).unwrap();
    assert!(before.contains(&format!("\tlinux16 /vmlinuz-{OLD} {ARGS}\n\tinitrd16 /initramfs-{OLD}.img\n\tboot\n")));
    assert!(before.contains("search --no-floppy --fs-uuid --set=root 5d0b"), "where the kernel is found");
    let trial = text.split("menuentry").nth(1).unwrap();
    let wanted = format!("if linux16 /vmlinuz-{OLD} {ARGS} intel_iommu=on {TOKEN}=");
    assert!(trial.contains(&wanted), "{trial}");
    assert!(
        trial.contains(
            " panic=25 rd.shell=0 rd.emergency=reboot rd.timeout=200; then set vfio_provision_loaded=y; fi\n"
        )
    );
    let env = host.read_text("/boot/grub2/vfio-provision.env").unwrap().unwrap();
    assert_eq!((env.len(), grubenv::get(&env, grub::ONCE).as_deref()), (1024, Some("tried")));
}

#[test]
fn only_who_comes_over_a_network_is_waited_for() {
    let host = el7();
    change_line(&host);
    let boot = loader::read(&host).unwrap();
    let change = change(&host, &boot).unwrap().unwrap();
    let armed = change.arm(&host, &boot, Some(600)).unwrap();
    for action in &armed {
        predict(&host, &action.op).unwrap();
    }
    let timer = host.read_text("/etc/systemd/system/vfio-provision-trial.timer").unwrap().unwrap();
    assert!(timer.contains("OnBootSec=600s\n") && timer.contains(&format!("{TOKEN}={}\n", change.marks.token)));
    assert!(host.exists("/etc/systemd/system/sysinit.target.wants/vfio-provision-trial.timer").unwrap());
    boot_again(&host);
    // Confirmed, nothing of it is left.
    apply(&host, "reboot", json!({})).unwrap();
    for name in ["vfio-provision-trial.timer", "vfio-provision-trial.service"] {
        assert!(!host.exists(&format!("/etc/systemd/system/{name}")).unwrap());
    }
    assert!(host.read_link("/etc/systemd/system/sysinit.target.wants/vfio-provision-trial.timer").unwrap().is_none());
    assert_eq!(host.read_line("/proc/sys/kernel/panic").unwrap().as_deref(), Some("0"));
}

#[test]
fn a_run_that_was_cut_before_the_boot_goes_on() {
    let host = el7();
    change_line(&host);
    let armed = plan(&host, "reboot", reasons()).unwrap();
    for action in armed.actions.iter().take(armed.actions.len() - 1) {
        predict(&host, &action.op).unwrap();
    }
    let asked = plan(&host, "reboot", json!({})).unwrap();
    assert!(asked.warnings.iter().any(|text| text.contains("is armed")), "{:?}", asked.warnings);
    let again = plan(&host, "reboot", reasons()).unwrap();
    assert_eq!((again.actions.len(), again.staged), (2, true), "it goes to the disk, and boots: {again:#?}");
    // Who restarts it must hear that it is a trial.
    assert!(again.actions.iter().flat_map(|action| &action.diffs).any(|diff| diff.kind == TRIAL_BOOT));
}

#[test]
fn too_late_is_too_late() {
    let host = el7();
    change_line(&host);
    go_down(&host, reasons());
    let active = Effect::Unit { name: units::SERVICE.into(), exists: Some(true), enabled: None, active: Some(true) };
    predict(&host, &Op::Run(Run::new(["test"], vec![active]))).unwrap();
    let error = plan(&host, "reboot", json!({})).unwrap_err();
    assert!(error.message.contains("is over, and the machine goes back"), "{error}");
}

#[test]
fn a_boot_that_changes_nothing_is_no_trial() {
    for host in [el7(), debian(), el9(), arch()] {
        let asked = plan(&host, "reboot", json!({"reasons": "a new BIOS setting"})).unwrap();
        assert!(asked.act);
        assert_eq!((asked.actions.len(), asked.result["trial"].as_str()), (1, Some("none")));
    }
}

#[test]
fn without_a_trial_when_it_is_said() {
    let host = el7();
    change_line(&host);
    let asked = plan(&host, "reboot", json!({"reasons": "x", "trial": false})).unwrap();
    assert_eq!((asked.actions.len(), asked.act), (1, true));
    // Also in the middle of one that failed.
    go_down(&host, reasons());
    boot_again(&host);
    apply(&host, "reboot", json!({"reasons": "x", "trial": false})).unwrap();
    assert!(line(&host).contains("intel_iommu=on") && !line(&host).contains(TOKEN));
    let bare = machine(&[("/proc/cmdline", "x\n"), ("/proc/sys/kernel/osrelease", "1\n")]);
    assert!(
        plan(&bare, "reboot", json!({"reasons": "x", "trial": true})).unwrap_err().message.contains("on trial here")
    );
    assert_eq!(plan(&bare, "reboot", json!({"reasons": "x"})).unwrap().actions.len(), 1);
    assert!(plan(&bare, "reboot", json!({"reasons": "x", "trial": "maybe"})).is_err());
}

#[test]
fn what_can_not_be_tried_is_refused() {
    type Files = Vec<(String, String)>;
    let refused = |change: &dyn Fn(&mut Files)| {
        let mut files = el7_files();
        change(&mut files);
        let host = made(&files);
        change_line(&host);
        let error = plan(&host, "reboot", reasons()).unwrap_err();
        assert!(error.to_string().contains("trial: false"), "{error}");
        error.message
    };
    let set = |files: &mut Files, path: &str, text: &str| {
        files.retain(|(other, _)| other != path);
        files.push((path.into(), text.into()));
    };
    let why = refused(&|files| set(files, "/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG));
    assert!(why.contains("/boot/grub2/grub.cfg does not read /boot/grub2/custom.cfg"), "{why}");
    let why = refused(&|files| set(files, "/proc/self/mountinfo", "25 1 0:33 / / rw - btrfs /dev/sda2 rw\n"));
    assert!(why.contains("would boot for ever: /boot/grub2 is on btrfs"), "{why}");
    let why = refused(&|files| {
        let env = grubenv::set("", "next_entry", Some("CentOS Linux (0-rescue-aa11) 7 (Core)")).unwrap();
        set(files, "/boot/grub2/grubenv", &env);
    });
    assert!(why.contains("is set to boot once already"), "{why}");
    let why = refused(&|files| set(files, "/proc/sys/kernel/osrelease", "2.6.32\n"));
    assert!(why.contains("2.6.32, is not in the boot menu any more"), "{why}");
    let mut files = el7_files();
    files.retain(|(path, _)| !path.contains("initramfs"));
    let host = made(&files);
    change_line(&host);
    // An entry whose image is named and missing boots nothing.
    let error = plan(&host, "reboot", reasons()).unwrap_err();
    assert!(error.message.contains("would not boot: /boot/initramfs"), "{error}");
}

#[test]
fn the_image_that_booted_is_what_it_returns_to() {
    let mut files = el7_files();
    // The machine has booted at some time; what an earlier action of the run makes has no time yet.
    files.push(("/proc/stat".into(), "cpu 1\nbtime 1700000000\n".into()));
    files.push((format!("/boot/initramfs-{OLD}.img.bak"), "the old image".into()));
    let host = made(&files);
    go_down(&host, json!({"reasons": "another initramfs"}));
    let text = host.read_text("/boot/grub2/custom.cfg").unwrap().unwrap();
    let part = |n: usize| text.split("menuentry").nth(n).unwrap();
    assert!(part(2).contains(&format!("\tinitrd16 /initramfs-{OLD}.img.bak\n")), "{text}");
    assert!(part(1).contains(&format!("if initrd16 /initramfs-{OLD}.img; then")), "{text}");
    // Not kept: it is said.
    files.pop();
    let asked = plan(&made(&files), "reboot", json!({"reasons": "another initramfs"})).unwrap();
    assert!(asked.warnings.iter().any(|text| text.contains("the one before is not kept")), "{:?}", asked.warnings);
}

#[test]
fn an_initramfs_that_has_failed_neither_boots_by_itself_nor_is_kept() {
    let image = format!("/boot/initramfs-{OLD}.img");
    let mut files = el7_files();
    files.push(("/proc/stat".into(), "cpu 1\nbtime 1700000000\n".into()));
    files.push((format!("{image}.bak"), "what booted".into()));
    files.push(("/etc/dracut.conf.d/".into(), String::new()));
    files.push(("/var/lib/".into(), String::new()));
    let host = made(&files);
    go_down(&host, json!({"reasons": "another initramfs"}));
    // It does not find its root, and the machine is back. What was made is not of this boot.
    boot_again(&host);
    put(&host, "/proc/stat", "cpu 1\n");
    assert!(matches!(state(&host, &loader::read(&host).unwrap()).unwrap(), State::Returned { .. }));
    let error = plan(&host, "reboot", json!({"reasons": "x"})).unwrap_err();
    assert!(error.message.contains("nothing about it has changed since"), "{error}");
    let asked = plan(&host, "reboot", json!({})).unwrap();
    assert_eq!((asked.result["trial"].as_str(), asked.actions.len()), (Some("failed"), 0));
    let again = shown(&go_down(&host, json!({"reasons": "x", "trial": "again"})));
    assert!(!again.contains(&format!("initrd16 /initramfs-{OLD}.img\n")), "{again}");
    boot_again(&host);
    // Another one is made in place of what has failed; what booted stays kept.
    put(&host, "/etc/dracut.conf.d/x.conf", "compress=zstd\n");
    apply(&host, "initramfs", json!({})).unwrap();
    assert_eq!(host.read_text(&format!("{image}.bak")).unwrap().as_deref(), Some("what booted"));
    // Put back by hand, it is what runs.
    put(&host, &image, "what booted");
    let gone = apply(&host, "reboot", json!({})).unwrap();
    assert!(shown(&gone).contains("the default of the boot menu boots"), "{}", shown(&gone));
}

#[test]
fn a_boot_loader_that_goes_another_way_is_said() {
    let host = el7();
    let before = line(&host);
    change_line(&host);
    go_down(&host, reasons());
    let with = format!("{before} intel_iommu=on\n");
    put(&host, "/proc/cmdline", &with);
    let asked = plan(&host, "reboot", json!({})).unwrap();
    assert_eq!(asked.result["trial"], "confirmed");
    assert!(asked.warnings.iter().any(|text| text.contains("did not go by the entry on trial")));
    // It came back with the old line although the trial is still armed.
    put(&host, "/proc/cmdline", &format!("{before}\n"));
    put(&host, "/boot/grub2/vfio-provision.env", &env_block("armed").unwrap());
    let asked = plan(&host, "reboot", json!({})).unwrap();
    assert!(asked.result["trial_message"].as_str().unwrap().contains("the boot loader did not try it at all"));
}

#[test]
fn a_file_of_the_users_stays() {
    let mut files = el7_files();
    files.push(("/boot/grub2/custom.cfg".into(), "set color_normal=white/blue\n".into()));
    let host = made(&files);
    there(&host, &["/boot/grub2/custom.cfg"]);
    assert_eq!(host.read_text("/boot/grub2/custom.cfg").unwrap().as_deref(), Some("set color_normal=white/blue\n"));
}

#[test]
fn marks_are_read_as_written() {
    let marks = Marks {
        token: "a-b".into(),
        from_kernel: "/vmlinuz-1".into(),
        from_release: "1".into(),
        from_args: "root=/dev/sda1 x=\"a b\"".into(),
        to_kernel: "/vmlinuz-2".into(),
        to_release: String::new(),
        to_args: "ro".into(),
        panic: "10".into(),
        default: "@saved".into(),
    };
    assert_eq!(Marks::parse(&marks.lines()).as_ref(), Some(&marks));
    assert_eq!(Marks::parse("# token: \n"), None);
    assert_eq!(
        own_args("BOOT_IMAGE=/x a panic=25 vfio_provision.trial=q panic=25 rd.shell=0 rd.emergency=reboot b"),
        "a panic=25 b"
    );
    assert!(is_same_line("BOOT_IMAGE=/x a \"b=c d\" $vt_handoff", "a b=\"c d\" vt.handoff=7"));
}
