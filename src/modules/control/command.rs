//! `command`: runs a program, without a shell.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Output, Result};
use crate::modules::Module;
use crate::modules::files::common::{join, name_of, parent_of, words};
use crate::modules::params::{Flag, List, Text, yes};

/// Runs a program. Words and quotes are as in a shell, but no shell is there: no pipes, no variables, no wildcards.
///
/// It is an act: every run does it again, unless `creates` or `removes` says that it is done. `register` sees `rc`,
/// `stdout`, `stdout_lines`, `stderr`, `stderr_lines`, `cmd`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The command line.
    #[serde(alias = "_raw_params")]
    cmd: Option<Text>,
    /// The program and its arguments, one by one.
    argv: Option<List<Text>>,
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

/// What `command` and `shell` have in common.
pub struct Task<'a> {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// As people wrote it.
    pub shown: String,
    /// Done when this exists.
    pub creates: Option<&'a str>,
    /// Done when this does not exist.
    pub removes: Option<&'a str>,
    /// Where.
    pub chdir: Option<&'a str>,
    /// Its input.
    pub stdin: Option<String>,
    /// It only reads.
    pub reads: bool,
    /// Seconds.
    pub timeout: Option<u64>,
}

impl Task<'_> {
    /// What is to be done.
    pub fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan { act: true, ..Plan::default() };
        plan.set("cmd", self.shown.clone());
        if let Some(path) = self.creates
            && is_there(host, path)?
        {
            plan.set("msg", format!("not run, since {path} exists"));
            return Ok(plan);
        }
        if let Some(path) = self.removes
            && !is_there(host, path)?
        {
            plan.set("msg", format!("not run, since {path} does not exist"));
            return Ok(plan);
        }
        if let Some(folder) = self.chdir
            && !host.stat(folder)?.is_some_and(|stat| stat.kind == crate::host::FileKind::Folder)
        {
            return Err(Error::failed(format!("can't run `{}`: the folder {folder} does not exist", self.shown)));
        }
        if self.reads {
            self.ask(host, &mut plan)?;
            return Ok(plan);
        }
        let mut effects = Vec::new();
        if let Some(path) = self.creates.filter(|path| !has_wildcard(path)) {
            effects.push(match path.strip_suffix('/') {
                Some(path) => Effect::Folder { path: path.to_string() },
                None => Effect::File { path: path.to_string(), content: None, mode: None },
            });
        }
        if let Some(path) = self.removes.filter(|path| !has_wildcard(path)) {
            effects.push(Effect::Gone { path: path.to_string() });
        }
        let run = Run {
            argv: self.argv.clone(),
            stdin: self.stdin.clone(),
            cwd: self.chdir.map(str::to_string),
            timeout: self.timeout,
            effects,
            capture: true,
            ..Run::default()
        };
        let name = self.creates.or(self.removes).unwrap_or_else(|| self.chdir.unwrap_or("/"));
        plan.push(Op::Run(run), vec![Diff::added("command", name, self.shown.clone())]);
        Ok(plan)
    }

    fn ask(&self, host: &dyn Host, plan: &mut Plan) -> Result<()> {
        if self.stdin.is_some() {
            return Err(Error::parameters("`reads` and `stdin` can't be given together"));
        }
        let mut argv = self.argv.clone();
        if let Some(folder) = self.chdir {
            // A query runs in `/`; this enters the folder and becomes the command.
            let enter = ["/bin/sh", "-c", "cd -- \"$1\" && shift && exec \"$@\"", "sh", folder];
            argv = enter.into_iter().map(str::to_string).chain(argv).collect();
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let Some(output) = host.query(&argv)? else {
            return Err(Error::unknown(format!("what `{}` says", self.shown), "a recorded machine runs no commands"));
        };
        told(plan, &output);
        if output.code != 0 {
            let mut error = Error::failed(format!("`{}` ended with exit code {}", self.shown, output.code));
            error.output = Some(output);
            return Err(error);
        }
        Ok(())
    }
}

fn told(plan: &mut Plan, output: &Output) {
    let lines = |text: &str| text.lines().map(Value::from).collect::<Vec<_>>();
    plan.set("rc", output.code);
    plan.set("stdout", output.stdout.trim_end_matches('\n'));
    plan.set("stdout_lines", lines(&output.stdout));
    plan.set("stderr", output.stderr.trim_end_matches('\n'));
    plan.set("stderr_lines", lines(&output.stderr));
}

fn has_wildcard(path: &str) -> bool {
    path.contains(['*', '?'])
}

fn is_there(host: &dyn Host, path: &str) -> Result<bool> {
    if !has_wildcard(path) {
        return host.exists(path);
    }
    let folder = parent_of(path);
    if has_wildcard(folder) {
        return Err(Error::parameters(format!("{path}: `*` and `?` may only stand in the last part")));
    }
    let names = host.list(folder)?;
    let pattern: Vec<char> = name_of(path).chars().collect();
    let fits = |name: &String| {
        (!name.starts_with('.') || pattern.first() == Some(&'.'))
            && matches(&pattern, &name.chars().collect::<Vec<_>>())
    };
    for name in names.iter().filter(|name| fits(name)) {
        if host.lstat(&join(folder, name))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does the text fit a pattern with `*` and `?`?
pub fn matches(pattern: &[char], text: &[char]) -> bool {
    // Where to go on when a `*` has to take one character more.
    let (mut p, mut t, mut star) = (0, 0, None);
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if wanted == c || *wanted == '?' => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}

/// The standard input as the program gets it.
pub fn input(stdin: Option<&Text>, add_newline: bool) -> Option<String> {
    stdin.map(|text| {
        let end = if add_newline && !text.ends_with('\n') { "\n" } else { "" };
        format!("{}{end}", text.0)
    })
}

impl Module for Command {
    const NAME: &'static str = "command";
    const SUMMARY: &'static str = "Run a program, without a shell";
    const FREE_FORM: Option<&'static str> = Some("cmd");

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let argv = match (&self.cmd, &self.argv) {
            (Some(cmd), None) => words("cmd", cmd)?,
            (None, Some(argv)) if !argv.is_empty() => argv.iter().map(|word| word.0.clone()).collect(),
            _ => return Err(Error::parameters("one of `cmd` and `argv` is needed")),
        };
        let shown = match &self.cmd {
            Some(cmd) => cmd.trim().to_string(),
            None => shlex::try_join(argv.iter().map(String::as_str)).unwrap_or_else(|_| argv.join(" ")),
        };
        Task {
            argv,
            shown,
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
    use proptest::prelude::*;
    use serde_json::json;

    use crate::change::Op;
    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn words_not_a_shell() {
        let done = plan(&machine(&[]), "command", json!({"cmd": "echo 'a b' $HOME | cat", "stdin": "x"})).unwrap();
        let Op::Run(run) = &done.actions[0].op else { panic!() };
        assert_eq!(run.argv, ["echo", "a b", "$HOME", "|", "cat"]);
        assert_eq!(run.stdin.as_deref(), Some("x\n"));
        assert!(run.capture && !run.any_code && done.act);
        assert!(shown(&done.actions).contains("+ echo 'a b' $HOME | cat"));
        let argv = plan(&machine(&[]), "command", json!({"argv": ["a", "b c"]})).unwrap();
        assert_eq!(argv.result["cmd"], "a 'b c'");
    }

    #[test]
    fn creates_and_removes_end_it() {
        let m = machine(&[("/srv/old-1", ""), ("/srv/.hidden", "")]);
        let ask = json!({"cmd": "mkimage", "creates": "/srv/image"});
        assert_eq!(apply(&m, "command", ask.clone()).unwrap().len(), 1);
        let again = plan(&m, "command", ask).unwrap();
        assert!(again.actions.is_empty() && again.result["msg"].as_str().unwrap().contains("/srv/image exists"));
        assert!(plan(&m, "command", json!({"cmd": "x", "creates": "/srv/old-*"})).unwrap().actions.is_empty());
        assert_eq!(plan(&m, "command", json!({"cmd": "x", "creates": "/srv/*hidden"})).unwrap().actions.len(), 1);
        let ask = json!({"cmd": "rm it", "removes": "/srv/old-1"});
        assert_eq!(apply(&m, "command", ask.clone()).unwrap().len(), 1);
        assert!(plan(&m, "command", ask).unwrap().actions.is_empty());
    }

    #[test]
    fn what_reads_is_unknown_on_a_recorded_machine() {
        let m = machine(&[]);
        assert!(plan(&m, "command", json!({"cmd": "uptime", "reads": true})).unwrap_err().is_unknown());
        assert!(plan(&m, "shell", json!({"cmd": "uptime", "reads": "yes"})).unwrap_err().is_unknown());
    }

    #[test]
    fn wrong_parameters() {
        let m = machine(&[]);
        for wrong in [
            json!({}),
            json!({"cmd": "a", "argv": ["b"]}),
            json!({"cmd": "'open"}),
            json!({"cmd": " "}),
            json!({"cmd": "a", "chdir": "/none"}),
            json!({"cmd": "a", "creates": "/*/x"}),
            json!({"cmd": "a", "reads": true, "stdin": "x"}),
        ] {
            assert!(plan(&m, "command", wrong.clone()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn wildcards_are_as_in_a_regular_expression(pattern in "[ab*?]{0,6}", text in "[ab]{0,8}") {
            let expected = regex::Regex::new(&format!("^{}$", pattern.replace('*', ".*").replace('?', "."))).unwrap();
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(super::matches(&chars(&pattern), &chars(&text)), expected.is_match(&text));
        }
    }
}
