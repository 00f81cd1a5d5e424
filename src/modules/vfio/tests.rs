use serde_json::{Value, json};

use super::fixture::{Box1, Card, GPU_PARENTS, card};
use super::{persist, predict_boot};
use crate::host::Host;
use crate::host::error::ErrorKind;
use crate::host::overlay::testing::{Machine, apply, plan, shown};

fn gpu() -> Value {
    json!({"devices": ["0000:82:00.0"]})
}

/// The whole text of a refusal; fails when it is none.
fn refusal(machine: &Machine, parameters: Value) -> String {
    let error = plan(machine, "vfio_bind", parameters).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    error.to_string()
}

fn text(machine: &Machine, path: &str) -> String {
    machine.read_text(path).unwrap().unwrap_or_default()
}

#[test]
fn the_seed_binds_both_functions_by_address_at_the_next_boot() {
    let machine = Box1::seed().make();
    let first = plan(&machine, "vfio_bind", gpu()).unwrap();
    assert_eq!(
        first.reboot,
        ["vfio-pci takes 0000:82:00.0 (now nouveau), 0000:82:00.1 (now snd_hda_intel) at the next boot"]
    );
    assert_eq!(first.warnings, Vec::<String>::new());
    let done = apply(&machine, "vfio_bind", gpu()).unwrap();
    let shown = shown(&done);
    assert!(shown.contains("driver 0000:82:00.0\nnouveau → vfio-pci (at the next boot)\n"), "{shown}");
    assert!(shown.contains("driver 0000:82:00.1\nsnd_hda_intel → vfio-pci (at the next boot)\n"), "{shown}");
    let rules = text(&machine, persist::RULES);
    assert!(rules.contains("KERNEL==\"0000:82:00.0\", ATTR{driver_override}=\"vfio-pci\""), "{rules}");
    assert!(rules.contains("KERNEL==\"0000:82:00.1\", ATTR{driver_override}=\"vfio-pci\""), "{rules}");
    assert!(!rules.contains("[pci/"), "no other card of its kind, so nothing for every event: {rules}");
    assert_eq!(
        text(&machine, persist::MODPROBE),
        "# BEGIN vfio-provision (the file was made by it)\n\
         # devices: 0000:82:00.0 0000:82:00.1\n\
         softdep nouveau pre: vfio-pci\n\
         softdep nvidia pre: vfio-pci\n\
         softdep nvidia_drm pre: vfio-pci\n\
         softdep snd_hda_intel pre: vfio-pci\n\
         # END vfio-provision\n"
    );
    let dracut = text(&machine, persist::DRACUT);
    assert!(dracut.contains("force_drivers+=\" vfio_pci vfio vfio_iommu_type1 \"\n"), "{dracut}");
    assert!(dracut.contains(persist::RULES), "{dracut}");
    assert!(!dracut.contains("virqfd"), "{dracut}");
}

#[test]
fn after_the_boot_it_is_real_and_nothing_is_said_any_more() {
    let machine = Box1::seed().make();
    apply(&machine, "vfio_bind", gpu()).unwrap();
    predict_boot(&machine).unwrap();
    let after = plan(&machine, "vfio_bind", gpu()).unwrap();
    assert!(after.actions.is_empty(), "{:#?}", after.actions);
    assert_eq!((after.reboot, after.notes), (vec![], vec![]));
    assert_eq!(after.result["bound"], json!(true));
    assert!(machine.exists("/dev/vfio/38").unwrap());
    let nic = machine.read_link("/sys/bus/pci/devices/0000:01:00.0/driver").unwrap();
    assert_eq!(nic.as_deref(), Some("/sys/bus/pci/drivers/igb"), "others keep their driver");
}

#[test]
fn absent_gives_back_every_byte() {
    let mut seed = Box1::seed();
    seed.put(persist::MODPROBE, "options kvm ignore_msrs=1").put("/etc/udev/rules.d/99-x.rules", "x\n");
    let machine = seed.make();
    apply(&machine, "vfio_bind", gpu()).unwrap();
    assert!(text(&machine, persist::MODPROBE).ends_with("# END vfio-provision\noptions kvm ignore_msrs=1"));
    predict_boot(&machine).unwrap();
    let away = json!({"state": "absent", "devices": ["0000:82:00.0"]});
    let first = plan(&machine, "vfio_bind", away.clone()).unwrap();
    assert_eq!(first.reboot, ["vfio-pci lets go of 0000:82:00.0, 0000:82:00.1 at the next boot"]);
    apply(&machine, "vfio_bind", away.clone()).unwrap();
    assert_eq!(text(&machine, persist::MODPROBE), "options kvm ignore_msrs=1");
    for path in [persist::RULES, persist::LOAD, persist::DRACUT] {
        assert!(!machine.exists(path).unwrap(), "{path}");
    }
    predict_boot(&machine).unwrap();
    let after = plan(&machine, "vfio_bind", away).unwrap();
    assert_eq!((after.actions.len(), after.reboot), (0, vec![]));
    let driver = machine.read_link("/sys/bus/pci/devices/0000:82:00.0/driver").unwrap();
    assert_eq!(driver.as_deref(), Some("/sys/bus/pci/drivers/nouveau"));
}

#[test]
fn a_selector_finds_the_card_that_is_not_the_boot_display() {
    let mut seed = Box1::seed();
    seed.card(&Card {
        boot_vga: Some("1"),
        ..card("0000:06:00.0", "pci0000:00/0000:00:02.0", "0x030000", ("0x10de", "0x1430"), Some("nouveau"), 18)
    });
    seed.put("/sys/devices/pci0000:00/0000:00:1c.7/0000:0a:00.0/boot_vga", "0\n");
    let machine = seed.make();
    let wanted = json!({"devices": [{"vendor": "nvidia", "class": "display", "not_boot_display": true}]});
    apply(&machine, "vfio_bind", wanted).unwrap();
    let rules = text(&machine, persist::RULES);
    assert!(rules.contains("KERNEL==\"0000:82:00.1\"") && !rules.contains("0000:06:00.0"), "{rules}");
    // nouveau is loaded for the other card, so every PCI event settles the override of this one.
    assert!(rules.contains("ATTR{[pci/0000:82:00.0]driver_override}=\"vfio-pci\""), "{rules}");
}

#[test]
fn debian_gets_a_script_that_runs_before_udev() {
    let mut seed = Box1::seed();
    seed.drop("/etc/dracut.conf.d/")
        .put("/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n")
        .put(persist::INITRAMFS_MODULES, "# list\n");
    let machine = seed.make();
    apply(&machine, "vfio_bind", gpu()).unwrap();
    let script = text(&machine, persist::INITRAMFS_SCRIPT);
    assert!(
        script.starts_with("#!/bin/sh\n") && script.contains("for device in 0000:82:00.0 0000:82:00.1; do"),
        "{script}"
    );
    assert_eq!(machine.stat(persist::INITRAMFS_SCRIPT).unwrap().map(|s| s.mode), Some(0o755));
    assert!(text(&machine, persist::INITRAMFS_MODULES).ends_with("# END vfio-provision\n# list\n"));
    assert!(!machine.exists(persist::DRACUT).unwrap());
    apply(&machine, "vfio_bind", json!({"state": "absent"})).unwrap();
    assert_eq!(text(&machine, persist::INITRAMFS_MODULES), "# list\n");
    assert!(!machine.exists(persist::INITRAMFS_SCRIPT).unwrap());
}

#[test]
fn arch_gets_a_drop_in_for_mkinitcpio() {
    let mut seed = Box1::seed();
    seed.drop("/etc/dracut.conf.d/")
        .put("/etc/os-release", "ID=arch\n")
        .put("/etc/mkinitcpio.conf", "MODULES=(nouveau ext4)\n");
    let machine = seed.make();
    let first = plan(&machine, "vfio_bind", gpu()).unwrap();
    assert!(
        first.warnings[0].starts_with("MODULES in /etc/mkinitcpio.conf loads nouveau before"),
        "{:?}",
        first.warnings
    );
    apply(&machine, "vfio_bind", gpu()).unwrap();
    let conf = text(&machine, persist::MKINITCPIO);
    assert!(conf.contains("MODULES=(vfio_pci vfio vfio_iommu_type1 \"${MODULES[@]}\")\n"), "{conf}");
    assert!(conf.contains(persist::RULES), "{conf}");
}

#[test]
fn driverctl_keeps_its_own_files_and_loses_only_those_of_ours() {
    let mut seed = Box1::seed();
    seed.put("/usr/sbin/driverctl", "").put("/etc/driverctl.d/pci-0000:82:00.1", "vfio-pci\n");
    let machine = seed.make();
    apply(&machine, "vfio_bind", gpu()).unwrap();
    assert_eq!(text(&machine, "/etc/driverctl.d/pci-0000:82:00.0"), "vfio-pci\n");
    assert!(!machine.exists(persist::RULES).unwrap());
    apply(&machine, "vfio_bind", json!({"state": "absent"})).unwrap();
    assert!(!machine.exists("/etc/driverctl.d/pci-0000:82:00.0").unwrap());
    assert_eq!(text(&machine, "/etc/driverctl.d/pci-0000:82:00.1"), "vfio-pci\n", "it was there before us");
}

#[test]
fn a_shorter_list_gives_the_rest_back() {
    let mut seed = Box1::seed();
    seed.card(&card("0000:83:00.0", "pci0000:80", "0x0c0330", ("0x1912", "0x0014"), Some("xhci_hcd"), 50));
    let machine = seed.make();
    apply(&machine, "vfio_bind", json!({"devices": ["82:00.0", "83:00.0"]})).unwrap();
    let done = apply(&machine, "vfio_bind", gpu()).unwrap();
    assert!(
        shown(&done).contains("driver 0000:83:00.0\nvfio-pci → its own driver (at the next boot)"),
        "{}",
        shown(&done)
    );
    assert!(!text(&machine, persist::RULES).contains("0000:83"));
}

#[test]
fn an_unused_card_is_bound_at_once_and_one_in_use_is_not() {
    let mut seed = Box1::seed();
    let (parents, address) = ("pci0000:80", "0000:84:00.0");
    seed.card(&card(address, parents, "0x020000", ("0x8086", "0x1528"), Some("ixgbe"), 51))
        .put(&Box1::real(parents, address, "net/ens5/flags"), "0x1002\n")
        .put("/sys/class/net/ens5", &format!("-> {}", Box1::real(parents, address, "net/ens5")));
    let wanted = json!({"devices": [address]});
    let idle = seed.make();
    let done = apply(&idle, "vfio_bind", wanted.clone()).unwrap();
    assert!(shown(&done).contains("driver 0000:84:00.0\n+ vfio-pci\n"), "{}", shown(&done));
    assert_eq!(plan(&idle, "vfio_bind", wanted.clone()).unwrap().reboot, Vec::<String>::new());
    assert!(!idle.exists("/sys/class/net/ens5/flags").unwrap());
    let later = plan(&seed.make(), "vfio_bind", json!({"devices": [address], "now": "never"})).unwrap();
    assert_eq!(later.reboot.len(), 1);
    seed.put(&Box1::real(parents, address, "net/ens5/flags"), "0x1003\n");
    assert_eq!(plan(&seed.make(), "vfio_bind", wanted).unwrap().reboot.len(), 1);
}

// ---- refusals: DOMAIN.md section 2, the negative fixtures of section 4 in their order, then the rest

#[test]
fn a1_without_an_iommu_in_the_firmware() {
    let machine = Box1::seed().iommu_off().drop("/sys/firmware/acpi/tables/DMAR").make();
    assert_eq!(
        refusal(&machine, gpu()),
        "the firmware offers no IOMMU (VT-d): there is no ACPI table DMAR and no IOMMU group\n\
         hint: switch on \"Intel VT-d\" (and \"Intel Virtualization Technology\") in the BIOS, then run this again"
    );
}

#[test]
fn a_check_refuses_the_same_and_changes_nothing() {
    let mut wanted = gpu();
    wanted["check_only"] = json!(true);
    let checked = plan(&Box1::seed().make(), "vfio_bind", wanted.clone()).unwrap();
    assert_eq!(checked, crate::change::Plan::nothing());
    let machine = Box1::seed().iommu_off().drop("/sys/firmware/acpi/tables/DMAR").make();
    assert_eq!(refusal(&machine, wanted), refusal(&machine, gpu()));
}

#[test]
fn a2_with_the_iommu_off_in_the_kernel_it_is_prepared_and_said() {
    let machine = Box1::seed().iommu_off().make();
    let first = plan(&machine, "vfio_bind", gpu()).unwrap();
    assert_eq!(first.warnings.len(), 1);
    assert!(first.warnings[0].contains("groups can't be checked before"), "{:?}", first.warnings);
    assert!(first.reboot[0].contains("the IOMMU is off in the running kernel"), "{:?}", first.reboot);
    apply(&machine, "vfio_bind", gpu()).unwrap();
    predict_boot(&machine).unwrap();
    let after = plan(&machine, "vfio_bind", gpu()).unwrap();
    assert_eq!(after.reboot.len(), 2, "a boot that leaves the IOMMU off binds nothing: {:?}", after.reboot);
}

#[test]
fn b_without_interrupt_remapping() {
    let machine = Box1::seed().put("/sys/class/iommu/dmar1/intel-iommu/ecap", "f42\n").make();
    assert_eq!(
        refusal(&machine, gpu()),
        "this machine can't remap interrupts: no guest with such a device would start (\"No interrupt remapping \
         support\")\n\
         hint: switch on interrupt remapping (x2APIC) in the BIOS, or say `allow_unsafe_interrupts: true`: a guest you do \
         not trust could then attack the host"
    );
    let anyway = json!({"devices": ["0000:82:00.0"], "allow_unsafe_interrupts": true});
    assert_eq!(plan(&machine, "vfio_bind", anyway.clone()).unwrap().warnings.len(), 1);
    apply(&machine, "vfio_bind", anyway).unwrap();
    assert!(text(&machine, persist::MODPROBE).contains("\noptions vfio_iommu_type1 allow_unsafe_interrupts=1\n"));
}

#[test]
fn c_three_identical_cards_are_ambiguous_by_id() {
    let mut seed = Box1::seed();
    for (address, group) in [("0000:06:00.0", 18), ("0000:83:00.0", 39)] {
        seed.card(&card(address, "pci0000:80", "0x030000", ("0x10de", "0x1430"), Some("nouveau"), group));
    }
    let machine = seed.make();
    assert_eq!(
        refusal(&machine, json!({"devices": ["0000:82:00.0"], "method": "ids"})),
        "`method: ids` would also take 0000:06:00.0 (10de:1430, VGA display): it has the same id as a device \
         that shall \
         go\nhint: bind by address: `method: udev` (or driverctl)"
    );
    let all = plan(&machine, "vfio_bind", json!({"devices": ["10de:1430"], "method": "ids"})).unwrap();
    assert!(shown(&all.actions).contains("+options vfio-pci ids=10de:0fba,10de:1430\n"), "{}", shown(&all.actions));
}

#[test]
fn c2_ids_need_vfio_pci_as_a_module() {
    let machine =
        Box1::seed().put("/lib/modules/5.4.0/modules.builtin", "kernel/drivers/vfio/pci/vfio-pci.ko\n").make();
    let said = refusal(&machine, json!({"devices": ["0000:82:00.0"], "method": "ids"}));
    assert!(said.starts_with("`method: ids` has no effect with kernel 5.4.0: vfio-pci is built into it"), "{said}");
    assert!(said.contains("vfio-pci.ids=10de:0fba,10de:1430"), "{said}");
}

#[test]
fn d_audio_in_another_group_is_bound_too_and_said() {
    let machine = Box1::seed().regroup("0000:82:00.1", GPU_PARENTS, 39).make();
    let first = plan(&machine, "vfio_bind", gpu()).unwrap();
    assert_eq!(
        first.warnings,
        ["0000:82:00.1 is a function of the same card as 0000:82:00.0, but in IOMMU group 39 of its own"]
    );
    let alone = plan(&machine, "vfio_bind", json!({"devices": ["82:00.0"], "functions": "listed"})).unwrap();
    assert_eq!(alone.warnings, ["0000:82:00.1 stays with the host though other functions of its card do not"]);
    let together = refusal(&Box1::seed().make(), json!({"devices": ["82:00.0"], "functions": "listed"}));
    assert!(together.starts_with("IOMMU group 38 of 0000:82:00.0 also holds 0000:82:00.1 (10de:0fba, audio device)"));
}

#[test]
fn e1_a_network_card_in_the_group_that_nobody_talks_through() {
    let machine = Box1::seed().regroup("0000:01:00.1", "pci0000:00/0000:00:01.0", 38).make();
    assert_eq!(
        refusal(&machine, gpu()),
        "IOMMU group 38 of 0000:82:00.0 also holds 0000:01:00.1 (8086:1521, network controller): a group goes to \
         a guest \
         whole or not at all\n\
         hint: list these devices too if no one needs them, or use another slot"
    );
    let machine = Box1::seed()
        .regroup("0000:01:00.1", "pci0000:00/0000:00:01.0", 38)
        .regroup("0000:80:02.0", "pci0000:80", 38)
        .make();
    assert!(refusal(&machine, gpu()).contains("ACS"), "with a root port in the group the slot is to blame");
}

#[test]
fn e2_the_network_card_of_the_connection() {
    let machine = Box1::seed().regroup("0000:01:00.0", "pci0000:00/0000:00:01.0", 38).make();
    assert_eq!(
        refusal(&machine, gpu()),
        "0000:01:00.0 (it shares an IOMMU group with 0000:82:00.0) is the network card eno1: the default route of this \
         machine goes through it\n\
         hint: reach the machine through another card first, or choose another device"
    );
    // Named through its sibling: all ports of the card join.
    let said = refusal(&Box1::seed().make(), json!({"devices": ["01:00.1"]}));
    assert!(said.starts_with("0000:01:00.0 is the network card eno1"), "{said}");
}

#[test]
fn e3_the_network_card_below_a_bridge() {
    let machine = Box1::seed()
        .put("/proc/net/route", "Iface\tDestination\tGateway\nbr0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\n")
        .put("/sys/class/net/br0/brif/eno1", "-> ../../eno1/brport")
        .make();
    let said = refusal(&machine, json!({"devices": ["01:00.0"]}));
    assert!(said.contains("is the network card eno1"), "{said}");
}

#[test]
fn f_the_boot_display() {
    let machine = Box1::seed().make();
    assert_eq!(
        refusal(&machine, json!({"devices": ["0a:00.0"]})),
        "0000:0a:00.0 (102b:0534, VGA display) is the display that this machine starts with (boot_vga)\n\
         hint: make 0000:82:00.0 (10de:1430, VGA display) the first display in the BIOS, or say `allow_boot_gpu: true` and \
         lose the console"
    );
    let anyway = plan(&machine, "vfio_bind", json!({"devices": ["0a:00.0"], "allow_boot_gpu": true})).unwrap();
    assert!(anyway.warnings[0].contains("its console goes dark"), "{:?}", anyway.warnings);
}

#[test]
fn f2_the_firmware_framebuffer_tells_too() {
    let machine = Box1::seed()
        .put("/proc/iomem", "a0000000-afffffff : PCI Bus 0000:82\n  a0000000-a07e8fff : BOOTFB\n")
        .put(
            &Box1::real(GPU_PARENTS, "0000:82:00.0", "resource"),
            "0x00000000f8000000 0x00000000f8ffffff 0x0000000000040200\n\
             0x00000000a0000000 0x00000000afffffff 0x000000000014220c\n",
        )
        .make();
    assert!(refusal(&machine, gpu()).contains("is the display that this machine starts with"));
}

#[test]
fn g_the_controller_of_the_root_disk() {
    let machine = Box1::seed().make();
    assert_eq!(
        refusal(&machine, json!({"devices": ["02:00.0"]})),
        "0000:02:00.0 carries the disk dm-0 with the file system / of this machine\n\
         hint: choose another device; a disk controller can only be given away when nothing on it is mounted"
    );
    let machine = Box1::seed().drop("/proc/self/mountinfo").make();
    let said = refusal(&machine, json!({"devices": ["02:00.0"]}));
    assert!(said.contains("which disk holds / of this machine can't be told"), "{said}");
}

#[test]
fn h_memory_that_the_firmware_reserves() {
    let machine = Box1::seed()
        .put(
            "/sys/kernel/iommu_groups/38/reserved_regions",
            "0x7b000000 0x7b0fffff direct\n0xfee00000 0xfeefffff msi\n",
        )
        .make();
    let said = refusal(&machine, gpu());
    assert!(said.starts_with(
        "IOMMU group 38 of 0000:82:00.0 has memory that the firmware reserves for itself (RMRR 0x7b000000-0x7b0fffff)"
    ));
    let relaxable = Box1::seed()
        .put("/sys/kernel/iommu_groups/38/reserved_regions", "0x7b000000 0x7b0fffff direct-relaxable\n")
        .make();
    assert!(plan(&relaxable, "vfio_bind", gpu()).is_ok());
}

#[test]
fn i_an_old_kernel_binds_by_id_or_says_what_is_missing() {
    let machine = Box1::seed().legacy().make();
    apply(&machine, "vfio_bind", gpu()).unwrap();
    assert!(text(&machine, persist::MODPROBE).contains("options vfio-pci ids=10de:0fba,10de:1430\n"));
    predict_boot(&machine).unwrap();
    assert_eq!(plan(&machine, "vfio_bind", gpu()).unwrap().reboot, Vec::<String>::new());
    assert_eq!(
        refusal(&Box1::seed().legacy().make(), json!({"devices": ["0000:82:00.0"], "method": "udev"})),
        "the running kernel has no driver_override for 0000:82:00.0: it is too old to bind by address\n\
         hint: boot a newer kernel first (3.16, or Enterprise Linux 7.1 and later), or use `method: ids`"
    );
    let mut twins = Box1::seed();
    twins.card(&card("0000:06:00.0", "pci0000:80", "0x030000", ("0x10de", "0x1430"), Some("nouveau"), 18)).legacy();
    assert!(refusal(&twins.make(), gpu()).contains("by id it can't be bound"));
}

#[test]
fn an_address_that_does_not_exist_names_the_nearest() {
    let machine = Box1::seed().make();
    assert_eq!(
        refusal(&machine, json!({"devices": ["0000:83:00.0"]})),
        "there is no PCI device 0000:83:00.0 on this machine\n\
         hint: the nearest is 0000:82:00.0 (10de:1430, VGA display); `lspci -D` lists all"
    );
}

#[test]
fn a_selector_that_fits_nothing_lists_the_displays() {
    let machine = Box1::seed().make();
    assert_eq!(
        refusal(&machine, json!({"devices": [{"vendor": "amd", "class": "display"}]})),
        "no device of this machine fits `vendor amd, class display`\n\
         hint: the displays here are 0000:0a:00.0 (102b:0534, VGA display), 0000:82:00.0 (10de:1430, VGA display); \
         `lspci -Dnn` lists all"
    );
}

#[test]
fn the_chipset_does_not_come_along() {
    let machine = Box1::seed().make();
    // Without a disk on it, so that the chipset is what is left to be said.
    assert_eq!(
        refusal(&machine, json!({"devices": ["00:1f.2"]})),
        "0000:00:1f.0 (8086:8d44, ISA bridge) is a part of the chipset, which this machine can't do without, and a \
         function of the same device as 0000:00:1f.2\n\
         hint: choose another device; `functions: listed` leaves the others with the host, if the IOMMU group is its own"
    );
    let listed = refusal(&machine, json!({"devices": ["00:1f.2"], "functions": "listed"}));
    assert!(listed.starts_with("IOMMU group 12 of 0000:00:1f.2 also holds 0000:00:1f.0"), "{listed}");
    let all = refusal(&machine, json!({"devices": ["00:1f.0", "00:1f.2", "00:1f.3"], "functions": "listed"}));
    assert!(all.contains("is a part of the chipset") && all.ends_with("hint: choose another device"), "{all}");
}

#[test]
fn a_physical_function_whose_virtual_ones_are_used() {
    let (parents, address) = ("pci0000:80", "0000:84:00.0");
    let machine = Box1::seed()
        .card(&card(address, parents, "0x020000", ("0x8086", "0x1528"), Some("ixgbe"), 51))
        .put(&Box1::real(parents, address, "sriov_numvfs"), "4\n")
        .put(&Box1::real(parents, address, "sriov_totalvfs"), "63\n")
        .make();
    assert!(refusal(&machine, json!({"devices": [address]})).contains("has virtual functions in use (4)"));
}

#[test]
fn a_bridge_and_a_device_without_a_group() {
    let machine = Box1::seed().make();
    assert!(refusal(&machine, json!({"devices": ["80:02.0"]})).contains("is a bridge"));
    let mut seed = Box1::seed();
    seed.drop(&Box1::real(GPU_PARENTS, "0000:82:00.0", "iommu_group"));
    assert!(refusal(&seed.make(), gpu()).contains("has no IOMMU group though the IOMMU is on"));
}

#[test]
fn cards_that_do_not_reset_are_warned_about() {
    let mut seed = Box1::seed();
    for address in ["0000:82:00.0", "0000:82:00.1"] {
        seed.put(&Box1::real(GPU_PARENTS, address, "reset_method"), "\n");
    }
    let first = plan(&seed.make(), "vfio_bind", gpu()).unwrap();
    assert!(first.warnings[0].contains("offers no way to reset it"), "{:?}", first.warnings);
    seed.put(&Box1::real(GPU_PARENTS, "0000:82:00.0", "reset_method"), "bus\n");
    assert_eq!(plan(&seed.make(), "vfio_bind", gpu()).unwrap().warnings, Vec::<String>::new());
    seed.put(&Box1::real(GPU_PARENTS, "0000:82:00.0", "vendor"), "0x1002\n");
    seed.put(&Box1::real(GPU_PARENTS, "0000:82:00.0", "device"), "0x67df\n");
    let first = plan(&seed.make(), "vfio_bind", gpu()).unwrap();
    assert!(first.warnings[0].contains("does not survive a reset"), "{:?}", first.warnings);
}

#[test]
fn ids_of_someone_else_that_take_more_are_warned_about() {
    let machine = Box1::seed().put("/etc/modprobe.d/old.conf", "options vfio_pci ids=8086:1521\n").make();
    let first = plan(&machine, "vfio_bind", gpu()).unwrap();
    assert_eq!(
        first.warnings,
        ["/etc/modprobe.d/old.conf gives 0000:01:00.0 (8086:1521, network controller) to vfio-pci too, by its id"]
    );
}

#[test]
fn no_devices_is_a_mistake_unless_all_is_taken_back() {
    let machine = Box1::seed().make();
    assert_eq!(plan(&machine, "vfio_bind", json!({})).unwrap_err().kind, ErrorKind::Parameters);
    assert!(plan(&machine, "vfio_bind", json!({"state": "absent"})).unwrap().actions.is_empty());
}
