//! One list of Harbor's, read once for all who ask, and kept until somebody asks for a newer one.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, MutexGuard},
};

use k8s_openapi::jiff::Timestamp;

use super::{Freshness, Seen, Source, shared::Shared};
use crate::harbor::{Client, Error};

/// What Harbor has lists of.
pub(super) trait Listing: Debug + Send + Sync + Sized + 'static {
    /// What it is asked for by.
    type Key: Clone + Debug + Eq + Hash + Send + Sync;

    /// Of this one.
    fn key(&self) -> Self::Key;

    /// All of them.
    fn all(client: &Client) -> impl Future<Output = Result<Vec<Self>, Error>> + Send;

    /// One of them.
    fn one(client: &Client, key: &Self::Key) -> impl Future<Output = Result<Option<Self>, Error>> + Send;
}

/// A list, and what was learnt of single items since it was read.
#[derive(Debug)]
pub(super) struct Listed<T: Listing> {
    known: Shared<Known<T>>,
}

#[derive(Debug)]
struct Known<T: Listing> {
    /// When the reading of the list began.
    begun: Option<Timestamp>,
    items: HashMap<T::Key, Arc<T>>,
    since: HashMap<T::Key, Single<T>>,
}

/// What was learnt of one item by itself.
#[derive(Debug)]
struct Single<T> {
    at: Timestamp,
    /// `None`: it was written to, and how it is now nobody has asked.
    read: Option<Option<Arc<T>>>,
}

/// What is known of an item.
enum Found<T> {
    Seen(Seen<T>),
    /// It has to be asked for by itself.
    Ask,
    /// The list is too old.
    TooOld,
}

impl<T: Listing> Default for Listed<T> {
    fn default() -> Self {
        Self { known: Shared::default() }
    }
}

impl<T: Listing> Default for Known<T> {
    fn default() -> Self {
        Self { begun: None, items: HashMap::new(), since: HashMap::new() }
    }
}

impl<T: Listing> Listed<T> {
    /// One item, as fresh as is asked for.
    pub(super) async fn get(&self, source: &Source, key: &T::Key, freshness: Freshness) -> Result<Seen<T>, Error> {
        let found = self.lock().find(key, freshness);
        match found {
            Found::Seen(seen) => return Ok(seen),
            Found::Ask => return self.ask(source, key).await,
            Found::TooOld => self.read(source, freshness.since()).await?,
        }
        let found = self.lock().find(key, freshness);
        match found {
            Found::Seen(seen) => Ok(seen),
            // Written to while the list was read.
            Found::Ask | Found::TooOld => self.ask(source, key).await,
        }
    }

    /// All items of a list that is as fresh as is asked for.
    pub(super) async fn all(&self, source: &Source, since: Timestamp) -> Result<Vec<Arc<T>>, Error> {
        self.read(source, since).await?;
        let unknown = self.lock().unknown();
        for key in unknown {
            self.ask(source, &key).await?;
        }
        Ok(self.lock().all())
    }

    /// Takes what somebody has just read.
    pub(super) fn put(&self, item: T, at: Timestamp) {
        let key = item.key();
        self.lock().learn(key, Single { at, read: Some(Some(Arc::new(item))) });
    }

    /// An item was written to: the next who asks for it asks Harbor.
    pub(super) fn forget(&self, key: T::Key) {
        self.lock().learn(key, Single { at: Timestamp::now(), read: None });
    }

    /// Everything was.
    pub(super) fn clear(&self) {
        *self.lock() = Known::default();
    }

    /// Reads the list, unless one is known that began at `since` or later.
    async fn read(&self, source: &Source, since: Timestamp) -> Result<(), Error> {
        let is_fresh = |known: &Known<T>| known.begun.is_some_and(|begun| begun >= since);
        self.known.refresh(is_fresh, source.guarded(T::all(&source.client)), Known::replace).await
    }

    async fn ask(&self, source: &Source, key: &T::Key) -> Result<Seen<T>, Error> {
        let at = Timestamp::now();
        let item = source.guarded(T::one(&source.client, key)).await?.map(Arc::new);
        self.lock().learn(key.clone(), Single { at, read: Some(item.clone()) });
        Ok(Seen { item, at })
    }

    fn lock(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock()
    }
}

impl<T: Listing> Known<T> {
    fn find(&self, key: &T::Key, freshness: Freshness) -> Found<T> {
        let since = freshness.since();
        let single = self.since.get(key);
        if let Some(Single { at, read }) = single {
            match read {
                None => return Found::Ask,
                Some(item) if *at >= since => return Found::Seen(Seen { item: item.clone(), at: *at }),
                Some(_) => {}
            }
        }
        match (self.begun, freshness) {
            (Some(begun), _) if begun >= since => Found::Seen(Seen { item: self.items.get(key).cloned(), at: begun }),
            (_, Freshness::Asked(_)) => Found::Ask,
            (_, Freshness::Listed(_)) => Found::TooOld,
        }
    }

    /// What was learnt after the reading of the list began is newer than the list.
    fn replace(&mut self, begun: Timestamp, items: Vec<T>) {
        self.begun = Some(begun);
        self.items = items.into_iter().map(|item| (item.key(), Arc::new(item))).collect();
        self.since.retain(|_, single| single.at >= begun);
    }

    /// An answer to a question from before a write says nothing.
    fn learn(&mut self, key: T::Key, single: Single<T>) {
        if self.since.get(&key).is_none_or(|known| known.at <= single.at) {
            self.since.insert(key, single);
        }
    }

    fn unknown(&self) -> Vec<T::Key> {
        self.since.iter().filter(|(_, single)| single.read.is_none()).map(|(key, _)| key.clone()).collect()
    }

    fn all(&self) -> Vec<Arc<T>> {
        let listed = self.items.iter().filter(|(key, _)| !self.since.contains_key(*key)).map(|(_, item)| item.clone());
        let single = self.since.values().filter_map(|single| single.read.clone().flatten());
        listed.chain(single).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An item that no client reads.
    #[derive(Debug, PartialEq, Eq)]
    struct Item(&'static str, u32);

    impl Listing for Item {
        type Key = &'static str;

        fn key(&self) -> &'static str {
            self.0
        }

        async fn all(_: &Client) -> Result<Vec<Self>, Error> {
            Ok(Vec::new())
        }

        async fn one(_: &Client, _: &&'static str) -> Result<Option<Self>, Error> {
            Ok(None)
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn known(begun: i64, items: Vec<Item>) -> Known<Item> {
        let mut known = Known::default();
        known.replace(at(begun), items);
        known
    }

    /// What is found: the number, `absent`, `ask` or `too old`.
    fn found(known: &Known<Item>, key: &'static str, freshness: Freshness) -> String {
        match known.find(&key, freshness) {
            Found::Seen(Seen { item: Some(item), .. }) => item.1.to_string(),
            Found::Seen(_) => "absent".to_owned(),
            Found::Ask => "ask".to_owned(),
            Found::TooOld => "too old".to_owned(),
        }
    }

    #[test]
    fn a_list_answers_for_what_it_holds_and_for_what_it_does_not_until_it_is_too_old() {
        let known = known(100, vec![Item("a", 1)]);
        assert_eq!(found(&known, "a", Freshness::Listed(at(100))), "1");
        assert_eq!(found(&known, "b", Freshness::Listed(at(100))), "absent");
        assert_eq!(found(&known, "a", Freshness::Listed(at(101))), "too old");
        assert_eq!(found(&known, "a", Freshness::Asked(at(101))), "ask");
        assert_eq!(found(&Known::default(), "a", Freshness::Listed(at(0))), "too old");
    }

    #[test]
    fn what_was_asked_for_by_itself_is_newer_than_the_list_and_older_than_the_next() {
        let mut known = known(100, vec![Item("a", 1)]);
        known.learn("a", Single { at: at(150), read: Some(Some(Arc::new(Item("a", 2)))) });
        assert_eq!(found(&known, "a", Freshness::Listed(at(100))), "2");
        assert_eq!(found(&known, "a", Freshness::Asked(at(150))), "2");
        assert_eq!(found(&known, "a", Freshness::Asked(at(151))), "ask");
        known.replace(at(149), vec![Item("a", 1), Item("b", 5)]);
        assert_eq!(found(&known, "a", Freshness::Listed(at(149))), "2", "the list had begun before");
        assert_eq!(known.all().len(), 2);
        known.replace(at(151), vec![Item("a", 3)]);
        assert_eq!(found(&known, "a", Freshness::Listed(at(149))), "3");
    }

    #[test]
    fn what_was_written_to_is_asked_for_whatever_a_list_says_that_began_before() {
        let mut known = known(100, vec![Item("a", 1)]);
        known.learn("a", Single { at: at(150), read: None });
        assert_eq!(found(&known, "a", Freshness::Listed(at(0))), "ask");
        known.replace(at(149), vec![Item("a", 1)]);
        assert_eq!(found(&known, "a", Freshness::Listed(at(0))), "ask");
        // An answer that was on its way when the write came.
        known.learn("a", Single { at: at(148), read: Some(None) });
        assert_eq!(found(&known, "a", Freshness::Listed(at(0))), "ask");
        assert_eq!(known.unknown(), ["a"]);
        known.replace(at(151), vec![Item("a", 2)]);
        assert_eq!(found(&known, "a", Freshness::Listed(at(151))), "2");
    }
}
