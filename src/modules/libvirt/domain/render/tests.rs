//! Each parameter and each preset: the XML that comes of it.

use serde_json::Value;

use super::*;
use crate::modules::libvirt::domain::pinning::Core;

fn domain(text: &str) -> LibvirtDomain {
    let value: Value = serde_yaml::from_str(text).unwrap();
    serde_json::from_value(value).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn ovmf() -> ChosenFirmware {
    ChosenFirmware {
        loader: "/usr/share/OVMF/OVMF_CODE_4M.fd".to_string(),
        nvram_template: Some("/usr/share/OVMF/OVMF_VARS_4M.fd".to_string()),
        format: "raw".to_string(),
    }
}

/// The seed's machine: two sockets, and a card with two functions on the second.
fn host() -> Context {
    let address = |text: &str| PciAddress::parse(text).unwrap();
    let functions = vec![address("0000:82:00.0"), address("0000:82:00.1")];
    let cores = (0..12).map(|n| Core { node: n % 2, cpus: vec![n, n + 12] }).collect();
    Context {
        emulator: Some("/usr/bin/qemu-system-x86_64".to_string()),
        firmware: Some(ovmf()),
        gpus: vec![Card { functions, numa_node: Some(1) }],
        cpus: Some(HostCpus { cores, ..HostCpus::default() }),
        ..Context::default()
    }
}

fn xml_with(text: &str, context: &Context) -> String {
    render(&domain(text), context).unwrap_or_else(|e| panic!("{text}: {e}")).xml.print()
}

fn xml_of(text: &str) -> String {
    xml_with(&format!("{{name: g, memory: 1 GiB, {text}}}"), &host())
}

fn refused(text: &str) -> String {
    let error =
        render(&domain(&format!("{{name: g, memory: 1 GiB, {text}}}")), &host()).map(|w| w.xml.print()).unwrap_err();
    format!("{error} {}", error.hint.clone().unwrap_or_default())
}

/// All lines of `part` one after the other, whatever their indentation.
fn has(xml: &str, part: &str) -> bool {
    let flat = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    flat(xml).contains(&flat(part))
}

/// A guest's parameters, and parts of the XML that must be there.
pub(crate) const PARAMETERS: &[(&str, &[&str])] = &[
    (
        "type: qemu, machine: pc-i440fx-7.2, arch: x86_64",
        &["<domain type='qemu'>", "<type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>"],
    ),
    (
        "uuid: 9d2e07dc-bc8b-4afa-9fc2-2587aea917a0, title: t, description: d",
        &["<uuid>9d2e07dc-bc8b-4afa-9fc2-2587aea917a0</uuid>", "<title>t</title>"],
    ),
    (
        "current_memory: 512 MiB",
        &["<memory unit='KiB'>1048576</memory>", "<currentMemory unit='KiB'>524288</currentMemory>"],
    ),
    ("vcpus: 4, iothreads: 2", &["<vcpu>4</vcpu>", "<iothreads>2</iothreads>"]),
    (
        "topology: {sockets: 1, dies: 2, cores: 2, threads: 2}",
        &["<vcpu>8</vcpu>", "<topology sockets='1' dies='2' cores='2' threads='2'/>"],
    ),
    (
        "cpu: {mode: host-passthrough, cache: passthrough, features: {topoext: require}}",
        &["<cpu mode='host-passthrough'>", "<cache mode='passthrough'/>", "<feature policy='require' name='topoext'/>"],
    ),
    (
        "cpu: {mode: host-model, xml: \"<numa><cell id='0' cpus='0' memory='1' unit='GiB'/></numa>\"}",
        &["<numa>\n<cell id='0' cpus='0' memory='1' unit='GiB'/>"],
    ),
    ("hugepages: true", &["<memoryBacking>\n<hugepages/>\n</memoryBacking>"]),
    ("hugepages: 1 GiB", &["<page size='1048576' unit='KiB'/>"]),
    ("hugepages: {size: 2 MiB, nodeset: 0}", &["<page size='2048' unit='KiB'/>"]),
    (
        "hugepages: {size: 2 MiB, nodeset: 0}, cpu: {xml: \"<numa><cell id='0' cpus='0' memory='1' unit='GiB'/></numa>\"}",
        &["<page size='2048' unit='KiB' nodeset='0'/>"],
    ),
    (
        "memory_backing: {source: memfd, access: shared, allocation: immediate, locked: true, merge: false, discard: true}",
        &[
            "<nosharepages/>\n<locked/>\n<source type='memfd'/>\n<access mode='shared'/>\n<allocation mode='immediate'/>\n<discard/>",
        ],
    ),
    ("firmware: bios", &["<os>\n<type arch='x86_64' machine='q35'>hvm</type>\n</os>"]),
    (
        "firmware: ovmf",
        &[
            "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>",
            "<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/g_VARS.fd</nvram>",
        ],
    ),
    ("firmware: ovmf-secureboot", &["<loader readonly='yes' secure='yes' type='pflash'>", "<smm state='on'/>"]),
    (
        "loader: /f/CODE.qcow2, nvram_template: /f/VARS.qcow2, nvram: /n, loader_secure: false",
        &[
            "<loader readonly='yes' secure='no' type='pflash' format='qcow2'>/f/CODE.qcow2</loader>",
            "<nvram template='/f/VARS.qcow2' templateFormat='qcow2' format='qcow2'>/n</nvram>",
        ],
    ),
    (
        "kernel: /k, initrd: /i, kernel_args: 'a b', boot_menu: true",
        &["<kernel>/k</kernel>\n<initrd>/i</initrd>\n<cmdline>a b</cmdline>", "<bootmenu enable='yes'/>"],
    ),
    ("boot: [cdrom, hd]", &["<boot dev='cdrom'/>\n<boot dev='hd'/>"]),
    (
        "features: {pae: true, pmu: false, vmport: false, vmcoreinfo: true, msrs_unknown: ignore, kvm_hidden: true, kvm_hint_dedicated: true, kvm_poll_control: true}",
        &[
            "<pae/>",
            "<pmu state='off'/>",
            "<vmport state='off'/>",
            "<vmcoreinfo state='on'/>",
            "<msrs unknown='ignore'/>",
            "<hidden state='on'/>\n<hint-dedicated state='on'/>\n<poll-control state='on'/>",
        ],
    ),
    (
        "features: {hyperv: {vendor_id: 'abc', stimer: direct, spinlocks: 4096}}",
        &[
            "<vendor_id state='on' value='abc'/>",
            "<stimer state='on'>\n<direct state='on'/>",
            "<spinlocks state='on' retries='4096'/>",
        ],
    ),
    (
        "clock: {offset: timezone, timezone: Europe/Berlin, timers: [{name: tsc, mode: native, frequency: 3000000000}, {name: rtc, track: wall, tickpolicy: catchup}]}",
        &[
            "<clock offset='timezone' timezone='Europe/Berlin'>",
            "<timer name='tsc' frequency='3000000000' mode='native'/>",
            "<timer name='rtc' track='wall' tickpolicy='catchup'/>",
        ],
    ),
    ("sleep: {memory: false, disk: false}", &["<suspend-to-mem enabled='no'/>\n<suspend-to-disk enabled='no'/>"]),
    ("smbios: host", &["<smbios mode='host'/>"]),
    (
        "smbios: {bios: {vendor: A}, system: {serial: 0042, sku: x}, board: {product: B}, chassis: {asset: C}, oem_strings: [a, b]}",
        &[
            "<smbios mode='sysinfo'/>",
            "<sysinfo type='smbios'>",
            "<baseBoard>\n<entry name='product'>B</entry>",
            "<oemStrings>\n<entry>a</entry>\n<entry>b</entry>",
        ],
    ),
    (
        "disks: [/srv/a.qcow2, /dev/disk/by-id/x]",
        &[
            "<driver name='qemu' type='qcow2'/>\n<source file='/srv/a.qcow2'/>\n<target dev='vda' bus='virtio'/>",
            "<disk type='block' device='disk'>\n<driver name='qemu' type='raw'/>\n<source dev='/dev/disk/by-id/x'/>\n<target dev='vdb' bus='virtio'/>",
        ],
    ),
    (
        "iothreads: 1, disks: [{path: /a, cache: none, io: native, discard: unmap, detect_zeroes: unmap, iothread: 1, queues: 4, error_policy: stop, copy_on_read: true, logical_block_size: 4096, physical_block_size: 4096, limits: {total_bytes: 10 MiB, read_iops: 100}, serial: 7, shareable: true, boot: 2}]",
        &[
            "cache='none' error_policy='stop' io='native' discard='unmap' detect_zeroes='unmap' copy_on_read='on' iothread='1' queues='4'",
            "<blockio logical_block_size='4096' physical_block_size='4096'/>",
            "<total_bytes_sec>10485760</total_bytes_sec>\n<read_iops_sec>100</read_iops_sec>",
            "<serial>7</serial>",
            "<boot order='2'/>",
        ],
    ),
    (
        "disks: [{path: /a, bus: scsi, wwn: '5000c50015ea71aa', vendor: SEAGATE, product: ST3146707LC, rotation_rate: 1}]",
        &[
            "<target dev='sda' bus='scsi' rotation_rate='1'/>",
            "<wwn>5000c50015ea71aa</wwn>\n<vendor>SEAGATE</vendor>\n<product>ST3146707LC</product>",
        ],
    ),
    (
        "disks: [{path: /a, bus: usb, removable: true}, {device: floppy}, {device: lun, path: /dev/x}]",
        &[
            "<target dev='sda' bus='usb' removable='on'/>",
            "<target dev='fda' bus='fdc'/>",
            "<target dev='sdb' bus='scsi'/>",
        ],
    ),
    (
        "disks: [{network: {protocol: rbd, name: pool/image, hosts: [a, {name: b, port: 6789}], username: admin, secret_uuid: 9d2e07dc-bc8b-4afa-9fc2-2587aea917a0}}]",
        &[
            "<disk type='network' device='disk'>\n<driver name='qemu' type='raw'/>\n<source protocol='rbd' name='pool/image'>\n<host name='a'/>\n<host name='b' port='6789'/>\n<auth username='admin'>\n<secret type='ceph' uuid='9d2e07dc-bc8b-4afa-9fc2-2587aea917a0'/>",
        ],
    ),
    (
        "disks: [{network: {protocol: nbd, hosts: [{socket: /run/n}]}}, {network: {protocol: iscsi, name: 'iqn.2020-01.a:b/1', hosts: [a]}}]",
        &["<host transport='unix' socket='/run/n'/>", "<source protocol='iscsi' name='iqn.2020-01.a:b/1'>"],
    ),
    (
        "disks: [{pool: default, volume: 7, xml: \"<address type='pci' domain='0' bus='5' slot='0' function='0'/>\"}]",
        &["<source pool='default' volume='7'/>", "<address type='pci' domain='0' bus='5' slot='0' function='0'/>"],
    ),
    (
        "cdroms: [/a.iso, {startup_policy: optional, path: /b.iso}, {}]",
        &[
            "<source file='/a.iso'/>\n<target dev='sda' bus='sata'/>",
            "<source file='/b.iso' startupPolicy='optional'/>",
            "<target dev='sdc' bus='sata'/>",
        ],
    ),
    ("machine: pc, cdroms: [/a.iso]", &["<target dev='hda' bus='ide'/>"]),
    (
        "filesystems: [{source: /srv, target: share, queue: 1024, cache: always, xattr: true, binary: /usr/libexec/virtiofsd}]",
        &[
            "<filesystem type='mount' accessmode='passthrough'>\n<driver type='virtiofs' queue='1024'/>\n<binary path='/usr/libexec/virtiofsd' xattr='on'>\n<cache mode='always'/>",
            "<source type='memfd'/>\n<access mode='shared'/>",
        ],
    ),
    (
        "filesystems: [{type: 9p, source: /srv, target: share, accessmode: mapped, readonly: true}]",
        &["<filesystem type='mount' accessmode='mapped'>\n<source dir='/srv'/>\n<target dir='share'/>\n<readonly/>"],
    ),
    (
        "interfaces: [{bridge: br0, mac: '52:54:00:AA:BB:01', queues: 4, driver: vhost, mtu: 9000, link: down, target: tap7, vlan: [1, 2], filter: clean-traffic, filter_parameters: {IP: 10.0.0.1}, isolated: true, boot: 1, rom_bar: false}]",
        &[
            "<mac address='52:54:00:aa:bb:01'/>",
            "<vlan trunk='yes'>\n<tag id='1'/>\n<tag id='2'/>",
            "<target dev='tap7'/>\n<model type='virtio'/>\n<driver name='vhost' queues='4'/>",
            "<filterref filter='clean-traffic'>\n<parameter name='IP' value='10.0.0.1'/>",
            "<link state='down'/>\n<mtu size='9000'/>\n<port isolated='yes'/>",
            "<rom bar='off'/>",
        ],
    ),
    (
        "interfaces: [default, user, {direct: eth0, mode: vepa, model: e1000e}, {network: lan, portgroup: p}]",
        &[
            "<source network='default'/>",
            "<interface type='user'>",
            "<source dev='eth0' mode='vepa'/>\n<model type='e1000e'/>",
            "<source network='lan' portgroup='p'/>",
        ],
    ),
    (
        "networks: [{hostdev: '03:10.0'}]",
        &[
            "<interface managed='yes' type='hostdev'>\n<source>\n<address domain='0x0000' bus='0x03' slot='0x10' function='0x0' type='pci'/>",
        ],
    ),
    (
        "inputs: [tablet, {type: keyboard, bus: virtio, model: virtio}, {type: passthrough, device: /dev/input/event1}]",
        &[
            "<input type='tablet' bus='usb'/>",
            "<input type='keyboard' bus='virtio' model='virtio'/>",
            "<input type='passthrough' bus='virtio'>\n<source evdev='/dev/input/event1'/>",
        ],
    ),
    (
        "evdev: [/dev/input/by-id/a-event-kbd, {device: /dev/input/by-id/b-event-mouse, toggle: alt-alt}]",
        &[
            "<input type='evdev'>\n<source dev='/dev/input/by-id/a-event-kbd' grab='all' repeat='on'/>",
            "<source dev='/dev/input/by-id/b-event-mouse' grabToggle='alt-alt'/>",
        ],
    ),
    (
        "pci: [{address: '0000:05:00.1', managed: false, rom_bar: false, boot: 1}]",
        &[
            "<hostdev mode='subsystem' type='pci' managed='no'>\n<driver name='vfio'/>\n<source>\n<address domain='0x0000' bus='0x05' slot='0x00' function='0x1'/>\n</source>\n<boot order='1'/>\n<rom bar='off'/>",
        ],
    ),
    (
        "usb: ['046d:c52b', {bus: 1, device: 4, startup_policy: optional}]",
        &[
            "<vendor id='0x046d'/>\n<product id='0xc52b'/>",
            "<source startupPolicy='optional'>\n<address bus='1' device='4'/>",
        ],
    ),
    (
        "mdevs: [{uuid: c2177883-f1bb-47f0-914d-32a22e3a8804, display: true, ramfb: true}], graphics: [vnc]",
        &[
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on' ramfb='on'>\n<source>\n<address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/>",
        ],
    ),
    ("display: none", &["<video>\n<model type='none'/>"]),
    ("display: vnc", &["<graphics type='vnc' port='-1' autoport='yes'/>", "<video>\n<model type='virtio'/>"]),
    (
        "display: spice, video: [qxl]",
        &[
            "<graphics type='spice' autoport='yes'/>",
            "<model type='qxl'/>",
            "<channel type='spicevmc'>\n<target type='virtio' name='com.redhat.spice.0'/>",
        ],
    ),
    (
        "graphics: [{type: vnc, port: 5901, listen: 0.0.0.0, keymap: de, passwd: x, passwd_valid_to: '2030-01-01T00:00:00', websocket: -1}]",
        &[
            "<graphics type='vnc' port='5901' autoport='no' websocket='-1' listen='0.0.0.0' keymap='de' passwd='x' passwdValidTo='2030-01-01T00:00:00'/>",
        ],
    ),
    (
        "graphics: [{type: spice, listen: none, gl: true, rendernode: /dev/dri/renderD128}]",
        &["<graphics type='spice'>\n<listen type='none'/>\n<gl enable='yes' rendernode='/dev/dri/renderD128'/>"],
    ),
    (
        "graphics: [{type: vnc, socket: /run/v}, {type: egl-headless, rendernode: /dev/dri/renderD128}]",
        &[
            "<listen type='socket' socket='/run/v'/>",
            "<graphics type='egl-headless'>\n<gl rendernode='/dev/dri/renderD128'/>",
        ],
    ),
    (
        "video: [{model: virtio, heads: 2, primary: true, blob: true, accel3d: true, resolution: 1920x1080}]",
        &[
            "<model type='virtio' heads='2' primary='yes' blob='on'>\n<acceleration accel3d='yes'/>\n<resolution x='1920' y='1080'/>",
        ],
    ),
    (
        "video: [{model: qxl, ram: 64 MiB, vram: 64 MiB, vgamem: 16 MiB}]",
        &["<model type='qxl' ram='65536' vram='65536' vgamem='16384'/>"],
    ),
    (
        "looking_glass: 64 MiB",
        &["<shmem name='looking-glass'>\n<model type='ivshmem-plain'/>\n<size unit='M'>64</size>"],
    ),
    ("looking_glass: 3840x2160", &["<size unit='M'>128</size>"]),
    (
        "looking_glass: {resolution: 1920x1080, backend: kvmfr}",
        &[
            "<qemu:arg value='-device'/>",
            "&quot;mem-path&quot;:&quot;/dev/kvmfr0&quot;,&quot;size&quot;:33554432,&quot;share&quot;:true",
        ],
    ),
    (
        "sound: [{model: ich9, codecs: [micro, duplex], audio: 1}, ac97], audio: [{type: pulseaudio, server: /run/p}, {type: none, id: 1}]",
        &[
            "<sound model='ich9'>\n<codec type='micro'/>\n<codec type='duplex'/>\n<audio id='1'/>",
            "<audio id='2' type='pulseaudio' serverName='/run/p'/>",
            "<audio id='1' type='none'/>",
        ],
    ),
    (
        "serials: [pty, {type: unix, path: /run/s, mode: connect}, {type: tcp, port: 4555, protocol: telnet, target: isa-serial, number: 2}, /var/log/s]",
        &[
            "<serial type='pty'/>",
            "<source mode='connect' path='/run/s'/>",
            "<source mode='bind' host='127.0.0.1' service='4555'/>\n<protocol type='telnet'/>\n<target type='isa-serial' port='2'/>",
            "<serial type='file'>\n<source path='/var/log/s'/>",
        ],
    ),
    (
        "consoles: [{type: pty, target: virtio, log: /var/log/c}]",
        &["<console type='pty'>\n<log file='/var/log/c'/>\n<target type='virtio'/>"],
    ),
    (
        "channels: [guest-agent, spice, org.x.0], graphics: [spice]",
        &[
            "<channel type='unix'>\n<target type='virtio' name='org.qemu.guest_agent.0'/>",
            "<channel type='spicevmc'>",
            "name='org.x.0'",
        ],
    ),
    (
        "usb_redirection: 2, graphics: [spice]",
        &["<redirdev bus='usb' type='spicevmc'/>\n<redirdev bus='usb' type='spicevmc'/>"],
    ),
    ("tpm: true", &["<tpm model='tpm-crb'>\n<backend type='emulator' version='2.0'/>"]),
    ("tpm: '1.2'", &["<tpm model='tpm-tis'>\n<backend type='emulator' version='1.2'/>"]),
    ("tpm: passthrough", &["<tpm model='tpm-tis'>\n<backend type='passthrough'>\n<device path='/dev/tpm0'/>"]),
    (
        "tpm: {model: tpm-tis, secret: 9d2e07dc-bc8b-4afa-9fc2-2587aea917a0, persistent_state: true}",
        &[
            "<backend type='emulator' version='2.0' persistent_state='yes'>\n<encryption secret='9d2e07dc-bc8b-4afa-9fc2-2587aea917a0'/>",
        ],
    ),
    (
        "tpm: {backend: external, device: /run/t}",
        &["<backend type='external'>\n<source type='unix' mode='connect' path='/run/t'/>"],
    ),
    ("rng: true", &["<rng model='virtio'>\n<backend model='random'>/dev/urandom</backend>"]),
    (
        "rng: {backend: builtin, rate_bytes: 1024, rate_period: 2000}",
        &["<rate bytes='1024' period='2000'/>\n<backend model='builtin'/>"],
    ),
    ("watchdog: {model: i6300esb, action: poweroff}", &["<watchdog model='i6300esb' action='poweroff'/>"]),
    (
        "iommu: {model: intel, intremap: true, caching_mode: true, aw_bits: 48}, features: {ioapic: qemu}",
        &["<ioapic driver='qemu'/>", "<iommu model='intel'>\n<driver intremap='on' caching_mode='on' aw_bits='48'/>"],
    ),
    ("panic: isa, vsock: {cid: 7}", &["<panic model='isa'/>", "<cid auto='no' address='7'/>"]),
    ("vsock: auto, memballoon: none", &["<cid auto='yes'/>", "<memballoon model='none'/>"]),
    (
        "controllers: [qemu-xhci, {type: scsi, model: virtio-scsi, queues: 4}, {type: pci, index: 1, model: pcie-root-port}]",
        &[
            "<controller type='usb' index='0' model='qemu-xhci'/>",
            "<controller type='scsi' index='0' model='virtio-scsi'>\n<driver queues='4'/>",
            "<controller type='pci' index='1' model='pcie-root-port'/>",
        ],
    ),
    (
        "qemu_args: ['-fw_cfg', 'name=opt/x,string=1'], qemu_env: {A: 1}",
        &[
            "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
            "<qemu:commandline>\n<qemu:arg value='-fw_cfg'/>\n<qemu:arg value='name=opt/x,string=1'/>\n<qemu:env name='A' value='1'/>",
        ],
    ),
    (
        "iothreads: 1, vcpus: 2, pinning: {vcpus: [2, '3-4'], emulator: '0-1', iothreads: ['0'], memory: 0, memory_mode: preferred}",
        &[
            "<vcpupin vcpu='0' cpuset='2'/>\n<vcpupin vcpu='1' cpuset='3-4'/>\n<emulatorpin cpuset='0-1'/>\n<iothreadpin iothread='1' cpuset='0'/>",
            "<numatune>\n<memory mode='preferred' nodeset='0'/>",
        ],
    ),
    (
        "vcpus: 4, gpus: ['0000:82:00.0'], pinning: auto",
        &[
            "<vcpupin vcpu='0' cpuset='3'/>\n<vcpupin vcpu='1' cpuset='15'/>",
            "<memory mode='strict' nodeset='1'/>",
            "<topology sockets='1' cores='2' threads='2'/>",
        ],
    ),
    (
        "gpus: [{address: '82:00.0', rom_file: /r, boot: 1}]",
        &[
            "<address domain='0x0000' bus='0x82' slot='0x00' function='0x0'/>\n</source>\n<boot order='1'/>\n<rom file='/r'/>\n<address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0' multifunction='on'/>",
            "<address domain='0x0000' bus='0x82' slot='0x00' function='0x1'/>\n</source>\n<address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x1'/>",
        ],
    ),
    (
        "machine: pc, gpus: [nvidia]",
        &["<address type='pci' domain='0x0000' bus='0x00' slot='0x10' function='0x0' multifunction='on'/>"],
    ),
    (
        "gpus: [{id: '10de:1430', guest_slot: '05:00'}]",
        &["bus='0x05' slot='0x00' function='0x0' multifunction='on'/>", "bus='0x05' slot='0x00' function='0x1'/>"],
    ),
    (
        "disks: [/a], memballoon: virtio, xml: \"<devices><disk><target dev='vda'/><driver queues='2'/></disk><memballoon autodeflate='on'/><sound model='ich9'/></devices><features><hap state='on'/></features><cputune><shares>7</shares></cputune>\"",
        &[
            "<driver name='qemu' type='raw' queues='2'/>",
            "<memballoon model='virtio' autodeflate='on'/>",
            "<sound model='ich9'/>",
            "<apic/>\n<hap state='on'/>",
            "<shares>7</shares>",
        ],
    ),
];

#[test]
fn every_parameter_gives_its_xml() {
    for (text, parts) in PARAMETERS {
        let xml = xml_of(text);
        for part in *parts {
            assert!(has(&xml, part), "{text}: no\n{part}\nin\n{xml}");
        }
        assert!(!xml.contains("vp:"), "{xml}");
    }
}

#[test]
fn what_can_not_be_is_refused_with_a_way_out() {
    for (text, parts) in [
        ("os: windows-12", &["os: `windows-12` is not one of", "did you mean `windows-11`?"][..]),
        ("machine: q35, disks: [{path: /a, bus: ide}]", &["q35 has no IDE"]),
        ("machine: pc, os: windows-11", &["Secure Boot needs machine q35"]),
        ("firmware: ovmf, features: {acpi: false}", &["UEFI needs ACPI"]),
        ("firmware: ovmf, loader: /a", &["firmware and loader are both given"]),
        ("graphics: [{type: vnc, keymap: en-uk}]", &["graphics.keymap: `en-uk`", "did you mean `en-us`?"]),
        ("graphics: [vcn]", &["did you mean `vnc`?"]),
        ("sound: [ihc9]", &["did you mean `ich9`?"]),
        ("interfaces: [{bridge: br0, model: virtoi}]", &["did you mean `virtio`?"]),
        ("interfaces: [{bridge: br0, network: default}]", &["exactly one of"]),
        ("interfaces: [{bridge: br0, model: e1000, queues: 2}]", &["are for model virtio"]),
        ("interfaces: [{bridge: br0, vlan: 4095}]", &["1 to 4094"]),
        ("disks: [{path: /a, iothread: 1}]", &["no I/O thread 1", "`iothreads`"]),
        ("disks: [{path: /a, rotation_rate: 1}]", &["rotation_rate is for disks on sata, scsi, ide"]),
        ("disks: [{path: /a, wwn: '5000'}]", &["16 hexadecimal digits"]),
        ("disks: [{path: /a, cache: writeback, io: native}]", &["io native needs cache none"]),
        ("disks: [{path: /a, target: vda}, {path: /b, target: vda}]", &["two disks have the target `vda`"]),
        ("disks: [{path: a}]", &["must begin with a slash"]),
        ("vcpus: 3, topology: {cores: 2}", &["vcpus is 3, and topology has room for 2"]),
        ("vcpus: 4, pinning: {vcpus: [1, 2]}", &["has 2 entries, and the guest has 4"]),
        ("vcpus: 16, gpus: ['82:00.0'], pinning: auto", &["NUMA node 1 has 12"]),
        ("pinning: {auto: true, node: 7}", &["no NUMA node 7, but 0, 1"]),
        ("hugepages: 3 MiB", &["no machine has pages of 3 MiB"]),
        ("iommu: {model: intel, intremap: true}", &["`features: {ioapic: qemu}`"]),
        ("tpm: {model: tpm-crb, version: '1.2'}", &["version 1.2 has tpm-tis"]),
        ("watchdog: itco, machine: pc", &["part of machine q35"]),
        ("smbios: {system: {serail: x}}", &["did you mean `serial`?"]),
        ("display: vnc, graphics: [vnc]", &["both given"]),
        ("looking_glass: 100 MiB", &["power of two"]),
        ("gpus: ['82:00.0'], pci: ['82:00.0']", &["given twice"]),
        ("uuid: x1234", &["is not a UUID"]),
        (
            "interfaces: [{bridge: a, mac: '52:54:00:AA:00:01'}, {bridge: b, mac: '52:54:00:aa:00:01'}]",
            &["interfaces[1]", "another card of this guest has the MAC address 52:54:00:aa:00:01"],
        ),
        ("gpus: [{address: '82:00.0', functions: [1]}]", &["gpus[0].functions", "is not among them"]),
        ("gpus: [{address: '82:00.0', functions: [0, 8]}]", &["functions 0 to 7"]),
        ("looking_glass: {backend: kvmfr, xml: '<address/>'}", &["has no <shmem>"]),
        ("features: {hyperv: {relaxd: true}}", &["did you mean `relaxed`?"]),
        ("xml: '<a>'", &["parameter `xml`"]),
        ("xml: 'text'", &["there is text"]),
        ("definition: '<network/>'", &["a <domain> is expected"]),
        ("channels: [{type: unix}]", &["a channel needs a name"]),
        ("controllers: [{type: usb, model: xhci}]", &["controllers[0].model"]),
        ("qemu_env: {'A B': 1}", &["can't be the name of a variable"]),
    ] {
        let said = refused(text);
        for part in parts {
            assert!(said.contains(part), "{text}: {said}");
        }
    }
    // Without a machine some things can't be told.
    let nowhere = |text: &str| render(&domain(text), &Context::default()).unwrap_err().to_string();
    assert!(nowhere("{name: g, memory: 1 GiB, gpus: [nvidia]}").contains("only on its machine"));
    assert!(nowhere("{name: g, memory: 1 GiB, pinning: auto}").contains("needs a machine"));
}

#[test]
fn each_preset_chooses_what_its_system_knows() {
    for (name, machine, parts, not) in [
        (
            "windows-11",
            "<type arch='x86_64' machine='q35'>",
            &[
                "secure='yes'",
                "<smm state='on'/>",
                "<tpm model='tpm-crb'>",
                "<timer name='hypervclock' present='yes'/>",
                "<clock offset='localtime'>",
                "<tlbflush state='on'/>",
                "<target dev='vda' bus='virtio'/>",
                "<model type='virtio'/>",
                "model='qemu-xhci'",
                "<cpu mode='host-passthrough'>",
            ][..],
            &["<rng "][..],
        ),
        (
            "win10",
            "q35",
            &["<loader readonly='yes' type='pflash'>", "<ipi state='on'/>", "bus='virtio'"],
            &["<tpm", "secure="],
        ),
        (
            "windows-8.1",
            "q35",
            &["<stimer state='on'/>", "bus='sata'", "<model type='e1000e'/>", "pflash"],
            &["tlbflush", "bus='virtio'"],
        ),
        (
            "windows-7",
            "q35",
            &["<relaxed state='on'/>", "bus='sata'", "<model type='e1000e'/>", "ich9-ehci1", "<master startport='4'/>"],
            &["pflash", "synic", "xhci"],
        ),
        ("windows-server-2022", "q35", &["<frequencies state='on'/>", "bus='virtio'"], &["<tpm"]),
        ("windows-server-2008r2", "q35", &["<vapic state='on'/>"], &["synic", "pflash"]),
        (
            "linux",
            "q35",
            &[
                "<clock offset='utc'>",
                "<rng model='virtio'>",
                "<serial type='pty'/>",
                "org.qemu.guest_agent.0",
                "<suspend-to-mem enabled='no'/>",
                "<timer name='hpet' present='no'/>",
                "discard='unmap'",
            ],
            &["hyperv", "<tpm"],
        ),
        ("freebsd", "q35", &["<clock offset='utc'>"], &["hyperv"]),
        ("generic", "q35", &["bus='sata'", "<model type='e1000e'/>"], &["hyperv", "guest_agent", "<rng", "pflash"]),
    ] {
        let xml = xml_of(&format!("os: {name}, vcpus: 4, disks: [/a.qcow2], interfaces: [{{bridge: br0}}]"));
        assert!(xml.contains(machine), "{name}: {xml}");
        for part in parts {
            assert!(xml.contains(part), "{name}: no {part} in\n{xml}");
        }
        for part in not {
            assert!(!xml.contains(part), "{name}: {part} in\n{xml}");
        }
        assert!(xml.contains("<topology sockets='1' cores='4' threads='1'/>"), "{xml}");
        assert!(xml.contains("<graphics type='vnc'") && xml.contains("<input type='tablet' bus='usb'/>"), "{xml}");
    }
}

#[test]
fn what_is_said_wins_over_a_preset() {
    let xml = xml_of(
        "os: windows-11, vcpus: 8, topology: {cores: 4, threads: 2}, firmware: bios, tpm: none, clock: utc, cpu: host-model, \
         disks: [{path: /a.qcow2, bus: sata, discard: ignore}], interfaces: [{bridge: br0, model: e1000e}], \
         features: {hyperv: {relaxed: false, vendor_id: abc}}, display: none, controllers: [nec-xhci], channels: [], \
         memballoon: virtio, sleep: {memory: true}",
    );
    for part in [
        "<topology sockets='1' cores='4' threads='2'/>",
        "<clock offset='utc'>",
        "<cpu mode='host-model'>",
        "<target dev='sda' bus='sata'/>",
        "discard='ignore'",
        "<model type='e1000e'/>",
        "<relaxed state='off'/>",
        "<vendor_id state='on' value='abc'/>",
        "<vapic state='on'/>",
        "nec-xhci",
        "<memballoon model='virtio'/>",
        "<suspend-to-mem enabled='yes'/>",
    ] {
        assert!(xml.contains(part), "no {part} in\n{xml}");
    }
    for part in ["pflash", "<tpm", "qemu-xhci", "guest_agent", "<graphics", "<input", "suspend-to-disk"] {
        assert!(!xml.contains(part), "{part} in\n{xml}");
    }
    // A card of its own needs no emulated one, and no balloon.
    let xml = xml_of("os: linux, gpus: ['82:00.0']");
    assert!(!xml.contains("<graphics") && xml.contains("<memballoon model='none'/>"), "{xml}");
    let xml = xml_of("os: windows-10, gpus: ['82:00.0'], looking_glass: 64 MiB");
    assert!(xml.contains("<graphics type='spice'") && xml.contains("<model type='none'/>"), "{xml}");
    // EL7 knows fewer enlightenments, and without KVM there are none.
    let old = xml_with("{name: g, memory: 1 GiB, os: windows-10}", &Context { old_libvirt: true, ..host() });
    assert!(old.contains("<synic state='on'/>") && !old.contains("<ipi"), "{old}");
    let slow = xml_of("os: windows-10, type: qemu");
    assert!(!slow.contains("hyperv") && slow.contains("<cpu mode='maximum'/>"), "{slow}");
}

#[test]
fn a_guest_that_exists_keeps_what_was_chosen_for_it() {
    let text = "{name: g, memory: 1 GiB, os: windows-11, vcpus: 4, identity: ws01, disks: [/a.qcow2], \
                interfaces: [{bridge: br0}], gpus: ['82:00.0']}";
    let made = render(&domain(text), &host()).unwrap();
    // Another version of this program chose otherwise, or somebody changed it by hand.
    let there = made
        .xml
        .print()
        .replace("<cpu mode='host-passthrough'>", "<cpu mode='host-model'>")
        .replace("bus='virtio'", "bus='sata'")
        .replace("'vda'", "'sdq'")
        .replace("<model type='virtio'/>", "<model type='rtl8139'/>")
        .replace("localtime", "utc")
        .replace("bus='0x01' slot='0x00'", "bus='0x07' slot='0x00'")
        .replace("<ipi state='on'/>", "");
    let current = xml::parse(&there).unwrap();
    let again = render(&domain(text), &Context { current: Some(current.clone()), ..host() }).unwrap();
    let merged = crate::modules::libvirt::domain::compare::merge(&again, &current, Some(&made.intent));
    assert_eq!(merged.changes, [], "{}", again.xml.print());
    assert_eq!(merged.left_alone, Vec::<String>::new());
    // A second disk and interface get what the preset chooses for new ones.
    let more =
        text.replace("[/a.qcow2]", "[/a.qcow2, /b.qcow2]").replace("{bridge: br0}", "{bridge: br0}, {bridge: br1}");
    let next = render(&domain(&more), &Context { current: Some(current.clone()), ..host() }).unwrap();
    let merged = crate::modules::libvirt::domain::compare::merge(&next, &current, Some(&again.intent));
    let shown: Vec<&str> = merged.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0] == "disk vda" && shown[1].starts_with("network interface 52:54:00:"), "{shown:?}");
    let print = merged.xml.print();
    assert!(
        print.contains("<target dev='vda' bus='virtio'/>") && print.contains("<target dev='sdq' bus='sata'/>"),
        "{print}"
    );
    assert_eq!(print.matches("52:54:00:").count(), 2, "{print}");
    // And what the intent holds does not depend on what is there.
    assert_eq!(made.intent.text_at(&["uuid"]), None);
    assert!(!made.intent.print().contains("hyperv"), "{}", made.intent.print());
}

#[test]
fn names_come_from_the_inventory_and_stay() {
    let text = "{name: g, memory: 1 GiB, identity: ws01, interfaces: [{bridge: br0}, {network: default}]}";
    let first = xml_with(text, &Context::default());
    assert_eq!(first, xml_with(text, &Context::default()));
    assert!(first.contains("<uuid>") && first.matches("52:54:00:").count() == 2, "{first}");
    assert_ne!(first, xml_with(&text.replace("ws01", "ws02"), &Context::default()));
    assert!(!xml_with("{name: g, memory: 1 GiB, interfaces: [default]}", &Context::default()).contains("<mac"));
    // Another bridge is the same interface: its address is not touched.
    let current = xml::parse(&first).unwrap();
    let moved = render(&domain(&text.replace("br0", "br7")), &Context { current: Some(current), ..Context::default() });
    assert!(!moved.unwrap().xml.print().contains("<mac"));
}

#[test]
fn a_disk_without_a_name_keeps_its_own() {
    let current = xml::parse(&xml_of("disks: [/a, /b, /c]")).unwrap();
    let xml = xml_with(
        "{name: g, memory: 1 GiB, disks: [/new, /c, /b]}",
        &Context { current: Some(current), ..Context::default() },
    );
    for part in [
        "<source file='/c'/>\n<target dev='vdc'",
        "<source file='/b'/>\n<target dev='vdb'",
        "<source file='/new'/>\n<target dev='vda'",
    ] {
        assert!(has(&xml, part), "{part} in {xml}");
    }
}

#[test]
fn a_definition_is_the_base_of_the_rest() {
    let base = "<?xml version='1.0'?><domain type='kvm' id='7'><name>other</name><memory unit='GiB'>2</memory>\
                <vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><features><acpi/></features>\
                <devices><emulator>/e</emulator><disk type='file' device='disk'><source file='/a'/>\
                <target dev='vda' bus='virtio'/></disk><memballoon model='virtio'/></devices></domain>";
    let text = serde_json::json!({
        "name": "g", "definition": base, "memory": "4 GiB", "disks": [{"path": "/a", "target": "vda", "cache": "none"}],
        "memballoon": "none", "xml": "<vcpu>3</vcpu>"
    });
    let domain: LibvirtDomain = serde_json::from_value(text).unwrap();
    let xml = render(&domain, &host()).unwrap().xml.print();
    for part in [
        "<name>g</name>",
        "<memory unit='KiB'>4194304</memory>",
        "<vcpu>3</vcpu>",
        "machine='pc-q35-7.2'",
        "cache='none'",
        "<memballoon model='none'/>",
        "<emulator>/e</emulator>",
    ] {
        assert!(xml.contains(part), "no {part} in\n{xml}");
    }
    assert!(!xml.contains("apic") && !xml.contains("id='7'") && !xml.contains("qemu-system"), "{xml}");
    assert_eq!(xml.matches("<disk ").count(), 1);
}

#[test]
fn an_xml_block_goes_to_its_place() {
    let xml = xml_of(
        "vcpus: 2, pinning: {vcpus: ['1', '2']}, interfaces: [{bridge: br0, mac: '52:54:00:00:00:01'}], \
         xml: \"<domain type='qemu'><cputune><vcpupin vcpu='1' cpuset='7'/><shares>9</shares></cputune>\
         <devices><interface><mac address='52:54:00:00:00:01'/><mtu size='9000'/></interface>\
         <interface type='bridge'><source bridge='br0'/></interface></devices></domain>\"",
    );
    for part in [
        "<domain type='qemu'>",
        "<vcpupin vcpu='0' cpuset='1'/>\n<vcpupin vcpu='1' cpuset='7'/>\n<shares>9</shares>",
        "<model type='virtio'/>\n<mtu size='9000'/>",
    ] {
        assert!(has(&xml, part), "no {part} in\n{xml}");
    }
    assert_eq!(xml.matches("<interface ").count(), 2, "{xml}");
    // What a preset would choose gives way to a device of an xml block.
    let xml = xml_of("os: linux, xml: \"<devices><rng model='virtio'><backend model='builtin'/></rng></devices>\"");
    assert!(xml.contains("builtin") && !xml.contains("urandom"), "{xml}");
}

#[test]
fn comments_say_where_things_came_from() {
    let text = "{name: g, memory: 1 GiB, os: windows-11, vcpus: 4, identity: ws--01, disks: [/a.qcow2], gpus: ['82:00.0'], \
                pinning: auto, xml: \"<devices><sound model='ich9'/></devices>\"}";
    let shown = explain(&domain(text), &host()).unwrap();
    for comment in [
        "<!-- parameter name -->\n<name>g</name>",
        "<!-- derived from the inventory name ws- -01 and the guest's -->\n<uuid>",
        "<!-- preset windows-11 -->\n<cpu mode='host-passthrough'>",
        "<!-- parameter pinning, derived from the host: NUMA node 1 of the card 0000:82:00.0 -->",
        "<!-- parameter disks[0] -->",
        "bus: preset windows-11",
        "<!-- preset windows-11, found by the firmware descriptors of the host -->",
        "<!-- parameter gpus[0], another function of the card -->",
        "<!-- the xml block -->\n<sound model='ich9'/>",
        "<!-- derived from the host's distribution -->\n<emulator>",
    ] {
        assert!(has(&shown, comment), "no {comment} in\n{shown}");
    }
    assert_eq!(xml::parse(&shown).unwrap(), render(&domain(text), &host()).unwrap().xml);
    // Of a guest that exists, what is kept.
    let current = render(&domain(text), &host()).unwrap().xml;
    let shown = explain(&domain(text), &Context { current: Some(current), ..host() }).unwrap();
    assert!(has(&shown, "<!-- kept of the guest -->\n<cpu mode='host-passthrough'>"), "{shown}");
}

#[test]
fn libvirts_schema_takes_all_of_it() {
    const SCHEMA: &str = "/usr/share/libvirt/schemas/domain.rng";
    let tool = std::process::Command::new("xmllint").arg("--version").output();
    if !std::path::Path::new(SCHEMA).exists() || tool.is_err() {
        eprintln!("skipped: xmllint or {SCHEMA} is missing");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    let presets = presets::ALL.iter().map(|preset| {
        format!("os: {}, vcpus: 4, identity: ws01, disks: [/a.qcow2], cdroms: [/a.iso], interfaces: [default], display: spice", preset.name)
    });
    let mut all: Vec<String> = PARAMETERS.iter().map(|(text, _)| (*text).to_string()).collect();
    all.extend(presets);
    // What came after libvirt 9.0: formats of variables, and blobs.
    let schema = std::fs::read_to_string("/usr/share/libvirt/schemas/domaincommon.rng").unwrap_or_default();
    let knows = |xml: &str| {
        [("templateFormat=", "\"templateFormat\""), ("blob=", "\"blob\"")]
            .iter()
            .all(|(written, name)| !xml.contains(written) || schema.contains(name))
    };
    for (at, text) in all.iter().enumerate() {
        if !knows(&xml_of(text)) {
            continue;
        }
        let path = folder.path().join(format!("{at}.xml"));
        std::fs::write(&path, xml_of(text)).unwrap();
        files.push(path);
    }
    let output =
        std::process::Command::new("xmllint").args(["--noout", "--relaxng", SCHEMA]).args(&files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let wrong: Vec<String> = said
        .lines()
        .filter_map(|line| line.strip_suffix(" fails to validate"))
        .filter_map(|path| std::path::Path::new(path).file_stem()?.to_str()?.parse::<usize>().ok())
        .filter_map(|at| all.get(at).cloned())
        .collect();
    assert!(output.status.success(), "{wrong:#?}\n{said}");
}
