//! What of a domain is not a device, as parameters: in sections, so that one for which the parameters have no words can
//! go into `xml` without the others.

use serde_json::{Value, json};

use super::convert::{Params, raw_text};
use crate::modules::libvirt::domain::normal::amount;
use crate::modules::libvirt::values::number;
use crate::modules::libvirt::xml::Element;

/// Parameters, and the elements that they make.
#[derive(Clone, Debug)]
pub struct Section {
    /// Elements of the domain.
    pub elements: &'static [&'static str],
    /// Parameters.
    pub params: Params,
    /// What must be said in any case.
    pub least: Params,
}

impl Section {
    fn new(elements: &'static [&'static str], params: Params) -> Section {
        Section { elements, params, least: Params::new() }
    }
}

/// All of them.
pub fn sections(domain: &Element) -> Vec<Section> {
    vec![
        Section::new(&["uuid"], of_leaf(domain, "uuid", "uuid", |text| json!(with_dashes(text.trim())))),
        Section::new(&["title"], of_leaf(domain, "title", "title", |text| json!(text))),
        Section::new(&["description"], of_leaf(domain, "description", "description", |text| json!(text))),
        Section::new(&["currentMemory"], current_memory(domain)),
        Section::new(&["memoryBacking"], memory_backing(domain)),
        Section::new(&["vcpu"], of_leaf(domain, "vcpu", "vcpus", count)),
        Section::new(&["iothreads"], of_leaf(domain, "iothreads", "iothreads", count)),
        Section::new(&["cputune", "numatune"], pinning(domain)),
        Section::new(&["cpu"], cpu(domain)),
        os(domain),
        Section::new(&["sysinfo"], Params::new()),
        features(domain),
        Section::new(&["clock"], clock(domain)),
        Section::new(&["pm"], sleep(domain)),
        Section::new(&["on_poweroff"], of_leaf(domain, "on_poweroff", "on_poweroff", |text| json!(text.trim()))),
        Section::new(&["on_reboot"], of_leaf(domain, "on_reboot", "on_reboot", |text| json!(text.trim()))),
        Section::new(&["on_crash"], of_leaf(domain, "on_crash", "on_crash", |text| json!(text.trim()))),
        Section::new(&["qemu:commandline"], command_line(domain)),
    ]
}

/// A UUID as people know it.
fn with_dashes(uuid: &str) -> String {
    let parts: Option<Vec<&str>> =
        [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().map(|range| uuid.get(range)).collect();
    match parts {
        Some(parts) if uuid.len() == 32 => parts.join("-"),
        _ => uuid.to_string(),
    }
}

fn count(text: &str) -> Value {
    number(text).map_or(Value::Null, |n| json!(n))
}

fn of_leaf(domain: &Element, element: &str, parameter: &str, value: impl Fn(&str) -> Value) -> Params {
    let found = domain.get(element).map(|element| value(&raw_text(element))).filter(|value| !value.is_null());
    found.map(|value| (parameter.to_string(), value)).into_iter().collect()
}

fn text(into: &mut Params, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        into.insert(name.to_string(), value.into());
    }
}

/// A parameter that is a map, unless it is empty.
fn map(into: &mut Params, name: &str, value: Params) {
    if !value.is_empty() {
        into.insert(name.to_string(), Value::Object(value));
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" => Some(true),
        "off" | "no" => Some(false),
        _ => None,
    }
}

fn state(parent: Option<&Element>, way: &[&str]) -> Option<bool> {
    parent?.at(way)?.attribute("state").and_then(truth)
}

fn current_memory(domain: &Element) -> Params {
    let of = |name: &str| domain.get(name).and_then(amount);
    let less = of("currentMemory").filter(|current| Some(*current) != of("memory"));
    less.map(|size| ("current_memory".to_string(), json!(size.to_string()))).into_iter().collect()
}

fn memory_backing(domain: &Element) -> Params {
    let mut params = Params::new();
    let Some(backing) = domain.get("memoryBacking") else { return params };
    if let Some(pages) = backing.get("hugepages") {
        let list: Vec<&Element> = pages.named("page").collect();
        match list.as_slice() {
            [] => {
                params.insert("hugepages".into(), json!(true));
            }
            [page] => {
                let size = amount(page).map(|size| size.to_string());
                match (size, page.attribute("nodeset")) {
                    (Some(size), None) => {
                        params.insert("hugepages".into(), json!(size));
                    }
                    (Some(size), Some(nodes)) => {
                        params.insert("hugepages".into(), json!({"size": size, "nodeset": nodes}));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let mut more = Params::new();
    text(&mut more, "source", backing.at(&["source"]).and_then(|e| e.attribute("type")));
    text(&mut more, "access", backing.at(&["access"]).and_then(|e| e.attribute("mode")));
    text(&mut more, "allocation", backing.at(&["allocation"]).and_then(|e| e.attribute("mode")));
    text(&mut more, "locked", backing.get("locked").map(|_| true));
    text(&mut more, "merge", backing.get("nosharepages").map(|_| false));
    text(&mut more, "discard", backing.get("discard").map(|_| true));
    map(&mut params, "memory_backing", more);
    params
}

/// Pins of all virtual CPUs, in order; anything less goes into `xml`.
fn pinning(domain: &Element) -> Params {
    let mut pinning = Params::new();
    let tune = domain.get("cputune");
    let vcpus = domain.text_at(&["vcpu"]).and_then(|count| number(&count)).unwrap_or(1);
    let pins = |name: &'static str, key: &'static str, first: u64| -> Option<Vec<String>> {
        let mut list: Vec<(u64, String)> = tune?
            .named(name)
            .map(|pin| Some((number(pin.attribute(key)?)?, pin.attribute("cpuset")?.to_string())))
            .collect::<Option<_>>()?;
        list.sort();
        let whole =
            list.iter().enumerate().all(|(at, (number, _))| u64::try_from(at).is_ok_and(|at| at + first == *number));
        (whole && !list.is_empty()).then(|| list.into_iter().map(|(_, set)| set).collect())
    };
    let of_vcpus =
        pins("vcpupin", "vcpu", 0).filter(|pins| u64::try_from(pins.len()).is_ok_and(|count| count == vcpus));
    text(&mut pinning, "vcpus", of_vcpus);
    text(&mut pinning, "emulator", tune.and_then(|t| t.at(&["emulatorpin"])?.attribute("cpuset")));
    text(&mut pinning, "iothreads", pins("iothreadpin", "iothread", 1));
    let memory = domain.at(&["numatune", "memory"]);
    text(&mut pinning, "memory", memory.and_then(|memory| memory.attribute("nodeset")));
    if memory.is_some_and(|memory| memory.attribute("nodeset").is_some()) {
        text(&mut pinning, "memory_mode", memory.and_then(|memory| memory.attribute("mode")));
    }
    let mut params = Params::new();
    map(&mut params, "pinning", pinning);
    params
}

fn cpu(domain: &Element) -> Params {
    let mut params = Params::new();
    let Some(cpu) = domain.get("cpu") else { return params };
    let mut stated = Params::new();
    let model = cpu.text_at(&["model"]).filter(|model| !model.is_empty());
    let mode = cpu.attribute("mode").or(model.is_some().then_some("custom"));
    text(&mut stated, "mode", mode);
    text(&mut stated, "model", model);
    text(&mut stated, "check", cpu.attribute("check"));
    text(&mut stated, "migratable", cpu.attribute("migratable").and_then(truth));
    text(&mut stated, "cache", cpu.at(&["cache"]).and_then(|cache| cache.attribute("mode")));
    let features: Params = cpu
        .named("feature")
        .filter_map(|f| Some((f.attribute("name")?.to_string(), json!(f.attribute("policy").unwrap_or("require")))))
        .collect();
    map(&mut stated, "features", features);
    map(&mut params, "cpu", stated);
    if let Some(topology) = cpu.get("topology") {
        let part = |name: &str| topology.attribute(name).and_then(number);
        let mut arranged = Params::new();
        text(&mut arranged, "sockets", part("sockets"));
        text(&mut arranged, "dies", part("dies").filter(|dies| *dies > 1));
        text(&mut arranged, "cores", part("cores"));
        text(&mut arranged, "threads", part("threads"));
        map(&mut params, "topology", arranged);
    }
    params
}

fn os(domain: &Element) -> Section {
    let mut params = Params::new();
    let mut least = Params::new();
    let os = domain.get("os");
    let kind = os.and_then(|os| os.get("type"));
    let attribute = |name: &str| kind.and_then(|kind| kind.attribute(name));
    text(&mut least, "arch", attribute("arch"));
    // What libvirt takes for a PC that says nothing.
    text(&mut least, "machine", Some(attribute("machine").unwrap_or("pc")));
    let boot: Vec<&str> =
        os.into_iter().flat_map(|os| os.named("boot")).filter_map(|boot| boot.attribute("dev")).collect();
    text(&mut least, "boot", Some(boot).filter(|boot| !boot.is_empty()));
    params.extend(least.clone());
    let leaf = |name: &str| os.and_then(|os| os.text_at(&[name])).filter(|text| !text.is_empty());
    let of = |name: &str, attribute: &str| os.and_then(|os| os.at(&[name])?.attribute(attribute));
    // With libvirt's own choice of a firmware, what it chose stands here too: it belongs together.
    if os.is_some_and(|os| os.attribute("firmware").is_none()) {
        text(&mut params, "loader", leaf("loader"));
        text(&mut params, "loader_secure", of("loader", "secure").and_then(truth));
        text(&mut params, "loader_format", of("loader", "format"));
        text(&mut params, "nvram", leaf("nvram"));
        text(&mut params, "nvram_template", of("nvram", "template"));
    }
    text(&mut params, "kernel", leaf("kernel"));
    text(&mut params, "initrd", leaf("initrd"));
    text(&mut params, "kernel_args", leaf("cmdline"));
    text(&mut params, "boot_menu", of("bootmenu", "enable").and_then(truth));
    smbios(domain, &mut params);
    Section { elements: &["os"], params, least }
}

fn smbios(domain: &Element, params: &mut Params) {
    let mode = domain.at(&["os", "smbios"]).and_then(|smbios| smbios.attribute("mode"));
    let Some(info) = domain.get("sysinfo") else {
        text(params, "smbios", mode);
        return;
    };
    let mut all = Params::new();
    text(&mut all, "mode", mode);
    for (name, element) in [("bios", "bios"), ("system", "system"), ("board", "baseBoard"), ("chassis", "chassis")] {
        let entries: Params = info
            .get(element)
            .into_iter()
            .flat_map(|part| part.named("entry"))
            .filter_map(|entry| Some((entry.attribute("name")?.to_string(), json!(entry.text()))))
            .filter(|(key, _)| !(element == "system" && key == "uuid"))
            .collect();
        map(&mut all, name, entries);
    }
    let strings: Vec<String> =
        info.get("oemStrings").into_iter().flat_map(|part| part.named("entry")).map(Element::text).collect();
    text(&mut all, "oem_strings", Some(strings).filter(|strings| !strings.is_empty()));
    map(params, "smbios", all);
}

fn features(domain: &Element) -> Section {
    let mut all = Params::new();
    let mut least = Params::new();
    let features = domain.get("features");
    for name in ["acpi", "apic"] {
        let there = features.is_some_and(|features| features.get(name).is_some());
        least.insert(name.into(), json!(there));
    }
    all.extend(least.clone());
    text(&mut all, "pae", features.and_then(|features| features.get("pae")).map(|_| true));
    for name in ["smm", "vmport", "pmu", "vmcoreinfo"] {
        text(&mut all, name, state(features, &[name]));
    }
    let of = |name: &str, attribute: &str| features.and_then(|features| features.at(&[name])?.attribute(attribute));
    text(&mut all, "ioapic", of("ioapic", "driver"));
    text(&mut all, "msrs_unknown", of("msrs", "unknown"));
    text(&mut all, "kvm_hidden", state(features, &["kvm", "hidden"]));
    text(&mut all, "kvm_hint_dedicated", state(features, &["kvm", "hint-dedicated"]));
    text(&mut all, "kvm_poll_control", state(features, &["kvm", "poll-control"]));
    let hyperv: Params = features
        .and_then(|features| features.get("hyperv"))
        .into_iter()
        .flat_map(Element::elements)
        .filter_map(|one| Some((one.name.clone(), enlightenment(one)?)))
        .collect();
    map(&mut all, "hyperv", hyperv);
    let wrap = |params: Params| Params::from_iter([("features".to_string(), Value::Object(params))]);
    Section { elements: &["features"], params: wrap(all), least: wrap(least) }
}

fn enlightenment(one: &Element) -> Option<Value> {
    let on = one.attribute("state").and_then(truth)?;
    Some(match one.name.as_str() {
        "spinlocks" if on => json!(number(one.attribute("retries")?)?),
        "vendor_id" if on => json!(one.attribute("value")?),
        "stimer" if on && state(Some(one), &["direct"]) == Some(true) => json!("direct"),
        _ => json!(on),
    })
}

fn clock(domain: &Element) -> Params {
    let mut params = Params::new();
    let Some(clock) = domain.get("clock") else { return params };
    let mut all = Params::new();
    text(&mut all, "offset", Some(clock.attribute("offset").unwrap_or("utc")));
    text(&mut all, "timezone", clock.attribute("timezone"));
    let timers: Vec<Value> = clock
        .named("timer")
        .map(|timer| {
            let mut one = Params::new();
            text(&mut one, "name", timer.attribute("name"));
            text(&mut one, "present", timer.attribute("present").and_then(truth));
            for name in ["tickpolicy", "track", "mode"] {
                text(&mut one, name, timer.attribute(name));
            }
            text(&mut one, "frequency", timer.attribute("frequency").and_then(number));
            Value::Object(one)
        })
        .collect();
    text(&mut all, "timers", Some(timers).filter(|timers| !timers.is_empty()));
    map(&mut params, "clock", all);
    params
}

fn sleep(domain: &Element) -> Params {
    let mut all = Params::new();
    for (name, element) in [("memory", "suspend-to-mem"), ("disk", "suspend-to-disk")] {
        text(&mut all, name, domain.at(&["pm", element]).and_then(|e| e.attribute("enabled")).and_then(truth));
    }
    let mut params = Params::new();
    map(&mut params, "sleep", all);
    params
}

fn command_line(domain: &Element) -> Params {
    let mut params = Params::new();
    let Some(line) = domain.get("qemu:commandline") else { return params };
    let arguments: Vec<&str> = line.named("qemu:arg").filter_map(|arg| arg.attribute("value")).collect();
    text(&mut params, "qemu_args", Some(arguments).filter(|arguments| !arguments.is_empty()));
    let environment: Params = line
        .named("qemu:env")
        .filter_map(|env| Some((env.attribute("name")?.to_string(), json!(env.attribute("value").unwrap_or("")))))
        .collect();
    map(&mut params, "qemu_env", environment);
    params
}
