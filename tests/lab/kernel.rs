//! Gives a kernel image another release, as `uname -r` prints it.
//!
//! ELRepo's kernels are called `6.9.7-1.el9.elrepo.x86_64`, and say so when they run; Debian's are called otherwise. The
//! release stands in the compressed part of a bzImage (Documentation/arch/x86/boot.rst), in the structure that `uname`
//! answers from (include/uapi/linux/utsname.h: six strings of 65 bytes).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const FIELD: usize = 65;

/// Writes the kernel at `from` to `to`, with another release.
pub fn rename(from: &Path, to: &Path, release: &str) {
    let mut image = fs::read(from).unwrap();
    let word = |image: &[u8], at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let sectors = if image[0x1f1] == 0 { 4 } else { usize::from(image[0x1f1]) };
    let start = (sectors + 1) * 512 + word(&image, 0x248);
    let length = word(&image, 0x24c);
    let payload = image[start..start + length].to_vec();
    // After the compressed data stands its length when unpacked. The kernel reads no further than the data's own end.
    let room = length - 4;
    let (unpack, packs): (&[&str], Vec<Vec<String>>) = if payload.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) {
        let packs = ["dict=32MiB,nice=273", "dict=64MiB,nice=273,mf=bt4,depth=1000", "preset=9e,dict=128MiB,nice=273"];
        let pack = |options: &&str| {
            ["xz", "--check=crc32", "--x86", &format!("--lzma2={options}"), "--stdout"].map(String::from).to_vec()
        };
        (&["xz", "--decompress", "--stdout", "--single-stream"], packs.iter().map(pack).collect())
    } else if payload.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let pack = |more: &&str| {
            let mut argv = ["zstd", "--ultra", "-22", "--stdout", "--quiet", "--no-check"].map(String::from).to_vec();
            argv.extend(more.split_whitespace().map(String::from));
            argv
        };
        (&["zstd", "--decompress", "--stdout", "--quiet"], [""].iter().map(pack).collect())
    } else {
        panic!("the kernel is packed in a way that is not known: {:x?}", &payload[..6]);
    };
    let mut kernel = filter(unpack, &payload[..room]);
    assert_eq!(kernel.len(), word(&payload, room), "not all of the kernel was unpacked");
    set_release(&mut kernel, release);
    make_room(&mut kernel);
    for pack in packs {
        let argv: Vec<&str> = pack.iter().map(String::as_str).collect();
        let packed = filter(&argv, &kernel);
        if packed.len() <= room {
            image[start..start + packed.len()].copy_from_slice(&packed);
            image[start + packed.len()..start + room].fill(0);
            return fs::write(to, image).unwrap();
        }
        eprintln!("{}: {} bytes are too many, {room} is the limit", argv.join(" "), packed.len());
    }
    panic!("the changed kernel does not fit where the old one was");
}

/// `Linux`, the node's name, the release, each in its field.
fn set_release(kernel: &mut [u8], release: &str) {
    let mut key = vec![0; 2 * FIELD];
    key[..5].copy_from_slice(b"Linux");
    key[FIELD..FIELD + 6].copy_from_slice(b"(none)");
    let found: Vec<usize> =
        memchr(kernel, &key).into_iter().filter(|at| kernel[at + 2 * FIELD].is_ascii_digit()).collect();
    assert!(!found.is_empty() && release.len() < FIELD, "no release found in the kernel");
    for at in found {
        let field = &mut kernel[at + 2 * FIELD..at + 3 * FIELD];
        field.fill(0);
        field[..release.len()].copy_from_slice(release.as_bytes());
    }
}

/// The longer name must not make the packed kernel longer than its place: the compiler's name is given up for it.
fn make_room(kernel: &mut [u8]) {
    for (key, length) in [(&b"(x86_64-linux-gnu-gcc"[..], 90), (&b"(debian-kernel@lists"[..], 30)] {
        for at in memchr(kernel, key) {
            let end = (at + length).min(kernel.len());
            let text = kernel[at..end].iter().position(|byte| !matches!(byte, b' '..=b'~')).unwrap_or(length);
            kernel[at..at + text].fill(b' ');
        }
    }
}

fn memchr(text: &[u8], key: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].iter().position(|byte| *byte == key[0]) {
        at += next;
        if text[at..].starts_with(key) {
            found.push(at);
        }
        at += 1;
    }
    found
}

/// Sends bytes through a program. What it says of bytes behind the end of the data does not matter; that there is output does.
fn filter(argv: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(input));
        child.wait_with_output().unwrap()
    });
    output.stdout
}
