//! Replays stories that fuzzing found interesting, and mixes them some more; `fuzz/README.md` says how they were made.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::disallowed_methods, reason = "the corpus is in files")]

#[path = "../fuzz/session.rs"]
mod session;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/session");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut corpus: Vec<_> =
        files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect();
    corpus.sort();
    assert!(corpus.len() > 20, "the corpus is not there");
    corpus
}

fn play(name: &str, input: &[u8]) {
    std::panic::catch_unwind(|| session::play(input)).unwrap_or_else(|_| panic!("{name}: {input:?}"));
}

#[test]
fn every_story_of_the_corpus_ends_well() {
    for (name, input) in corpus() {
        play(&name, &input);
    }
}

#[test]
fn the_same_stories_with_other_capabilities_end_well() {
    for (name, mut input) in corpus().into_iter().filter(|(_, input)| input.len() > 2) {
        for (bits, more) in [(0xfe, 0x00), (0xff, 0x10), (0x46, 0x04), (0xc1, 0x41)] {
            (input[0], input[1]) = (bits, more);
            play(&name, &input);
        }
    }
}

#[test]
fn random_stories_end_well() {
    let mut state = 7_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for round in 0..400 {
        let length = 40 + usize::from(random());
        let mut input: Vec<u8> = (0..length).map(|_| random()).collect();
        // A session first, or nothing is heard.
        input[2] = 19;
        play(&format!("round {round}"), &input);
    }
}
