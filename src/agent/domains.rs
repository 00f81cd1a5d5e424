//! What libvirt has on a machine, for `domain import`: asked for like a task, under a name that no playbook can use, so that
//! it comes through every connection and as every user that tasks come through. Nothing is changed.

use serde::{Deserialize, Serialize};

use crate::change::Plan;
use crate::host::{Error, Host, Result, VirtKind};

/// Asks for guests, networks and pools.
pub const DOMAINS: &str = "vfio-provision:domains";

/// Which are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    /// These guests; all of them, and networks and pools, where `None`.
    pub names: Option<Vec<String>>,
}

/// One of libvirt's things.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thing {
    /// Its name.
    pub name: String,
    /// Its definition.
    pub xml: String,
    /// Does it run?
    pub active: bool,
    /// Does it start with the host?
    pub autostart: bool,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Things {
    /// Guests.
    pub domains: Vec<Thing>,
    /// Virtual networks.
    pub networks: Vec<Thing>,
    /// Storage pools.
    pub pools: Vec<Thing>,
}

/// Looks.
///
/// # Errors
/// A guest that is not there, and trouble asking libvirt.
pub fn ask(parameters: &serde_json::Value, host: &dyn Host) -> Result<Plan> {
    let wish: Wish = serde_json::from_value(parameters.clone())
        .map_err(|error| Error::parameters(format!("this is no question about guests: {error}")))?;
    let mut things = Things::default();
    match &wish.names {
        Some(names) => {
            for name in names {
                let found = one(host, VirtKind::Domain, name)?;
                things.domains.push(found.ok_or_else(|| missing(host, name))?);
            }
        }
        None => {
            let all = |kind| -> Result<Vec<Thing>> {
                let mut all = Vec::new();
                for name in host.virt_names(kind)? {
                    all.extend(one(host, kind, &name)?);
                }
                Ok(all)
            };
            things = Things {
                domains: all(VirtKind::Domain)?,
                networks: all(VirtKind::Network)?,
                pools: all(VirtKind::Pool)?,
            };
        }
    }
    let mut plan = Plan::nothing();
    let value =
        serde_json::to_value(&things).map_err(|error| Error::failed(format!("can't tell what there is: {error}")))?;
    plan.set("things", value);
    Ok(plan)
}

fn one(host: &dyn Host, kind: VirtKind, name: &str) -> Result<Option<Thing>> {
    Ok(host.virt(kind, name)?.map(|virt| Thing {
        name: name.to_string(),
        xml: virt.xml,
        active: virt.active,
        autostart: virt.autostart,
    }))
}

fn missing(host: &dyn Host, name: &str) -> Error {
    let error = Error::failed(format!("there is no guest {name} on this machine"));
    match host.virt_names(VirtKind::Domain) {
        Ok(names) if !names.is_empty() => error.hint(format!("it has {}", names.join(", "))),
        _ => error.hint("libvirt has none there, or this user may not ask it: --become asks as root"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::machine;
    use crate::host::{Model, Virt};

    #[test]
    fn what_there_is() {
        let host = machine(&[]);
        let virt = |xml: &str| Virt { xml: xml.into(), active: true, autostart: true, ..Virt::default() };
        host.put_virt(VirtKind::Domain, "a", Some(virt("<domain/>"))).unwrap();
        host.put_virt(VirtKind::Network, "n", Some(virt("<network/>"))).unwrap();
        let things = |parameters| -> Things {
            serde_json::from_value(ask(&parameters, &host).unwrap().result.remove("things").unwrap()).unwrap()
        };
        let all = things(json!({}));
        assert_eq!((all.domains.len(), all.networks.len(), all.pools.len()), (1, 1, 0));
        assert!(all.domains[0].active && all.domains[0].autostart);
        let one = things(json!({"names": ["a"]}));
        assert_eq!((one.domains.len(), one.networks.len()), (1, 0));
        let error = ask(&json!({"names": ["b"]}), &host).unwrap_err();
        assert!(error.to_string().contains("no guest b"), "{error}");
        assert!(ask(&json!({"name": "b"}), &host).is_err());
    }
}
