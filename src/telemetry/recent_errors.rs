//! The last warnings and errors of the process, for its status page.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The most entries; the oldest are dropped.
pub const MOST: usize = 50;
/// The longest text, in bytes.
const LONGEST: usize = 500;

/// The last warnings and errors. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RecentErrors(Arc<Mutex<VecDeque<LoggedError>>>);

/// A warning or an error from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedError {
    /// The time of the last occurrence.
    pub at: Timestamp,
    /// Whether it is an error.
    pub is_error: bool,
    /// The message with its fields, at most 500 bytes. It may contain external text.
    pub text: String,
    /// The number of repetitions in a row.
    pub times: u64,
}

impl RecentErrors {
    /// Returns the entries, newest first.
    pub fn newest(&self) -> Vec<LoggedError> {
        self.0.lock().iter().rev().cloned().collect()
    }

    /// Adds an entry.
    pub fn note(&self, is_error: bool, text: String, at: Timestamp) {
        let mut kept = self.0.lock();
        if let Some(last) = kept.back_mut().filter(|last| last.text == text && last.is_error == is_error) {
            (last.at, last.times) = (at, last.times.saturating_add(1));
            return;
        }
        if kept.len() >= MOST {
            kept.pop_front();
        }
        kept.push_back(LoggedError { at, is_error, text, times: 1 });
    }

    /// Returns a layer that records warnings and errors of the log.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        RecordingLayer(self.clone()).with_filter(LevelFilter::WARN)
    }
}

struct RecordingLayer(RecentErrors);

impl<S: Subscriber> Layer<S> for RecordingLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = MessageVisitor::default();
        event.record(&mut line);
        let text = if line.message.is_empty() { line.fields } else { line.message + &line.fields };
        let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= LONGEST).unwrap_or(text.len());
        let text = text.get(..end).unwrap_or_default().trim().to_owned();
        self.0.note(*event.metadata().level() == Level::ERROR, text, Timestamp::now());
    }
}

/// A message, and its fields as ` name=value`.
#[derive(Default)]
struct MessageVisitor {
    message: String,
    fields: String,
}

impl Visit for MessageVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.message, "{value:?}").ok();
        } else {
            write!(self.fields, " {}={value:?}", field.name()).ok();
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            write!(self.fields, " {}={value}", field.name()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_last_warnings_are_kept_and_no_more_than_so_many_and_the_same_one_once() {
        let troubles = RecentErrors::default();
        let registry = tracing_subscriber::registry().with(troubles.layer());
        tracing::subscriber::with_default(registry, || {
            tracing::info!("nothing to worry about");
            for number in 0..MOST + 3 {
                tracing::warn!(number, "odd");
            }
            (0..4).for_each(|_| tracing::error!(error = "<b>broken</b>", "failed {}", "x".repeat(2000)));
        });
        let kept = troubles.newest();
        assert_eq!(kept.len(), MOST);
        assert!(kept[0].is_error && kept[0].times == 4 && kept[0].text.len() <= LONGEST, "{:?}", kept[0]);
        assert_eq!(kept[1].text, format!("odd number={}", MOST + 2));
        assert_eq!(kept[MOST - 1].text, "odd number=4");
    }
}
