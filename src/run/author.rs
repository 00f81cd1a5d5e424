//! Who runs this program, and where.

/// `user@machine`, for journals and locks.
pub fn who() -> String {
    let name = |variable: &str| std::env::var(variable).ok().filter(|name| !name.is_empty());
    // In a static program no name service is asked; the number says it too.
    let user = name("SUDO_USER")
        .or_else(|| name("LOGNAME"))
        .or_else(|| name("USER"))
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{machine}")
}
