//! The program: parses, does, and turns how it ended into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(vfio_provision::cli::main().code())
}
