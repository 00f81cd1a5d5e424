//! How the program is linked. It is a static one that may be loaded at any address, so it carries a list of all the
//! places where an address stands; packed (SHT_RELR), that list is a thirtieth as long. And nobody unwinds: a panic
//! aborts, so the index for unwinding is left out.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
}
