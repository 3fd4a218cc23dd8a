//! Progress of prewarming: bars on a terminal, lines elsewhere.

use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::{
    prewarm::PullProgress,
    registry::Descriptor,
    text::{printable, short_image, size},
};

/// Width of the image name before its bar.
const NAME: usize = 44;
const BAR: &str =
    "{prefix:44!} {bar:20} {binary_bytes:>11}/{binary_total_bytes:<11} {binary_bytes_per_sec:>13} {eta:>4}  {wide_msg}";

/// How progress is shown.
enum ProgressOutput {
    /// Bars: one per running pull, and one for all.
    Bars {
        all: MultiProgress,
        total: ProgressBar,
    },
    Lines,
    Nothing,
}

/// Progress of all pulls.
pub(super) struct ProgressBoard {
    output: ProgressOutput,
    pulls: Mutex<HashMap<String, Arc<PullProgressBar>>>,
    counts: Mutex<ImageCounts>,
    all: PullTotals,
    begun: Instant,
}

/// Number of images per state.
#[derive(Debug, Clone, Copy, Default)]
struct ImageCounts {
    images: usize,
    pulling: usize,
    waiting: usize,
    done: usize,
    failed: usize,
}

/// Blobs and bytes of one pull, or of all.
#[derive(Debug, Default)]
pub(super) struct PullTotals {
    planned: AtomicU64,
    planned_bytes: AtomicU64,
    done: AtomicU64,
    done_bytes: AtomicU64,
    there_bytes: AtomicU64,
    received: AtomicU64,
}

/// Totals of an image's blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FetchTotals {
    /// Blobs that Harbor fetched now.
    pub(super) blobs: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Bytes of blobs that Harbor already had.
    pub(super) there: u64,
}

/// One pull of one image.
pub(super) struct PullProgressBar {
    board: Arc<ProgressBoard>,
    bar: Option<ProgressBar>,
    tally: PullTotals,
    fetched: AtomicU64,
}

impl ProgressBoard {
    /// Uses bars if standard error is a terminal that can move its cursor.
    pub(super) fn new(images: usize, quiet: bool) -> Arc<Self> {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let output = match (quiet, terminal) {
            (true, _) => ProgressOutput::Nothing,
            (false, false) => ProgressOutput::Lines,
            (false, true) => {
                let all = MultiProgress::new();
                let total = all.add(ProgressBar::new(0).with_style(style(BAR)).with_prefix("total"));
                total.enable_steady_tick(Duration::from_millis(200));
                ProgressOutput::Bars { all, total }
            }
        };
        let counts = Mutex::new(ImageCounts { images, ..ImageCounts::default() });
        let board = Self { output, pulls: Mutex::default(), counts, all: PullTotals::default(), begun: Instant::now() };
        board.show();
        Arc::new(board)
    }

    /// Starts a pull of an image; each image has at most one running pull.
    pub(super) fn pull(self: &Arc<Self>, image: &str) -> Arc<PullProgressBar> {
        let bar = match &self.output {
            ProgressOutput::Bars { all, .. } => {
                Some(all.add(ProgressBar::new(0).with_style(style(BAR)).with_prefix(name(image))))
            }
            ProgressOutput::Lines | ProgressOutput::Nothing => None,
        };
        let pull = Arc::new(PullProgressBar {
            board: self.clone(),
            bar,
            tally: PullTotals::default(),
            fetched: AtomicU64::new(0),
        });
        let before = self.pulls.lock().insert(image.to_owned(), pull.clone());
        if let Some(before) = before {
            before.end();
        }
        pull
    }

    /// Counts an image that is being pulled.
    pub(super) fn pulling(&self) {
        self.count(|counts| counts.pulling += 1);
    }

    /// Ends the pull of an image. Returns the totals of its blobs.
    pub(super) fn pulled(&self, image: &str) -> FetchTotals {
        let pull = self.pulls.lock().remove(image);
        self.count(|counts| counts.pulling = counts.pulling.saturating_sub(1));
        pull.map(|pull| pull.end()).unwrap_or_default()
    }

    /// Counts an image that waits, or no longer waits, for Harbor.
    pub(super) fn waiting(&self, begins: bool) {
        self.count(|counts| {
            counts.waiting = if begins { counts.waiting + 1 } else { counts.waiting.saturating_sub(1) };
        });
    }

    /// Counts a finished image.
    pub(super) fn ended(&self, well: bool) {
        self.count(|counts| if well { counts.done += 1 } else { counts.failed += 1 });
    }

    /// Prints a permanent line.
    pub(super) fn print_line(&self, image: &str, what: &str) {
        let line = printable(&format!("{}: {what}", short_image(image)));
        match &self.output {
            ProgressOutput::Bars { all, .. } => {
                all.println(line).ok();
            }
            ProgressOutput::Lines => write(&line),
            ProgressOutput::Nothing => {}
        }
    }

    /// Prints the totals, if there are no bars.
    pub(super) fn print_totals(&self) {
        if matches!(self.output, ProgressOutput::Lines) {
            let seconds = self.begun.elapsed().as_secs_f64().max(0.1);
            let (position, length) = self.all.position();
            let rate = size((position as f64 / seconds) as u64);
            write(&format!("total: {}; {} of {}, {rate}/s", self.counts.lock().text(), size(position), size(length)));
        }
    }

    /// Removes the bars.
    pub(super) fn clear(&self) {
        if let ProgressOutput::Bars { all, total } = &self.output {
            total.finish_and_clear();
            all.clear().ok();
        }
    }

    fn count(&self, change: impl FnOnce(&mut ImageCounts)) {
        change(&mut self.counts.lock());
        self.show();
    }

    fn show(&self) {
        if let ProgressOutput::Bars { total, .. } = &self.output {
            let (position, length) = self.all.position();
            total.set_length(length);
            total.set_position(position);
            total.set_message(self.counts.lock().text());
        }
    }
}

impl ImageCounts {
    fn text(self) -> String {
        let Self { images, pulling, waiting, done, failed } = self;
        let mut text = format!("{done} of {images} done");
        for (number, word) in [(pulling, "pulling"), (waiting, "waiting for Harbor"), (failed, "failed")] {
            if number > 0 {
                text.push_str(&format!(", {number} {word}"));
            }
        }
        text
    }
}

impl PullTotals {
    fn plan(&self, blobs: u64, bytes: u64) {
        self.planned.fetch_add(blobs, Ordering::Relaxed);
        self.planned_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn finish(&self, bytes: u64, stored: bool) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        if stored {
            self.there_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Fetched bytes and bytes to fetch. Blobs that Harbor already had are excluded, because they would distort the rate. A blob
    /// that Harbor fetches itself counts when it is done.
    fn position(&self) -> (u64, u64) {
        let value = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let there = value(&self.there_bytes);
        let length = value(&self.planned_bytes).saturating_sub(there);
        let done = value(&self.done_bytes).saturating_sub(there);
        (value(&self.received).max(done).min(length), length)
    }
}

impl PullProgressBar {
    fn show(&self) {
        if let Some(bar) = &self.bar {
            let (position, length) = self.tally.position();
            bar.set_length(length);
            bar.set_position(position);
            let (done, planned) = (&self.tally.done, &self.tally.planned);
            bar.set_message(format!("{}/{} blobs", done.load(Ordering::Relaxed), planned.load(Ordering::Relaxed)));
        }
        self.board.show();
    }

    /// Removes the bar.
    fn end(&self) -> FetchTotals {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let value = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let there = value(&self.tally.there_bytes);
        let bytes = value(&self.tally.done_bytes).saturating_sub(there);
        FetchTotals { blobs: value(&self.fetched), bytes, there }
    }
}

impl PullProgress for PullProgressBar {
    fn planned(&self, blobs: u64, bytes: u64) {
        self.tally.plan(blobs, bytes);
        self.board.all.plan(blobs, bytes);
        self.show();
    }

    fn received(&self, bytes: u64) {
        self.tally.received.fetch_add(bytes, Ordering::Relaxed);
        self.board.all.received.fetch_add(bytes, Ordering::Relaxed);
        // This is called thousands of times a second: no text is formatted.
        if let (Some(bar), ProgressOutput::Bars { total, .. }) = (&self.bar, &self.board.output) {
            bar.set_position(self.tally.position().0);
            total.set_position(self.board.all.position().0);
        }
    }

    fn done(&self, blob: &Descriptor, stored: bool) {
        self.tally.finish(blob.size, stored);
        self.board.all.finish(blob.size, stored);
        self.fetched.fetch_add(u64::from(!stored), Ordering::Relaxed);
        self.show();
    }
}

impl FetchTotals {
    /// Adds what an earlier pull of the same image fetched.
    pub(super) fn after(self, before: Self) -> Self {
        let blobs = self.blobs.saturating_add(before.blobs);
        let bytes = self.bytes.saturating_add(before.bytes);
        Self { blobs, bytes, there: self.there.saturating_sub(before.bytes) }
    }
}

/// Shortens a name to its end, which is more specific than its beginning.
fn name(image: &str) -> String {
    let short = printable(&short_image(image));
    let length = short.chars().count();
    match length.checked_sub(NAME) {
        None | Some(0) => short,
        Some(over) => format!("…{}", short.chars().skip(over + 1).collect::<String>()),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn write(line: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{line}").ok();
}
