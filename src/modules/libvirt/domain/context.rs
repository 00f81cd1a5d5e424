//! What rendering must know of the machine.

use super::machine::default_emulator;
use super::params::{Firmware, Gpu, LibvirtDomain};
use super::pinning::HostCpus;
use super::presets;
use super::render::{self, Card, ChosenFirmware, Context};
use crate::facts::pci;
use crate::host::{Error, Host, Result};
use crate::modules::libvirt::lint::about;
use crate::modules::libvirt::values::PciAddress;
use crate::modules::libvirt::xml::Element;
use crate::modules::libvirt::{descriptors, ovmf};
use crate::modules::params::Text;
use crate::modules::vfio::select::{Selector, Target, select};

impl LibvirtDomain {
    /// Reads what rendering this domain must know of the machine.
    ///
    /// # Errors
    /// Cards that are not there, a firmware that is not there, trouble reading the machine.
    pub fn context(&self, host: &dyn Host, current: Option<Element>) -> Result<Context> {
        let mut gpus = Vec::new();
        let wanted: Vec<&Gpu> = self.gpus.iter().flat_map(|list| list.iter()).map(|gpu| &gpu.0).collect();
        for gpu in &wanted {
            gpus.push(card(host, gpu)?);
        }
        let pinned = self.pinning.as_ref().is_some_and(|pinning| pinning.auto.0);
        let cpus = if pinned { HostCpus::read(host, &self.name)? } else { None };
        let emulator = match (&current, self.arch.as_deref().unwrap_or("x86_64")) {
            (None, "x86_64") => default_emulator(host)?,
            _ => None,
        };
        let old_libvirt = host.os().is_ok_and(|os| os.is_el(7));
        let firmware = self.chosen_firmware(host, current.as_ref())?;
        Ok(Context { current, emulator, firmware, autoselect: false, gpus, cpus, old_libvirt })
    }

    fn chosen_firmware(&self, host: &dyn Host, current: Option<&Element>) -> Result<Option<ChosenFirmware>> {
        if current.and_then(|c| c.get("os")).is_some_and(render::has_uefi) {
            return Ok(None);
        }
        let of_preset = match &self.os {
            Some(name) if current.is_none() && self.definition.is_none() => Some(presets::find(name)?.firmware),
            _ => None,
        };
        let asked = self.firmware.or(of_preset.filter(|_| render::is_free(self)));
        let Some(firmware @ (Firmware::Ovmf | Firmware::OvmfSecureboot)) = asked else { return Ok(None) };
        let secure = firmware == Firmware::OvmfSecureboot;
        let machine = self
            .machine
            .clone()
            .or_else(|| current.and_then(|c| c.at(&["os", "type"])?.attribute("machine").map(str::to_string)));
        let wish = descriptors::Wish {
            machine: machine.unwrap_or_else(|| "q35".to_string()),
            secure_boot: secure,
            enrolled_keys: secure.then_some(true),
        };
        let found = ovmf::find(host, &wish)?;
        Ok(Some(ChosenFirmware {
            loader: found.loader,
            nvram_template: Some(found.nvram_template),
            format: found.format,
        }))
    }
}

/// Which card an entry of `gpus` is.
fn card(host: &dyn Host, gpu: &Gpu) -> Result<Card> {
    let given = [gpu.address.is_some(), gpu.id.is_some(), gpu.vendor.is_some() || gpu.class.is_some()];
    if !given.contains(&true) {
        return Err(Error::parameters("gpus: say which card: give at least one of address, id, vendor, class"));
    }
    if let Some(address) = gpu.address.filter(|_| gpu.id.is_none() && gpu.vendor.is_none() && gpu.class.is_none()) {
        let functions = about::functions_of(host, &address.0)?;
        let folder = |address: &PciAddress| format!("{}/{address}", pci::DEVICES);
        // A virtual function has the slots of its card, but is a device of its own.
        let is_virtual = |address: &PciAddress| host.exists(&format!("{}/physfn", folder(address)));
        let mut own = Vec::new();
        let alone = functions.contains(&address.0) && is_virtual(&address.0)?;
        for function in functions {
            if function == address.0 || (!alone && !is_virtual(&function)?) {
                own.push(function);
            }
        }
        if own.is_empty() {
            own.push(address.0);
        }
        let node = host.read_text(&format!("{}/numa_node", folder(&address.0)))?;
        return Ok(Card { functions: own, numa_node: node.and_then(|text| text.trim().parse().ok()) });
    }
    let selector = Selector {
        address: gpu.address.map(|address| Text(address.0.to_string())),
        id: gpu.id.clone(),
        vendor: gpu.vendor.clone(),
        // Who says only whose card it is means a display.
        class: gpu.class.clone().or_else(|| gpu.id.is_none().then(|| Text("display".to_string()))),
        not_boot_display: gpu.not_boot_display,
        numa_node: gpu.numa_node,
    };
    let devices = pci::devices(host)?;
    let shown = selector.to_string();
    let selection = select(&[Target(selector)], &devices, true)?;
    let named: Vec<_> = selection.targets.difference(&selection.joined).copied().collect();
    let mut cards: Vec<pci::PciAddress> = Vec::new();
    for address in &named {
        if !cards.iter().any(|card| card.same_card(address)) {
            cards.push(*address);
        }
    }
    let [first] = cards.as_slice() else {
        let all: Vec<String> =
            devices.iter().filter(|device| cards.contains(&device.address)).map(pci::Device::describe).collect();
        return Err(Error::refused(format!("{} cards of this machine fit `{shown}`: {}", cards.len(), all.join(", ")))
            .hint("say which one is meant by its address"));
    };
    let own = |address: &&pci::PciAddress| address.same_card(first);
    let functions = selection.targets.iter().filter(own).map(|address| PciAddress {
        domain: address.domain,
        bus: address.bus,
        slot: address.slot,
        function: address.function,
    });
    let numa_node = devices.iter().find(|device| device.address == *first).and_then(|device| device.numa_node);
    Ok(Card { functions: functions.collect(), numa_node })
}
