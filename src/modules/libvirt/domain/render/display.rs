//! What a guest shows and hears, and who types: inputs, displays, emulated cards, sound.

use super::*;
use crate::modules::libvirt::domain::params::{Audio, Graphics, Input, Sound, Video};

/// The keyboard layouts that QEMU ships (pc-bios/keymaps); libvirt takes any word, and QEMU then does not start.
pub const KEYMAPS: &[&str] = &[
    "ar", "bepo", "cz", "da", "de", "de-ch", "en-gb", "en-us", "es", "et", "fi", "fo", "fr", "fr-be", "fr-ca", "fr-ch",
    "hr", "hu", "is", "it", "ja", "lt", "lv", "mk", "nl", "nl-be", "no", "pl", "pt", "pt-br", "ru", "sl", "sv", "th",
    "tr",
];

impl Build<'_> {
    /// `inputs` and `evdev`.
    pub(super) fn inputs(&mut self) -> Result<()> {
        for (at, input) in self.domain.inputs.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("inputs[{at}]");
            let element = with_xml(input_device(input)?, &what, input.xml.as_ref())?;
            self.device(&what, element);
        }
        for (at, evdev) in self.domain.evdev.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("evdev[{at}]");
            let toggles = ["ctrl-ctrl", "alt-alt", "shift-shift", "meta-meta", "scrolllock", "ctrl-scrolllock"];
            let source = Element::new("source")
                .with("dev", absolute(&what, &evdev.device)?)
                .with_some("grab", some_of(&format!("{what}.grab"), evdev.grab.as_deref(), &["all"])?)
                .with_some("grabToggle", some_of(&format!("{what}.toggle"), evdev.toggle.as_deref(), &toggles)?)
                .with_some("repeat", evdev.repeat.map(on_off));
            self.device(&what, Element::new("input").with("type", "evdev").child(source));
        }
        Ok(())
    }

    /// Does the guest get a card of the host?
    pub(super) fn has_card(&self) -> bool {
        self.domain.gpus.as_ref().is_some_and(|list| !list.is_empty())
    }

    /// `display`, `graphics`, `video`.
    pub(super) fn display(&mut self) -> Result<()> {
        let domain = self.domain;
        let display = some_of("display", domain.display.as_deref(), &["none", "vnc", "spice"])?;
        let filled = |list: usize| list > 0;
        if display.is_some() && filled(domain.graphics.as_ref().map_or(0, |list| list.len())) {
            return Err(Error::parameters("display and graphics are both given: display is graphics in short"));
        }
        for (at, graphics) in domain.graphics.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("graphics[{at}]");
            let element = with_xml(screen(graphics)?, &what, graphics.xml.as_ref())?;
            self.device(&what, element);
        }
        for (at, video) in domain.video.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("video[{at}]");
            let element = with_xml(card(video)?, &what, video.xml.as_ref())?;
            self.device(&what, element);
        }
        let none = || Element::new("video").child(Element::new("model").with("type", "none"));
        match display.as_deref() {
            Some("none") => {
                if domain.video.as_ref().is_some_and(|list| !list.is_empty()) {
                    return Err(Error::parameters("display is `none`, and video asks for a card"));
                }
                self.device("display", none());
                self.absent.push("devices/graphics");
            }
            Some(kind) => {
                let graphics = Graphics { kind: kind.to_string(), ..Graphics::default() };
                self.device("display", screen(&graphics)?);
                self.show(kind)?;
            }
            None => self.show_by_itself()?,
        }
        let shown = self.parts.iter().any(|part| part.name() == "graphics");
        if self.preset.is_some() && domain.inputs.is_none() && shown {
            // Absolute positions: the pointer is where the viewer's is.
            let why = self.preset_name();
            self.chosen_device(&why, Element::new("input").with("type", "tablet").with("bus", "usb"));
        }
        Ok(())
    }

    /// The emulated card behind a display, and what else a viewer needs.
    fn show(&mut self, kind: &str) -> Result<()> {
        if self.domain.video.is_none() {
            // A picture through Looking Glass comes from the guest's own card.
            let model = match (self.domain.looking_glass.is_some(), self.preset) {
                (true, _) => "none",
                (false, Some(preset)) => preset.video,
                (false, None) => "virtio",
            };
            let why = self.preset_name();
            self.chosen_device(&why, Element::new("video").child(Element::new("model").with("type", model)));
        }
        let has_channel = self
            .domain
            .channels
            .iter()
            .flat_map(|list| list.iter())
            .any(|channel| matches!(channel.0.0.name.as_deref(), Some("com.redhat.spice.0")));
        if kind == "spice" && !has_channel {
            let target = Element::new("target").with("type", "virtio").with("name", "com.redhat.spice.0");
            self.device("display", Element::new("channel").with("type", "spicevmc").child(target));
        }
        if kind == "spice" && self.preset.is_some() && self.domain.sound.is_none() {
            let why = self.preset_name();
            self.chosen_device(&why, Element::new("sound").with("model", "ich9"));
        }
        Ok(())
    }

    /// What a preset shows of a guest of which nothing is said: VNC, or nothing where it has a card of its own.
    fn show_by_itself(&mut self) -> Result<()> {
        let domain = self.domain;
        if self.preset.is_none() || domain.graphics.is_some() || domain.video.is_some() {
            return Ok(());
        }
        let why = self.preset_name();
        if domain.looking_glass.is_some() {
            // Its keyboard and mouse come through spice.
            let graphics = Graphics { kind: "spice".to_string(), ..Graphics::default() };
            self.chosen_device(&why, screen(&graphics)?);
            self.chosen_device(&why, Element::new("video").child(Element::new("model").with("type", "none")));
        } else if !self.has_card() {
            let graphics = Graphics { kind: "vnc".to_string(), ..Graphics::default() };
            self.chosen_device(&why, screen(&graphics)?);
            let model = self.preset.map_or("virtio", |preset| preset.video);
            self.chosen_device(&why, Element::new("video").child(Element::new("model").with("type", model)));
        }
        Ok(())
    }

    /// `sound` and `audio`.
    pub(super) fn sound(&mut self) -> Result<()> {
        for (at, sound) in self.domain.sound.iter().flat_map(|list| list.iter()).enumerate() {
            let element = sound_card(sound)?;
            self.device(&format!("sound[{at}]"), element);
        }
        let mut taken: Vec<u32> =
            self.domain.audio.iter().flat_map(|list| list.iter()).filter_map(|audio| audio.id).collect();
        for (at, audio) in self.domain.audio.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("audio[{at}]");
            let id = match audio.id {
                Some(0) => return Err(Error::parameters(format!("{what}: ids begin with 1"))),
                Some(id) => id,
                None => {
                    let free = (1..=u32::MAX).find(|id| !taken.contains(id)).unwrap_or(1);
                    taken.push(free);
                    free
                }
            };
            let element = with_xml(backend(audio, id, &what)?, &what, audio.xml.as_ref())?;
            self.device(&what, element);
        }
        Ok(())
    }
}

fn input_device(input: &Input) -> Result<Element> {
    let kind = one_of("inputs", &input.kind, &["tablet", "mouse", "keyboard", "passthrough"])?;
    let default = if kind == "passthrough" { "virtio" } else { "usb" };
    let bus = one_of("inputs.bus", input.bus.as_deref().unwrap_or(default), &["usb", "virtio", "ps2", "xen"])?;
    let models = ["virtio", "virtio-transitional", "virtio-non-transitional"];
    let model = some_of("inputs.model", input.model.as_deref(), &models)?;
    if model.is_some() && bus != "virtio" {
        return Err(Error::parameters("inputs: model goes with bus virtio"));
    }
    if (kind == "passthrough") != input.device.is_some() {
        return Err(Error::parameters("inputs: device goes with type passthrough, and only with it"));
    }
    let source = match &input.device {
        Some(device) => Some(Element::new("source").with("evdev", absolute("inputs.device", device)?)),
        None => None,
    };
    Ok(Element::new("input").with("type", kind).with("bus", bus).with_some("model", model).child_some(source))
}

fn screen(graphics: &Graphics) -> Result<Element> {
    let kinds = ["vnc", "spice", "sdl", "egl-headless", "dbus", "rdp"];
    let kind = one_of("graphics.type", &graphics.kind, &kinds)?;
    let mut element = Element::new("graphics").with("type", &*kind);
    let networked = kind == "vnc" || kind == "spice";
    let nowhere = graphics.socket.is_some() || graphics.listen.as_deref() == Some("none");
    if networked {
        match graphics.port {
            Some(port) => element = element.with("port", port.to_string()).with("autoport", "no"),
            // Where it listens on no address, it has no port.
            None if nowhere => {}
            None if kind == "vnc" => element = element.with("port", "-1").with("autoport", "yes"),
            None => element = element.with("autoport", "yes"),
        }
        element = element
            .with_some("tlsPort", graphics.tls_port.map(|port| port.to_string()))
            .with_some("websocket", graphics.websocket.map(|port| port.to_string()))
            .with_some("listen", graphics.listen.as_deref().filter(|_| !nowhere))
            .with_some("keymap", some_of("graphics.keymap", graphics.keymap.as_deref(), KEYMAPS)?)
            .with_some("passwd", graphics.passwd.as_deref())
            .with_some("passwdValidTo", graphics.passwd_valid_to.as_ref());
        if let Some(path) = &graphics.socket {
            if graphics.listen.is_some() || graphics.port.is_some() {
                return Err(Error::parameters("graphics: a socket goes without listen and port"));
            }
            let path = absolute("graphics.socket", path)?;
            element = element.child(Element::new("listen").with("type", "socket").with("socket", path));
        } else if nowhere {
            if kind == "vnc" {
                return Err(Error::parameters("graphics: `listen: none` is for spice; vnc can have a socket"));
            }
            element = element.child(Element::new("listen").with("type", "none"));
        }
    } else if graphics.port.is_some()
        || graphics.listen.is_some()
        || graphics.keymap.is_some()
        || graphics.passwd.is_some()
        || graphics.socket.is_some()
    {
        return Err(Error::parameters(format!(
            "graphics: port, listen, keymap, passwd and socket don't go with {kind}"
        )));
    }
    for (name, given) in [("tls_port", graphics.tls_port.is_some()), ("websocket", graphics.websocket.is_some())] {
        let right = if name == "tls_port" { "spice" } else { "vnc" };
        if given && kind != right {
            return Err(Error::parameters(format!("graphics: {name} goes with {right}")));
        }
    }
    if graphics.gl.is_some() || graphics.rendernode.is_some() {
        if kind == "vnc" {
            return Err(Error::parameters("graphics: gl does not go with vnc: add a second display, `egl-headless`"));
        }
        let enable = graphics.gl.or(Some(Flag(true))).filter(|_| kind != "egl-headless").map(yes_no);
        let gl = Element::new("gl").with_some("enable", enable).with_some("rendernode", graphics.rendernode.as_ref());
        element = element.child(gl);
    }
    Ok(element)
}

fn card(video: &Video) -> Result<Element> {
    let known = ["virtio", "qxl", "cirrus", "vga", "bochs", "ramfb", "vmvga", "none"];
    let model = one_of("video.model", &video.model, &known)?;
    let kib = |size: Option<Size>| size.map(|size| size.kib().to_string());
    let resolution = match &video.resolution {
        Some(text) => {
            let (x, y) = resolution("video.resolution", text)?;
            Some(Element::new("resolution").with("x", x.to_string()).with("y", y.to_string()))
        }
        None => None,
    };
    let accelerated = video.accel3d.map(|flag| Element::new("acceleration").with("accel3d", yes_no(flag)));
    for (name, given, right) in [
        ("accel3d", accelerated.is_some(), "virtio"),
        ("blob", video.blob.is_some(), "virtio"),
        ("ram", video.ram.is_some(), "qxl"),
        ("vgamem", video.vgamem.is_some(), "qxl"),
    ] {
        if given && model != right {
            return Err(Error::parameters(format!("video: {name} goes with model {right}, and this is {model}")));
        }
    }
    if model == "none" && (video.vram.is_some() || video.heads.is_some() || resolution.is_some()) {
        return Err(Error::parameters("video: a card that is not there (`none`) has no memory, heads or resolution"));
    }
    Ok(Element::new("video").child(
        Element::new("model")
            .with("type", model)
            .with_some("ram", kib(video.ram))
            .with_some("vram", kib(video.vram))
            .with_some("vgamem", kib(video.vgamem))
            .with_some("heads", video.heads.map(|heads| heads.to_string()))
            .with_some("primary", video.primary.map(yes_no))
            .with_some("blob", video.blob.map(on_off))
            .child_some(accelerated)
            .child_some(resolution),
    ))
}

/// `1920x1080`.
pub(super) fn resolution(what: &str, text: &str) -> Result<(u64, u64)> {
    let read = text.split_once('x').and_then(|(x, y)| Some((x.trim().parse().ok()?, y.trim().parse().ok()?)));
    read.filter(|(x, y)| (1..=65536).contains(x) && (1..=65536).contains(y))
        .ok_or_else(|| Error::parameters(format!("{what}: `{text}` is not a resolution, such as \"1920x1080\"")))
}

fn sound_card(sound: &Sound) -> Result<Element> {
    let known = ["ich9", "ich6", "ich7", "ac97", "usb", "es1370", "sb16", "pcspk", "virtio"];
    let model = one_of("sound", &sound.model, &known)?;
    let mut element = Element::new("sound").with("model", &*model);
    for codec in sound.codecs.iter() {
        if !model.starts_with("ich") {
            return Err(Error::parameters(format!("sound: codecs go with ich6 to ich9, and this is {model}")));
        }
        let codec = one_of("sound.codecs", codec, &["duplex", "micro", "output"])?;
        element = element.child(Element::new("codec").with("type", codec));
    }
    Ok(element.child_some(sound.audio.map(|id| Element::new("audio").with("id", id.to_string()))))
}

fn backend(audio: &Audio, id: u32, what: &str) -> Result<Element> {
    let known = ["none", "alsa", "pulseaudio", "pipewire", "jack", "spice", "sdl", "oss", "coreaudio", "file", "dbus"];
    let kind = one_of(&format!("{what}.type"), &audio.kind, &known)?;
    for (name, given, right) in [
        ("server", audio.server.is_some(), "pulseaudio"),
        ("runtime_dir", audio.runtime_dir.is_some(), "pipewire"),
        ("path", audio.path.is_some(), "file"),
    ] {
        if given && kind != right {
            return Err(Error::parameters(format!("{what}: {name} goes with {right}, and this is {kind}")));
        }
    }
    Ok(Element::new("audio")
        .with("id", id.to_string())
        .with("type", kind)
        .with_some("serverName", audio.server.as_ref())
        .with_some("runtimeDir", audio.runtime_dir.as_ref())
        .with_some("path", audio.path.as_ref()))
}
