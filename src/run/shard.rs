//! `--shard K/N`: several controllers share one inventory, each its part of the hosts.
//!
//! All hosts of the inventory are sorted by name, and host number i belongs to shard i modulo N. So shards differ by one
//! host at most, numbered names of one room spread over all shards, and neither plays nor `--limit` move a host to another
//! shard. What moves hosts is another inventory: [`fingerprint`] says whether two shards saw the same one.

use std::collections::HashSet;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::diag::Diagnostic;

/// Which part of the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which, from 1.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl Shard {
    /// Reads `K/N` or `auto`; `env` looks up the environment's variables for the latter.
    ///
    /// # Errors
    /// What is neither, a K that is not among the N, and an environment that does not tell.
    pub fn parse(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Shard, Diagnostic> {
        if text.trim() == "auto" {
            return Shard::auto(env);
        }
        let wrong = || {
            Diagnostic::error(format!("--shard {text}: not a part such as 2/8"))
                .help("K/N with K from 1 to N, or `auto` in a Kubernetes Indexed Job, a Slurm array or a Nomad job")
        };
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        Shard::of(number(index)?, number(count)?).ok_or_else(wrong)
    }

    fn of(index: usize, count: usize) -> Option<Shard> {
        (1..=count).contains(&index).then_some(Shard { index, count })
    }

    /// From what Kubernetes, Slurm and Nomad tell the processes that they start.
    fn auto(env: &dyn Fn(&str) -> Option<String>) -> Result<Shard, Diagnostic> {
        let number = |name: &str| -> Result<Option<usize>, Diagnostic> {
            match env(name).filter(|text| !text.trim().is_empty()) {
                Some(text) => text.trim().parse().map(Some).map_err(|_| {
                    Diagnostic::error(format!("--shard auto: the environment's {name} is no number: {text}"))
                }),
                None => Ok(None),
            }
        };
        let first = |names: &[&str]| -> Result<Option<usize>, Diagnostic> {
            names.iter().find_map(|name| number(name).transpose()).transpose()
        };
        let lacks = |index: &str, what: &str| {
            Diagnostic::error(format!("--shard auto: {index} is set, but nothing says how many shards there are"))
                .help(what.to_string())
        };
        let place = |index: usize, count: usize, what: &str| {
            Shard::of(index, count).ok_or_else(|| {
                Diagnostic::error(format!("--shard auto: {what} is {index} of {count} (counted from 1)"))
            })
        };
        // https://kubernetes.io/docs/concepts/workloads/controllers/job/: the index counts from 0, and the number of
        // completions is only in the job's own spec.
        if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            let count = first(&["VFIO_PROVISION_SHARDS", "JOB_COMPLETIONS"])?.ok_or_else(|| {
                lacks("JOB_COMPLETION_INDEX", "set VFIO_PROVISION_SHARDS in the pod's `env` to the job's `completions`")
            })?;
            return place(index.saturating_add(1), count, "JOB_COMPLETION_INDEX");
        }
        // https://slurm.schedmd.com/job_array.html: any numbers from MIN to MAX, STEP apart.
        if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
            let least = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let count = first(&["VFIO_PROVISION_SHARDS", "SLURM_ARRAY_TASK_COUNT"])?.ok_or_else(|| {
                lacks("SLURM_ARRAY_TASK_ID", "set VFIO_PROVISION_SHARDS to the number of tasks of the array")
            })?;
            let index = id.checked_sub(least).map_or(0, |from| (from / step).saturating_add(1));
            return place(index, count, "SLURM_ARRAY_TASK_ID");
        }
        // https://developer.hashicorp.com/nomad/docs/runtime/environment: the index counts from 0; `meta` comes as it is
        // written and in capitals.
        if let Some(index) = number("NOMAD_ALLOC_INDEX")? {
            let count = first(&["VFIO_PROVISION_SHARDS", "NOMAD_META_shards", "NOMAD_META_SHARDS"])?
                .ok_or_else(|| lacks("NOMAD_ALLOC_INDEX", "set `meta { shards = COUNT }` in the job's group"))?;
            return place(index.saturating_add(1), count, "NOMAD_ALLOC_INDEX");
        }
        Err(Diagnostic::error("--shard auto: this is no Kubernetes Indexed Job, no Slurm array and no Nomad job")
            .help("none of JOB_COMPLETION_INDEX, SLURM_ARRAY_TASK_ID and NOMAD_ALLOC_INDEX is set; write --shard K/N"))
    }

    /// Those of all hosts of an inventory that are this shard's.
    pub fn hosts<'a>(self, all: impl Iterator<Item = &'a str>) -> HashSet<&'a str> {
        let mut all: Vec<&str> = all.collect();
        all.sort_unstable();
        all.into_iter().skip(self.index.saturating_sub(1)).step_by(self.count.max(1)).collect()
    }
}

/// A short word that is the same wherever the inventory has the same hosts.
pub fn fingerprint<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = all.collect();
    all.sort_unstable();
    let mut hash = Sha256::new();
    for name in all {
        hash.update(name.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(vars: &[(&str, &str)]) -> Result<Shard, String> {
        let env = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Shard::parse("auto", &env).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_tells() {
        let is = |index, count| Ok(Shard { index, count });
        assert_eq!(with(&[("JOB_COMPLETION_INDEX", "0"), ("VFIO_PROVISION_SHARDS", "4")]), is(1, 4));
        assert_eq!(with(&[("JOB_COMPLETION_INDEX", "3"), ("JOB_COMPLETIONS", "4")]), is(4, 4));
        assert!(with(&[("JOB_COMPLETION_INDEX", "4"), ("JOB_COMPLETIONS", "4")]).is_err());
        assert!(with(&[("JOB_COMPLETION_INDEX", "1")]).unwrap_err().contains("VFIO_PROVISION_SHARDS"));
        let array = [
            ("SLURM_ARRAY_TASK_ID", "14"),
            ("SLURM_ARRAY_TASK_MIN", "10"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
            ("SLURM_ARRAY_TASK_COUNT", "5"),
        ];
        assert_eq!(with(&array), is(3, 5));
        assert_eq!(with(&[("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_COUNT", "2")]), is(2, 2));
        assert_eq!(with(&[("NOMAD_ALLOC_INDEX", "1"), ("NOMAD_META_shards", "2")]), is(2, 2));
        assert!(with(&[("NOMAD_ALLOC_INDEX", "x"), ("NOMAD_META_shards", "2")]).unwrap_err().contains("no number"));
        assert!(with(&[]).is_err());
    }

    #[test]
    fn bad_parts_are_refused() {
        for text in ["", "3", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"] {
            assert!(Shard::parse(text, &|_| None).is_err(), "{text}");
        }
        assert_eq!(Shard::parse("2/3", &|_| None), Ok(Shard { index: 2, count: 3 }));
    }

    #[test]
    fn the_fingerprint_knows_no_order() {
        assert_eq!(fingerprint(["a", "b"].into_iter()), fingerprint(["b", "a"].into_iter()));
        assert_ne!(fingerprint(["a", "b"].into_iter()), fingerprint(["ab"].into_iter()));
    }

    proptest! {
        #[test]
        fn every_host_is_in_one_shard_and_shards_are_even(
            names in prop::collection::hash_set("[a-z]{1,4}[0-9]{1,3}", 0..60), count in 1..12_usize
        ) {
            let mut seen: Vec<&str> = Vec::new();
            let mut sizes = Vec::new();
            for index in 1..=count {
                let hosts = Shard { index, count }.hosts(names.iter().map(String::as_str));
                sizes.push(hosts.len());
                seen.extend(hosts);
            }
            seen.sort_unstable();
            let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
            all.sort_unstable();
            prop_assert_eq!(seen, all);
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }
}
