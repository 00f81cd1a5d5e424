//! Unified diffs. `similar` finds them; its own way to write them would bring six algorithms along where one is used, and
//! 0.6 MB of a program that travels to every machine.

use std::fmt::Write as _;
use std::ops::Range;

use similar::algorithms::{Capture, Compact, Replace, myers};
use similar::udiff::UnifiedHunkHeader;
use similar::{DiffOp, group_diff_ops};

/// What has become of `before`, with three lines of context; empty when nothing has.
pub fn unified(before: &str, after: &str, old_name: &str, new_name: &str) -> String {
    let (old, new) = (lines(before), lines(after));
    let mut found = Compact::new(Replace::new(Capture::new()), old.as_slice(), new.as_slice());
    let Ok(()) = myers::diff(&mut found, old.as_slice(), 0..old.len(), new.as_slice(), 0..new.len());
    let mut out = String::new();
    for hunk in group_diff_ops(found.into_inner().into_inner().into_ops(), 3) {
        if hunk.is_empty() {
            continue;
        }
        if out.is_empty() {
            out = format!("--- {old_name}\n+++ {new_name}\n");
        }
        // Writing to a string can't fail.
        let _ = writeln!(out, "{}", UnifiedHunkHeader::new(&hunk));
        for op in &hunk {
            if let DiffOp::Equal { .. } = op {
                write_lines(&mut out, ' ', &old, op.old_range());
            } else {
                write_lines(&mut out, '-', &old, op.old_range());
                write_lines(&mut out, '+', &new, op.new_range());
            }
        }
    }
    out
}

fn write_lines(out: &mut String, sign: char, lines: &[&str], range: Range<usize>) {
    for line in lines.get(range).unwrap_or_default() {
        out.push(sign);
        out.push_str(line);
        if !line.ends_with(['\n', '\r']) {
            out.push_str("\n\\ No newline at end of file\n");
        }
    }
}

/// Lines with their ends: `\n`, `\r\n`, and a `\r` on its own.
fn lines(text: &str) -> Vec<&str> {
    let mut rest = text;
    let mut lines = Vec::new();
    while !rest.is_empty() {
        let end = match rest.find(['\n', '\r']) {
            None => rest.len(),
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
        };
        let (line, more) = rest.split_at(end);
        lines.push(line);
        rest = more;
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use similar::TextDiff;

    use super::*;

    fn as_similar_writes_it(before: &str, after: &str) -> String {
        TextDiff::from_lines(before, after).unified_diff().context_radius(3).header("a", "b").to_string()
    }

    #[test]
    fn ends_of_lines_are_shown_as_they_are() {
        assert_eq!(
            unified("a\r\nb\n", "a\r\nc", "x", "y"),
            "--- x\n+++ y\n@@ -1,2 +1,2 @@\n a\r\n-b\n+c\n\\ No newline at end of file\n"
        );
        assert_eq!(unified("same", "same", "x", "y"), "");
    }

    proptest! {
        #[test]
        fn written_as_similar_writes_it(before in "([a-d]{0,1}(\n|\r|\r\n|é)){0,40}", after in "([a-d]{0,1}(\n|\r|\r\n|é)){0,40}") {
            prop_assert_eq!(unified(&before, &after, "a", "b"), as_similar_writes_it(&before, &after));
        }

        #[test]
        fn long_files_too(
            text in prop::collection::vec("[a-f]{1,2}", 90..260),
            edits in prop::collection::vec((0usize..260, "[a-g\n]{0,4}"), 0..12),
        ) {
            let before = text.join("\n");
            let mut changed = text.clone();
            for (at, new) in edits {
                if let Some(line) = changed.get_mut(at) {
                    *line = new;
                }
            }
            let after = changed.join("\n");
            prop_assert_eq!(unified(&before, &after, "a", "b"), as_similar_writes_it(&before, &after));
        }
    }
}
