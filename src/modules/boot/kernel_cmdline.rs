//! `kernel_cmdline`: arguments of the kernel, in every present boot entry and in the template for future ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::argument::Argument;
use super::cmdline::{self, Edit};
use super::loader::{self, Boot, BootEntry, Kind};
use super::{bls, grub_cfg, template, trial};
use crate::change::{Content, Diff, Op, Plan};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::List;

/// Adds and removes single arguments of the kernel's command line; everything else on it stays as it is.
///
/// Both the boot entries that are there and the template from which future kernels get theirs are edited, the way this
/// machine's boot loader needs it: GRUB with grub.cfg, GRUB with /boot/loader/entries, systemd-boot.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelCmdline {
    /// Arguments that must be there, such as "intel_iommu=on". The same argument with another value is replaced, unless it
    /// is one that may be given several times (`console=`, `rd.lvm.lv=`, `rd.driver.pre=`, `hugepagesz=` and its like).
    #[serde(default)]
    present: List<Argument>,
    /// Arguments that must not be there: "quiet" whatever its value, "iommu=soft" only with this value.
    #[serde(default)]
    absent: List<Argument>,
    /// Which boot entries: all of them (the default), or only the one that boots by default. Entries in a grub.cfg all come
    /// from one template, so there it only decides which ones are looked at.
    #[serde(default)]
    kernels: Which,
}

/// Which boot entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Which {
    /// Every entry except those for recovery.
    #[default]
    All,
    /// The one that boots when nobody chooses.
    Default,
}

impl Module for KernelCmdline {
    const NAME: &'static str = "kernel_cmdline";
    const SUMMARY: &'static str = "Add and remove arguments of the kernel's command line";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let edit = self.edit()?;
        let boot = loader::read(host)?;
        boot.refuse_other_owners(host)?;
        let mut plan = Plan::nothing();
        let templates = template::changes(host, &boot, &edit)?;
        for change in &templates {
            let diff = Diff::file(
                &change.path,
                change.before.as_ref().map(String::as_bytes),
                change.after.as_ref().map(String::as_bytes),
            );
            match &change.after {
                None => plan.push(Op::Remove { path: change.path.clone() }, vec![diff]),
                Some(text) => {
                    folder(host, &mut plan, &change.path)?;
                    let shell = change.path.starts_with("/etc/default/");
                    let validate = if shell { vec![vec!["sh".into(), "-n".into(), "%s".into()]] } else { vec![] };
                    plan.push(write(&change.path, text, validate), vec![diff]);
                }
            }
        }
        match boot.kind {
            Kind::GrubCfg => self.grub_cfg(host, &boot, &edit, &mut plan)?,
            Kind::GrubBls | Kind::SystemdBoot => self.entry_files(host, &boot, &edit, &mut plan)?,
        }
        self.tell(host, &boot, &edit, &mut plan)?;
        Ok(plan)
    }
}

fn write(path: &str, text: &str, validate: Vec<Vec<String>>) -> Op {
    Op::WriteFile {
        path: path.to_string(),
        content: Content::Bytes(text.as_bytes().to_vec()),
        mode: None,
        owner: None,
        group: None,
        validate,
    }
}

/// Makes the folder of a file, where it is missing (only its last part can be: /etc/default is everywhere that GRUB is).
fn folder(host: &dyn Host, plan: &mut Plan, path: &str) -> Result<()> {
    let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
    if !host.exists(parent)? {
        let op = Op::MakeFolder { path: parent.to_string(), mode: None, owner: None, group: None };
        plan.push(op, vec![Diff::added("folder", parent, "0755 root:root")]);
    }
    Ok(())
}

/// How an entry is called in diffs.
fn name(entry: &BootEntry) -> String {
    format!("{}: arguments", entry.title)
}

impl KernelCmdline {
    /// What is asked, checked for contradictions.
    fn edit(&self) -> Result<Edit> {
        let flat = |list: &[Argument]| list.iter().flat_map(|argument| argument.0.clone()).collect::<Vec<_>>();
        let (mut present, absent) = (flat(&self.present), flat(&self.absent));
        let mut seen = std::collections::HashSet::new();
        // `hugepages=` may be there once for each `hugepagesz=`.
        present.retain(|token| cmdline::key(token) == "hugepages" || seen.insert(token.clone()));
        if present.is_empty() && absent.is_empty() {
            return Err(Error::parameters(
                "nothing is asked for: give `present:` or `absent:` with at least one argument",
            ));
        }
        let asked = Edit { present, absent };
        let line = asked.present.join(" ");
        let alone = Edit { present: asked.present.clone(), absent: Vec::new() };
        if alone.apply(&line) != line {
            return Err(Error::parameters(format!("`present:` gives an argument two values: {line}")));
        }
        let without = Edit { present: Vec::new(), absent: asked.absent.clone() };
        if !without.is_done(&line) {
            return Err(Error::parameters("an argument is both in `present:` and in `absent:`"));
        }
        Ok(asked)
    }

    fn is_meant(&self, entry: &BootEntry) -> bool {
        match self.kernels {
            Which::Default => entry.is_default,
            // Enterprise Linux's rescue kernel has an ordinary entry; recovery mode has fewer arguments on purpose.
            Which::All => !entry.recovery || entry.is_rescue_kernel(),
        }
    }

    fn grub_cfg(&self, host: &dyn Host, boot: &Boot, edit: &Edit, plan: &mut Plan) -> Result<()> {
        let wrong: Vec<&BootEntry> =
            boot.entries.iter().filter(|entry| self.is_meant(entry) && !edit.is_done(&entry.args)).collect();
        if wrong.is_empty() {
            plan.actions.extend(boot.clean(host)?);
            return Ok(());
        }
        let ours = |position: &[usize]| {
            boot.entries.iter().any(|entry| entry.position == position && (!entry.recovery || entry.is_rescue_kernel()))
        };
        let predicted =
            grub_cfg::edit_args(&boot.text, &boot.cfg, &|item, old| ours(&item.position).then(|| edit.apply(old)));
        let diffs = boot
            .entries
            .iter()
            .filter(|entry| ours(&entry.position) && !edit.is_done(&entry.args))
            .map(|entry| Diff::changed("boot_entry", name(entry), &entry.args, edit.apply(&entry.args)))
            .collect();
        plan.actions.extend(boot.regenerate(host, predicted, diffs)?);
        Ok(())
    }

    fn entry_files(&self, host: &dyn Host, boot: &Boot, edit: &Edit, plan: &mut Plan) -> Result<()> {
        let mut env_diffs = Vec::new();
        let mut env = None;
        for entry in boot.entries.iter().filter(|entry| self.is_meant(entry)) {
            if edit.is_done(&entry.args) {
                continue;
            }
            let diff = Diff::changed("boot_entry", name(entry), &entry.args, edit.apply(&entry.args));
            let shared = cmdline::words(&entry.raw).iter().any(|t| t == "$kernelopts" || t == "${kernelopts}");
            let text = host.read_text(&entry.file)?.unwrap_or_default();
            let mut own = edit.clone();
            if shared && self.kernels == Which::All {
                // EL8: such entries share the arguments that the environment block holds; only what they have besides is theirs.
                let old = super::grubenv::get(&boot.env, "kernelopts").or_else(|| boot.cfg.kernelopts.clone());
                env = Some(edit.apply(&old.unwrap_or_default()));
                let elsewhere = edit.missing(&edit.correct(&entry.raw));
                own.present.retain(|token| !elsewhere.contains(token));
            } else if shared {
                own.present = edit.missing(&entry.args);
            }
            let new = bls::edit_options(&text, &own);
            let reached = bls::expand(&bls::options(&new), &|name| {
                let changed = if name == "kernelopts" { env.clone() } else { None };
                changed.or_else(|| super::grubenv::get(&boot.env, name))
            });
            if !edit.is_done(&reached) {
                return Err(Error::refused(format!(
                    "{}: an argument comes from a variable of the boot loader (`{}`), and can't be changed for this entry alone",
                    entry.file, entry.raw
                ))
                .hint("with `kernels: all` the shared arguments are changed; those of `$tuned_params` belong to tuned"));
            }
            if new == text {
                env_diffs.push(diff);
            } else {
                plan.push(write(&entry.file, &new, Vec::new()), vec![diff]);
            }
        }
        let touched = |op: &Op| matches!(op, Op::WriteFile { path, .. } if path.starts_with(&boot.entries_dir));
        if plan.actions.iter().any(|action| touched(&action.op)) {
            plan.actions.push(trial::sync());
        }
        if let Some(value) = env {
            plan.push(write(&boot.env_path, &boot.env_with("kernelopts", &value)?, Vec::new()), env_diffs);
        }
        Ok(())
    }

    fn tell(&self, host: &dyn Host, boot: &Boot, edit: &Edit, plan: &mut Plan) -> Result<()> {
        if let Some(next) = boot.next() {
            plan.set("next_boot", edit.apply(&next.args));
        }
        if edit.present.iter().any(|token| token == "amd_iommu=on") {
            plan.notes.push(
                "the kernel does not know amd_iommu=on: AMD's IOMMU is on by default, iommu=pt is what helps".into(),
            );
        }
        let Some(running) = host.read_text("/proc/cmdline")? else { return Ok(()) };
        plan.set("running", running.trim());
        // What a trial boot was given besides is not what was asked for.
        let running = trial::own_args(&running);
        if !edit.is_done(&running) {
            let missing = edit.missing(&running);
            let kept: Vec<String> = {
                let after = cmdline::words(&Edit { present: Vec::new(), absent: edit.absent.clone() }.apply(&running));
                cmdline::words(&running).into_iter().filter(|token| !after.contains(token)).collect()
            };
            let mut why = Vec::new();
            if !missing.is_empty() {
                why.push(format!("does not have {} yet", missing.join(" ")));
            }
            if !kept.is_empty() {
                why.push(format!("still has {}", kept.join(" ")));
            }
            plan.reboot.push(format!("the running kernel's command line {}", why.join(" and ")));
        }
        plan.warnings.extend(trial::told(host, boot)?);
        plan.set("reboot_required", !plan.reboot.is_empty());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Action;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::modules::boot::samples::{self, os};
    use serde_json::json;

    const WANTED: [&str; 3] = ["intel_iommu=on", "iommu=pt", "rd.driver.pre=vfio-pci"];

    fn el7() -> Machine {
        machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/etc/sysconfig/grub", "-> /etc/default/grub"),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
            ("/proc/cmdline", "BOOT_IMAGE=/vmlinuz-3.10.0-514.el7.x86_64 root=/dev/mapper/cl-root ro rhgb quiet\n"),
        ])
    }

    fn read(host: &Machine, path: &str) -> String {
        host.read_text(path).unwrap().unwrap_or_else(|| panic!("no {path}"))
    }

    fn there_and_back(host: &Machine, files: &[&str]) -> Vec<Action> {
        let before: Vec<Option<String>> = files.iter().map(|path| host.read_text(path).unwrap()).collect();
        let done = apply(host, "kernel_cmdline", json!({"present": WANTED})).unwrap();
        let boot = loader::read(host).unwrap();
        for entry in boot.entries.iter().filter(|entry| !entry.recovery) {
            assert!(WANTED.iter().all(|token| entry.tokens().contains(&token.to_string())), "{entry:#?}");
        }
        let between: Vec<Option<String>> = files.iter().map(|path| host.read_text(path).unwrap()).collect();
        assert!(before.iter().zip(&between).all(|(a, b)| a != b), "every one of {files:?} changes");
        apply(host, "kernel_cmdline", json!({"absent": WANTED})).unwrap();
        let after: Vec<Option<String>> = files.iter().map(|path| host.read_text(path).unwrap()).collect();
        assert_eq!(before, after);
        done
    }

    #[test]
    fn el7_template_and_every_entry() {
        let host = el7();
        let done = there_and_back(&host, &["/etc/default/grub", "/boot/grub2/grub.cfg"]);
        let shown = shown(&done);
        assert!(shown.contains("+GRUB_CMDLINE_LINUX=\"crashkernel=auto rd.lvm.lv=cl/root rd.lvm.lv=cl/swap rhgb quiet intel_iommu=on iommu=pt rd.driver.pre=vfio-pci\""), "{shown}");
        assert!(shown.contains("boot_entry CentOS Linux (3.10.0-514.el7.x86_64) 7 (Core): arguments"), "{shown}");
        assert!(host.read_link("/etc/sysconfig/grub").unwrap().is_some());
        assert!(!host.exists("/boot/grub2/grub.cfg.vfio-provision").unwrap());
    }

    #[test]
    fn el7_the_new_grub_cfg_counts_only_when_it_was_checked() {
        let plan = plan(&el7(), "kernel_cmdline", json!({"present": WANTED})).unwrap();
        let order: Vec<String> = plan
            .actions
            .iter()
            .map(|action| match &action.op {
                Op::Run(run) => run.argv.join(" "),
                Op::WriteFile { path, validate, .. } => {
                    format!("{path} {}", validate.iter().map(|argv| argv.join(" ")).collect::<Vec<_>>().join(", "))
                }
                Op::Remove { path } => format!("remove {path}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            order,
            [
                "/etc/default/grub sh -n %s",
                "grub2-mkconfig -o /boot/grub2/grub.cfg.vfio-provision",
                "/boot/grub2/grub.cfg grub2-script-check %s, grep -qF -- /vmlinuz-3.10.0-514.el7.x86_64 %s",
                "remove /boot/grub2/grub.cfg.vfio-provision",
                "sync",
            ]
        );
        assert_eq!(plan.reboot.len(), 1);
        assert!(plan.reboot[0].contains("does not have intel_iommu=on iommu=pt rd.driver.pre=vfio-pci yet"));
    }

    #[test]
    fn a_template_that_is_right_does_not_hide_entries_that_are_not() {
        let right = samples::EL7_DEFAULT.replace("rhgb quiet", "rhgb quiet intel_iommu=on");
        let host = machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", &right),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
            ("/boot/grub2/grub.cfg.vfio-provision", "half of a file"),
        ]);
        let done = apply(&host, "kernel_cmdline", json!({"present": "intel_iommu=on"})).unwrap();
        assert_eq!(done.len(), 4, "{done:#?}");
        assert!(read(&host, "/boot/grub2/grub.cfg").contains("LANG=en_US.UTF-8 intel_iommu=on\n"));
    }

    #[test]
    fn a_menu_whose_kernel_is_gone_is_not_made_anew() {
        let host = machine(&[
            ("/etc/os-release", os("debian", "12")),
            ("/etc/default/grub", samples::DEBIAN_DEFAULT),
            ("/boot/grub/grub.cfg", samples::DEBIAN_GRUB_CFG),
        ]);
        let error = plan(&host, "kernel_cmdline", json!({"present": "iommu=pt"})).unwrap_err();
        assert!(
            error.message.starts_with("/boot/vmlinuz-6.1.0-18-amd64 is missing, which `Debian GNU/Linux` boots"),
            "{error}"
        );
    }

    #[test]
    fn what_a_killed_run_left_is_cleaned_up() {
        let host = machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
            ("/boot/grub2/grub.cfg.vfio-provision", "half of a file"),
        ]);
        let done = apply(&host, "kernel_cmdline", json!({"absent": ["nomodeset"]})).unwrap();
        assert_eq!(done.len(), 1);
    }

    #[test]
    fn el9_template_entries_and_rescue() {
        let host = machine(&[
            ("/etc/os-release", os("rocky", "9.4")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/etc/kernel/cmdline", "root=/dev/mapper/rl-root ro rhgb quiet\n"),
            ("/boot/grub2/grub.cfg", samples::BLS_GRUB_CFG),
            ("/boot/loader/entries/m9-5.14.0-427.13.1.el9_4.x86_64.conf", samples::EL9_ENTRY),
            ("/boot/loader/entries/m9-0-rescue.conf", samples::EL9_RESCUE),
        ]);
        let done = there_and_back(
            &host,
            &[
                "/etc/default/grub",
                "/etc/kernel/cmdline",
                "/boot/loader/entries/m9-5.14.0-427.13.1.el9_4.x86_64.conf",
                "/boot/loader/entries/m9-0-rescue.conf",
            ],
        );
        // No tool is run but what brings it all onto the disk.
        assert!(done.iter().all(|action| !matches!(&action.op, Op::Run(run) if run.argv != ["sync"])));
        assert_eq!(read(&host, "/boot/grub2/grub.cfg"), samples::BLS_GRUB_CFG);
        let only = plan(&host, "kernel_cmdline", json!({"present": WANTED, "kernels": "default"})).unwrap();
        assert!(!shown(&only.actions).contains("0-rescue"));
    }

    #[test]
    fn el8_shares_arguments_in_the_environment_block() {
        let env = super::super::grubenv::set("", "kernelopts", Some("root=/dev/mapper/rl-root ro quiet ")).unwrap();
        let files = [
            ("/etc/os-release", os("rocky", "8.10")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/boot/grub2/grub.cfg", samples::BLS_GRUB_CFG),
            ("/boot/grub2/grubenv", env.as_str()),
            ("/boot/loader/entries/m8-4.18.0-553.el8_10.x86_64.conf", samples::EL8_ENTRY),
        ];
        let host = machine(&files);
        there_and_back(&host, &["/etc/default/grub", "/boot/grub2/grubenv"]);
        assert_eq!(read(&host, "/boot/grub2/grubenv"), env);
        let one = json!({"present": WANTED, "kernels": "default"});
        apply(&host, "kernel_cmdline", one).unwrap();
        let entry = read(&host, "/boot/loader/entries/m8-4.18.0-553.el8_10.x86_64.conf");
        assert!(entry.contains("options $kernelopts $tuned_params intel_iommu=on iommu=pt rd.driver.pre=vfio-pci\n"));
        assert_eq!(read(&host, "/boot/grub2/grubenv"), env);
        let error = plan(&host, "kernel_cmdline", json!({"absent": "quiet", "kernels": "default"})).unwrap_err();
        assert!(error.to_string().contains("kernels: all"), "{error}");
    }

    #[test]
    fn debian_uses_a_drop_in_and_leaves_recovery_alone() {
        let host = machine(&[
            ("/etc/os-release", os("debian", "12")),
            ("/etc/default/grub", samples::DEBIAN_DEFAULT),
            ("/boot/grub/grub.cfg", samples::DEBIAN_GRUB_CFG),
            ("/boot/vmlinuz-6.1.0-18-amd64", ""),
        ]);
        there_and_back(&host, &["/etc/default/grub.d/90-vfio-provision.cfg", "/boot/grub/grub.cfg"]);
        assert_eq!(read(&host, "/etc/default/grub"), samples::DEBIAN_DEFAULT);
        apply(&host, "kernel_cmdline", json!({"present": "iommu=pt", "absent": "quiet"})).unwrap();
        assert!(
            read(&host, "/etc/default/grub.d/90-vfio-provision.cfg")
                .ends_with("GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT iommu=pt\"\n")
        );
        assert_eq!(read(&host, "/etc/default/grub"), samples::DEBIAN_DEFAULT.replace("\"quiet\"", "\"\""));
        let grub_cfg = read(&host, "/boot/grub/grub.cfg");
        assert!(grub_cfg.contains("ro single \n") && grub_cfg.contains("root=/dev/sdb2\n"));
        apply(&host, "kernel_cmdline", json!({"present": ["iommu=pt", "console=ttyS0"]})).unwrap();
        assert!(read(&host, "/etc/default/grub.d/90-vfio-provision.cfg").ends_with(" iommu=pt console=ttyS0\"\n"));
    }

    #[test]
    fn a_drop_in_that_starts_anew_behind_ours_is_refused() {
        let host = machine(&[
            ("/etc/os-release", os("debian", "12")),
            ("/etc/default/grub", samples::DEBIAN_DEFAULT),
            ("/etc/default/grub.d/99-x.cfg", "GRUB_CMDLINE_LINUX_DEFAULT=\"console=tty0\"\n"),
            ("/etc/default/grub.d/50-cloudimg-settings.cfg", "GRUB_CMDLINE_LINUX_DEFAULT=\"iommu=soft\"\n"),
            ("/boot/grub/grub.cfg", samples::DEBIAN_GRUB_CFG),
            ("/boot/vmlinuz-6.1.0-18-amd64", ""),
        ]);
        let error = plan(&host, "kernel_cmdline", json!({"present": "iommu=pt"})).unwrap_err();
        assert!(error.to_string().contains("console=tty0"), "{error}");
    }

    #[test]
    fn systemd_boot_entries() {
        let arch = "title Arch\nlinux /vmlinuz-linux\noptions root=/dev/sda2 rw iommu=soft\n";
        let host = machine(&[
            ("/etc/os-release", os("arch", "")),
            ("/boot/loader/entries/arch.conf", arch),
            ("/etc/kernel/cmdline", "root=/dev/sda2 rw"),
        ]);
        apply(&host, "kernel_cmdline", json!({"present": ["iommu=pt"]})).unwrap();
        assert!(read(&host, "/boot/loader/entries/arch.conf").ends_with("options root=/dev/sda2 rw iommu=pt\n"));
        assert_eq!(read(&host, "/etc/kernel/cmdline"), "root=/dev/sda2 rw iommu=pt");
        there_and_back(
            &machine(&[
                ("/etc/os-release", os("arch", "")),
                ("/boot/loader/entries/arch.conf", "title Arch\nlinux /vmlinuz-linux\noptions root=/dev/sda2 rw\n"),
            ]),
            &["/boot/loader/entries/arch.conf"],
        );
    }

    #[test]
    fn running_is_another_fact_than_next_boot() {
        let host = el7();
        apply(&host, "kernel_cmdline", json!({"present": WANTED, "absent": ["quiet"]})).unwrap();
        let again = plan(&host, "kernel_cmdline", json!({"present": WANTED, "absent": ["quiet"]})).unwrap();
        assert!(again.actions.is_empty());
        assert!(again.reboot[0].ends_with("and still has quiet"), "{:?}", again.reboot);
        assert_eq!(again.result["reboot_required"], json!(true));
    }

    #[test]
    fn refusals() {
        let host = el7();
        for (parameters, why) in [
            (json!({}), "nothing is asked for"),
            (json!({"present": [true]}), "truth value"),
            (json!({"present": {"intel_iommu": true}}), "\"intel_iommu=on\""),
            (json!({"present": ["iommu=pt", "iommu=soft"]}), "two values"),
            (json!({"present": ["iommu=pt"], "absent": ["iommu"]}), "both"),
            (json!({"absent": ["root"]}), "needs its own"),
            (json!({"kernel": "all", "present": "a"}), "unknown field"),
        ] {
            let error = plan(&host, "kernel_cmdline", parameters.clone()).unwrap_err().to_string();
            assert!(error.contains(why), "{parameters}: {error}");
        }
        let broken = machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", "GRUB_CMDLINE_LINUX=vfio-pci.ids=10de:1430 quiet\n"),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
        ]);
        let error = plan(&broken, "kernel_cmdline", json!({"present": "a"})).unwrap_err().to_string();
        assert!(
            error.contains("/etc/default/grub: line 1: GRUB_CMDLINE_LINUX: the shell would run `quiet`"),
            "{error}"
        );
        let owned = machine(&[
            ("/etc/os-release", os("rocky", "9.4")),
            ("/boot/grub2/grub.cfg", samples::BLS_GRUB_CFG),
            ("/run/ostree-booted", ""),
        ]);
        assert!(
            plan(&owned, "kernel_cmdline", json!({"present": "a"}))
                .unwrap_err()
                .to_string()
                .contains("rpm-ostree kargs")
        );
    }
}
