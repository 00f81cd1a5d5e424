//! `single_gpu`: a guest that gets the only card of the machine, for as long as it runs.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use super::hooks::{self, Wanted};
use crate::change::Plan;
use crate::facts::pci::{self, Device, PciAddress};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::List;
use crate::modules::system::steps::Steps;

/// Gives a guest the card that the machine's own screen is on, for as long as the guest runs.
///
/// Two hooks of libvirt's do it: before the guest starts, the display manager is stopped and the consoles let go of the card;
/// after it has ended, all comes back. The guest must have the card with all its functions, with `managed: yes`. While it runs
/// the machine has no screen, whoever was logged in at it is logged out, and it can only be reached over its network. If
/// any program still has the card open after `patience`, the guest is not started.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SingleGpu {
    /// The guest.
    guest: String,
    /// Addresses of the card's functions, such as "0000:01:00.0"; other functions of the same card join. Needed unless
    /// `state: absent`.
    #[serde(default)]
    #[schemars(with = "List<String>")]
    devices: List<PciAddress>,
    /// Seconds within which programs must have let go of the card. libvirt waits for as long. Default: 30.
    #[serde(default = "patience")]
    patience: u16,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// The guest gets the card.
    #[default]
    Present,
    /// The hooks go.
    Absent,
}

fn patience() -> u16 {
    30
}

const HOOK: &str = include_str!("single_gpu/hook.sh");
const OWNER: &str = "single_gpu";
/// libvirt itself gives up on nothing while a hook runs, so neither may this one go on for ever.
const MOST_PATIENCE: u16 = 300;

impl Module for SingleGpu {
    const NAME: &'static str = "single_gpu";
    const SUMMARY: &'static str = "Give a guest the only card of the machine for as long as it runs";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        if self.state == State::Absent {
            hooks::put(&mut steps, OWNER, &self.guest, Vec::new())?;
            return Ok(steps.finish());
        }
        if self.guest.contains(['\'', '"', '\\', '`', '$']) {
            return Err(Error::parameters(format!(
                "`{}` can't stand in a script: a guest with quotes in its name",
                self.guest
            )));
        }
        if !(1..=MOST_PATIENCE).contains(&self.patience) {
            return Err(Error::parameters(format!("`patience` is 1 to {MOST_PATIENCE} seconds")));
        }
        let devices = self.devices(host)?;
        let list: Vec<String> = devices.iter().map(PciAddress::to_string).collect();
        let text = HOOK
            .replace("@GUEST@", &self.guest)
            .replace("@DEVICES@", &list.join(" "))
            .replace("@PATIENCE@", &self.patience.to_string());
        let script = |event: &str| Wanted { event: event.into(), name: "50-single-gpu".into(), content: text.clone() };
        hooks::put(&mut steps, OWNER, &self.guest, vec![script("prepare/begin"), script("release/end")])?;
        steps.plan().warnings.push(format!(
            "while {} runs, this machine has no screen and whoever worked at it is logged out: be sure that it can be reached \
             over the network",
            self.guest
        ));
        steps.plan().set("devices", list);
        Ok(steps.finish())
    }
}

impl SingleGpu {
    /// The card's functions.
    fn devices(&self, host: &dyn Host) -> Result<BTreeSet<PciAddress>> {
        if self.devices.is_empty() {
            return Err(Error::parameters("`devices` is empty: which card?"));
        }
        let all = pci::devices(host)?;
        let mut found = BTreeSet::new();
        let mut display = false;
        for address in self.devices.iter() {
            let device = all.iter().find(|device| device.address == *address).ok_or_else(|| {
                Error::refused(format!("there is no PCI device {address} on this machine"))
                    .hint("lspci -D shows those that are there")
            })?;
            display |= device.is_display();
            let functions: Vec<&Device> = all.iter().filter(|other| other.address.same_card(address)).collect();
            if let Some(own) = functions.iter().find(|function| function.is_storage() || function.is_network()) {
                return Err(Error::refused(format!("{} is on the same card: the machine may need it", own.describe())));
            }
            found.extend(functions.iter().filter(|function| !function.is_bridge()).map(|function| function.address));
        }
        if !display {
            return Err(Error::refused("none of these devices is a display card").hint(
                "devices that no screen hangs on need no hook: list them with the guest alone, libvirt gives them away",
            ));
        }
        if let Some(bound) = all
            .iter()
            .find(|device| found.contains(&device.address) && device.driver_override.as_deref() == Some("vfio-pci"))
        {
            return Err(Error::refused(format!(
                "{} is bound to vfio-pci from the boot on: no hook is needed",
                bound.describe()
            ))
            .hint("take it out of `passthrough` (vfio_bind) first, if the host shall have it while no guest runs"));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
