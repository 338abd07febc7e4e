//! The program `pgkeep`: parse, run, outcome to exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgkeep::cli::main()
}
