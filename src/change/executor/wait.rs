//! Waiting for a path or a port.

use std::io::Read;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

use regex::bytes::Regex;

use super::command;
use crate::change::Wait;
use crate::host::{Error, FileKind, Host, Result};

/// How much of a file or of what a port says is searched.
const SEARCHED: u64 = 1 << 20;

/// Looks again and again until it is so.
pub fn wait(root: &Path, host: &dyn Host, wait: &Wait, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let pattern = wait
        .pattern
        .as_deref()
        .map(|text| Regex::new(text).map_err(|e| Error::parameters(format!("`{text}` is not a pattern: {e}"))))
        .transpose()?;
    let start = Instant::now();
    let end = Duration::from_secs(wait.timeout);
    std::thread::sleep(Duration::from_secs(wait.delay).min(end));
    let mut told = 0;
    loop {
        let there = match (&wait.path, wait.port) {
            (Some(path), _) => path_is_there(root, host, path, pattern.as_ref())?,
            (None, Some(port)) => port_is_open(&wait.host, port, wait.connect_timeout, pattern.as_ref()),
            // Nothing to wait for but the time.
            (None, None) => start.elapsed() >= end && wait.present,
        };
        if there == wait.present {
            return Ok(());
        }
        let elapsed = start.elapsed();
        if elapsed >= end {
            let what = what(wait);
            let message = wait.message.clone().unwrap_or_else(|| format!("waited {} s, but {what}", wait.timeout));
            return Err(Error::failed(message));
        }
        if elapsed.as_secs() / 10 > told {
            told = elapsed.as_secs() / 10;
            progress(&format!("waiting for {} s", told * 10));
        }
        std::thread::sleep(Duration::from_secs(wait.pause.max(1)).min(end - elapsed));
    }
}

fn what(wait: &Wait) -> String {
    let what = match (&wait.path, wait.port) {
        (Some(path), _) => path.clone(),
        (None, Some(port)) => format!("port {port} of {}", wait.host),
        (None, None) => "the time".to_string(),
    };
    match (&wait.pattern, wait.present) {
        (Some(pattern), true) => format!("`{pattern}` is not found in what {what} says"),
        (Some(pattern), false) => format!("`{pattern}` is still found in what {what} says"),
        (None, true) => format!("{what} is not there"),
        (None, false) => format!("{what} is still there"),
    }
}

fn path_is_there(root: &Path, host: &dyn Host, path: &str, pattern: Option<&Regex>) -> Result<bool> {
    let stat = host.stat(path)?;
    let (Some(pattern), Some(stat)) = (pattern, &stat) else { return Ok(stat.is_some()) };
    if stat.kind != FileKind::File {
        return Ok(false);
    }
    let place = root.join(host.real_path(path)?.trim_start_matches('/'));
    let mut text = Vec::new();
    let read = std::fs::File::open(place).and_then(|file| file.take(SEARCHED).read_to_end(&mut text));
    Ok(read.is_ok() && pattern.is_match(&text))
}

fn port_is_open(host: &str, port: u16, seconds: u64, pattern: Option<&Regex>) -> bool {
    let time = Duration::from_secs(seconds.max(1));
    let mut places: Vec<SocketAddr> =
        command::addresses(host).into_iter().map(|address| SocketAddr::new(address, port)).collect();
    if places.is_empty() {
        places.extend((host, port).to_socket_addrs().into_iter().flatten());
    }
    places.iter().any(|place| {
        let Ok(stream) = TcpStream::connect_timeout(place, time) else { return false };
        pattern.is_none_or(|pattern| says(stream, time, pattern))
    })
}

/// Does what comes over this connection within the time hold the pattern?
fn says(mut stream: TcpStream, time: Duration, pattern: &Regex) -> bool {
    let start = Instant::now();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        if stream.set_read_timeout(Some(left)).is_err() || text.len() as u64 > SEARCHED {
            break;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => text.extend(buffer.get(..length).unwrap_or_default()),
        }
        if pattern.is_match(&text) {
            return true;
        }
    }
    false
}
