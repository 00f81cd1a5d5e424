//! Features, CPU, clock, sleep, SMBIOS.

use serde_json::Value;

use super::*;
use crate::modules::libvirt::domain::params::{Cpu, Features, Firmware, Smbios, Topology};

impl Build<'_> {
    /// What the virtual hardware offers.
    pub(super) fn machine(&mut self) -> Result<()> {
        self.features()?;
        self.cpu()?;
        self.clock()?;
        if let Some(sleep) = self.domain.sleep {
            let one = |name: &str, flag: Option<Flag>| flag.map(|f| Element::new(name).with("enabled", yes_no(f)));
            let pm = Element::new("pm")
                .child_some(one("suspend-to-mem", sleep.memory))
                .child_some(one("suspend-to-disk", sleep.disk));
            if !pm.nodes.is_empty() {
                self.say("sleep", pm);
            }
        }
        if self.preset.is_some() && self.domain.sleep.is_none() {
            let off = |name: &str| Element::new(name).with("enabled", "no");
            let why = self.preset_name();
            self.choose(&why, Element::new("pm").child(off("suspend-to-mem")).child(off("suspend-to-disk")));
        }
        if let Some(smbios) = &self.domain.smbios
            && let Some(element) = sysinfo(&smbios.0)?
        {
            self.say("smbios", element);
        }
        Ok(())
    }

    fn features(&mut self) -> Result<()> {
        let features = &self.domain.features;
        let mut element = Element::new("features");
        let default = self.definition.is_none().then_some(Flag(true));
        for (name, way, flag) in [
            ("acpi", "features/acpi", features.acpi.or(default)),
            ("apic", "features/apic", features.apic.or(default)),
            ("pae", "features/pae", features.pae),
        ] {
            match flag {
                Some(Flag(true)) => element = element.child(Element::new(name)),
                Some(Flag(false)) => self.absent.push(way),
                None => {}
            }
        }
        if !features.hyperv.is_empty() {
            element = element.child(hyperv(features)?);
        }
        let state = |name: &str, flag: Option<Flag>| flag.map(|flag| Element::new(name).with("state", on_off(flag)));
        let kvm = Element::new("kvm")
            .child_some(state("hidden", features.kvm_hidden))
            .child_some(state("hint-dedicated", features.kvm_hint_dedicated))
            .child_some(state("poll-control", features.kvm_poll_control));
        if !kvm.nodes.is_empty() {
            element = element.child(kvm);
        }
        element = element.child_some(state("pmu", features.pmu));
        element = element.child_some(state("vmport", features.vmport));
        let secure = Some(Flag(true)).filter(|_| self.domain.firmware == Some(Firmware::OvmfSecureboot));
        element = element.child_some(state("smm", features.smm.or(secure)));
        if let Some(driver) = &features.ioapic {
            element = element.child(Element::new("ioapic").with("driver", one_of("ioapic", driver, &["kvm", "qemu"])?));
        }
        element = element.child_some(state("vmcoreinfo", features.vmcoreinfo));
        if let Some(unknown) = &features.msrs_unknown {
            let unknown = one_of("features.msrs_unknown", unknown, &["ignore", "fault"])?;
            element = element.child(Element::new("msrs").with("unknown", unknown));
        }
        if !element.nodes.is_empty() {
            self.say("features", element);
        }
        let Some(preset) = self.preset else { return Ok(()) };
        let mut chosen = Element::new("features");
        if self.kind == "kvm" && !preset.hyperv.is_empty() {
            let mut hyperv = Element::new("hyperv");
            for name in preset.hyperv {
                if self.context.old_libvirt && presets::NEWER_HYPERV.contains(name) {
                    continue;
                }
                let on = Element::new(name).with("state", "on");
                hyperv = hyperv.child(if *name == "spinlocks" { on.with("retries", "8191") } else { on });
            }
            // libvirt 8.0 and later say how the rest is meant; before, only `custom` was there.
            chosen = chosen.child(hyperv);
        }
        if preset.windows && features.vmport.is_none() && self.kind == "kvm" {
            chosen = chosen.child(Element::new("vmport").with("state", "off"));
        }
        if self.firmware() == Some(Firmware::OvmfSecureboot) || self.context.current.is_some() {
            chosen = chosen.child(Element::new("smm").with("state", "on"));
        }
        let why = self.preset_name();
        self.choose(&why, chosen);
        Ok(())
    }

    fn cpu(&mut self) -> Result<()> {
        let domain = self.domain;
        if domain.cpu.is_some() || domain.topology.is_some() {
            let mut element = match &domain.cpu {
                Some(cpu) => cpu_element(&cpu.0)?,
                None => Element::new("cpu"),
            };
            if let Some(t) = &domain.topology {
                element = element.child(topology(t));
            }
            if let Some(cpu) = &domain.cpu {
                element = with_xml(element, "cpu", cpu.xml.as_ref())?;
            }
            self.say(if domain.cpu.is_some() { "cpu" } else { "topology" }, element);
        }
        let mut chosen = Element::new("cpu");
        let why = self.preset_name();
        if domain.cpu.is_none() && self.preset.is_some() {
            let mode = if self.kind == "kvm" { "host-passthrough" } else { "maximum" };
            chosen.set("mode", mode);
        }
        let pinned = domain.pinning.as_ref().is_some_and(|pinning| pinning.auto.0);
        if domain.topology.is_none()
            && (self.preset.is_some() || pinned)
            && let Some(vcpus) = self.vcpus()?
        {
            let threads = match &self.context.cpus {
                Some(cpus) if pinned => cpus.threads_for(vcpus),
                _ => 1,
            };
            let t = Topology { sockets: 1, dies: None, cores: vcpus / threads, threads };
            chosen = chosen.child(noted(topology(&t), if pinned { "derived from the host's cores" } else { &why }));
            let amd = self.context.cpus.as_ref().is_some_and(|cpus| cpus.amd);
            if threads > 1 && amd && domain.cpu.is_none() {
                // Without it an AMD guest takes threads for cores, and QEMU warns.
                let feature = Element::new("feature").with("policy", "require").with("name", "topoext");
                chosen = chosen.child(noted(feature, "derived from the host's cores"));
            }
        }
        if !chosen.attributes.is_empty() || !chosen.nodes.is_empty() {
            self.choose_always(&why, chosen);
        }
        Ok(())
    }

    fn clock(&mut self) -> Result<()> {
        if let Some(clock) = &self.domain.clock {
            let offset = one_of("clock", &clock.offset, &["utc", "localtime", "timezone", "variable", "absolute"])?;
            if (offset == "timezone") != clock.timezone.is_some() {
                return Err(Error::parameters("clock: timezone goes with offset timezone, and only with it"));
            }
            let mut element =
                Element::new("clock").with("offset", offset).with_some("timezone", clock.timezone.as_ref());
            for timer in clock.timers.iter() {
                let known = ["rtc", "pit", "hpet", "kvmclock", "hypervclock", "tsc", "platform", "armvtimer"];
                let policies = ["delay", "catchup", "merge", "discard"];
                let tracks = ["boot", "guest", "wall", "realtime"];
                let modes = ["auto", "native", "emulate", "paravirt", "smpsafe"];
                element = element.child(
                    Element::new("timer")
                        .with("name", one_of("clock.timers", &timer.name, &known)?)
                        .with_some("track", some_of("clock.timers.track", timer.track.as_deref(), &tracks)?)
                        .with_some(
                            "tickpolicy",
                            some_of("clock.timers.tickpolicy", timer.tickpolicy.as_deref(), &policies)?,
                        )
                        .with_some("frequency", timer.frequency.map(|hz| hz.to_string()))
                        .with_some("mode", some_of("clock.timers.mode", timer.mode.as_deref(), &modes)?)
                        .with_some("present", timer.present.map(yes_no)),
                );
            }
            self.say("clock", element);
        }
        let Some(preset) = self.preset else { return Ok(()) };
        let mut clock = Element::new("clock");
        if self.domain.clock.is_none() {
            clock.set("offset", preset.clock);
        }
        let timer = |name: &str| Element::new("timer").with("name", name);
        clock = clock
            .child(timer("rtc").with("tickpolicy", "catchup"))
            .child(timer("pit").with("tickpolicy", "delay"))
            .child(timer("hpet").with("present", "no"));
        if preset.windows && self.kind == "kvm" {
            clock = clock.child(timer("hypervclock").with("present", "yes"));
        }
        // Who lists timers, lists them all.
        if self.domain.clock.as_ref().is_none_or(|clock| clock.timers.is_empty()) {
            let why = self.preset_name();
            self.choose(&why, clock);
        }
        Ok(())
    }

    /// Adds to what is chosen, also when there is a definition.
    fn choose_always(&mut self, why: &str, element: Element) {
        self.chosen.nodes.push(Node::Element(noted(element, why)));
    }
}

fn topology(t: &Topology) -> Element {
    Element::new("topology")
        .with("sockets", t.sockets.to_string())
        .with_some("dies", t.dies.map(|dies| dies.to_string()))
        .with("cores", t.cores.to_string())
        .with("threads", t.threads.to_string())
}

fn cpu_element(cpu: &Cpu) -> Result<Element> {
    let Cpu { mode, model, check, migratable, cache, features, xml: _ } = cpu;
    let mut element = Element::new("cpu");
    let mode = mode.as_deref().unwrap_or(if model.is_some() { "custom" } else { "host-passthrough" });
    let mode = one_of("cpu.mode", mode, &["host-passthrough", "host-model", "maximum", "custom"])?;
    if (mode == "custom") != model.is_some() {
        return Err(Error::parameters("cpu: a model goes with mode custom, and only with it"));
    }
    element.set("mode", mode.as_str());
    if mode == "custom" {
        element.set("match", "exact");
    }
    if let Some(check) = check {
        element.set("check", one_of("cpu.check", check, &["none", "partial", "full"])?);
    }
    if let Some(migratable) = migratable {
        if mode == "custom" || mode == "host-model" {
            return Err(Error::parameters("cpu: migratable goes with mode host-passthrough or maximum"));
        }
        element.set("migratable", on_off(*migratable));
    }
    element = element.child_some(model.as_ref().map(|model| leaf("model", model)));
    if let Some(cache) = cache {
        let cache = one_of("cpu.cache", cache, &["passthrough", "emulate", "disable"])?;
        let level = (cache == "emulate").then_some("3");
        element = element.child(Element::new("cache").with_some("level", level).with("mode", cache));
    }
    for (name, policy) in features {
        let policy = one_of("cpu.features", policy, &["require", "disable", "force", "optional", "forbid"])?;
        element = element.child(Element::new("feature").with("policy", policy).with("name", name));
    }
    Ok(element)
}

fn hyperv(features: &Features) -> Result<Element> {
    // https://libvirt.org/formatdomain.html#hypervisor-features
    const KNOWN: [&str; 17] = [
        "relaxed",
        "vapic",
        "spinlocks",
        "vpindex",
        "runtime",
        "synic",
        "stimer",
        "reset",
        "vendor_id",
        "frequencies",
        "reenlightenment",
        "tlbflush",
        "ipi",
        "evmcs",
        "avic",
        "emsr_bitmap",
        "xmm_input",
    ];
    let mut element = Element::new("hyperv");
    for (name, value) in &features.hyperv {
        if name == "mode" {
            let mode = value.as_str().unwrap_or_default();
            element.set("mode", one_of("features.hyperv.mode", mode, &["custom", "passthrough"])?);
            continue;
        }
        let name = one_of("features.hyperv", name, &KNOWN)?;
        let on = Element::new(&name).with("state", "on");
        let wrong = |what: &str| Error::parameters(format!("features.hyperv.{name}: {what} is expected, not {value}"));
        element = element.child(match (name.as_str(), value) {
            ("spinlocks", Value::Number(retries)) => {
                let retries = retries.as_u64().filter(|n| *n >= 4095);
                let retries = retries.ok_or_else(|| wrong("a number of retries of at least 4095"))?;
                on.with("retries", retries.to_string())
            }
            ("vendor_id", Value::String(id)) => {
                if id.is_empty() || id.len() > 12 || id.contains(',') {
                    return Err(wrong("one to twelve characters without a comma"));
                }
                on.with("value", id)
            }
            ("vendor_id", _) => return Err(wrong("a string in quotes")),
            ("stimer", Value::String(direct)) if direct == "direct" => {
                on.child(Element::new("direct").with("state", "on"))
            }
            (_, Value::Bool(true)) if name != "spinlocks" => on,
            (_, Value::Bool(false)) => Element::new(&name).with("state", "off"),
            _ => return Err(wrong("true or false")),
        });
    }
    Ok(element)
}

/// `<sysinfo type='smbios'>`.
fn sysinfo(smbios: &Smbios) -> Result<Option<Element>> {
    // libvirt's schema, domaincommon.rng.
    const BIOS: &[&str] = &["vendor", "version", "date", "release"];
    const SYSTEM: &[&str] = &["manufacturer", "product", "version", "serial", "sku", "family"];
    const BOARD: &[&str] = &["manufacturer", "product", "version", "serial", "asset", "location"];
    const CHASSIS: &[&str] = &["manufacturer", "version", "serial", "asset", "sku"];
    let mut element = Element::new("sysinfo").with("type", "smbios");
    for (what, name, fields, known) in [
        ("smbios.bios", "bios", &smbios.bios, BIOS),
        ("smbios.system", "system", &smbios.system, SYSTEM),
        ("smbios.board", "baseBoard", &smbios.board, BOARD),
        ("smbios.chassis", "chassis", &smbios.chassis, CHASSIS),
    ] {
        if fields.is_empty() {
            continue;
        }
        let mut group = Element::new(name);
        for (field, value) in fields {
            group = group.child(leaf("entry", &*value.0).with("name", one_of(what, field, known)?));
        }
        element = element.child(group);
    }
    if !smbios.oem_strings.is_empty() {
        let mut group = Element::new("oemStrings");
        for text in smbios.oem_strings.iter() {
            group = group.child(leaf("entry", &**text));
        }
        element = element.child(group);
    }
    if element.nodes.is_empty() {
        return Ok(None);
    }
    if smbios.mode.as_deref().is_some_and(|mode| mode != "sysinfo") {
        return Err(Error::parameters("smbios: single values go with mode sysinfo, which is the default"));
    }
    Ok(Some(element))
}
