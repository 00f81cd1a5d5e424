use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::*;
use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};

const GPU: &str = "/sys/bus/pci/devices/0000:01:00.0";
const SOUND: &str = "/sys/bus/pci/devices/0000:01:00.1";

fn host(override_: &str, second: &str) -> Machine {
    machine(&[
        (&format!("{GPU}/vendor"), "0x10de\n"),
        (&format!("{GPU}/device"), "0x1430\n"),
        (&format!("{GPU}/class"), "0x030000\n"),
        (&format!("{GPU}/driver_override"), override_),
        (&format!("{SOUND}/vendor"), "0x10de\n"),
        (&format!("{SOUND}/device"), "0x0fba\n"),
        (&format!("{SOUND}/class"), second),
        ("/etc/libvirt/qemu.conf", ""),
        ("/var/lib/", ""),
    ])
}

#[test]
fn both_hooks_with_the_whole_card_and_a_warning() {
    let host = host("(null)\n", "0x040300\n");
    let parameters = json!({"guest": "win8", "devices": "01:00.0"});
    let answer = plan(&host, "single_gpu", parameters.clone()).unwrap();
    assert!(answer.warnings[0].contains("no screen"), "{:?}", answer.warnings);
    let text = shown(&apply(&host, "single_gpu", parameters).unwrap());
    assert!(text.contains("+devices='0000:01:00.0 0000:01:00.1'\n+patience=30\n"), "{text}");
    for event in ["prepare/begin", "release/end"] {
        assert!(host.exists(&format!("/etc/libvirt/hooks/qemu.d/win8/{event}/50-single-gpu")).unwrap(), "{event}");
    }
    // Other hooks of the same guest are of another owner.
    let other =
        json!({"guest": "win8", "scripts": [{"event": "started/begin", "name": "x", "content": "#!/bin/sh\n"}]});
    apply(&host, "libvirt_hooks", other).unwrap();
    apply(&host, "single_gpu", json!({"guest": "win8", "state": "absent"})).unwrap();
    assert!(!host.exists("/etc/libvirt/hooks/qemu.d/win8/prepare").unwrap());
    assert!(host.exists("/etc/libvirt/hooks/qemu.d/win8/started/begin/x").unwrap());
}

#[test]
fn refusals() {
    let usual = host("(null)\n", "0x040300\n");
    for (host, parameters, why) in [
        (&usual, json!({"guest": "win8"}), "`devices` is empty"),
        (&usual, json!({"guest": "it's", "devices": "01:00.0"}), "quotes in its name"),
        (&usual, json!({"guest": "win8", "devices": "02:00.0"}), "no PCI device"),
        (&usual, json!({"guest": "win8", "devices": "01:00.1"}), "none of these devices is a display"),
        (&usual, json!({"guest": "win8", "devices": "01:00.0", "patience": 0}), "`patience` is 1 to"),
        (&host("vfio-pci\n", "0x040300\n"), json!({"guest": "win8", "devices": "01:00.0"}), "from the boot on"),
        (&host("(null)\n", "0x010601\n"), json!({"guest": "win8", "devices": "01:00.0"}), "on the same card"),
    ] {
        let error = plan(host, "single_gpu", parameters.clone()).unwrap_err().to_string();
        assert!(error.contains(why), "{parameters}: {error}");
    }
}

/// A machine's /sys, /proc and /dev in a folder, the hook, and commands that only note that they were called.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new(driver: &str) -> Stage {
        let stage = Stage { folder: tempfile::tempdir().unwrap() };
        let hook = HOOK
            .replace("@GUEST@", "win8")
            .replace("@DEVICES@", "0000:01:00.0 0000:01:00.1")
            .replace("@PATIENCE@", "1");
        stage.put("hook", &hook);
        for (name, script) in [
            ("systemctl", "echo systemctl $* >> $LOG; exit 0"),
            ("modprobe", "echo modprobe $* >> $LOG; exit ${MODPROBE:-0}"),
            ("logger", "exit 0"),
        ] {
            stage.put(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
            fs::set_permissions(stage.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (path, text) in [
            ("sys/bus/pci/devices/0000:01:00.0/drm/card0/uevent", "MAJOR=226\nDEVNAME=dri/card0\n"),
            ("sys/bus/pci/devices/0000:01:00.1/sound/card1/pcmC1D3p/uevent", "DEVNAME=snd/pcmC1D3p\n"),
            ("sys/class/vtconsole/vtcon0/name", "(S) dummy device\n"),
            ("sys/class/vtconsole/vtcon0/bind", "1\n"),
            ("sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n"),
            ("sys/class/vtconsole/vtcon1/bind", "1\n"),
            ("sys/bus/platform/drivers/simple-framebuffer/simple-framebuffer.0/x", ""),
            ("sys/bus/platform/drivers/simple-framebuffer/unbind", ""),
            ("sys/bus/platform/drivers/simple-framebuffer/bind", ""),
            ("sys/bus/pci/drivers_probe", ""),
            ("sys/module/nvidia/x", ""),
            ("sys/module/nvidia_drm/x", ""),
            ("dev/dri/card0", ""),
            ("proc/4711/comm", "Xorg\n"),
            ("proc/4711/fd/x", ""),
        ] {
            stage.put(path, text);
        }
        for (function, name) in [("0", driver), ("1", "snd_hda_intel")] {
            stage.put(&format!("sys/bus/pci/drivers/{name}/unbind"), "");
            stage.drive(function, Some(name));
        }
        stage.put("sys/bus/pci/drivers/vfio-pci/unbind", "");
        stage
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default().trim().to_string()
    }

    fn drive(&self, function: &str, driver: Option<&str>) {
        let link = self.path(&format!("sys/bus/pci/devices/0000:01:00.{function}/driver"));
        let _ = fs::remove_file(&link);
        if let Some(driver) = driver {
            symlink(Path::new("../../drivers").join(driver), link).unwrap();
        }
    }

    /// Calls the hook; its exit code, and which commands it ran.
    fn call(&self, operation: &str, step: &str, modprobe: &str) -> (Option<i32>, String, String) {
        let log = self.path("log");
        let _ = fs::remove_file(&log);
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .arg(self.path("hook"))
            .args(["win8", operation, step, "-"])
            .env("VFIO_PROVISION_HOOK_ROOT", self.folder.path())
            .env("PATH", path)
            .env("LOG", &log)
            .env("MODPROBE", modprobe)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), self.read("log"), said)
    }
}

const RELEASE: (&str, &str) = ("release", "end");

#[test]
fn the_screen_goes_and_comes_back() {
    let stage = Stage::new("nouveau");
    let (code, log, said) = stage.call("prepare", "begin", "0");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        log,
        "systemctl is-active --quiet display-manager.service\nsystemctl stop display-manager.service\nmodprobe vfio-pci"
    );
    assert_eq!(stage.read("sys/class/vtconsole/vtcon1/bind"), "0");
    assert_eq!(stage.read("sys/class/vtconsole/vtcon0/bind"), "1", "the dummy console is no screen");
    assert_eq!(stage.read("sys/bus/platform/drivers/simple-framebuffer/unbind"), "simple-framebuffer.0");
    // The guest ran; libvirt gave one function back and not the other.
    stage.drive("0", None);
    let (code, log, said) = stage.call(RELEASE.0, RELEASE.1, "0");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(log, "modprobe nouveau\nsystemctl start --no-block display-manager.service");
    assert_eq!(stage.read("sys/bus/pci/drivers_probe"), "0000:01:00.0");
    assert_eq!(stage.read("sys/class/vtconsole/vtcon1/bind"), "1");
    assert_eq!(stage.read("sys/bus/platform/drivers/simple-framebuffer/bind"), "simple-framebuffer.0");
    // Once more there is nothing to give back.
    assert_eq!(stage.call(RELEASE.0, RELEASE.1, "0").1, "");
}

#[test]
fn a_card_that_is_in_use_is_not_taken_and_the_guest_does_not_start() {
    let stage = Stage::new("nouveau");
    symlink(stage.path("dev/dri/card0"), stage.path("proc/4711/fd/7")).unwrap();
    let (code, log, said) = stage.call("prepare", "begin", "0");
    assert_eq!(code, Some(1));
    assert!(said.contains("4711 (Xorg) has") && said.contains("the guest is not started"), "{said}");
    assert!(log.ends_with("systemctl start --no-block display-manager.service") && !log.contains("modprobe"), "{log}");
    assert_eq!(stage.read("sys/class/vtconsole/vtcon1/bind"), "1");
}

#[test]
fn nvidias_modules_go_in_order_and_a_failure_brings_all_back() {
    let stage = Stage::new("nvidia");
    let (code, log, _) = stage.call("prepare", "begin", "0");
    assert_eq!(code, Some(0));
    assert!(log.ends_with("modprobe -r nvidia_drm\nmodprobe -r nvidia\nmodprobe vfio-pci"), "{log}");
    stage.call(RELEASE.0, RELEASE.1, "0");
    let (code, log, said) = stage.call("prepare", "begin", "1");
    assert_eq!(code, Some(1), "{said}");
    assert!(log.contains("modprobe -r nvidia_drm\nmodprobe nvidia\nmodprobe nvidia_drm\n"), "{log}");
    assert_eq!(stage.read("sys/class/vtconsole/vtcon1/bind"), "1");
    assert!(!stage.path("run/vfio-provision/single-gpu-win8").exists());
}

#[test]
fn other_moments_of_a_guest_are_none_of_its_business() {
    let stage = Stage::new("nouveau");
    for (operation, step) in [("started", "begin"), ("stopped", "end"), ("reconnect", "begin")] {
        assert_eq!(stage.call(operation, step, "0"), (Some(0), String::new(), String::new()));
    }
}
