//! How the program is linked. It is a static one that may be loaded at any address, so it carries a list of all the
//! places where an address stands; packed (SHT_RELR), that list is a thirtieth as long. And in an optimised one nobody
//! unwinds: a panic aborts, so the tables for unwinding are left out, and what SSH does not need of OpenSSL.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
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

fn is_openssl_3_0() -> bool {
    let output = std::process::Command::new("pkg-config").args(["--modversion", "libcrypto"]).output();
    output.is_ok_and(|output| output.stdout.starts_with(b"3.0."))
}
