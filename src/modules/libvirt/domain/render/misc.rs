//! Controllers, ports and channels, and the small devices.

use super::*;
use crate::modules::libvirt::domain::params::{Character, Controller, LookingGlass, Tpm};

impl Build<'_> {
    /// `controllers`, and the USB controller of a preset.
    pub(super) fn controllers(&mut self) -> Result<()> {
        for (at, controller) in self.domain.controllers.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("controllers[{at}]");
            let element = with_xml(self.controller(controller, &what)?, &what, controller.xml.as_ref())?;
            self.device(&what, element);
        }
        let Some(preset) = self.preset else { return Ok(()) };
        let usb = |model: &str| Element::new("controller").with("type", "usb").with("index", "0").with("model", model);
        let why = self.preset_name();
        if preset.xhci {
            self.chosen_device(&why, usb("qemu-xhci").with("ports", "15"));
        } else {
            // USB 2 with its companions for slower devices, as Intel's chipset has them.
            self.chosen_device(&why, usb("ich9-ehci1"));
            for (model, port) in [("ich9-uhci1", "0"), ("ich9-uhci2", "2"), ("ich9-uhci3", "4")] {
                self.chosen_device(&why, usb(model).child(Element::new("master").with("startport", port)));
            }
        }
        Ok(())
    }

    fn controller(&self, controller: &Controller, what: &str) -> Result<Element> {
        // libvirt's schema, domaincommon.rng.
        const KINDS: &[&str] =
            &["usb", "scsi", "sata", "pci", "virtio-serial", "ide", "fdc", "ccid", "xenbus", "isa", "nvme"];
        const USB: &[&str] = &[
            "qemu-xhci",
            "nec-xhci",
            "piix3-uhci",
            "piix4-uhci",
            "ehci",
            "ich9-ehci1",
            "ich9-uhci1",
            "ich9-uhci2",
            "ich9-uhci3",
            "vt82c686b-uhci",
            "pci-ohci",
            "none",
        ];
        const SCSI: &[&str] = &[
            "virtio-scsi",
            "virtio-transitional",
            "virtio-non-transitional",
            "auto",
            "buslogic",
            "lsilogic",
            "lsisas1068",
            "vmpvscsi",
            "ibmvscsi",
            "lsisas1078",
            "ncr53c90",
            "dc390",
            "am53c974",
        ];
        const PCI: &[&str] = &[
            "pci-root",
            "pcie-root",
            "pci-bridge",
            "dmi-to-pci-bridge",
            "pcie-root-port",
            "pcie-switch-upstream-port",
            "pcie-switch-downstream-port",
            "pci-expander-bus",
            "pcie-expander-bus",
            "pcie-to-pci-bridge",
        ];
        const IDE: &[&str] = &["piix3", "piix4", "ich6"];
        const SERIAL: &[&str] = &["virtio", "virtio-transitional", "virtio-non-transitional"];
        let kind = one_of(&format!("{what}.type"), &controller.kind, KINDS)?;
        let models = match kind.as_str() {
            "usb" => USB,
            "scsi" => SCSI,
            "pci" => PCI,
            "ide" => IDE,
            "virtio-serial" => SERIAL,
            _ => &[],
        };
        let model = match &controller.model {
            Some(model) if models.is_empty() => {
                return Err(Error::parameters(format!("{what}: a controller of type {kind} has no model (`{model}`)")));
            }
            model => some_of(&format!("{what}.model"), model.as_deref(), models)?,
        };
        let scsi = kind == "scsi" && model.as_deref().is_none_or(|model| model.starts_with("virtio"));
        if (controller.queues.is_some() || controller.iothread.is_some()) && !scsi {
            return Err(Error::parameters(format!("{what}: queues and iothread go with virtio-scsi")));
        }
        if controller.ports.is_some() && !matches!(kind.as_str(), "usb" | "virtio-serial") {
            return Err(Error::parameters(format!("{what}: ports go with usb and virtio-serial")));
        }
        let driver = Element::new("driver")
            .with_some("queues", controller.queues.map(|n| n.to_string()))
            .with_some("iothread", controller.iothread.map(|n| n.to_string()));
        Ok(Element::new("controller")
            .with("type", kind)
            .with("index", controller.index.to_string())
            .with_some("model", model)
            .with_some("ports", controller.ports.map(|n| n.to_string()))
            .child_some(Some(driver).filter(|driver| !driver.attributes.is_empty())))
    }

    /// `serials`, `consoles`, `channels`, `usb_redirection`.
    pub(super) fn characters(&mut self) -> Result<()> {
        let domain = self.domain;
        for (at, serial) in domain.serials.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("serials[{at}]");
            let element = with_xml(character("serial", serial, &what)?, &what, serial.xml.as_ref())?;
            self.device(&what, element);
        }
        for (at, console) in domain.consoles.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("consoles[{at}]");
            let element = with_xml(character("console", console, &what)?, &what, console.xml.as_ref())?;
            self.device(&what, element);
        }
        for (at, channel) in domain.channels.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("channels[{at}]");
            let channel = &channel.0.0;
            let element = with_xml(character("channel", channel, &what)?, &what, channel.xml.as_ref())?;
            self.device(&what, element);
        }
        for _ in 0..domain.usb_redirection.unwrap_or(0).min(16) {
            self.device("usb_redirection", Element::new("redirdev").with("bus", "usb").with("type", "spicevmc"));
        }
        let why = self.preset_name();
        let preset = self.preset;
        if preset.is_some_and(|preset| preset.agent) && domain.channels.is_none() {
            let target = Element::new("target").with("type", "virtio").with("name", "org.qemu.guest_agent.0");
            self.chosen_device(&why, Element::new("channel").with("type", "unix").child(target));
        }
        if preset.is_some_and(|preset| preset.unix) && domain.serials.is_none() && domain.consoles.is_none() {
            self.chosen_device(&why, Element::new("serial").with("type", "pty"));
        }
        Ok(())
    }

    /// Everything else.
    pub(super) fn misc(&mut self) -> Result<()> {
        self.tpm()?;
        self.small_devices()?;
        self.balloon()?;
        self.looking_glass()?;
        self.arguments()
    }

    fn tpm(&mut self) -> Result<()> {
        match &self.domain.tpm {
            Some(tpm) if tpm.backend.as_deref() == Some("none") => self.absent.push("devices/tpm"),
            Some(tpm) => {
                let element = tpm_device(tpm)?;
                self.device("tpm", element);
            }
            None if self.preset.is_some_and(|preset| preset.tpm) => {
                let element = tpm_device(&Tpm::default())?;
                let why = self.preset_name();
                self.chosen_device(&why, element);
            }
            None => {}
        }
        Ok(())
    }

    fn small_devices(&mut self) -> Result<()> {
        let domain = self.domain;
        let models = ["virtio", "virtio-transitional", "virtio-non-transitional"];
        let random = |device: &str| {
            let backend = leaf("backend", device).with("model", "random");
            Element::new("rng").with("model", "virtio").child(backend)
        };
        match domain.rng.as_ref().map(|rng| &rng.0) {
            Some(rng) if rng.backend.as_deref() == Some("none") => self.absent.push("devices/rng"),
            Some(rng) => {
                let backend = one_of("rng", rng.backend.as_deref().unwrap_or("random"), &["random", "builtin"])?;
                let model = one_of("rng.model", rng.model.as_deref().unwrap_or("virtio"), &models)?;
                let source = match (backend.as_str(), &rng.device) {
                    ("random", device) => {
                        let device = device.as_deref().unwrap_or("/dev/urandom");
                        leaf("backend", absolute("rng.device", device)?).with("model", "random")
                    }
                    (_, None) => Element::new("backend").with("model", backend),
                    (_, Some(_)) => return Err(Error::parameters("rng: a device goes with the backend `random`")),
                };
                let rate = match (rng.rate_bytes, rng.rate_period) {
                    (Some(bytes), period) => Some(
                        Element::new("rate")
                            .with("bytes", bytes.to_string())
                            .with_some("period", period.map(|ms| ms.to_string())),
                    ),
                    (None, None) => None,
                    (None, Some(_)) => return Err(Error::parameters("rng: rate_period goes with rate_bytes")),
                };
                let element = Element::new("rng").with("model", model).child_some(rate).child(source);
                self.device("rng", element);
            }
            None if self.preset.is_some_and(|preset| preset.unix) => {
                let why = self.preset_name();
                self.chosen_device(&why, random("/dev/urandom"));
            }
            None => {}
        }
        match domain.watchdog.as_ref().map(|dog| &dog.0) {
            // q35 has one of its own, which libvirt may print, so that none can't be asked for; what was stated goes.
            Some(dog) if dog.model == "none" => {}
            Some(dog) => {
                let known = ["i6300esb", "ib700", "itco", "diag288"];
                let actions = ["reset", "shutdown", "poweroff", "pause", "none", "dump", "inject-nmi"];
                let model = one_of("watchdog", &dog.model, &known)?;
                if model == "itco" && !is_q35(&self.machine) {
                    return Err(Error::parameters("watchdog: itco is part of machine q35"));
                }
                let action = one_of("watchdog.action", dog.action.as_deref().unwrap_or("reset"), &actions)?;
                self.device("watchdog", Element::new("watchdog").with("model", model).with("action", action));
            }
            None => {}
        }
        if let Some(iommu) = domain.iommu.as_ref().map(|iommu| &iommu.0) {
            let model = one_of("iommu", &iommu.model, &["intel", "virtio", "smmuv3"])?;
            let driver = Element::new("driver")
                .with_some("intremap", iommu.intremap.map(on_off))
                .with_some("caching_mode", iommu.caching_mode.map(on_off))
                .with_some("eim", iommu.eim.map(on_off))
                .with_some("iotlb", iommu.iotlb.map(on_off))
                .with_some("aw_bits", iommu.aw_bits.map(|bits| bits.to_string()));
            if !driver.attributes.is_empty() && model != "intel" {
                return Err(Error::parameters(format!("iommu: {model} has no settings")));
            }
            if iommu.intremap == Some(Flag(true)) && domain.features.ioapic.as_deref() != Some("qemu") {
                return Err(Error::parameters("iommu: interrupt remapping needs an I/O APIC that QEMU emulates")
                    .hint("give `features: {ioapic: qemu}`"));
            }
            if iommu.eim == Some(Flag(true)) && iommu.intremap != Some(Flag(true)) {
                return Err(Error::parameters("iommu: eim needs intremap"));
            }
            if model == "intel" && !is_q35(&self.machine) {
                return Err(Error::parameters("iommu: intel needs machine q35"));
            }
            let driver = Some(driver).filter(|driver| !driver.attributes.is_empty());
            self.device("iommu", Element::new("iommu").with("model", model).child_some(driver));
        }
        if let Some(model) = &domain.panic {
            let model = one_of("panic", model, &["isa", "hyperv", "pvpanic", "pseries", "s390"])?;
            self.device("panic", Element::new("panic").with("model", model));
        }
        if let Some(vsock) = &domain.vsock {
            let cid = match vsock.cid {
                Some(cid) if cid < 3 => return Err(Error::parameters("vsock: a guest's cid is 3 or more")),
                Some(cid) => Element::new("cid").with("auto", "no").with("address", cid.to_string()),
                None => Element::new("cid").with("auto", "yes"),
            };
            self.device("vsock", Element::new("vsock").with("model", "virtio").child(cid));
        }
        Ok(())
    }

    fn balloon(&mut self) -> Result<()> {
        if let Some(model) = &self.domain.memballoon {
            let known = ["none", "virtio", "virtio-transitional", "virtio-non-transitional"];
            let model = one_of("memballoon", model, &known)?;
            self.device("memballoon", Element::new("memballoon").with("model", model));
            return Ok(());
        }
        let given = |list: usize| list > 0;
        let passes = self.has_card() || given(self.domain.pci.as_ref().map_or(0, |list| list.len()));
        if self.preset.is_some() && passes {
            // Passthrough pins all memory, so that there is nothing to give back.
            let why = format!("{}, since devices of the host pin all memory", self.preset_name());
            self.chosen_device(&why, Element::new("memballoon").with("model", "none"));
        }
        Ok(())
    }

    fn looking_glass(&mut self) -> Result<()> {
        let Some(glass) = self.domain.looking_glass.as_ref().map(|glass| &glass.0) else { return Ok(()) };
        let size = glass_size(glass)?;
        let backend = glass.backend.as_deref().unwrap_or("shmem");
        if one_of("looking_glass.backend", backend, &["shmem", "kvmfr"])? == "shmem" {
            if glass.device.is_some() {
                return Err(Error::parameters("looking_glass: a device goes with `backend: kvmfr`"));
            }
            let element = Element::new("shmem")
                .with("name", "looking-glass")
                .child(Element::new("model").with("type", "ivshmem-plain"))
                .child(leaf("size", (size.0 >> 20).to_string()).with("unit", "M"));
            let element = with_xml(element, "looking_glass", glass.xml.as_ref())?;
            self.device("looking_glass", element);
        } else if glass.xml.is_some() {
            return Err(Error::parameters("looking_glass: `backend: kvmfr` has no <shmem> that xml could go into"));
        }
        Ok(())
    }

    /// `qemu_args`, `qemu_env`, and what only QEMU's command line can say.
    fn arguments(&mut self) -> Result<()> {
        let domain = self.domain;
        let mut line = Element::new("qemu:commandline");
        let mut from = Vec::new();
        if let Some(glass) = domain.looking_glass.as_ref().map(|glass| &glass.0)
            && glass.backend.as_deref() == Some("kvmfr")
        {
            // https://looking-glass.io/docs: the module's device is the memory behind an ivshmem device.
            let device = absolute("looking_glass.device", glass.device.as_deref().unwrap_or("/dev/kvmfr0"))?;
            let size = glass_size(glass)?.0;
            let ivshmem = serde_json::json!({"driver": "ivshmem-plain", "id": "looking-glass", "memdev": "kvmfr"});
            let memory = serde_json::json!({
                "qom-type": "memory-backend-file", "id": "kvmfr", "mem-path": device, "size": size, "share": true
            });
            for value in ["-device".to_string(), ivshmem.to_string(), "-object".to_string(), memory.to_string()] {
                line = line.child(Element::new("qemu:arg").with("value", value));
            }
            from.push("looking_glass");
        }
        for argument in domain.qemu_args.iter().flat_map(|list| list.iter()) {
            line = line.child(Element::new("qemu:arg").with("value", &**argument));
        }
        if domain.qemu_args.is_some() {
            from.push("qemu_args");
        }
        for (name, value) in &domain.qemu_env {
            let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if name.is_empty() || !fine {
                return Err(Error::parameters(format!("qemu_env: `{name}` can't be the name of a variable")));
            }
            line = line.child(Element::new("qemu:env").with("name", name).with("value", &*value.0));
        }
        if !domain.qemu_env.is_empty() {
            from.push("qemu_env");
        }
        if !line.nodes.is_empty() {
            self.stated.set("xmlns:qemu", merge::QEMU);
            self.say(&from.join(", "), line);
        }
        Ok(())
    }
}

fn tpm_device(tpm: &Tpm) -> Result<Element> {
    let backends = ["emulator", "passthrough", "external"];
    let kind = one_of("tpm", tpm.backend.as_deref().unwrap_or("emulator"), &backends)?;
    let version = some_of("tpm.version", tpm.version.as_deref(), &["1.2", "2.0"])?;
    let old = version.as_deref() == Some("1.2");
    let default = if old || kind == "passthrough" { "tpm-tis" } else { "tpm-crb" };
    let model = one_of("tpm.model", tpm.model.as_deref().unwrap_or(default), &["tpm-crb", "tpm-tis"])?;
    if old && model == "tpm-crb" {
        return Err(Error::parameters("tpm: tpm-crb is of version 2.0; version 1.2 has tpm-tis"));
    }
    let mut backend = Element::new("backend").with("type", &*kind);
    match kind.as_str() {
        "emulator" => {
            backend = backend.with("version", version.unwrap_or_else(|| "2.0".to_string()));
            backend = backend.with_some("persistent_state", tpm.persistent_state.map(yes_no));
            if let Some(secret) = &tpm.secret {
                backend = backend.child(Element::new("encryption").with("secret", uuid("tpm.secret", secret)?));
            }
        }
        "passthrough" => {
            let device = absolute("tpm.device", tpm.device.as_deref().unwrap_or("/dev/tpm0"))?;
            backend = backend.child(Element::new("device").with("path", device));
        }
        _ => {
            let Some(socket) = &tpm.device else {
                return Err(Error::parameters("tpm: the backend `external` needs a device, the path of its socket"));
            };
            let socket = absolute("tpm.device", socket)?;
            let source = Element::new("source").with("type", "unix").with("mode", "connect").with("path", socket);
            backend = backend.child(source);
        }
    }
    if kind != "emulator" && (tpm.secret.is_some() || tpm.persistent_state.is_some() || tpm.version.is_some()) {
        return Err(Error::parameters(format!(
            "tpm: version, secret and persistent_state are the emulator's, not of {kind}"
        )));
    }
    if kind == "emulator" && tpm.device.is_some() {
        return Err(Error::parameters("tpm: the emulator has no device; did you mean `backend: passthrough`?"));
    }
    Ok(Element::new("tpm").with("model", model).child(backend))
}

/// How much memory two frames need (Looking Glass' documentation: width × height × bytes of a pixel × 2 frames, 10 MiB for
/// the rest, up to the next power of two).
fn glass_size(glass: &LookingGlass) -> Result<Size> {
    let size = match (&glass.size, &glass.resolution) {
        (Some(_), Some(_)) => return Err(Error::parameters("looking_glass: give either a size or a resolution")),
        (Some(size), None) => *size,
        (None, None) => Size(32 << 20),
        (None, Some(text)) => {
            let (x, y) = display::resolution("looking_glass.resolution", text)?;
            let pixel = if glass.hdr.0 { 8 } else { 4 };
            let needed = (x * y * pixel * 2).div_ceil(1 << 20) + 10;
            Size(needed.next_power_of_two() << 20)
        }
    };
    if size.0 < 1 << 20 || !size.0.is_power_of_two() {
        return Err(Error::parameters(format!("looking_glass: {size} is not a power of two, such as \"32 MiB\"")));
    }
    Ok(size)
}

/// A serial port, console or channel.
fn character(name: &str, port: &Character, what: &str) -> Result<Element> {
    let kinds = [
        "pty",
        "unix",
        "file",
        "dev",
        "tcp",
        "udp",
        "null",
        "stdio",
        "vc",
        "pipe",
        "spicevmc",
        "spiceport",
        "qemu-vdagent",
        "dbus",
    ];
    let kind = port.kind.as_deref().unwrap_or(if name == "channel" { "unix" } else { "pty" });
    let kind = one_of(&format!("{what}.type"), kind, &kinds)?;
    let needs_path = matches!(kind.as_str(), "file" | "dev" | "pipe") || (kind == "unix" && name != "channel");
    if needs_path && port.path.is_none() {
        return Err(Error::parameters(format!("{what}: {kind} needs a path")));
    }
    let mode = some_of(&format!("{what}.mode"), port.mode.as_deref(), &["bind", "connect"])?;
    let mut element = Element::new(name).with("type", &*kind);
    match kind.as_str() {
        "unix" => {
            if let Some(path) = &port.path {
                let mode = mode.unwrap_or_else(|| "bind".to_string());
                let path = absolute(what, path)?;
                element = element.child(Element::new("source").with("mode", mode).with("path", path));
            }
        }
        "file" | "dev" | "pipe" => {
            let path = absolute(what, port.path.as_deref().unwrap_or_default())?;
            element = element.child(Element::new("source").with("path", path));
        }
        "tcp" => {
            let Some(number) = port.port else { return Err(Error::parameters(format!("{what}: tcp needs a port"))) };
            let protocols = ["raw", "telnet", "telnets", "tls"];
            let protocol = one_of(&format!("{what}.protocol"), port.protocol.as_deref().unwrap_or("raw"), &protocols)?;
            let source = Element::new("source")
                .with("mode", mode.unwrap_or_else(|| "bind".to_string()))
                .with("host", port.host.as_deref().unwrap_or("127.0.0.1"))
                .with("service", number.to_string());
            element = element.child(source).child(Element::new("protocol").with("type", protocol));
        }
        _ => {
            if port.path.is_some() || port.port.is_some() {
                return Err(Error::parameters(format!("{what}: {kind} has neither a path nor a port")));
            }
        }
    }
    if let Some(log) = &port.log {
        element = element.child(Element::new("log").with("file", absolute(&format!("{what}.log"), log)?));
    }
    let known: &[&str] = match name {
        "serial" => &["isa-serial", "usb-serial", "pci-serial", "spapr-vio-serial", "system-serial", "isa-debug"],
        "console" => &["serial", "virtio", "sclp", "sclplm"],
        _ => &["virtio", "xen"],
    };
    let target = some_of(&format!("{what}.target"), port.target.as_deref(), known)?;
    // That of a console is its place, whatever is asked for.
    let number = port.number.filter(|_| name != "console").map(|number| number.to_string());
    if name == "channel" {
        let Some(channel) = &port.name else {
            return Err(Error::parameters(format!("{what}: a channel needs a name, such as org.qemu.guest_agent.0")));
        };
        let kind = target.unwrap_or_else(|| "virtio".to_string());
        return Ok(element.child(Element::new("target").with("type", kind).with("name", channel)));
    }
    if port.name.is_some() {
        return Err(Error::parameters(format!("{what}: only channels have names")));
    }
    if target.is_some() || number.is_some() {
        element = element.child(Element::new("target").with_some("type", target).with_some("port", number));
    }
    Ok(element)
}
