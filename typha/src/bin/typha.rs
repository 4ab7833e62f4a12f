//! `typha` as a program of its own; all of it is in the library.

fn main() -> anyhow::Result<()> {
    typha::main()
}
