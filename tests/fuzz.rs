//! What the fuzzer checks (`fuzz/`), on its seeds and on some thousands of inputs that are nearly one of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Pieces with a meaning to one of the parsers.
const PIECES: &[&str] = &[
    "/",
    ":",
    "@",
    ".",
    "__",
    "-",
    "[::1]",
    "sha256:",
    "docker.io/",
    "A",
    "é",
    "\\u0000",
    "\\\"",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    "null",
    "true",
    "1e9",
    "{}",
    "[]",
    "\"\"",
    "\"image\":",
    "\"spec\":null,",
    "\"metadata\":{},",
    "\"annotations\":null,",
    "\"containers\":[],",
    "\"operation\":\"UPDATE\",",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A seed with some of its bytes replaced.
fn nearly(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let piece = select(PIECES).prop_map(|piece| piece.as_bytes().to_vec());
    let put = prop_oneof![piece, prop::collection::vec(any::<u8>(), 0..4)];
    let edits = prop::collection::vec((any::<Index>(), 0_usize..12, put), 1..5);
    (select(seeds), edits).prop_map(|(mut bytes, edits)| {
        for (place, length, put) in edits {
            let start = place.index(bytes.len() + 1);
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, put);
        }
        bytes
    })
}

#[test]
fn every_seed_is_fit_for_its_target() {
    for (target, check) in [("image_ref", fuzz::image_ref as fn(&[u8])), ("review", fuzz::review)] {
        let seeds = seeds(target);
        assert!(seeds.len() >= 3, "{target} has {} seeds", seeds.len());
        seeds.iter().for_each(|seed| check(seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn no_text_breaks_the_reading_of_image_references(text in nearly(seeds("image_ref"))) {
        fuzz::image_ref(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    #[test]
    fn no_body_breaks_the_answer_of_the_webhook(body in nearly(seeds("review"))) {
        fuzz::review(&body);
    }
}
