//! Our reading of image references against that of the container runtimes, string by string.
//!
//! What is compared is everything that decides where an image comes from. A difference is a Pod that is sent to another
//! image than the runtime would have pulled, or one that is refused for no reason.
//!
//! `HARBOR_PILOT_DIFFERENTIAL_CASES` sets how many strings are generated (1,000,000), `HARBOR_PILOT_DIFFERENTIAL_SEED`
//! from which seed (a fixed one).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod corpus;
mod generator;

use std::collections::BTreeSet;
use std::num::NonZero;
use std::panic::catch_unwind;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use harbor_pilot::image::ImageRef;
use harbor_pilot_e2e::reference::{Oracle, OracleReference, OracleResult};

const CASES: usize = 1_000_000;
const SEED: u64 = 0x4861_7262_6f72;

/// Strings of one exchange with the judge: bounds memory where millions are asked for.
const BATCH: usize = 50_000;

/// Judges at a time.
const MAX_WORKERS: usize = 4;

#[test]
fn every_reference_of_the_written_corpus_is_read_as_runtimes_read_it() {
    let corpus = corpus::all();
    let different: BTreeSet<&String> = corpus.iter().collect();
    assert!(different.len() >= 200, "the corpus has shrunk to {} entries", different.len());
    compare(&mut Oracle::start().unwrap(), &corpus).nothing_differs();
}

#[test]
fn every_generated_reference_is_read_as_runtimes_read_it() {
    let cases = setting("HARBOR_PILOT_DIFFERENTIAL_CASES", CASES);
    let seed = setting("HARBOR_PILOT_DIFFERENTIAL_SEED", SEED);
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_WORKERS);
    let mut total = Outcome::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| compare_batches(&next, cases, seed))).collect();
        workers.into_iter().for_each(|worker| total.add(worker.join().unwrap()));
    });
    // The test runner shows this of a run that fails.
    eprintln!(
        "HARBOR_PILOT_DIFFERENTIAL_SEED={seed}: {} references, {} others; with a tag {}, with a digest {}, outside Docker Hub {}",
        total.accepted, total.refused, total.tagged, total.digested, total.elsewhere
    );
    assert_eq!(total.accepted + total.refused, cases);
    total.nothing_differs();
    // A generator that yields only one kind proves nothing.
    for (what, count) in [
        ("accepted", total.accepted),
        ("refused", total.refused),
        ("tagged", total.tagged),
        ("digested", total.digested),
        ("elsewhere", total.elsewhere),
    ] {
        assert!(count * 20 >= cases, "only {count} of {cases} strings are {what}");
    }
}

/// Takes batches until none is left. What is in a batch hangs on the seed and its number alone.
fn compare_batches(next: &AtomicUsize, cases: usize, seed: u64) -> Outcome {
    let mut oracle = Oracle::start().unwrap();
    let mut total = Outcome::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let length = cases.saturating_sub(number * BATCH).min(BATCH);
        if length == 0 {
            return total;
        }
        let mut generator = generator::Generator::new(seed.wrapping_add(number as u64), corpus::all());
        let strings: Vec<String> = (0..length).map(|_| generator.string()).collect();
        total.add(compare(&mut oracle, &strings));
    }
}

/// What a comparison has seen.
#[derive(Default)]
struct Outcome {
    accepted: usize,
    refused: usize,
    tagged: usize,
    digested: usize,
    elsewhere: usize,
    differences: Vec<String>,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.tagged += other.tagged;
        self.digested += other.digested;
        self.elsewhere += other.elsewhere;
        self.differences.extend(other.differences);
    }

    /// Fails with the shortest differences, which are the easiest to understand.
    fn nothing_differs(&self) {
        let mut differences: Vec<&str> = self.differences.iter().map(String::as_str).collect();
        differences.sort_by_key(|text| text.len());
        differences.truncate(20);
        assert!(
            differences.is_empty(),
            "{} strings are read differently:\n{}",
            self.differences.len(),
            differences.join("\n")
        );
    }
}

fn compare(oracle: &mut Oracle, strings: &[String]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut normalised = Vec::new();
    let results = oracle.parse_all(strings).unwrap();
    assert_eq!(results.len(), strings.len());
    for (string, theirs) in strings.iter().zip(results) {
        outcome.differences.extend(difference(string, &theirs));
        let OracleResult::Reference(reference) = theirs else {
            outcome.refused += 1;
            continue;
        };
        outcome.accepted += 1;
        outcome.tagged += usize::from(reference.tag.is_some());
        outcome.digested += usize::from(reference.digest.is_some());
        outcome.elsewhere += usize::from(reference.domain != "docker.io");
        normalised.push(reference.string);
    }
    // A rewritten Pod comes back to us, and its image is parsed again.
    for (string, theirs) in normalised.iter().zip(oracle.parse_all(&normalised).unwrap()) {
        outcome.differences.extend(difference(string, &theirs));
    }
    outcome
}

/// How our reading of `string` differs from theirs.
fn difference(string: &str, theirs: &OracleResult) -> Option<String> {
    let theirs = match theirs {
        OracleResult::Reference(reference) => Ok(reference.clone()),
        OracleResult::Refused(reason) => Err(reason),
    };
    let Ok(ours) = catch_unwind(|| ours(string)) else {
        return Some(format!("{string:?}: ours panics, theirs {theirs:?}"));
    };
    let same = match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        (ours, theirs) => ours.is_err() && theirs.is_err(),
    };
    (!same).then(|| format!("{string:?}:\n  ours   {ours:?}\n  theirs {theirs:?}"))
}

fn ours(string: &str) -> Result<OracleReference, String> {
    let reference = ImageRef::parse(string).map_err(|error| error.to_string())?;
    Ok(OracleReference {
        domain: reference.host().to_owned(),
        path: reference.repository().to_owned(),
        tag: reference.tag().map(str::to_owned),
        digest: reference.digest().map(str::to_owned),
        string: reference.to_string(),
    })
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}
