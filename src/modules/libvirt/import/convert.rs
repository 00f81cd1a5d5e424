//! From libvirt's elements to parameters: as much as the parameters have words for. What comes out is a first guess that
//! says everything; `mod.rs` renders it back and compares, and `shorten.rs` takes out what goes without saying.

use serde_json::{Map, Value, json};

use crate::modules::libvirt::domain::devices::pci_source;
use crate::modules::libvirt::domain::normal::amount;
use crate::modules::libvirt::values::{Size, number};
use crate::modules::libvirt::xml::{Element, Node};

/// Parameters.
pub type Params = Map<String, Value>;

/// The parameter that holds devices of this element, and the device as it stands there. Where there are several ways, the
/// best comes first.
pub fn device(device: &Element) -> Vec<(&'static str, Value)> {
    let found = match device.name.as_str() {
        "disk" => {
            let list = if device.attribute("device") == Some("cdrom") { "cdroms" } else { "disks" };
            Some((list, disk(device)))
        }
        "interface" => Some(("interfaces", interface(device))),
        "input" if device.attribute("type") == Some("evdev") => Some(("evdev", evdev(device))),
        "input" => Some(("inputs", input(device))),
        "graphics" => Some(("graphics", graphics(device))),
        "video" => Some(("video", video(device))),
        "sound" => Some(("sound", sound(device))),
        "audio" => Some(("audio", audio(device))),
        "hostdev" => hostdev(device),
        "filesystem" => Some(("filesystems", filesystem(device))),
        "serial" => Some(("serials", character(device))),
        "console" => Some(("consoles", character(device))),
        "channel" => Some(("channels", character(device))),
        "controller" => Some(("controllers", controller(device))),
        "tpm" => Some(("tpm", tpm(device))),
        "rng" => Some(("rng", rng(device))),
        "shmem" if is_looking_glass(device) => Some(("looking_glass", looking_glass(device))),
        "watchdog" => Some(("watchdog", watchdog(device))),
        "iommu" => Some(("iommu", iommu(device))),
        "vsock" => Some(("vsock", vsock(device))),
        "memballoon" => {
            return device.attribute("model").map(|model| ("memballoon", json!(model))).into_iter().collect();
        }
        _ => None,
    };
    found.map(|(list, params)| (list, Value::Object(params))).into_iter().collect()
}

/// Parameters that hold one thing, not a list.
pub fn is_single(parameter: &str) -> bool {
    matches!(parameter, "memballoon" | "tpm" | "vsock" | "iommu" | "looking_glass")
}

struct Put<'a> {
    from: &'a Element,
    into: Params,
}

impl<'a> Put<'a> {
    fn new(from: &'a Element) -> Put<'a> {
        Put { from, into: Params::new() }
    }

    /// The attribute at the end of a way (`driver@cache` is `["driver"], "cache"`), as text.
    fn find(&self, way: &[&str], attribute: &str) -> Option<&'a str> {
        self.from.at(way).and_then(|element| element.attribute(attribute))
    }

    fn text(mut self, name: &str, way: &[&str], attribute: &str) -> Self {
        if let Some(value) = self.find(way, attribute) {
            self.into.insert(name.into(), json!(value));
        }
        self
    }

    fn flag(mut self, name: &str, way: &[&str], attribute: &str) -> Self {
        match self.find(way, attribute) {
            Some("yes" | "on") => {
                self.into.insert(name.into(), json!(true));
            }
            Some("no" | "off") => {
                self.into.insert(name.into(), json!(false));
            }
            _ => {}
        }
        self
    }

    fn number(mut self, name: &str, way: &[&str], attribute: &str) -> Self {
        if let Some(value) = self.find(way, attribute).and_then(signed) {
            self.into.insert(name.into(), json!(value));
        }
        self
    }

    /// An element that is there or not.
    fn mark(mut self, name: &str, element: &str) -> Self {
        if self.from.get(element).is_some() {
            self.into.insert(name.into(), json!(true));
        }
        self
    }

    fn leaf(mut self, name: &str, element: &str) -> Self {
        if let Some(element) = self.from.get(element) {
            self.into.insert(name.into(), json!(element.text()));
        }
        self
    }

    fn kib(mut self, name: &str, way: &[&str], attribute: &str) -> Self {
        let size = self.find(way, attribute).and_then(number).and_then(|kib| kib.checked_mul(1024));
        if let Some(size) = size {
            self.into.insert(name.into(), json!(Size(size).to_string()));
        }
        self
    }

    fn set(mut self, name: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.into.insert(name.into(), value.into());
        }
        self
    }

    fn boot(self) -> Self {
        self.number("boot", &["boot"], "order")
    }

    fn rom(self) -> Self {
        self.flag("rom_bar", &["rom"], "bar").text("rom_file", &["rom"], "file")
    }
}

/// Whole numbers, negative ones too.
fn signed(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(digits) => digits.parse::<i64>().ok().map(|n| -n),
        None => number(text).and_then(|n| i64::try_from(n).ok()),
    }
}

fn disk(disk: &Element) -> Params {
    let source = disk.get("source");
    let kind = disk.attribute("type").unwrap_or("file");
    let of_source = |name: &str| source.and_then(|source| source.attribute(name));
    let device = disk.attribute("device").unwrap_or("disk");
    let format = disk.get("driver").and_then(|driver| driver.attribute("type"));
    let format = format.or((device == "disk" && source.is_some()).then_some("raw"));
    let network = source.filter(|_| kind == "network").map(network_disk);
    let sizes = |name: &str| -> Option<String> {
        let bytes = disk.get("iotune")?.text_at(&[name])?;
        Some(Size(bytes.parse().ok()?).to_string())
    };
    let counts = |name: &str| -> Option<u64> { disk.get("iotune")?.text_at(&[name])?.parse().ok() };
    let mut limits = Params::new();
    for (name, element) in
        [("total_bytes", "total_bytes_sec"), ("read_bytes", "read_bytes_sec"), ("write_bytes", "write_bytes_sec")]
    {
        limits.extend(sizes(element).map(|size| (name.to_string(), json!(size))));
    }
    for (name, element) in
        [("total_iops", "total_iops_sec"), ("read_iops", "read_iops_sec"), ("write_iops", "write_iops_sec")]
    {
        limits.extend(counts(element).map(|count| (name.to_string(), json!(count))));
    }
    Put::new(disk)
        .set("path", of_source(if kind == "block" { "dev" } else { "file" }))
        .set("pool", of_source("pool"))
        .set("volume", of_source("volume"))
        .set("network", network)
        .set("device", Some(device).filter(|device| !matches!(*device, "disk" | "cdrom")))
        .text("target", &["target"], "dev")
        .text("bus", &["target"], "bus")
        .set("format", format)
        .text("cache", &["driver"], "cache")
        .text("io", &["driver"], "io")
        .text("discard", &["driver"], "discard")
        .text("detect_zeroes", &["driver"], "detect_zeroes")
        .number("iothread", &["driver"], "iothread")
        .number("queues", &["driver"], "queues")
        .text("error_policy", &["driver"], "error_policy")
        .flag("copy_on_read", &["driver"], "copy_on_read")
        .mark("readonly", "readonly")
        .mark("shareable", "shareable")
        .leaf("serial", "serial")
        .leaf("wwn", "wwn")
        .leaf("vendor", "vendor")
        .leaf("product", "product")
        .number("rotation_rate", &["target"], "rotation_rate")
        .flag("removable", &["target"], "removable")
        .number("logical_block_size", &["blockio"], "logical_block_size")
        .number("physical_block_size", &["blockio"], "physical_block_size")
        .text("startup_policy", &["source"], "startupPolicy")
        .set("limits", Some(limits).filter(|limits| !limits.is_empty()))
        .boot()
        .into
}

fn network_disk(source: &Element) -> Params {
    let hosts: Vec<Value> = source
        .named("host")
        .map(|host| {
            let params =
                Put::new(host).text("name", &[], "name").number("port", &[], "port").text("socket", &[], "socket");
            Value::Object(params.into)
        })
        .collect();
    Put::new(source)
        .text("protocol", &[], "protocol")
        .text("name", &[], "name")
        .set("hosts", Some(hosts).filter(|hosts| !hosts.is_empty()))
        .text("username", &["auth"], "username")
        .text("secret_uuid", &["auth", "secret"], "uuid")
        .text("secret_usage", &["auth", "secret"], "usage")
        .into
}

fn interface(card: &Element) -> Params {
    let kind = card.attribute("type").unwrap_or_default();
    let vlan: Vec<i64> = card
        .get("vlan")
        .into_iter()
        .flat_map(|vlan| vlan.named("tag"))
        .filter_map(|tag| signed(tag.attribute("id")?))
        .collect();
    let parameters: Params = card
        .get("filterref")
        .into_iter()
        .flat_map(|filter| filter.named("parameter"))
        .filter_map(|p| Some((p.attribute("name")?.to_string(), json!(p.attribute("value")?))))
        .collect();
    let put = Put::new(card);
    let put = match kind {
        "bridge" => put.text("bridge", &["source"], "bridge"),
        "network" => put.text("network", &["source"], "network").text("portgroup", &["source"], "portgroup"),
        "direct" => put.text("direct", &["source"], "dev").text("mode", &["source"], "mode"),
        "user" => put.set("user", Some(true)),
        "hostdev" => put.set("hostdev", source_address(card).map(|address| address.to_string())),
        _ => put,
    };
    let driver = match card.get("driver").and_then(|driver| driver.attribute("name")) {
        Some("vhost" | "qemu") => card.get("driver").and_then(|driver| driver.attribute("name")),
        _ => None,
    };
    put.text("model", &["model"], "type")
        .text("mac", &["mac"], "address")
        .text("target", &["target"], "dev")
        .number("queues", &["driver"], "queues")
        .set("driver", driver)
        .set("vlan", Some(vlan).filter(|vlan| !vlan.is_empty()))
        .number("mtu", &["mtu"], "size")
        .text("link", &["link"], "state")
        .text("filter", &["filterref"], "filter")
        .set("filter_parameters", Some(parameters).filter(|parameters| !parameters.is_empty()))
        .flag("isolated", &["port"], "isolated")
        .boot()
        .rom()
        .into
}

/// The address of a card's function that is an interface's source.
fn source_address(card: &Element) -> Option<crate::modules::libvirt::values::PciAddress> {
    let mut as_hostdev = card.clone();
    as_hostdev.set("type", "pci");
    pci_source(&as_hostdev)
}

fn input(input: &Element) -> Params {
    Put::new(input)
        .text("type", &[], "type")
        .text("bus", &[], "bus")
        .text("model", &[], "model")
        .text("device", &["source"], "evdev")
        .into
}

fn evdev(input: &Element) -> Params {
    Put::new(input)
        .text("device", &["source"], "dev")
        .text("grab", &["source"], "grab")
        .flag("repeat", &["source"], "repeat")
        .text("toggle", &["source"], "grabToggle")
        .into
}

fn graphics(display: &Element) -> Params {
    let listens: Vec<&Element> = display.named("listen").collect();
    let (mut listen, mut socket) = (display.attribute("listen"), display.attribute("socket"));
    if let [only] = listens.as_slice() {
        match only.attribute("type") {
            Some("address") => listen = only.attribute("address").or(listen),
            Some("socket") => socket = only.attribute("socket").or(socket),
            Some("none") => listen = Some("none"),
            _ => {}
        }
    }
    let port = |name: &str| {
        display
            .attribute(name)
            .filter(|_| display.attribute("autoport") != Some("yes"))
            .and_then(signed)
            .filter(|n| *n >= 0)
    };
    Put::new(display)
        .text("type", &[], "type")
        .set("port", port("port"))
        .set("tls_port", port("tlsPort"))
        .number("websocket", &[], "websocket")
        .set("listen", listen)
        .set("socket", socket)
        .text("keymap", &[], "keymap")
        .text("passwd", &[], "passwd")
        .text("passwd_valid_to", &[], "passwdValidTo")
        .flag("gl", &["gl"], "enable")
        .text("rendernode", &["gl"], "rendernode")
        .into
}

fn video(video: &Element) -> Params {
    let resolution =
        video.at(&["model", "resolution"]).and_then(|r| Some(format!("{}x{}", r.attribute("x")?, r.attribute("y")?)));
    Put::new(video)
        .text("model", &["model"], "type")
        .kib("vram", &["model"], "vram")
        .kib("ram", &["model"], "ram")
        .kib("vgamem", &["model"], "vgamem")
        .number("heads", &["model"], "heads")
        .flag("primary", &["model"], "primary")
        .flag("blob", &["model"], "blob")
        .flag("accel3d", &["model", "acceleration"], "accel3d")
        .set("resolution", resolution)
        .into
}

fn sound(sound: &Element) -> Params {
    let codecs: Vec<&str> = sound.named("codec").filter_map(|codec| codec.attribute("type")).collect();
    Put::new(sound)
        .text("model", &[], "model")
        .set("codecs", Some(codecs).filter(|codecs| !codecs.is_empty()))
        .number("audio", &["audio"], "id")
        .into
}

fn audio(audio: &Element) -> Params {
    Put::new(audio)
        .text("type", &[], "type")
        .number("id", &[], "id")
        .text("server", &[], "serverName")
        .text("runtime_dir", &[], "runtimeDir")
        .text("path", &[], "path")
        .into
}

fn hostdev(device: &Element) -> Option<(&'static str, Params)> {
    let put = Put::new(device);
    let managed = |put: Put<'_>| {
        let managed = matches!(device.attribute("managed"), Some("yes"));
        Put { from: device, into: put.into }.set("managed", Some(managed))
    };
    match device.attribute("type")? {
        "pci" => {
            let address = pci_source(device)?.to_string();
            Some(("pci", managed(put.set("address", Some(address))).boot().rom().into))
        }
        "usb" => {
            let id = |name: &str| {
                let id = device.at(&["source", name])?.attribute("id").and_then(number)?;
                Some(format!("{id:04x}"))
            };
            let put = match (id("vendor"), id("product")) {
                (Some(vendor), Some(product)) => put.set("vendor", Some(vendor)).set("product", Some(product)),
                _ => {
                    put.number("bus", &["source", "address"], "bus").number("device", &["source", "address"], "device")
                }
            };
            Some(("usb", managed(put.text("startup_policy", &["source"], "startupPolicy")).boot().into))
        }
        "mdev" => Some((
            "mdevs",
            put.text("uuid", &["source", "address"], "uuid")
                .text("model", &[], "model")
                .flag("display", &[], "display")
                .flag("ramfb", &[], "ramfb")
                .into,
        )),
        _ => None,
    }
}

fn filesystem(folder: &Element) -> Params {
    let virtiofs = folder.get("driver").and_then(|driver| driver.attribute("type")) == Some("virtiofs");
    Put::new(folder)
        .text("source", &["source"], "dir")
        .text("target", &["target"], "dir")
        .set("type", Some(if virtiofs { "virtiofs" } else { "9p" }))
        .mark("readonly", "readonly")
        .text("accessmode", &[], "accessmode")
        .text("cache", &["binary", "cache"], "mode")
        .flag("xattr", &["binary"], "xattr")
        .number("queue", &["driver"], "queue")
        .text("binary", &["binary"], "path")
        .text("socket", &["source"], "socket")
        .into
}

fn character(port: &Element) -> Params {
    let kind = port.attribute("type").unwrap_or("pty");
    let put = Put::new(port).set("type", Some(kind));
    let put = match kind {
        "tcp" => put.text("host", &["source"], "host").number("port", &["source"], "service"),
        _ => put.text("path", &["source"], "path"),
    };
    put.text("mode", &["source"], "mode")
        .text("protocol", &["protocol"], "type")
        .text("name", &["target"], "name")
        .text("target", &["target"], "type")
        .number("number", &["target"], "port")
        .text("log", &["log"], "file")
        .into
}

fn controller(controller: &Element) -> Params {
    Put::new(controller)
        .text("type", &[], "type")
        .number("index", &[], "index")
        .text("model", &[], "model")
        .number("ports", &[], "ports")
        .number("queues", &["driver"], "queues")
        .number("iothread", &["driver"], "iothread")
        .into
}

fn tpm(tpm: &Element) -> Params {
    let backend = tpm.get("backend").and_then(|backend| backend.attribute("type"));
    let device = match backend {
        Some("passthrough") => tpm.at(&["backend", "device"]).and_then(|device| device.attribute("path")),
        Some("external") => tpm.at(&["backend", "source"]).and_then(|source| source.attribute("path")),
        _ => None,
    };
    Put::new(tpm)
        .text("model", &[], "model")
        .set("backend", backend)
        .text("version", &["backend"], "version")
        .set("device", device)
        .text("secret", &["backend", "encryption"], "secret")
        .flag("persistent_state", &["backend"], "persistent_state")
        .into
}

fn rng(rng: &Element) -> Params {
    let device = rng.text_at(&["backend"]).filter(|path| !path.is_empty());
    Put::new(rng)
        .text("model", &[], "model")
        .text("backend", &["backend"], "model")
        .set("device", device)
        .number("rate_bytes", &["rate"], "bytes")
        .number("rate_period", &["rate"], "period")
        .into
}

fn is_looking_glass(shmem: &Element) -> bool {
    let model = shmem.get("model").and_then(|model| model.attribute("type"));
    shmem.attribute("name") == Some("looking-glass") && model == Some("ivshmem-plain")
}

fn looking_glass(shmem: &Element) -> Params {
    Put::new(shmem).set("size", shmem.get("size").and_then(amount).map(|size| size.to_string())).into
}

fn watchdog(watchdog: &Element) -> Params {
    Put::new(watchdog).text("model", &[], "model").text("action", &[], "action").into
}

fn iommu(iommu: &Element) -> Params {
    Put::new(iommu)
        .text("model", &[], "model")
        .flag("intremap", &["driver"], "intremap")
        .flag("caching_mode", &["driver"], "caching_mode")
        .flag("eim", &["driver"], "eim")
        .flag("iotlb", &["driver"], "iotlb")
        .number("aw_bits", &["driver"], "aw_bits")
        .into
}

fn vsock(vsock: &Element) -> Params {
    let fixed = vsock.get("cid").is_some_and(|cid| cid.attribute("auto") != Some("yes"));
    let put = Put::new(vsock);
    if fixed { put.number("cid", &["cid"], "address").into } else { put.into }
}

/// All text inside, as it is.
pub fn raw_text(element: &Element) -> String {
    element
        .nodes
        .iter()
        .filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        })
        .collect()
}
