//! `libvirt_volume`: a disk image, made if it is missing and never touched if it is not.

use schemars::JsonSchema;
use serde::Deserialize;

use super::values::Size;
use super::xml;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, FileKind, Host, Result, VirtKind};
use crate::modules::Module;
use crate::modules::system::make_folders;

/// Makes a disk image for a guest. One that is there stays as it is, whatever is in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtVolume {
    /// The image's path. Or give `pool` and `name`.
    path: Option<String>,
    /// The storage pool it is in; `default` is /var/lib/libvirt/images where libvirt has no such pool.
    pool: Option<String>,
    /// Its name in the pool.
    name: Option<String>,
    /// Its size with a unit, such as "60 GiB". Not needed with a backing file.
    capacity: Option<Size>,
    /// `qcow2` (default, grows as it is filled) or `raw`.
    format: Option<Format>,
    /// The image it begins as a copy of; what is written goes to the new one alone (qcow2 only).
    backing_file: Option<String>,
    /// Format of `backing_file`; `qcow2` by default.
    backing_format: Option<Format>,
}

/// A format of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// Grows as it is filled, knows snapshots.
    Qcow2,
    /// As it is.
    Raw,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Qcow2 => "qcow2",
            Format::Raw => "raw",
        }
    }
}

impl Module for LibvirtVolume {
    const NAME: &'static str = "libvirt_volume";
    const SUMMARY: &'static str = "Make a guest's disk image if it is missing";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let path = self.place(host)?;
        let format = self.format.unwrap_or(Format::Qcow2);
        let mut plan = Plan::nothing();
        plan.set("path", path.as_str());
        plan.set("format", format.name());
        match host.stat(&path)? {
            Some(stat) if stat.kind == FileKind::Folder => {
                return Err(Error::failed(format!("{path} is a folder, not a disk image")));
            }
            Some(_) => return Ok(plan),
            None => {}
        }
        let (folder, name) = path
            .rsplit_once('/')
            .filter(|(_, name)| !name.is_empty())
            .ok_or_else(|| Error::parameters(format!("`{path}` can't be a disk image: give an absolute path")))?;
        if self.capacity.is_none() && self.backing_file.is_none() {
            return Err(Error::parameters("capacity is missing: give for example capacity: \"60 GiB\""));
        }
        if self.backing_file.is_some() && format == Format::Raw {
            return Err(Error::parameters("a raw image can't have a backing file: leave `format` out"));
        }
        if let Some(backing) = &self.backing_file
            && !host.exists(backing)?
        {
            return Err(Error::failed(format!("the backing file {backing} does not exist")));
        }
        if !folder.is_empty() {
            make_folders(host, &mut plan, folder)?;
        }
        // Made beside its place and moved there whole, never over another: a killed run leaves nothing half.
        let part = format!("{folder}/.{name}.part");
        let mut argv: Vec<String> = ["qemu-img", "create", "-q", "-f", format.name()].map(String::from).to_vec();
        if let Some(backing) = &self.backing_file {
            let backing_format = self.backing_format.unwrap_or(Format::Qcow2).name();
            argv.extend(["-b", backing, "-F", backing_format].map(String::from));
        }
        argv.push(part.clone());
        argv.extend(self.capacity.map(|size| size.0.to_string()));
        let made = Effect::File { path: part.clone(), content: None, mode: None };
        let size = self.capacity.map(|size| size.to_string());
        let on = self.backing_file.as_ref().map(|backing| format!("on {backing}"));
        let words: Vec<String> = [Some(format.name().to_string()), size, on].into_iter().flatten().collect();
        plan.push(Op::Run(Run::new(argv, vec![made])), vec![Diff::added("volume", &path, words.join(", "))]);
        let effects =
            vec![Effect::Gone { path: part.clone() }, Effect::File { path: path.clone(), content: None, mode: None }];
        let argv = ["mv", "-T", "-n", "--", part.as_str(), path.as_str()];
        plan.push(Op::Run(Run::new(argv, effects)), Vec::new());
        Ok(plan)
    }
}

impl LibvirtVolume {
    fn place(&self, host: &dyn Host) -> Result<String> {
        match (&self.path, &self.pool, &self.name) {
            (Some(path), None, None) if path.starts_with('/') => Ok(path.clone()),
            (Some(path), None, None) => Err(Error::parameters(format!("the path `{path}` must begin with a slash"))),
            (None, pool, Some(name)) if !name.is_empty() && !name.contains('/') => {
                let pool = pool.as_deref().unwrap_or("default");
                let folder = match host.virt(VirtKind::Pool, pool)? {
                    Some(virt) => {
                        let xml = xml::parse(&virt.xml).map_err(|why| {
                            Error::failed(format!("can't read the XML that libvirt has of the pool {pool}: {why}"))
                        })?;
                        xml.text_at(&["target", "path"])
                            .filter(|_| xml.attribute("type") == Some("dir"))
                            .ok_or_else(|| Error::failed(format!("the pool {pool} is not a folder of images")))?
                    }
                    None if pool == "default" => "/var/lib/libvirt/images".to_string(),
                    None => return Err(Error::failed(format!("libvirt has no pool {pool}"))),
                };
                Ok(format!("{}/{name}", folder.trim_end_matches('/')))
            }
            _ => Err(Error::parameters("give either path, or name (and pool)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{apply, machine, plan, shown};
    use crate::host::{Model, Virt, VirtKind};

    #[test]
    fn made_once_and_never_overwritten() {
        let host = machine(&[("/srv/there.qcow2", "precious")]);
        let parameters = json!({"path": "/srv/img/win8.qcow2", "capacity": "60 GiB"});
        let done = apply(&host, "libvirt_volume", parameters).unwrap();
        assert!(shown(&done).ends_with("volume /srv/img/win8.qcow2\n+ qcow2, 60 GiB\n"), "{}", shown(&done));
        let there = json!({"path": "/srv/there.qcow2", "capacity": "1 GiB", "format": "raw"});
        assert!(apply(&host, "libvirt_volume", there).unwrap().is_empty());
        let over = json!({"path": "/srv/new.qcow2", "backing_file": "/srv/there.qcow2"});
        let done = apply(&host, "libvirt_volume", over).unwrap();
        assert!(shown(&done).contains("+ qcow2, on /srv/there.qcow2"), "{}", shown(&done));
        for (wrong, why) in [
            (json!({"path": "/srv/x"}), "capacity is missing"),
            (json!({"path": "x", "capacity": "1 GiB"}), "begin with a slash"),
            (json!({"path": "/x", "capacity": "1 GiB", "backing_file": "/none"}), "does not exist"),
            (json!({"path": "/x", "format": "raw", "backing_file": "/srv/there.qcow2"}), "can't have a backing file"),
            (json!({"path": "/srv", "capacity": "1 GiB"}), "is a folder"),
            (json!({"pool": "none", "name": "x", "capacity": "1 GiB"}), "has no pool none"),
            (json!({"capacity": "1 GiB"}), "give either"),
        ] {
            let error = plan(&host, "libvirt_volume", wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_pools_folder_is_libvirts() {
        let host = machine(&[]);
        let xml = "<pool type='dir'><name>img</name><target><path>/data/img</path></target></pool>".to_string();
        host.put_virt(VirtKind::Pool, "img", Some(Virt { xml, ..Virt::default() })).unwrap();
        let place = |parameters| plan(&host, "libvirt_volume", parameters).unwrap().result["path"].clone();
        assert_eq!(place(json!({"pool": "img", "name": "a.qcow2", "capacity": "1 GiB"})), "/data/img/a.qcow2");
        assert_eq!(place(json!({"name": "a", "capacity": "1 GiB"})), "/var/lib/libvirt/images/a");
    }
}
