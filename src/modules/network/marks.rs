//! Lines of ours in files of others, so that taking them out again gives the very bytes that were there before.
//!
//! A block of ours always stands at the top of a file: then nothing has to be remembered of how the file ended. Lines
//! of others that must not count any more are not deleted but made comments by a prefix that only we use.

/// First line of a block in a file that was there before.
pub const BEGIN: &str = "# BEGIN vfio-provision";
/// First line of a block in a file that only this program made.
pub const BEGIN_OWN: &str = "# BEGIN vfio-provision (the file was made by it)";
/// Last line of a block.
pub const END: &str = "# END vfio-provision";
/// What stands before a line that was switched off.
pub const OFF: &str = "#vfio-provision# ";

/// A file with our lines on top; `before` is what it was without them, `None` for a file that is not there.
pub fn with_block(before: Option<&str>, lines: &[String]) -> String {
    let mut text = String::from(if before.is_some() { BEGIN } else { BEGIN_OWN });
    text.push('\n');
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(END);
    text.push('\n');
    text.push_str(before.unwrap_or(""));
    text
}

/// Lines of ours somewhere inside a file, such as below a section's heading.
pub fn inner_block(lines: &[String]) -> String {
    with_block(Some(""), lines)
}

/// What the file was before we came: blocks of ours taken out, lines switched on again. `None` when there was no file.
pub fn original(text: Option<&str>) -> Option<String> {
    let text = text?;
    let mut before = String::with_capacity(text.len());
    let (mut inside, mut own) = (false, false);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        if inside {
            inside = bare != END;
        } else if bare == BEGIN || bare == BEGIN_OWN {
            // Without its end it is no block of ours any more: someone has edited the file, and nothing may be lost.
            if !has_end(text, line) {
                before.push_str(line);
                continue;
            }
            own |= bare == BEGIN_OWN;
            inside = true;
        } else {
            before.push_str(line.strip_prefix(OFF).unwrap_or(line));
        }
    }
    if own && before.is_empty() { None } else { Some(before) }
}

fn has_end(text: &str, begin: &str) -> bool {
    // `begin` is a slice of `text`, so the distance between both is where it stands.
    let at = (begin.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    text.get(at..).is_some_and(|rest| rest.lines().any(|line| line == END))
}

/// The lines of our block at the top of a file, if it has one.
pub fn block(text: &str) -> Option<Vec<&str>> {
    let mut lines = text.lines().skip_while(|line| *line != BEGIN && *line != BEGIN_OWN);
    lines.next()?;
    let inside: Vec<&str> = lines.take_while(|line| *line != END).collect();
    Some(inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_of_ours_leaves_nothing_behind_and_an_empty_one_stays_empty() {
        let lines = vec!["a".to_string()];
        assert_eq!(original(Some(&with_block(None, &lines))), None);
        assert_eq!(original(Some(&with_block(Some(""), &lines))).as_deref(), Some(""));
        assert_eq!(original(None), None);
        assert_eq!(block(&with_block(None, &lines)), Some(vec!["a"]));
    }

    #[test]
    fn what_was_added_to_a_file_of_ours_stays() {
        let text = format!("{}mine\n", with_block(None, &["a".into()]));
        assert_eq!(original(Some(&text)).as_deref(), Some("mine\n"));
    }

    #[test]
    fn a_block_without_an_end_is_not_cut_off() {
        let text = format!("{BEGIN}\na\nb\n");
        assert_eq!(original(Some(&text)).as_deref(), Some(text.as_str()));
    }

    proptest! {
        #[test]
        fn taking_out_gives_the_very_bytes(before in "([a-z#= \
         ]{0,6}\r?\n?){0,6}", lines in prop::collection::vec("[a-z]{0,5}", 0..4)) {
            let text = with_block(Some(&before), &lines);
            prop_assert_eq!(original(Some(&text)), Some(before.clone()));
            let off: String = before.split_inclusive('\n').map(|line| format!("{OFF}{line}")).collect();
            prop_assert_eq!(original(Some(&off)), Some(before));
        }
    }
}
