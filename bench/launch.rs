//! Starts programs where the hosts' network is, and takes their time there.
//!
//! Entering the namespaces costs some milliseconds, as much as a tenth of what is measured. So one process enters them, once
//! for a row of the table, and starts from there what it is told to.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::fleet::Controller;

/// A program with its arguments, and variables beside those that the launcher has.
#[derive(Serialize, Deserialize)]
pub struct Program {
    pub words: Vec<String>,
    pub variables: Vec<(String, String)>,
}

/// What became of programs that were started together.
#[derive(Serialize, Deserialize)]
pub struct Ended {
    /// From the first one's start to the last one's end.
    pub took: Duration,
    pub programs: Vec<EndedProgram>,
}

#[derive(Serialize, Deserialize)]
pub struct EndedProgram {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Program {
    pub fn new<Word: Into<String>>(words: impl IntoIterator<Item = Word>) -> Program {
        Program { words: words.into_iter().map(Into::into).collect(), variables: Vec::new() }
    }

    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Program {
        self.variables.push((name.to_string(), value.into()));
        self
    }
}

impl Ended {
    pub fn succeeded(&self) -> bool {
        self.programs.iter().all(|program| program.code == Some(0))
    }

    /// All that was said.
    pub fn all(&self) -> String {
        let texts = self.programs.iter().map(|p| format!("{:?}\n{}\n{}", p.code, p.out, p.err));
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// The process that stands in the namespaces.
pub struct Launcher {
    child: Child,
    input: ChildStdin,
    answers: Receiver<Ended>,
}

impl Launcher {
    /// Enters the fleet's namespaces, in the controller's folder.
    pub fn of(controller: &Controller) -> Launcher {
        let mut command = controller.command(std::env::current_exe().unwrap());
        let mut child = command.arg("launch").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Launcher { child, input, answers }
    }

    /// Starts programs together and waits for their end.
    pub fn run(&mut self, programs: &[Program], longest: Duration) -> Ended {
        let line = serde_json::to_string(programs).unwrap();
        writeln!(self.input, "{line}").unwrap();
        self.answers.recv_timeout(longest).expect("the programs end in time")
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The launcher's own side: a line of programs in, a line about their end out.
pub fn serve() {
    for line in std::io::stdin().lock().lines() {
        let programs: Vec<Program> = serde_json::from_str(&line.unwrap()).unwrap();
        let begun = Instant::now();
        let running: Vec<Child> = programs
            .iter()
            .map(|program| {
                let mut command = Command::new(&program.words[0]);
                command.args(&program.words[1..]).envs(program.variables.iter().map(|(name, value)| (name, value)));
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        // One after the other: where many are started they say too little to fill a pipe.
        let ended: Vec<_> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let took = begun.elapsed();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let programs = ended
            .iter()
            .map(|output| EndedProgram {
                code: output.status.code(),
                out: text(&output.stdout),
                err: text(&output.stderr),
            })
            .collect();
        println!("{}", serde_json::to_string(&Ended { took, programs }).unwrap());
    }
}
