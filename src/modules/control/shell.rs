//! `shell`: runs a line through `/bin/sh`; the only place in this program where a shell reads a string.

use schemars::JsonSchema;
use serde::Deserialize;

use super::command::{Task, input};
use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, Text, yes};

/// Runs a line through a shell. Where `command` will do, it is the safer choice.
///
/// It is an act: every run does it again, unless `creates` or `removes` says that it is done. `register` sees `rc`,
/// `stdout`, `stdout_lines`, `stderr`, `stderr_lines`, `cmd`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shell {
    /// What the shell reads.
    #[serde(alias = "_raw_params")]
    cmd: Text,
    /// The shell; absolute. Default: `/bin/sh`.
    executable: Option<String>,
    /// Nothing is done when this path exists. `*` and `?` may stand in its last part.
    creates: Option<String>,
    /// Nothing is done unless this path exists. `*` and `?` may stand in its last part.
    removes: Option<String>,
    /// The folder to run in. Default: `/`.
    chdir: Option<String>,
    /// What it gets on standard input.
    stdin: Option<Text>,
    /// End the standard input with a line's end. Default: true.
    #[serde(default = "yes")]
    stdin_add_newline: Flag,
    /// It only reads: it is run in a dry run too, and counts as no change. On a recorded machine its answer is unknown.
    /// Default: false.
    #[serde(default)]
    reads: Flag,
    /// Seconds after which it is ended. Default: 3600.
    timeout: Option<u64>,
}

impl Module for Shell {
    const NAME: &'static str = "shell";
    const SUMMARY: &'static str = "Run a line through a shell";
    const FREE_FORM: Option<&'static str> = Some("cmd");

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        if self.cmd.trim().is_empty() {
            return Err(Error::parameters("`cmd` is empty"));
        }
        let shell = self.executable.as_deref().unwrap_or("/bin/sh");
        Task {
            argv: vec![shell.to_string(), "-c".to_string(), self.cmd.0.clone()],
            shown: self.cmd.trim().to_string(),
            creates: self.creates.as_deref(),
            removes: self.removes.as_deref(),
            chdir: self.chdir.as_deref(),
            stdin: input(self.stdin.as_ref(), self.stdin_add_newline.0),
            reads: self.reads.0,
            timeout: self.timeout,
        }
        .plan(host)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::change::Op;
    use crate::host::overlay::testing::{machine, plan};

    #[test]
    fn the_line_stays_whole() {
        let done = plan(&machine(&[]), "shell", json!({"cmd": "echo $HOME | cat > x"})).unwrap();
        let Op::Run(run) = &done.actions[0].op else { panic!() };
        assert_eq!(run.argv, ["/bin/sh", "-c", "echo $HOME | cat > x"]);
        assert!(plan(&machine(&[]), "shell", json!({"cmd": ""})).is_err());
    }
}
