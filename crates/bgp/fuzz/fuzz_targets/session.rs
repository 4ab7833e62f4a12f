//! Plays any input as the story of a session; see `session.rs`.
#![no_main]

#[path = "../session.rs"]
mod session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| session::play(data));
