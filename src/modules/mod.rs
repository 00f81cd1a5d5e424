//! The modules. Each is a parameter struct and one function; this table is the only place that lists them.

pub mod boot;
pub mod control;
#[cfg(test)]
mod distributions;
pub mod files;
pub mod libvirt;
pub mod network;
pub mod packages;
pub mod params;
pub mod read;
pub mod system;
pub mod vfio;

use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::change::Plan;
use crate::host::{Error, Host, Result};

/// A module: parameters that come finished, and one question to a machine.
///
/// The doc comments of the struct and its fields are what `vfio-provision doc NAME` prints.
pub trait Module: DeserializeOwned + JsonSchema + 'static {
    /// The name in playbooks.
    const NAME: &'static str;
    /// One line, without a full stop.
    const SUMMARY: &'static str;
    /// Other names it goes by (`systemd` for `service`).
    const ALIASES: &'static [&'static str] = &[];
    /// The parameter that a bare string stands for (`command: uptime`).
    const FREE_FORM: Option<&'static str> = None;
    /// Parameters whose values are masked wherever they are shown.
    const SECRET: &'static [&'static str] = &[];

    /// A parameter that is the host's name in the inventory unless given. Only the controller knows that name.
    const INVENTORY_NAME: Option<&'static str> = None;
    /// Parameters that name a file of the controller, and the ones that get its content.
    const FILES: &'static [(&'static str, &'static str)] = &[];
    /// Parameters that name a template of the controller, and the ones that get what comes of it.
    const TEMPLATES: &'static [(&'static str, &'static str)] = &[];

    /// Which actions would make this machine so? Reads through `host`, never writes, never asks whether it is a dry run.
    ///
    /// # Errors
    /// Refusals, parameters that make no sense together, and trouble reading the machine.
    fn plan(&self, host: &dyn Host) -> Result<Plan>;
}

/// A module that runs on the controller: parameters that `run/` knows what to do with.
pub trait Control: DeserializeOwned + JsonSchema + 'static {
    /// The name in playbooks.
    const NAME: &'static str;
    /// One line, without a full stop.
    const SUMMARY: &'static str;
    /// The parameter that a bare string stands for (`meta: flush_handlers`).
    const FREE_FORM: Option<&'static str> = None;
}

/// Where a module runs.
pub enum Side {
    /// On the machine, through the agent: parameters in, plan out.
    Machine(fn(Value, &dyn Host) -> Result<Plan>),
    /// On the controller, in `run/`: it is about the play, not about a machine.
    Controller,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({})", self.name)
    }
}

/// One row of the table.
pub struct Entry {
    /// The name in playbooks.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// One line.
    pub summary: &'static str,
    /// The parameter that a bare string stands for.
    pub free_form: Option<&'static str>,
    /// Parameters that are masked.
    pub secret: &'static [&'static str],
    /// The parameter that is the host's name in the inventory unless given.
    pub inventory_name: Option<&'static str>,
    /// Parameters that name a file of the controller, and the ones that get its content.
    pub files: &'static [(&'static str, &'static str)],
    /// Parameters that name a template of the controller, and the ones that get what comes of it.
    pub templates: &'static [(&'static str, &'static str)],
    /// The JSON Schema of the parameters.
    pub schema: fn() -> Schema,
    /// Do these finished parameters make a valid struct? Answers the path of the wrong one (`devices[0].address`) and why.
    pub check: fn(Value) -> std::result::Result<(), (String, String)>,
    /// Where it runs.
    pub side: Side,
}

fn parse<T: DeserializeOwned>(parameters: Value) -> std::result::Result<T, (String, String)> {
    read::read(parameters).map_err(|wrong| (wrong.path, wrong.error.to_string()))
}

fn check<T: DeserializeOwned>(parameters: Value) -> std::result::Result<(), (String, String)> {
    parse::<T>(parameters).map(|_| ())
}

fn plan<M: Module>(parameters: Value, host: &dyn Host) -> Result<Plan> {
    let module: M = parse(parameters).map_err(|(path, why)| {
        Error::parameters(if path == "." { why } else { format!("parameter `{path}`: {why}") })
    })?;
    module.plan(host)
}

const fn on_machine<M: Module>() -> Entry {
    Entry {
        name: M::NAME,
        aliases: M::ALIASES,
        summary: M::SUMMARY,
        free_form: M::FREE_FORM,
        secret: M::SECRET,
        inventory_name: M::INVENTORY_NAME,
        files: M::FILES,
        templates: M::TEMPLATES,
        schema: schema::<M>,
        check: check::<M>,
        side: Side::Machine(plan::<M>),
    }
}

const fn on_controller<C: Control>() -> Entry {
    Entry {
        name: C::NAME,
        aliases: &[],
        summary: C::SUMMARY,
        free_form: C::FREE_FORM,
        secret: &[],
        inventory_name: None,
        files: &[],
        templates: &[],
        schema: schema::<C>,
        check: check::<C>,
        side: Side::Controller,
    }
}

fn schema<T: JsonSchema>() -> Schema {
    schemars::schema_for!(T)
}

/// All modules, one line each.
#[rustfmt::skip] // one line each, also when there are few: branches that add modules merge by line
pub static TABLE: &[Entry] = &[
    on_machine::<network::bridge::Bridge>(),
    on_machine::<libvirt::domain::LibvirtDomain>(),
    on_machine::<files::authorized_key::AuthorizedKey>(),
    on_machine::<files::blockinfile::BlockInFile>(),
    on_machine::<boot::kernel_cmdline::KernelCmdline>(),
    on_machine::<vfio::bind::VfioBind>(),
    on_machine::<files::copy::Copy>(),
    on_machine::<packages::apt_repository::AptRepository>(),
    on_machine::<files::file::File>(),
    on_machine::<files::get_url::GetUrl>(),
    on_machine::<files::ini_file::IniFile>(),
    on_machine::<files::lineinfile::LineInFile>(),
    on_machine::<files::replace::Replace>(),
    on_machine::<files::slurp::Slurp>(),
    on_machine::<files::stat::Stat>(),
    on_machine::<files::tempfile::TempFile>(),
    on_controller::<files::template::Template>(),
    on_machine::<control::command::Command>(),
    on_machine::<control::ping::Ping>(),
    on_machine::<control::reboot::Reboot>(),
    on_machine::<control::setup::Setup>(),
    on_machine::<control::shell::Shell>(),
    on_machine::<control::wait_for::WaitFor>(),
    on_controller::<control::play::Assert>(),
    on_controller::<control::play::Debug>(),
    on_controller::<control::play::Fail>(),
    on_controller::<control::play::ImportPlaybook>(),
    on_controller::<control::play::ImportRole>(),
    on_controller::<control::play::ImportTasks>(),
    on_controller::<control::play::IncludeRole>(),
    on_controller::<control::play::IncludeTasks>(),
    on_controller::<control::play::IncludeVars>(),
    on_controller::<control::play::Meta>(),
    on_controller::<control::play::SetFact>(),
    on_machine::<libvirt::daemon::Libvirt>(),
    on_machine::<libvirt::domain::LibvirtDomain>(),
    on_machine::<libvirt::network::LibvirtNetwork>(),
    on_machine::<libvirt::pool::LibvirtPool>(),
    on_machine::<libvirt::ovmf::Ovmf>(),
    on_machine::<libvirt::virtio_win::VirtioWin>(),
    on_machine::<libvirt::volume::LibvirtVolume>(),
    on_machine::<packages::package::Package>(),
    on_machine::<packages::rpm_key::RpmKey>(),
    on_machine::<packages::yum_repository::YumRepository>(),
    on_machine::<libvirt::device_acl::DeviceAcl>(),
    on_machine::<libvirt::evdev::Evdev>(),
    on_machine::<libvirt::hooks::LibvirtHooks>(),
    on_machine::<libvirt::looking_glass::LookingGlass>(),
    on_machine::<libvirt::single_gpu::SingleGpu>(),
    on_machine::<libvirt::swtpm::Swtpm>(),
    on_machine::<system::cpu_governor::CpuGovernor>(),
    on_machine::<system::cpu_isolation::CpuIsolation>(),
    on_machine::<system::hugepages::HugePages>(),
    on_machine::<system::tuned::Tuned>(),
    on_machine::<vfio::acs_override::AcsOverride>(),
    on_machine::<vfio::unsafe_interrupts::UnsafeInterrupts>(),
    on_machine::<system::group::Group>(),
    on_machine::<system::hostname::Hostname>(),
    on_machine::<system::kernel_module::Modprobe>(),
    on_machine::<system::sefcontext::Sefcontext>(),
    on_machine::<system::service::Service>(),
    on_machine::<system::sysctl::Sysctl>(),
    on_machine::<system::user::User>(),
    on_machine::<boot::initramfs::Initramfs>(),
    on_machine::<boot::kernel::Kernel>(),
];

/// A module by its short name, an alias, or its full name in Ansible (`ansible.builtin.copy`, `ansible.posix.sysctl`,
/// `community.general.ini_file`, `community.libvirt.virt_net` is not one of ours).
pub fn find(name: &str) -> Option<&'static Entry> {
    const COLLECTIONS: [&str; 4] = ["ansible.builtin.", "ansible.legacy.", "ansible.posix.", "community.general."];
    let short = COLLECTIONS.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    TABLE.iter().find(|entry| entry.name == short || entry.aliases.contains(&short))
}

/// Every name a task may use, for "did you mean".
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases.iter().copied()))
}
