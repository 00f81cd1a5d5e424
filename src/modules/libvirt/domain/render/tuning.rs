//! Where memory comes from and which of the host's CPUs do the work.

use super::*;
use crate::modules::libvirt::domain::params::Pinning;
use crate::modules::libvirt::domain::pinning;

impl Build<'_> {
    /// Memory backing, pinning, NUMA.
    pub(super) fn tuning(&mut self) -> Result<()> {
        self.memory_backing()?;
        if let Some(pinning) = &self.domain.pinning {
            let pinning = &pinning.0;
            if pinning.auto.0 { self.pin_by_itself(pinning)? } else { self.pin_as_stated(pinning)? }
        }
        Ok(())
    }

    fn memory_backing(&mut self) -> Result<()> {
        let domain = self.domain;
        let mut backing = Element::new("memoryBacking");
        match domain.hugepages.as_ref().map(|pages| &pages.0) {
            Some(pages) if pages.none => self.absent.push("memoryBacking/hugepages"),
            Some(pages) => {
                let mut element = Element::new("hugepages");
                if let Some(size) = pages.size {
                    if !size.0.is_power_of_two() || size.0 < 4096 {
                        return Err(Error::parameters(format!("hugepages: no machine has pages of {size}")));
                    }
                    let nodeset = pages.nodeset.as_deref().map(|set| cpu_set("hugepages.nodeset", set)).transpose()?;
                    let page = Element::new("page").with("size", size.kib().to_string()).with("unit", "KiB");
                    element = element.child(page.with_some("nodeset", nodeset));
                } else if pages.nodeset.is_some() {
                    return Err(Error::parameters("hugepages: a nodeset goes with a size"));
                }
                backing = backing.child(element);
            }
            None => {}
        }
        let default = Default::default();
        let stated = domain.memory_backing.as_ref().unwrap_or(&default);
        let virtiofs = domain
            .filesystems
            .iter()
            .flat_map(|list| list.iter())
            .any(|fs| fs.kind.as_deref().unwrap_or("virtiofs") == "virtiofs");
        if virtiofs && stated.access.as_deref() == Some("private") {
            return Err(Error::parameters("memory_backing: virtiofs needs `access: shared`"));
        }
        let flag = |name: &str, flag: Option<Flag>| flag.filter(|flag| flag.0).map(|_| Element::new(name));
        backing = backing.child_some(stated.merge.filter(|merge| !merge.0).map(|_| Element::new("nosharepages")));
        backing = backing.child_some(flag("locked", stated.locked));
        for (name, attribute, what, value, known, shared) in [
            ("source", "type", "memory_backing.source", &stated.source, &["anonymous", "file", "memfd"][..], "memfd"),
            ("access", "mode", "memory_backing.access", &stated.access, &["shared", "private"][..], "shared"),
            ("allocation", "mode", "memory_backing.allocation", &stated.allocation, &["immediate", "ondemand"][..], ""),
        ] {
            let value = some_of(what, value.as_deref(), known)?;
            let value = value.or_else(|| (virtiofs && !shared.is_empty()).then(|| shared.to_string()));
            backing = backing.child_some(value.map(|value| Element::new(name).with(attribute, value)));
        }
        backing = backing.child_some(flag("discard", stated.discard));
        if !backing.nodes.is_empty() {
            let from = match (virtiofs, domain.hugepages.is_some()) {
                (true, _) => "filesystems (virtiofs shares the guest's memory)",
                (false, true) => "hugepages",
                (false, false) => "memory_backing",
            };
            self.say(from, backing);
        }
        Ok(())
    }

    /// How many virtual CPUs the guest has, stated or not.
    fn all_vcpus(&self) -> Result<u32> {
        let base = self.context.current.as_ref().or(self.definition.as_ref());
        let current = base.and_then(|c| c.text_at(&["vcpu"])).and_then(|text| text.parse().ok());
        Ok(self.vcpus()?.or(current).unwrap_or(1))
    }

    fn pin_as_stated(&mut self, pinning: &Pinning) -> Result<()> {
        let mut tune = Element::new("cputune");
        if let Some(vcpus) = &pinning.vcpus {
            let count = self.all_vcpus()? as usize;
            if vcpus.len() != count {
                return Err(Error::parameters(format!(
                    "pinning.vcpus has {} entries, and the guest has {count} virtual CPUs: one for each is needed",
                    vcpus.len()
                )));
            }
            for (at, set) in vcpus.iter().enumerate() {
                let set = cpu_set("pinning.vcpus", set)?;
                tune = tune.child(Element::new("vcpupin").with("vcpu", at.to_string()).with("cpuset", set));
            }
        }
        if let Some(set) = &pinning.emulator {
            tune = tune.child(Element::new("emulatorpin").with("cpuset", cpu_set("pinning.emulator", set)?));
        }
        for (at, set) in pinning.iothreads.iter().flat_map(|list| list.iter()).enumerate() {
            let set = cpu_set("pinning.iothreads", set)?;
            tune = tune.child(Element::new("iothreadpin").with("iothread", (at + 1).to_string()).with("cpuset", set));
        }
        let threads = self.domain.iothreads.unwrap_or(0) as usize;
        if pinning.iothreads.as_ref().is_some_and(|list| list.len() > threads) {
            return Err(Error::parameters(format!(
                "pinning.iothreads has more entries than the guest has I/O threads (iothreads: {threads})"
            )));
        }
        if pinning.node.is_some() {
            return Err(Error::parameters(
                "pinning: node goes with `auto: true`; `memory` says where memory comes from",
            ));
        }
        if !tune.nodes.is_empty() {
            self.say("pinning", tune);
        }
        let modes = ["strict", "preferred", "interleave", "restrictive"];
        let mode = some_of("pinning.memory_mode", pinning.memory_mode.as_deref(), &modes)?;
        match &pinning.memory {
            Some(nodes) => {
                let nodes = cpu_set("pinning.memory", nodes)?;
                let mode = mode.unwrap_or_else(|| "strict".to_string());
                let memory = Element::new("memory").with("mode", mode).with("nodeset", nodes);
                self.say("pinning", Element::new("numatune").child(memory));
            }
            None if mode.is_some() => {
                return Err(Error::parameters("pinning: memory_mode goes with memory"));
            }
            None => {}
        }
        Ok(())
    }

    fn pin_by_itself(&mut self, pinning: &Pinning) -> Result<()> {
        let context = self.context;
        if pinning.vcpus.is_some()
            || pinning.emulator.is_some()
            || pinning.iothreads.is_some()
            || pinning.memory.is_some()
        {
            return Err(Error::parameters("pinning: with `auto: true` the CPUs and memory are not given"));
        }
        let Some(cpus) = &context.cpus else {
            return Err(Error::parameters("`pinning: auto` needs a machine whose CPUs can be looked at")
                .hint("give `pinning: {vcpus: […]}`"));
        };
        let count = self.all_vcpus()?;
        let (node, why) = self.pin_node(cpus)?;
        let current = context.current.as_ref();
        let threads = match &self.domain.topology {
            Some(t) => t.threads,
            None => current
                .and_then(|c| c.at(&["cpu", "topology"])?.attribute("threads")?.parse().ok())
                .unwrap_or_else(|| cpus.threads_for(count)),
        };
        let pins = pinning::pins(cpus, node, count, threads, self.domain.iothreads.unwrap_or(0), current)?;
        let mut tune = Element::new("cputune");
        for (at, set) in pins.vcpus.iter().enumerate() {
            tune = tune.child(Element::new("vcpupin").with("vcpu", at.to_string()).with("cpuset", set));
        }
        tune = tune.child(Element::new("emulatorpin").with("cpuset", pins.emulator));
        for (at, set) in pins.iothreads.iter().enumerate() {
            let pin = Element::new("iothreadpin").with("iothread", (at + 1).to_string());
            tune = tune.child(pin.with("cpuset", set));
        }
        let from = format!("pinning, derived from the host: {why}");
        self.say(&from, tune);
        if cpus.nodes().len() > 1 {
            let modes = ["strict", "preferred", "interleave", "restrictive"];
            let mode = some_of("pinning.memory_mode", pinning.memory_mode.as_deref(), &modes)?;
            let memory = Element::new("memory")
                .with("mode", mode.unwrap_or_else(|| "strict".to_string()))
                .with("nodeset", node.to_string());
            self.say(&from, Element::new("numatune").child(memory));
        }
        Ok(())
    }

    /// The NUMA node that the guest belongs on, and why.
    fn pin_node(&self, cpus: &HostCpus) -> Result<(u32, String)> {
        let nodes = cpus.nodes();
        let stated = self.domain.pinning.as_ref().and_then(|pinning| pinning.node);
        if let Some(node) = stated {
            if !nodes.contains(&node) {
                let known: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                return Err(Error::parameters(format!(
                    "pinning: the host has no NUMA node {node}, but {}",
                    known.join(", ")
                )));
            }
            return Ok((node, format!("NUMA node {node} as stated")));
        }
        for card in &self.context.gpus {
            if let (Some(node), Some(address)) = (card.numa_node, card.functions.first())
                && nodes.contains(&node)
            {
                return Ok((node, format!("NUMA node {node} of the card {address}")));
            }
        }
        // A guest that is pinned stays on its node.
        let there = self.context.current.as_ref().and_then(|c| pinning::node_of(cpus, c));
        let node = there.unwrap_or_else(|| cpus.freest_node());
        Ok((node, format!("NUMA node {node}")))
    }
}
