//! Takes out of parameters what goes without saying: a key is left out when without it the same is rendered.

use serde_json::{Map, Value, json};

use super::{Params, rendered};
use crate::modules::libvirt::xml::Element;

/// What stands in a description even where it goes without saying: it is what people look for.
const KEPT: &[&str] = &[
    "name",
    "uuid",
    "memory",
    "vcpus",
    "machine",
    "loader",
    "nvram",
    "firmware",
    "emulator",
    "definition",
    "xml",
    "target",
    "path",
    "size",
    "format",
    "mac",
    "mode",
    "disks",
    "cdroms",
    "interfaces",
];

/// The order in which people read a description.
const ORDER: &[&str] = &[
    "name",
    "state",
    "autostart",
    "os",
    "type",
    "uuid",
    "title",
    "description",
    "memory",
    "current_memory",
    "hugepages",
    "memory_backing",
    "vcpus",
    "topology",
    "cpu",
    "iothreads",
    "pinning",
    "arch",
    "machine",
    "firmware",
    "loader",
    "loader_secure",
    "loader_format",
    "nvram",
    "nvram_template",
    "kernel",
    "initrd",
    "kernel_args",
    "boot",
    "boot_menu",
    "features",
    "clock",
    "sleep",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "smbios",
    "emulator",
    "disks",
    "cdroms",
    "filesystems",
    "interfaces",
    "inputs",
    "evdev",
    "gpus",
    "pci",
    "usb",
    "mdevs",
    "display",
    "graphics",
    "video",
    "looking_glass",
    "sound",
    "audio",
    "serials",
    "consoles",
    "channels",
    "usb_redirection",
    "tpm",
    "rng",
    "watchdog",
    "iommu",
    "panic",
    "vsock",
    "controllers",
    "memballoon",
    "qemu_args",
    "qemu_env",
    "xml",
    "definition",
];

/// The parameters in the order in which people read them.
pub fn ordered(params: Params) -> Params {
    let mut entries: Vec<(String, Value)> = params.into_iter().collect();
    entries.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    entries.into_iter().collect()
}

/// All parameters, which render to `goal` (in canonical form, but for what is left to chance).
pub fn shorten(params: Params, goal: &Element) -> Params {
    let mut params = ordered(params);
    let same = |params: &Params| rendered(params).is_ok_and(|wanted| super::differences(goal, &wanted.xml).is_empty());
    let is_map_or_leaf = |value: &Value| !value.is_array();
    let names: Vec<String> =
        params.iter().filter(|(_, value)| is_map_or_leaf(value)).map(|(name, _)| name.clone()).collect();
    for name in names {
        if !KEPT.contains(&name.as_str()) {
            let mut without = params.clone();
            without.shift_remove(&name);
            if same(&without) {
                params = without;
                continue;
            }
        }
        let Some(Value::Object(map)) = params.get(&name).cloned() else { continue };
        let with = |value: Value| {
            let mut with = params.clone();
            with.insert(name.clone(), value);
            with
        };
        if let Some(word) = as_word(&name, &map)
            && same(&with(word.clone()))
        {
            params = with(word);
            continue;
        }
        let fits = |map: &Map<String, Value>| same(&with(Value::Object(map.clone())));
        let less = leaner(map, &fits);
        let mut best = Value::Object(less.clone());
        if let Some(word) = as_word(&name, &less)
            && same(&with(word.clone()))
        {
            best = word;
        }
        params = with(best);
    }
    params
}

/// One device, as long as `same` is true of it.
pub fn item(list: &str, value: Value, same: &dyn Fn(&Value) -> bool) -> Value {
    let Value::Object(map) = value else { return value };
    let less = leaner(map, &|map| same(&Value::Object(map.clone())));
    match as_word(list, &less) {
        Some(word) if same(&word) => word,
        _ => Value::Object(less),
    }
}

/// The map without what it can do without, as long as `same` is true of it.
pub fn leaner(map: Map<String, Value>, same: &dyn Fn(&Map<String, Value>) -> bool) -> Map<String, Value> {
    leaner_but(KEPT, map, same)
}

/// The same, and what is named here stays in the outermost map.
pub fn leaner_but(
    kept: &[&str],
    map: Map<String, Value>,
    same: &dyn Fn(&Map<String, Value>) -> bool,
) -> Map<String, Value> {
    let mut map = map;
    let names: Vec<String> = map.keys().filter(|name| !kept.contains(&name.as_str())).cloned().collect();
    for name in names {
        let mut without = map.clone();
        without.shift_remove(&name);
        if same(&without) {
            map = without;
        } else if let Some(Value::Object(inner)) = map.get(&name).cloned() {
            let with = |inner: &Map<String, Value>| {
                let mut with = map.clone();
                with.insert(name.clone(), Value::Object(inner.clone()));
                with
            };
            let less = leaner(inner, &|inner| same(&with(inner)));
            map = with(&less);
        }
    }
    map
}

/// The one word that such a map may be written as.
fn as_word(name: &str, map: &Map<String, Value>) -> Option<Value> {
    let text = |key: &str| map.get(key).and_then(Value::as_str);
    let only = |keys: &[&str]| map.len() == keys.len() && keys.iter().all(|key| map.contains_key(*key));
    let word = match name {
        "cpu" if only(&["mode"]) => text("mode")?,
        "cpu" if only(&["mode", "model"]) && text("mode") == Some("custom") => text("model")?,
        "clock" if only(&["offset"]) => text("offset")?,
        "disks" | "cdroms" if only(&["path"]) => text("path")?,
        "inputs" | "graphics" | "audio" | "serials" | "consoles" if only(&["type"]) => text("type")?,
        "serials" | "consoles" if only(&[]) => "pty",
        "video" | "sound" | "watchdog" | "iommu" if only(&["model"]) => text("model")?,
        "pci" | "gpus" if only(&["address"]) => text("address")?,
        "mdevs" if only(&["uuid"]) => text("uuid")?,
        "evdev" if only(&["device"]) => text("device")?,
        "evdev" if map.len() == 3 && text("grab") == Some("all") => text("device")?,
        "looking_glass" if only(&["size"]) => text("size")?,
        "usb" if only(&["vendor", "product"]) => {
            return Some(json!(format!("{}:{}", text("vendor")?, text("product")?)));
        }
        "channels" => match (text("type"), text("name"), map.len()) {
            (Some("unix"), Some("org.qemu.guest_agent.0"), 2) => "guest-agent",
            (Some("spicevmc"), Some("com.redhat.spice.0"), 2) => "spice",
            (Some("spicevmc"), None, 1) => "spice",
            (Some("qemu-vdagent"), Some("com.redhat.spice.0"), 2) => "vdagent",
            _ => return None,
        },
        "controllers" => match (text("type"), map.len()) {
            (Some("usb" | "scsi"), 2) => text("model")?,
            (Some(kind), 1) => kind,
            _ => return None,
        },
        "tpm" | "rng" if only(&[]) => return Some(json!(true)),
        "vsock" if only(&[]) => "auto",
        "smbios" if only(&["mode"]) => text("mode")?,
        _ => return None,
    };
    Some(json!(word))
}
