//! Events about resources (events.k8s.io/v1). A repeated message about the same object increments the count of one Event;
//! a different message creates another.
//!
//! kube's own recorder counts by reason only, so a second note with the same reason would show the message of the first.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;

use super::{Error, FIELD_MANAGER, bounded};
use crate::controller::EventMessage;

/// Namespace of Events about cluster-scoped resources, the same that Kubernetes uses.
const NAMESPACE: &str = "default";

/// A message that was not repeated for this long creates a new Event. The API server keeps Events for an hour.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Maximum number of remembered notes. Beyond it all are forgotten; the cost is a few Events that do not count up.
const MOST: usize = 4096;

/// Maximum length of `note`, in bytes.
const NOTE: usize = 1024;

/// Publishes Events about cluster-scoped resources.
pub struct Events {
    api: Api<Event>,
    memory: Mutex<RecentEvents>,
}

impl Events {
    /// Creates a publisher that uses this client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::namespaced(client, NAMESPACE), memory: Mutex::default() }
    }

    /// Publishes the note as an Event about the object.
    ///
    /// # Errors
    /// [`Error`] when the API server did not accept it.
    pub async fn publish(&self, about: &ObjectReference, note: &EventMessage) -> Result<(), Error> {
        let now = Timestamp::now();
        let key = EventKey {
            uid: about.uid.clone().unwrap_or_default(),
            reason: note.reason.to_string(),
            message: note.message.clone(),
        };
        let again = self.memory.lock().again(&key, now);
        if let Some((name, count)) = again {
            let series = Patch::Merge(json!({"series": {"count": count, "lastObservedTime": MicroTime(now)}}));
            let parameters = PatchParams::default();
            match bounded("counting an Event", self.api.patch(&name, &parameters, &series)).await {
                // The Event is gone: Events expire after a short time, and any user may delete them.
                Err(error) if error.is_not_found() => {}
                result => return result.map(|_| ()),
            }
        }
        let event = event(about, note, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        bounded("publishing an Event", self.api.create(&PostParams::default(), &event)).await?;
        self.memory.lock().publish_count(key, name, now);
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct EventKey {
    uid: String,
    reason: String,
    message: String,
}

#[derive(Debug)]
struct PublishedEvent {
    event: String,
    count: i32,
    last: Timestamp,
}

/// The recently published notes.
#[derive(Debug, Default)]
struct RecentEvents(HashMap<EventKey, PublishedEvent>);

impl RecentEvents {
    /// The Event that already has this message, and its count including this time.
    fn again(&mut self, key: &EventKey, now: Timestamp) -> Option<(String, i32)> {
        self.0.retain(|_, published| now.duration_since(published.last).unsigned_abs() < REMEMBERED);
        let published = self.0.get_mut(key)?;
        published.count = published.count.saturating_add(1);
        published.last = now;
        Some((published.event.clone(), published.count))
    }

    fn publish_count(&mut self, key: EventKey, event: String, now: Timestamp) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(key, PublishedEvent { event, count: 1, last: now });
    }
}

fn event(about: &ObjectReference, note: &EventMessage, now: Timestamp) -> Event {
    let name = about.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            // The name of an Event is a DNS subdomain of at most 253 bytes: 236 for the object's name, the rest for the
            // timestamp.
            name: Some(format!("{}.{:x}", clipped(name, 236).trim_end_matches(['.', '-']), now.as_nanosecond())),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(clipped(&note.message, NOTE).to_owned()),
        reason: Some(note.reason.to_string()),
        regarding: Some(about.clone()),
        reporting_controller: Some(FIELD_MANAGER.to_owned()),
        reporting_instance: Some(FIELD_MANAGER.to_owned()),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

/// The longest prefix of at most `bytes` bytes.
fn clipped(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;

    use super::*;
    use crate::api::Reason;

    fn key(uid: &str, message: &str) -> EventKey {
        EventKey { uid: uid.to_owned(), reason: "Reconciled".to_owned(), message: message.to_owned() }
    }

    #[test]
    fn the_same_words_count_up_and_other_words_or_objects_do_not() {
        let mut memory = RecentEvents::default();
        let start = Timestamp::UNIX_EPOCH;
        let at = |seconds| start + SignedDuration::from_secs(seconds);
        assert_eq!(memory.again(&key("a", "created"), at(0)), None);
        memory.publish_count(key("a", "created"), "e1".to_owned(), at(0));
        assert_eq!(memory.again(&key("a", "changed"), at(1)), None);
        assert_eq!(memory.again(&key("b", "created"), at(1)), None);
        assert_eq!(memory.again(&key("a", "created"), at(599)), Some(("e1".to_owned(), 2)));
        assert_eq!(memory.again(&key("a", "created"), at(1100)), Some(("e1".to_owned(), 3)));
        assert_eq!(memory.again(&key("a", "created"), at(1701)), None, "after a long silence it is news again");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut memory = RecentEvents::default();
        for number in 0..3 * MOST {
            memory.publish_count(key("a", &number.to_string()), String::new(), Timestamp::UNIX_EPOCH);
        }
        assert!(memory.0.len() <= MOST);
    }

    #[test]
    fn a_long_name_and_a_long_note_are_cut_between_characters() {
        let about = ObjectReference { name: Some(format!("{}-b", "a".repeat(235))), ..ObjectReference::default() };
        let note = EventMessage { warning: true, reason: Reason::InUse, message: "ä".repeat(600) };
        let event = event(&about, &note, Timestamp::from_second(4_000_000_000).unwrap());
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= 253 && name.starts_with("aaa") && !name.contains("-."), "{name}");
        assert_eq!(event.note.unwrap().len(), 1024);
    }
}
