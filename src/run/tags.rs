//! `--tags` and `--skip-tags`, with the special tags `always`, `never`, `all`, `tagged` and `untagged`.

/// Is a task with these tags to be run?
pub(super) fn wanted(tags: &[String], only: &[String], skip: &[String]) -> bool {
    let has = |name: &str| tags.iter().any(|tag| tag == name);
    let meets = |list: &[String]| {
        list.iter().any(|wish| match wish.as_str() {
            "tagged" => !tags.is_empty(),
            "untagged" => tags.is_empty(),
            name => has(name),
        })
    };
    let run = if only.is_empty() {
        !has("never")
    } else if meets(only) || has("always") {
        true
    } else {
        only.iter().any(|wish| wish == "all") && !has("never")
    };
    // `always` is left out only by its own name or by one of the task's other tags.
    let skipped = meets(skip) || (skip.iter().any(|wish| wish == "all") && !has("always"));
    run && !skipped
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn special_tags() {
        let list = |words: &str| -> Vec<String> { words.split_whitespace().map(str::to_string).collect() };
        let cases = [
            ("", "", "", true),
            ("a", "", "", true),
            ("never", "", "", false),
            ("never debug", "debug", "", true),
            ("never", "all", "", false),
            ("a", "b", "", false),
            ("always", "b", "", true),
            ("always", "", "always", false),
            ("always", "", "all", true),
            ("a", "", "all", false),
            ("a b", "a", "b", false),
            ("", "tagged", "", false),
            ("a", "tagged", "", true),
            ("", "untagged", "", true),
            ("a", "", "tagged", false),
        ];
        for (tags, only, skip, want) in cases {
            assert_eq!(wanted(&list(tags), &list(only), &list(skip)), want, "{tags:?} {only:?} {skip:?}");
        }
    }
}
