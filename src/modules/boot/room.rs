//! Is there room in /boot? A full one leaves a kernel without its initramfs.

use crate::host::{Error, Host, Result};

const MIB: u64 = 1 << 20;

/// Free bytes at a path, where the machine can say.
///
/// # Errors
/// Trouble running `df`.
pub fn free(host: &dyn Host, path: &str) -> Result<Option<u64>> {
    let output = host.query(&["df", "-P", "-k", "--", path])?;
    Ok(output.filter(|output| output.code == 0).and_then(|output| parse(&output.stdout)))
}

/// The fourth column of the second line of `df -P -k` (POSIX), in bytes.
fn parse(text: &str) -> Option<u64> {
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Refuses when `needed` bytes do not fit into /boot.
///
/// # Errors
/// The refusal, with what to do.
pub fn need(host: &dyn Host, needed: u64, for_what: &str) -> Result<()> {
    match free(host, "/boot")? {
        Some(free) if free < needed => Err(Error::refused(format!(
            "/boot has {} MiB free, and {for_what} needs about {} MiB",
            free / MIB,
            needed.div_ceil(MIB)
        ))
        .hint("remove kernels that nobody boots any more: `dnf remove --oldinstallonly` or `package-cleanup --oldkernels` \
               on Enterprise Linux, `apt autoremove` on Debian")),
        _ => Ok(()),
    }
}

/// About what a new kernel takes, judged by those that are there: kernel, initramfs, System.map.
pub fn of_kernel(kernel: u64, initramfs: u64) -> u64 {
    kernel.max(12 * MIB) + (initramfs + initramfs / 4).max(32 * MIB) + 8 * MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_df() {
        let text = "Filesystem     1024-blocks   Used Available Capacity Mounted on\n/dev/sda1          1038336 145200    893136      14% /boot\n";
        assert_eq!(parse(text), Some(893_136 * 1024));
        assert_eq!(parse("df: /boot: No such file\n"), None);
        assert_eq!(of_kernel(0, 0), 52 * MIB);
    }
}
