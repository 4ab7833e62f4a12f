//! The CNI plugin `calico`: all of it is the library's.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::calico()
}
