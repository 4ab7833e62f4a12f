//! Holds the arrows of ARCHITECTURE.md: which package may depend on which. Everything is in `tests/`.
