//! Guests and what is around them against a real libvirtd: a private one, in namespaces of its own.
//!
//! Each test starts itself again inside (`tests/libvirt_real/namespace.sh`). They are skipped, with one word about why,
//! where there is no root, no namespaces or no libvirt. An everyday run takes a sample of the edits; everything is tried
//! with `VFIO_PROVISION_GUESTS_FULL=1`. What the controller fills in of a description needs no libvirt.

mod guests;

#[test]
fn networks_hold_and_change_while_they_run() {
    guests::enter("networks_hold_and_change_while_they_run", || {
        guests::around::networks();
        guests::around::running_networks();
    });
}

#[test]
fn pools_and_volumes() {
    guests::enter("pools_and_volumes", || {
        guests::around::pools();
        guests::around::volumes();
    });
}

#[test]
fn firmware_is_what_libvirt_would_choose() {
    guests::enter("firmware_is_what_libvirt_would_choose", guests::firmware::choices);
}

#[test]
fn guests_of_every_kind() {
    guests::enter("guests_of_every_kind", guests::corpus::every_kind);
}

#[test]
fn a_whole_domain_from_a_file() {
    guests::described::whole_files();
}

#[test]
fn a_whole_domain_from_a_template() {
    guests::described::whole_templates();
}

#[test]
fn names_that_uuid_and_mac_come_of() {
    guests::described::identities();
}
