//! Memory and huge pages (proc(5), meminfo).

use serde_json::{Map, Value, json};

use crate::host::{Host, Result};

/// `ansible_memtotal_mb`, `ansible_swaptotal_mb`, `ansible_hugepages`.
///
/// # Errors
/// When the machine can't be read.
pub fn gather(host: &dyn Host) -> Result<Map<String, Value>> {
    let text = host.read_text("/proc/meminfo")?.unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Ok(Map::from_iter([
        ("ansible_memtotal_mb".to_string(), (field("MemTotal") / 1024).into()),
        ("ansible_swaptotal_mb".to_string(), (field("SwapTotal") / 1024).into()),
        ("ansible_hugepages".to_string(), json!({"total": field("HugePages_Total"), "size_kb": field("Hugepagesize")})),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn totals() {
        let m = machine(&[(
            "/proc/meminfo",
            "MemTotal:       65866788 kB\nMemFree: 1 kB\nSwapTotal: 0 kB\nHugePages_Total:    16\nHugepagesize:    1048576 kB\n",
        )]);
        let facts = gather(&m).unwrap();
        assert_eq!(facts["ansible_memtotal_mb"], 64323);
        assert_eq!(facts["ansible_hugepages"], json!({"total": 16, "size_kb": 1_048_576}));
    }
}
