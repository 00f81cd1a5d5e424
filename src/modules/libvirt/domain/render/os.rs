//! Name, memory, number of CPUs, and what the guest starts with.

use super::merge::WHOLE;
use super::*;
use crate::modules::libvirt::domain::params::Firmware;

/// Is nothing said of what the guest starts with, so that a preset chooses?
pub fn is_free(domain: &LibvirtDomain) -> bool {
    let said = |os: &Element| os.attribute("firmware").is_some() || os.get("loader").is_some();
    let in_xml = || {
        let block = domain.xml.as_ref().and_then(|text| merge::fragment(text, "xml").ok());
        block.is_some_and(|block| block.get("os").is_some_and(said))
    };
    domain.loader.is_none() && domain.kernel.is_none() && !in_xml()
}

impl Build<'_> {
    /// What stands at the top of a domain.
    pub(super) fn head(&mut self) -> Result<()> {
        let domain = self.domain;
        if let Some(kind) = &domain.kind {
            self.stated.set("type", kind);
        } else if self.definition.is_none() {
            self.chosen.set("type", self.kind.clone());
            self.chosen.set(FROM, "default");
        }
        self.say("name", leaf("name", &*domain.name));
        if let Some(text) = &domain.uuid {
            self.say("uuid", leaf("uuid", uuid("uuid", text)?));
        } else if let Some(name) = &domain.identity {
            let why = format!("derived from the inventory name {} and the guest's", name.0);
            self.chosen.nodes.push(Node::Element(noted(leaf("uuid", identity::uuid(name, &domain.name)), &why)));
        }
        for (name, value) in [("title", &domain.title), ("description", &domain.description)] {
            if let Some(value) = value {
                self.say(name, leaf(name, value));
            }
        }
        if let Some(size) = domain.memory {
            self.say("memory", memory("memory", size));
        }
        if let Some(size) = domain.current_memory {
            self.say("current_memory", memory("currentMemory", size));
        }
        if let (Some(memory), Some(current)) = (domain.memory, domain.current_memory)
            && current > memory
        {
            return Err(Error::parameters(format!("current_memory ({current}) is more than memory ({memory})")));
        }
        if let Some(count) = self.vcpus()? {
            self.say("vcpus", leaf("vcpu", count.to_string()));
        }
        match domain.iothreads {
            Some(0) => return Err(Error::parameters("iothreads must be at least 1, or be left out")),
            Some(count) => self.say("iothreads", leaf("iothreads", count.to_string())),
            None => {}
        }
        let known = ["destroy", "restart", "preserve", "rename-restart"];
        let crash = ["destroy", "restart", "preserve", "rename-restart", "coredump-destroy", "coredump-restart"];
        for (name, value, known) in [
            ("on_poweroff", &domain.on_poweroff, &known[..]),
            ("on_reboot", &domain.on_reboot, &known[..]),
            ("on_crash", &domain.on_crash, &crash[..]),
        ] {
            if let Some(value) = value {
                self.say(name, leaf(name, one_of(name, value, known)?));
            }
        }
        Ok(())
    }

    /// The number of virtual CPUs, where it is stated.
    pub(super) fn vcpus(&self) -> Result<Option<u32>> {
        let domain = self.domain;
        let product = match &domain.topology {
            Some(t) => Some(
                t.sockets
                    .checked_mul(t.dies.unwrap_or(1))
                    .and_then(|n| n.checked_mul(t.cores))
                    .and_then(|n| n.checked_mul(t.threads))
                    .filter(|n| *n > 0)
                    .ok_or_else(|| {
                        Error::parameters("topology: sockets, dies, cores and threads must each be at least 1")
                    })?,
            ),
            None => None,
        };
        match (domain.vcpus, product) {
            (Some(0), _) => Err(Error::parameters("vcpus must be at least 1")),
            (Some(stated), Some(product)) if stated != product => Err(Error::parameters(format!(
                "vcpus is {stated}, and topology has room for {product} (sockets × cores × threads)"
            ))),
            (stated, product) => Ok(stated.or(product)),
        }
    }

    /// The firmware that the guest gets: stated, or a preset's for a guest that is new.
    pub(super) fn firmware(&self) -> Option<Firmware> {
        self.domain.firmware.or_else(|| {
            let free = self.is_new() && is_free(self.domain);
            self.preset.filter(|_| free).map(|preset| preset.firmware)
        })
    }

    /// `<os>`.
    pub(super) fn os(&mut self) -> Result<()> {
        let (domain, context) = (self.domain, self.context);
        let mut os = Element::new("os");
        let mut kind = Element::new("type");
        if self.definition.is_none() || domain.arch.is_some() {
            let archs = ["x86_64", "i686", "aarch64", "armv7l", "ppc64le", "ppc64", "riscv64", "s390x", "loongarch64"];
            kind.set("arch", one_of("arch", domain.arch.as_deref().unwrap_or("x86_64"), &archs)?);
        }
        match &domain.machine {
            Some(machine) => kind.set("machine", machine.as_str()),
            None if self.definition.is_none() => {
                let chosen = Element::new("os").child(Element::new("type").with("machine", self.machine.clone()));
                let why = self.preset_name();
                self.choose(&why, chosen);
            }
            None => {}
        }
        if self.definition.is_none() {
            kind = kind.containing("hvm");
        }
        if !kind.attributes.is_empty() {
            os = os.child(kind);
        }
        os = self.loader(os)?;
        for (name, value) in
            [("kernel", &domain.kernel), ("initrd", &domain.initrd), ("kernel_args", &domain.kernel_args)]
        {
            if name != "kernel" && value.is_some() && domain.kernel.is_none() {
                return Err(Error::parameters(format!("{name} only makes sense with `kernel`")));
            }
            if let Some(value) = value {
                let value = if name == "kernel_args" { value.clone() } else { absolute(name, value)? };
                os = os.child(leaf(if name == "kernel_args" { "cmdline" } else { name }, value));
            }
        }
        for device in domain.boot.iter() {
            os = os.child(Element::new("boot").with("dev", one_of("boot", device, &["hd", "cdrom", "network", "fd"])?));
        }
        if let Some(menu) = domain.boot_menu {
            os = os.child(Element::new("bootmenu").with("enable", yes_no(menu)));
        }
        if let Some(smbios) = &domain.smbios {
            let mode = smbios.mode.as_deref().unwrap_or("sysinfo");
            os =
                os.child(Element::new("smbios").with("mode", one_of("smbios", mode, &["sysinfo", "host", "emulate"])?));
        }
        let secure = self.firmware() == Some(Firmware::OvmfSecureboot);
        if secure && is_i440fx(&self.machine) {
            return Err(Error::parameters(format!(
                "Secure Boot needs machine q35, and this guest has `{}`",
                self.machine
            )));
        }
        let uefi = matches!(self.firmware(), Some(Firmware::Ovmf | Firmware::OvmfSecureboot));
        if (uefi || domain.loader.is_some()) && domain.features.acpi == Some(Flag(false)) {
            return Err(Error::parameters(
                "UEFI needs ACPI: leave `features: {acpi: false}` out, or take `firmware: bios`",
            ));
        }
        let current_os = context.current.as_ref().and_then(|c| c.get("os"));
        let asked = domain.firmware.is_some() || self.preset.is_some();
        if domain.loader.is_none() && asked && domain.firmware != Some(Firmware::Bios) {
            match current_os.filter(|os| has_uefi(os)) {
                // A guest that has UEFI keeps the firmware it was installed with: its variables belong to that build.
                Some(old) => {
                    let mut chosen = Element::new("os")
                        .child(Element::new("loader").with(WHOLE, ""))
                        .child(Element::new("nvram").with(WHOLE, ""));
                    if let Some(auto) = old.attribute("firmware") {
                        chosen.set("firmware", auto);
                    }
                    self.choose("kept of the guest", chosen);
                }
                None if uefi => self.find_firmware(secure)?,
                None => {}
            }
        }
        if os.nodes.is_empty() {
            return Ok(());
        }
        // The parts have reasons of their own.
        self.stated.nodes.push(Node::Element(noted(os, "parameters machine, firmware, boot")));
        Ok(())
    }

    fn loader(&mut self, os: Element) -> Result<Element> {
        let domain = self.domain;
        if domain.loader.is_some() && domain.firmware.is_some() {
            return Err(Error::parameters("firmware and loader are both given: one of them says which firmware it is"));
        }
        let stated_format = some_of("loader_format", domain.loader_format.as_deref(), &["raw", "qcow2"])?;
        let nvram = |path: &str, format: Option<&str>| {
            leaf("nvram", path)
                .with_some("template", domain.nvram_template.as_ref())
                .with_some("templateFormat", format.filter(|_| domain.nvram_template.is_some()))
                .with_some("format", format)
        };
        match (&domain.loader, domain.firmware) {
            (Some(loader), _) => {
                let loader = absolute("loader", loader)?;
                let format = stated_format.or_else(|| loader.ends_with(".qcow2").then(|| "qcow2".to_string()));
                let format = format.as_deref();
                let path = domain.nvram.clone().unwrap_or_else(|| default_nvram(&domain.name));
                self.absent.push("os@firmware");
                Ok(os
                    .child(
                        leaf("loader", loader)
                            .with("readonly", "yes")
                            .with_some("secure", domain.loader_secure.map(yes_no))
                            .with("type", "pflash")
                            .with_some("format", format),
                    )
                    .child(nvram(&path, format)))
            }
            (None, Some(Firmware::Bios)) => {
                self.absent.extend(["os@firmware", "os/firmware", "os/loader", "os/nvram"]);
                Ok(os)
            }
            (None, _) => {
                let uefi = domain.firmware.is_some() || self.preset.is_some_and(|p| p.firmware != Firmware::Bios);
                match &domain.nvram {
                    Some(path) if uefi => Ok(os.child(nvram(path, stated_format.as_deref()))),
                    None if domain.nvram_template.is_none() => Ok(os),
                    _ => Err(Error::parameters("nvram only makes sense with `loader` or `firmware: ovmf`")),
                }
            }
        }
    }

    /// UEFI for a guest that has none.
    fn find_firmware(&mut self, secure: bool) -> Result<()> {
        let (domain, context) = (self.domain, self.context);
        let mut os = Element::new("os");
        let Some(chosen) = context.firmware.as_ref() else {
            if !context.autoselect {
                return Err(Error::parameters("`firmware: ovmf` needs a machine to find it on")
                    .hint("give `loader` and `nvram_template`"));
            }
            // https://libvirt.org/formatdomain.html#bios-bootloader
            let on = if secure { "yes" } else { "no" };
            let feature = |name: &str| Element::new("feature").with("enabled", on).with("name", name);
            os.set("firmware", "efi");
            os = os.child(Element::new("firmware").child(feature("enrolled-keys")).child(feature("secure-boot")));
            self.choose("libvirt finds the firmware on its machine", os);
            return Ok(());
        };
        let format = (chosen.format != "raw").then_some(chosen.format.as_str());
        os = os.child(
            leaf("loader", &chosen.loader)
                .with("readonly", "yes")
                .with_some("secure", secure.then_some("yes"))
                .with("type", "pflash")
                .with_some("format", format),
        );
        let template = domain.nvram_template.as_ref().or(chosen.nvram_template.as_ref());
        os = os.child(
            leaf("nvram", domain.nvram.clone().unwrap_or_else(|| default_nvram(&domain.name)))
                .with_some("template", template)
                .with_some("templateFormat", format.filter(|_| template.is_some()))
                .with_some("format", format),
        );
        let asked = if domain.firmware.is_some() { "parameter firmware".to_string() } else { self.preset_name() };
        self.choose(&format!("{asked}, found by the firmware descriptors of the host"), os);
        Ok(())
    }
}
