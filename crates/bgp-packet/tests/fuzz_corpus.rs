//! Replays what fuzzing found interesting, and damages it some more; `fuzz/README.md` says how it was made.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::disallowed_methods, reason = "the corpus is in files")]

#[path = "../fuzz/check.rs"]
mod check;
mod support;

use support::Random;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/message");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut corpus: Vec<_> =
        files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect();
    corpus.sort();
    assert!(corpus.len() > 20, "the corpus is not there");
    corpus
}

#[test]
fn the_corpus_is_understood_or_refused() {
    for (name, input) in corpus() {
        std::panic::catch_unwind(|| check::check(&input)).unwrap_or_else(|_| panic!("{name}"));
    }
}

#[test]
fn the_corpus_in_every_session_and_cut_anywhere() {
    for (_, input) in corpus() {
        let mut input = input;
        for session in 0..32 {
            input[0] = session;
            check::check(&input);
        }
        for cut in (0..input.len()).rev().take(100) {
            check::check(&input[..cut]);
        }
    }
}

#[test]
fn the_corpus_with_random_damage() {
    let (corpus, mut random) = (corpus(), Random(0xdead));
    for round in 0..20_000 {
        let mut input = corpus[round % corpus.len()].1.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(input.len());
            match random.below(4) {
                0 => input[at] = random.below(256) as u8,
                1 => input[at] ^= 1 << random.below(8),
                2 => input.truncate(at.max(2)),
                _ => input.insert(at, random.below(256) as u8),
            }
        }
        check::check(&input);
    }
}
