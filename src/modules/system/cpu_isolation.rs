//! `cpu_isolation`: processors that only guests use.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::cpu_set::{self, CpuSet, Topology};
use super::service::is_offline;
use super::steps::Steps;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::facts::pci::{self, PciAddress};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::boot::cmdline;
use crate::modules::boot::kernel_cmdline::KernelCmdline;
use crate::modules::params::{Flag, List, Text, yes};

/// Keeps processors free for guests.
///
/// With `method: slices` systemd keeps everything but guests off them, at once and at every boot; guests need no pinning
/// for it, and the processors can be given back at any time. With `method: kernel` the kernel itself leaves them alone from
/// the next boot on, timer ticks included: the quietest way, but nothing runs there any more that is not pinned there,
/// so every virtual processor must be pinned to one of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuIsolation {
    /// The processors, such as "2-5,8-11", or a list of such. Needed unless `near` or `state: absent`.
    #[serde(default)]
    cpus: List<Text>,
    /// The address of a PCI device, such as "0000:82:00.0": all processors of its NUMA node, apart from processor 0 and its
    /// siblings. With `cpus`, warns of those that are on another node.
    #[schemars(with = "Option<String>")]
    near: Option<PciAddress>,
    /// `slices` or `kernel`. Default: slices.
    #[serde(default)]
    method: Method,
    /// With `method: kernel`: no timer ticks while only one thing runs there (`nohz_full=`). Default: yes.
    #[serde(default = "yes")]
    nohz_full: Flag,
    /// With `method: kernel`: the kernel's own callbacks run elsewhere (`rcu_nocbs=`). Default: yes.
    #[serde(default = "yes")]
    rcu_nocbs: Flag,
    /// `present` or `absent`, which gives all of them back. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Method {
    /// systemd's `AllowedCPUs=` for all but guests.
    #[default]
    Slices,
    /// The kernel's `isolcpus=`.
    Kernel,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Only guests use them.
    #[default]
    Present,
    /// Anything may.
    Absent,
}

/// What holds everything but guests: those are in machine.slice.
const UNITS: [(&str, &str); 3] = [("init.scope", "Scope"), ("system.slice", "Slice"), ("user.slice", "Slice")];
const RECORD: &str = "cpu_isolation";
const HEADER: &str = "# Written by vfio-provision (cpu_isolation); changes are overwritten.";
/// The first systemd that knows AllowedCPUs=.
const SYSTEMD: u32 = 244;

fn drop_in(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.d/50-vfio-provision.conf")
}

fn live(unit: &str) -> String {
    format!("/sys/fs/cgroup/{unit}/cpuset.cpus")
}

impl Module for CpuIsolation {
    const NAME: &'static str = "cpu_isolation";
    const SUMMARY: &'static str = "Keep processors free for guests";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        let topology = cpu_set::topology(host)?;
        let (mut for_kernel, mut for_slices) = (None, None);
        if self.state == State::Present {
            let set = self.set(host, &topology)?;
            self.check(host, &topology, &set, &mut steps)?;
            steps.plan().set("cpus", set.to_string());
            steps.plan().set("host_cpus", topology.all.without(&set).to_string());
            match self.method {
                Method::Kernel => for_kernel = Some(set),
                Method::Slices => for_slices = Some(topology.all.without(&set)),
            }
        }
        self.slices(&mut steps, &topology, for_slices.as_ref())?;
        self.kernel(&mut steps, for_kernel.as_ref())?;
        Ok(steps.finish())
    }
}

impl CpuIsolation {
    /// Which processors are meant.
    fn set(&self, host: &dyn Host, topology: &Topology) -> Result<CpuSet> {
        let mut set = CpuSet::default();
        for text in self.cpus.iter() {
            set.0.extend(CpuSet::parse(text).map_err(Error::parameters)?.0);
        }
        if !set.is_empty() {
            return Ok(set);
        }
        let Some(address) = self.near else {
            return Err(Error::parameters("`cpus` is empty: say which processors, or `near` which device"));
        };
        let local = self.local(host, address)?;
        if local.is_empty() || topology.all.without(&local).is_empty() {
            return Err(Error::refused(format!(
                "all processors of this machine are as near to {address} as any other: nothing would be left for the host"
            ))
            .hint("say which ones with `cpus`"));
        }
        Ok(local.without(&topology.core_of(0)))
    }

    fn local(&self, host: &dyn Host, address: PciAddress) -> Result<CpuSet> {
        let device = pci::device(host, address)?.ok_or_else(|| {
            Error::refused(format!("there is no PCI device {address} on this machine"))
                .hint("lspci -D shows those that are there")
        })?;
        Ok(device.local_cpus.as_deref().map(CpuSet::of_kernel).unwrap_or_default())
    }

    fn check(&self, host: &dyn Host, topology: &Topology, set: &CpuSet, steps: &mut Steps) -> Result<()> {
        let strange = set.without(&topology.all);
        if !strange.is_empty() {
            return Err(Error::refused(format!("this machine has no processor {strange}"))
                .hint(format!("it has {}", topology.all)));
        }
        let rest = topology.all.without(set);
        if rest.is_empty() {
            return Err(Error::refused("all processors would be for guests, and none for the host")
                .hint("leave at least one core, with processor 0, to the host"));
        }
        if set.0.contains(&0) {
            return Err(Error::refused(
                "processor 0 keeps the machine's time and handles what no other one can: it stays with the host",
            )
            .hint(format!("leave 0 out; its core is {}", topology.core_of(0))));
        }
        let warnings = &mut steps.plan().warnings;
        for (part, other) in topology.split_cores(set) {
            warnings.push(format!(
                "{part} and {other} are threads of one core: what the host does on {other} slows guests on {part} down, \
                 and one can watch the other"
            ));
        }
        if let (Some(address), false) = (self.near, self.cpus.is_empty()) {
            let far = set.without(&self.local(host, address)?);
            if !far.is_empty() {
                warnings.push(format!("{far} are on another NUMA node than {address}"));
            }
        }
        if topology.core_of(0) == rest && topology.all.0.len() > 4 {
            warnings.push(format!("the host is left with one core ({rest}): disks and networks of guests work there"));
        }
        Ok(())
    }

    /// What the kernel is told.
    fn kernel(&self, steps: &mut Steps, set: Option<&CpuSet>) -> Result<()> {
        let mut arguments = Vec::new();
        if let Some(set) = set {
            arguments.push(format!("isolcpus={set}"));
            if self.nohz_full.0 {
                arguments.push(format!("nohz_full={set}"));
            }
            if self.rcu_nocbs.0 {
                arguments.push(format!("rcu_nocbs={set}"));
            }
        }
        let old = steps.kept(RECORD)?.unwrap_or_default();
        let old: Vec<&str> = old.split_whitespace().collect();
        if arguments.is_empty() && old.is_empty() {
            return Ok(());
        }
        let mut both: BTreeSet<&str> = old.iter().copied().collect();
        both.extend(arguments.iter().map(String::as_str));
        let print = |words: &mut dyn Iterator<Item = &str>| {
            let text = words.collect::<Vec<_>>().join(" ");
            (!text.is_empty()).then(|| format!("{text}\n"))
        };
        steps.keep(RECORD, print(&mut both.into_iter()).as_deref())?;
        let gone: Vec<&&str> =
            old.iter().filter(|old| !arguments.iter().any(|new| cmdline::key(new) == cmdline::key(old))).collect();
        let go_on = steps.module::<KernelCmdline>(json!({"present": arguments, "absent": gone}))?;
        if set.is_some() {
            steps.plan().notes.push(
                "the kernel moves nothing to these processors by itself: pin every virtual processor of a guest to one of \
                 them, or they all stay on the first"
                    .into(),
            );
        }
        if go_on {
            let sorted: BTreeSet<&str> = arguments.iter().map(String::as_str).collect();
            steps.keep(RECORD, print(&mut sorted.into_iter()).as_deref())?;
        }
        Ok(())
    }

    /// What systemd is told; `None` takes it back.
    fn slices(&self, steps: &mut Steps, topology: &Topology, rest: Option<&CpuSet>) -> Result<()> {
        if rest.is_some() {
            able(steps.host())?;
        }
        let mut changed = false;
        for (unit, section) in UNITS {
            let text = rest.map(|rest| format!("{HEADER}\n[{section}]\nAllowedCPUs={rest}\n"));
            let path = drop_in(unit);
            let now = steps.host().read_text(&path)?;
            let ours = now.as_deref().is_some_and(|now| now.starts_with(HEADER));
            if text.is_none() && !ours {
                continue;
            }
            changed |= steps.file(&path, text.as_deref(), None)?;
        }
        let offline = is_offline(steps.host())?;
        if changed && !offline {
            let mut run = Run::new(["systemctl", "daemon-reload"], Vec::new());
            run.undo = Some(run.argv.clone());
            steps.act(Op::Run(run), Vec::new())?;
        }
        if offline || !(changed || rest.is_some()) {
            return Ok(());
        }
        for (unit, _) in UNITS {
            let path = live(unit);
            let now = CpuSet::of_kernel(&steps.host().read_line(&path)?.unwrap_or_default());
            let wanted = rest.cloned().unwrap_or_default();
            // An empty set and all of them mean the same to the kernel.
            let is_all = |set: &CpuSet| set.is_empty() || *set == topology.all;
            if now == wanted || (is_all(&now) && is_all(&wanted)) {
                continue;
            }
            let set = |set: &CpuSet| {
                [
                    "systemctl".into(),
                    "set-property".into(),
                    "--runtime".into(),
                    "--".into(),
                    unit.into(),
                    format!("AllowedCPUs={set}"),
                ]
            };
            let effect = Effect::File { path, content: Some(format!("{wanted}\n")), mode: None };
            let mut run = Run::new(set(&wanted), vec![effect]);
            run.undo = Some(set(&now).to_vec());
            let words = |set: &CpuSet| if is_all(set) { "all".to_string() } else { set.to_string() };
            steps.act(Op::Run(run), vec![Diff::changed("cpus", unit, words(&now), words(&wanted))])?;
        }
        Ok(())
    }
}

/// Can systemd keep slices to some processors on this machine?
fn able(host: &dyn Host) -> Result<()> {
    let controllers = host.read_line("/sys/fs/cgroup/cgroup.controllers")?.unwrap_or_default();
    if !controllers.split_whitespace().any(|name| name == "cpuset") {
        return Err(Error::refused(
            "this machine has no control groups of version 2 with `cpuset`, so systemd can't keep anything off a processor",
        )
        .hint("use `method: kernel`, or boot with systemd.unified_cgroup_hierarchy=1 where systemd is 244 or later"));
    }
    // `252.22-1~deb12u1`, `254.9-1.fc39`; Enterprise Linux 8 has a 239 that knows it since 8.2.
    let version = host.package("systemd")?.and_then(|package| package.version).unwrap_or_default();
    let number: Option<u32> = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|text| text.parse().ok());
    if number.is_some_and(|number| number < SYSTEMD) && !host.os()?.is_el(8) {
        return Err(Error::refused(format!("systemd {version} does not know AllowedCPUs= ({SYSTEMD} and later do)"))
            .hint("use `method: kernel`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::host::{Model, Package};
    use crate::modules::boot::samples::{self, os};

    /// Two sockets with two cores of two threads: even processors are on node 0, n and n+4 share a core.
    fn host(more: &[(&str, &str)]) -> Machine {
        let mut files: Vec<(String, String)> = [
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", ""),
            ("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/mapper/cl-root ro\n"),
            ("/sys/devices/system/cpu/present", "0-7\n"),
            ("/sys/bus/pci/devices/0000:82:00.0/vendor", "0x10de\n"),
            ("/sys/bus/pci/devices/0000:82:00.0/device", "0x1430\n"),
            ("/sys/bus/pci/devices/0000:82:00.0/local_cpulist", "1,3,5,7\n"),
            ("/sys/bus/pci/devices/0000:02:00.0/vendor", "0x10de\n"),
            ("/sys/bus/pci/devices/0000:02:00.0/device", "0x1430\n"),
            ("/sys/bus/pci/devices/0000:02:00.0/local_cpulist", "0-7\n"),
            ("/etc/systemd/system/", ""),
            ("/var/lib/", ""),
        ]
        .iter()
        .chain(more)
        .map(|(path, text)| (path.to_string(), text.to_string()))
        .collect();
        for cpu in 0..8 {
            files.push((
                format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                format!("{},{}\n", cpu % 4, cpu % 4 + 4),
            ));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        machine(&files)
    }

    fn modern() -> Machine {
        let host = host(&[
            ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n"),
            ("/sys/fs/cgroup/system.slice/cpuset.cpus", "\n"),
            ("/sys/fs/cgroup/user.slice/cpuset.cpus", "0-7\n"),
            ("/sys/fs/cgroup/init.scope/cpuset.cpus", "\n"),
        ]);
        put_systemd(&host, "252.22-1~deb12u1");
        host
    }

    fn put_systemd(host: &Machine, version: &str) {
        let package = Package { name: "systemd".into(), version: Some(version.into()) };
        host.put_package("systemd", Some(package)).unwrap();
    }

    #[test]
    fn slices_keep_all_but_guests_off_at_once_and_at_every_boot() {
        let host = modern();
        let parameters = json!({"cpus": "1,3,5,7", "near": "0000:82:00.0"});
        let answer = plan(&host, "cpu_isolation", parameters.clone()).unwrap();
        assert!(answer.warnings.is_empty() && answer.reboot.is_empty(), "{answer:#?}");
        let done = apply(&host, "cpu_isolation", parameters).unwrap();
        let text = shown(&done);
        assert!(text.contains("+[Slice]\n+AllowedCPUs=0,2,4,6\n"), "{text}");
        assert!(text.contains("cpus init.scope\nall → 0,2,4,6\ncpus system.slice\nall → 0,2,4,6\n"), "{text}");
        assert!(!text.contains("machine.slice"), "{text}");
        // What someone else left in the running system is put right.
        let path = "/sys/fs/cgroup/user.slice/cpuset.cpus";
        let effects = vec![Effect::File { path: path.into(), content: Some("0-7\n".into()), mode: None }];
        crate::host::model::predict(&host, &Op::Run(Run::new(["x"], effects))).unwrap();
        let again = apply(&host, "cpu_isolation", json!({"near": "0000:82:00.0"})).unwrap();
        assert_eq!(shown(&again), "cpus user.slice\nall → 0,2,4,6\n");
        let done = shown(&apply(&host, "cpu_isolation", json!({"state": "absent"})).unwrap());
        assert!(done.contains("cpus system.slice\n0,2,4,6 → all\n"), "{done}");
        assert!(!host.exists(&drop_in("system.slice")).unwrap());
        assert!(apply(&host, "cpu_isolation", json!({"state": "absent"})).unwrap().is_empty());
    }

    #[test]
    fn the_kernel_is_told_by_arguments_which_go_without_a_trace() {
        let host = host(&[]);
        let parameters = json!({"cpus": ["1", "3,5,7"], "method": "kernel"});
        let done = shown(&apply(&host, "cpu_isolation", parameters.clone()).unwrap());
        assert!(done.contains("quiet isolcpus=1,3,5,7 nohz_full=1,3,5,7 rcu_nocbs=1,3,5,7\""), "{done}");
        let answer = plan(&host, "cpu_isolation", parameters).unwrap();
        assert_eq!((answer.reboot.len(), answer.notes.len()), (1, 1));
        let fewer = json!({"cpus": "3,7", "method": "kernel", "nohz_full": false});
        let done = shown(&apply(&host, "cpu_isolation", fewer).unwrap());
        assert!(done.contains("quiet isolcpus=3,7 rcu_nocbs=3,7\""), "{done}");
        apply(&host, "cpu_isolation", json!({"state": "absent"})).unwrap();
        assert_eq!(host.read_text("/etc/default/grub").unwrap().as_deref(), Some(samples::EL7_DEFAULT));
        assert!(!host.exists("/var/lib/vfio-provision/kept/cpu_isolation").unwrap());
    }

    #[test]
    fn one_way_takes_the_other_back() {
        let host = modern();
        apply(&host, "cpu_isolation", json!({"cpus": "3,7"})).unwrap();
        apply(&host, "cpu_isolation", json!({"cpus": "3,7", "method": "kernel"})).unwrap();
        assert!(!host.exists(&drop_in("user.slice")).unwrap());
        apply(&host, "cpu_isolation", json!({"cpus": "3,7"})).unwrap();
        assert_eq!(host.read_text("/etc/default/grub").unwrap().as_deref(), Some(samples::EL7_DEFAULT));
    }

    #[test]
    fn warnings() {
        let host = modern();
        let answer = plan(&host, "cpu_isolation", json!({"cpus": "2-3", "near": "0000:82:00.0"})).unwrap();
        assert_eq!(answer.warnings.len(), 3, "{:#?}", answer.warnings);
        assert!(answer.warnings[0].starts_with("2 and 6 are threads of one core"));
        assert!(answer.warnings[2].starts_with("2 are on another NUMA node"));
        let answer = plan(&host, "cpu_isolation", json!({"cpus": "1-3,5-7"})).unwrap();
        assert!(answer.warnings[0].contains("left with one core (0,4)"), "{:#?}", answer.warnings);
    }

    #[test]
    fn refusals() {
        let (modern, plain) = (modern(), host(&[]));
        let old = host(&[("/sys/fs/cgroup/cgroup.controllers", "cpuset\n")]);
        put_systemd(&old, "219-30.el7");
        for (host, parameters, why) in [
            (&modern, json!({}), "`cpus` is empty"),
            (&modern, json!({"cpus": "a"}), "not a list of processors"),
            (&modern, json!({"cpus": "0-7"}), "none for the host"),
            (&modern, json!({"cpus": "0,4"}), "processor 0 keeps"),
            (&modern, json!({"cpus": "6-9"}), "no processor 8-9"),
            (&modern, json!({"near": "0000:99:00.0"}), "no PCI device"),
            (&modern, json!({"near": "0000:02:00.0"}), "nothing would be left"),
            (&plain, json!({"cpus": "3,7"}), "no control groups of version 2"),
            (&old, json!({"cpus": "3,7"}), "systemd 219-30.el7 does not know"),
        ] {
            let error = plan(host, "cpu_isolation", parameters.clone()).unwrap_err().to_string();
            assert!(error.contains(why), "{parameters}: {error}");
        }
    }
}
