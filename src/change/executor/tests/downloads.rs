//! Against a tiny server on loopback.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::*;
use crate::change::executor::download::Patience;

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    stalled: Duration::from_secs(2),
    backoff: Duration::from_millis(10),
    tries: 3,
};

/// Answers each connection with the next of these bytes, then closes; tells the header of each request.
fn server(answers: Vec<Vec<u8>>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/virtio-win.iso", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut head).is_ok_and(|length| length > 2) {}
            let _ = tell.send(head.to_lowercase());
            let _ = stream.write_all(&answer);
        }
    });
    (url, told)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").as_bytes(), body].concat()
}

fn body() -> Vec<u8> {
    (0..3_000_000u32).map(|n| (n % 251) as u8).collect()
}

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn fetch(disk: &Disk, url: &str, sha256: Option<&str>, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let folder = Folder::open(&disk.0, "/").unwrap();
    let local = |path: &str| Ok(File::open(disk.at(path)).unwrap());
    let staged = download::fetch(&folder, "iso", url, sha256, &PATIENCE, &local, progress)?;
    Executor { root: &disk.0, host: disk }.put_in_place(&folder, staged, "iso", "/iso", Wanted::default(), &[])?;
    download::forget(&folder, "iso", None)
}

#[test]
fn a_cut_download_is_resumed_where_it_ended() {
    let (_dir, disk) = disk();
    let body = body();
    let (url, told) = server(vec![
        answer("200 OK", "ETag: \"v1\"\r\nContent-Length: 3000000\r\n", &body[..1_000_000]),
        answer("503 Busy", "Content-Length: 0\r\n", b""),
        answer(
            "206 Partial",
            "Content-Range: bytes 1000000-2999999/3000000\r\nContent-Length: 2000000\r\n",
            &body[1_000_000..],
        ),
    ]);
    let mut said = Vec::new();
    fetch(&disk, &url, Some(&hash(&body).to_uppercase()), &mut |text| said.push(text.to_string())).unwrap();
    assert!(std::fs::read(disk.at("/iso")).unwrap() == body);
    assert_eq!(mode(&disk.at("/iso")), 0o644);
    assert_eq!(names(&disk.0), ["iso"]);
    assert!(!told.recv().unwrap().contains("range:"));
    for _ in 0..2 {
        let head = told.recv().unwrap();
        assert!(head.contains("range: bytes=1000000-\r\n") && head.contains("if-range: \"v1\"\r\n"), "{head}");
    }
    assert!(said.iter().any(|text| text.ends_with(" of 2.9 MiB")), "{said:?}");
}

#[test]
fn another_run_goes_on_and_a_changed_file_starts_over() {
    let (_dir, disk) = disk();
    let body = body();
    let cut = answer("200 OK", "Last-Modified: yesterday\r\nContent-Length: 3000000\r\n", &body[..500_000]);
    let no = answer("500 Oh", "Content-Length: 0\r\n", b"");
    let (url, told) = server(vec![cut, no.clone(), no, answer("200 OK", "Content-Length: 5\r\n", b"other")]);
    let error = fetch(&disk, &url, None, &mut |_| {}).unwrap_err();
    assert!(error.message.contains("500"), "{error}");
    assert_eq!(names(&disk.0).len(), 2);
    fetch(&disk, &url, None, &mut |_| {}).unwrap();
    assert_eq!(told.iter().filter(|head| head.contains("if-range: yesterday")).count(), 3);
    assert_eq!(std::fs::read(disk.at("/iso")).unwrap(), b"other");
    assert_eq!(names(&disk.0), ["iso"]);
}

#[test]
fn a_wrong_hash_names_both_and_leaves_nothing() {
    let (_dir, disk) = disk();
    std::fs::write(disk.at("/iso"), "old").unwrap();
    let (url, _told) = server(vec![answer("200 OK", "Content-Length: 3\r\n", b"new")]);
    let error = fetch(&disk, &url, Some(&hash(b"newer")), &mut |_| {}).unwrap_err();
    assert!(error.message.contains(&hash(b"new")) && error.message.contains(&hash(b"newer")), "{error}");
    assert_eq!(names(&disk.0), ["iso"]);
    assert_eq!(std::fs::read(disk.at("/iso")).unwrap(), b"old");
    assert!(fetch(&disk, &url, Some("abc"), &mut |_| {}).unwrap_err().message.contains("not a sha256"));
}

#[test]
fn redirects_are_followed_and_refusals_are_not_tried_again() {
    let (_dir, disk) = disk();
    let (there, _told) = server(vec![answer("200 OK", "Content-Length: 2\r\n", b"ok")]);
    let (here, _told2) = server(vec![answer("302 Found", &format!("Location: {there}\r\nContent-Length: 0\r\n"), b"")]);
    fetch(&disk, &here, None, &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(disk.at("/iso")).unwrap(), b"ok");
    let (gone, told) = server(vec![answer("404 No", "Content-Length: 0\r\n", b""); 3]);
    let error = fetch(&disk, &gone, None, &mut |_| {}).unwrap_err();
    assert!(error.message.contains("404"), "{error}");
    assert_eq!(told.try_iter().count(), 1);
}

#[test]
fn a_server_that_stalls_is_given_up_on() {
    let (_dir, disk) = disk();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(&answer("200 OK", "Content-Length: 10\r\n", b"abc"));
            held.push(stream);
        }
    });
    let start = std::time::Instant::now();
    let patience = Patience { stalled: Duration::from_millis(200), ..PATIENCE };
    let folder = Folder::open(&disk.0, "/").unwrap();
    let local = |_: &str| Err(Error::failed("not local"));
    let error = download::fetch(&folder, "iso", &url, None, &patience, &local, &mut |_| {}).err().unwrap();
    assert!(start.elapsed().as_secs() < 15);
    assert!(error.message.contains("broke off after 3 bytes"), "{error}");
}

#[test]
fn files_of_the_machine_and_unknown_schemes() {
    let (_dir, disk) = disk();
    std::fs::write(disk.at("/a b"), "local").unwrap();
    let op = |url: &str| Op::Download { url: url.into(), path: "/iso".into(), sha256: None, mode: Some(0o600) };
    done(&disk, &op("file:///a%20b")).unwrap();
    assert_eq!(std::fs::read(disk.at("/iso")).unwrap(), b"local");
    assert_eq!(mode(&disk.at("/iso")), 0o600);
    assert!(done(&disk, &op("ftp://x/y")).unwrap_err().message.contains("only http://"));
    assert_eq!(names(&disk.0), ["a b", "iso"]);
}

#[test]
fn a_part_file_of_somebody_else_is_not_written_through() {
    let (_dir, disk) = disk();
    std::fs::write(disk.at("/victim"), "safe").unwrap();
    std::fs::write(disk.at("/src"), "new").unwrap();
    let key = &hash(b"file:///src")[..12];
    std::os::unix::fs::symlink("victim", disk.at(&format!("/iso.part-{key}"))).unwrap();
    fetch(&disk, "file:///src", None, &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(disk.at("/victim")).unwrap(), b"safe");
    assert_eq!(std::fs::read(disk.at("/iso")).unwrap(), b"new");
}
