//! What goes wrong with a machine, as modules and the executor report it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Answer of everything that reads or changes a machine.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Something was tried and did not work.
    Failed,
    /// It could be done, and would do harm: nothing was changed.
    Refused,
    /// The parameters of the task make no sense together.
    Parameters,
    /// In a dry run: can't be known until an earlier action has really been done.
    Unknown,
}

/// Trouble with a machine: what was tried, what came back, what to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Error {
    /// What sort of trouble.
    pub kind: ErrorKind,
    /// What was tried and what came back; one sentence or more, no full stop at the end.
    pub message: String,
    /// What the person can do about it.
    pub hint: Option<String>,
    /// The output of the command that failed, if one did.
    pub output: Option<super::Output>,
}

impl Error {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None, output: None }
    }
    /// Something did not work.
    pub fn failed(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Failed, message)
    }
    /// Something would do harm, so it was not begun.
    pub fn refused(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Refused, message)
    }
    /// Parameters that make no sense together.
    pub fn parameters(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Parameters, message)
    }
    /// Unknown until applied; `what` can't be known because of what `because` names.
    pub fn unknown(what: impl fmt::Display, because: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Unknown, format!("{what} is unknown until applied: {because}"))
    }
    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }
    /// An operation on a path that the system refused.
    pub fn io(tried: &str, path: &str, error: &std::io::Error) -> Error {
        Error::failed(format!("can't {tried} {path}: {error}"))
    }
    /// Is it only that the answer can't be known in a dry run?
    pub fn is_unknown(&self) -> bool {
        self.kind == ErrorKind::Unknown
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(output) = &self.output {
            let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
            write_end(f, said.trim_end())?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// How many lines of a command's output are shown with an error: the end, where most programs say what was wrong.
const SHOWN_LINES: usize = 20;

fn write_end(f: &mut fmt::Formatter<'_>, said: &str) -> fmt::Result {
    let lines: Vec<&str> = said.lines().collect();
    let left_out = lines.len().saturating_sub(SHOWN_LINES);
    if left_out > 0 {
        write!(f, "\n(the last {SHOWN_LINES} of {} lines; -vv shows all)", lines.len())?;
    }
    lines.iter().skip(left_out).try_for_each(|line| write!(f, "\n{line}"))
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::Error;
    use crate::host::Output;

    fn shown(lines: usize) -> String {
        let stderr = (1..=lines).map(|n| format!("line {n}\n")).collect();
        let mut error = Error::failed("`dracut` ended with exit code 1").hint("look");
        error.output = Some(Output { code: 1, stdout: "not this".into(), stderr });
        error.to_string()
    }

    #[test]
    fn a_long_output_is_shown_by_its_end() {
        let twenty = shown(20);
        assert!(twenty.starts_with("`dracut` ended with exit code 1\nline 1\nline 2\n"), "{twenty}");
        assert!(twenty.ends_with("\nline 20\nhint: look"), "{twenty}");
        let many = shown(152);
        assert!(
            many.starts_with("`dracut` ended with exit code 1\n(the last 20 of 152 lines; -vv shows all)\nline 133\n"),
            "{many}"
        );
        assert!(many.ends_with("\nline 152\nhint: look"), "{many}");
        assert!(!shown(0).contains("line"), "{}", shown(0));
    }
}
