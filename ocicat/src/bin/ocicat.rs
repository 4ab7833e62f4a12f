//! `ocicat` as a program of its own; all of it is in the library.

fn main() -> std::process::ExitCode {
    ocicat::main()
}
