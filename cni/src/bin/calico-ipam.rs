//! The CNI plugin `calico-ipam`: all of it is the library's.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::calico_ipam()
}
