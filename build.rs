//! How the program is linked. It is a static one that may be loaded at any address, so it carries a list of all the
//! places where an address stands; packed (SHT_RELR), that list is a thirtieth as long. And in an optimised one nobody
//! unwinds: a panic aborts, so the tables for unwinding are left out, and what SSH does not need of OpenSSL.

use std::path::Path;

/// Texts that the program carries packed (src/packed.rs).
const PACKED: [&str; 2] = ["machines/centos7-seed.txt", "src/modules/libvirt/lint/domain-schema.txt"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for file in PACKED {
        println!("cargo:rerun-if-changed={file}");
        pack(Path::new(file));
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
        println!("cargo:rerun-if-changed=src/no_unwinding.ld");
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{folder}/src/no_unwinding.ld");
        // What can be left out was found out with this version; of any other (one built along is one, too) nothing is, and
        // the program is only larger.
        if std::env::var_os("CARGO_FEATURE_BUNDLED_OPENSSL").is_none() && is_openssl_3_0() {
            println!("cargo:rerun-if-changed=src/transport/ssh/leave_out.c");
            cc::Build::new()
                .file("src/transport/ssh/leave_out.c")
                .flag("-fno-asynchronous-unwind-tables")
                .flag("-ffunction-sections")
                .flag("-fdata-sections")
                .compile("leave_out");
        }
    }
}

/// Deflates a file into the build's folder.
#[allow(clippy::expect_used, reason = "a build that can't read its files has nothing else to say")]
fn pack(file: &Path) {
    let text = std::fs::read(file).expect("a file of the program");
    let folder = std::env::var_os("OUT_DIR").expect("cargo names a folder");
    let name = file.file_name().expect("it is a file").to_string_lossy();
    let packed = miniz_oxide::deflate::compress_to_vec(&text, 10);
    std::fs::write(Path::new(&folder).join(format!("{name}.z")), packed).expect("the build's folder can be written");
}

fn is_openssl_3_0() -> bool {
    let output = std::process::Command::new("pkg-config").args(["--modversion", "libcrypto"]).output();
    output.is_ok_and(|output| output.stdout.starts_with(b"3.0."))
}
