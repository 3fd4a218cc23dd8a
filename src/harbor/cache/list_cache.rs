//! One list of Harbor, read once for all readers, and kept until a reader needs a newer one.

use std::{collections::HashMap, fmt::Debug, hash::Hash, sync::Arc};

use k8s_openapi::jiff::Timestamp;

use super::{Cached, Freshness, shared_read::SharedRead};
use crate::harbor::{Client, Error};

/// An object type that Harbor lists.
pub(super) trait Listing: Debug + Send + Sync + Sized + 'static {
    /// Key of an object.
    type Key: Clone + Debug + Eq + Hash + Send + Sync;

    /// Returns the key of this object.
    fn key(&self) -> Self::Key;

    /// Reads all objects.
    fn all(client: &Client) -> impl Future<Output = Result<Vec<Self>, Error>> + Send;

    /// Reads one object.
    fn one(client: &Client, key: &Self::Key) -> impl Future<Output = Result<Option<Self>, Error>> + Send;
}

/// A list, and newer reads of single items since it was read.
#[derive(Debug)]
pub(super) struct ListCache<T: Listing> {
    known: SharedRead<CachedList<T>>,
}

#[derive(Debug)]
struct CachedList<T: Listing> {
    /// When the read of the list began.
    begun: Option<Timestamp>,
    items: HashMap<T::Key, Arc<T>>,
    since: HashMap<T::Key, CachedItem<T>>,
}

/// A read of a single item.
#[derive(Debug)]
struct CachedItem<T> {
    at: Timestamp,
    /// `None`: the item was written, and its new state is not read yet.
    read: Option<Option<Arc<T>>>,
}

/// The known state of an item.
enum CacheLookup<T> {
    Seen(Cached<T>),
    /// The item must be read by itself.
    Ask,
    /// The list is too old.
    TooOld,
}

impl<T: Listing> Default for ListCache<T> {
    fn default() -> Self {
        Self { known: SharedRead::default() }
    }
}

impl<T: Listing> Default for CachedList<T> {
    fn default() -> Self {
        Self { begun: None, items: HashMap::new(), since: HashMap::new() }
    }
}

impl<T: Listing> ListCache<T> {
    /// Returns one item, as recent as `freshness` requires.
    pub(super) async fn get(&self, client: &Client, key: &T::Key, freshness: Freshness) -> Result<Cached<T>, Error> {
        let found = self.known.lock().find(key, freshness);
        match found {
            CacheLookup::Seen(seen) => return Ok(seen),
            CacheLookup::Ask => return self.ask(client, key).await,
            CacheLookup::TooOld => self.read(client, freshness.since()).await?,
        }
        let found = self.known.lock().find(key, freshness);
        match found {
            CacheLookup::Seen(seen) => Ok(seen),
            // The item was written while the list was read.
            CacheLookup::Ask | CacheLookup::TooOld => self.ask(client, key).await,
        }
    }

    /// Returns all items of a list that began at `since` or later.
    pub(super) async fn all(&self, client: &Client, since: Timestamp) -> Result<Vec<Arc<T>>, Error> {
        self.read(client, since).await?;
        let unknown = self.known.lock().unknown();
        for key in unknown {
            self.ask(client, &key).await?;
        }
        Ok(self.known.lock().all())
    }

    /// Stores an item that a caller has just read.
    pub(super) fn put(&self, item: T, at: Timestamp) {
        let key = item.key();
        self.known.lock().learn(key, CachedItem { at, read: Some(Some(Arc::new(item))) });
    }

    /// Records a write to an item: the next reader asks Harbor.
    pub(super) fn forget(&self, key: T::Key) {
        self.known.lock().learn(key, CachedItem { at: Timestamp::now(), read: None });
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.known.lock() = CachedList::default();
    }

    /// Reads the list, unless a known one began at `since` or later.
    async fn read(&self, client: &Client, since: Timestamp) -> Result<(), Error> {
        let is_fresh = |known: &CachedList<T>| known.begun.is_some_and(|begun| begun >= since);
        self.known.refresh(is_fresh, client.admitted(T::all(client)), CachedList::replace).await
    }

    async fn ask(&self, client: &Client, key: &T::Key) -> Result<Cached<T>, Error> {
        let at = Timestamp::now();
        let item = client.admitted(T::one(client, key)).await?.map(Arc::new);
        self.known.lock().learn(key.clone(), CachedItem { at, read: Some(item.clone()) });
        Ok(Cached { item, at })
    }
}

impl<T: Listing> CachedList<T> {
    fn find(&self, key: &T::Key, freshness: Freshness) -> CacheLookup<T> {
        let since = freshness.since();
        let single = self.since.get(key);
        if let Some(CachedItem { at, read }) = single {
            match read {
                None => return CacheLookup::Ask,
                Some(item) if *at >= since => return CacheLookup::Seen(Cached { item: item.clone(), at: *at }),
                Some(_) => {}
            }
        }
        match (self.begun, freshness) {
            (Some(begun), _) if begun >= since => {
                CacheLookup::Seen(Cached { item: self.items.get(key).cloned(), at: begun })
            }
            (_, Freshness::Asked(_)) => CacheLookup::Ask,
            (_, Freshness::Listed(_)) => CacheLookup::TooOld,
        }
    }

    /// Single reads after the read of the list began are newer than the list.
    fn replace(&mut self, begun: Timestamp, items: Vec<T>) {
        self.begun = Some(begun);
        self.items = items.into_iter().map(|item| (item.key(), Arc::new(item))).collect();
        self.since.retain(|_, single| single.at >= begun);
    }

    /// An answer to a request from before a write is outdated.
    fn learn(&mut self, key: T::Key, single: CachedItem<T>) {
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

    /// An item that the tests do not read with a client.
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

    fn known(begun: i64, items: Vec<Item>) -> CachedList<Item> {
        let mut known = CachedList::default();
        known.replace(at(begun), items);
        known
    }

    /// The result: the number, `absent`, `ask` or `too old`.
    fn found(known: &CachedList<Item>, key: &'static str, freshness: Freshness) -> String {
        match known.find(&key, freshness) {
            CacheLookup::Seen(Cached { item: Some(item), .. }) => item.1.to_string(),
            CacheLookup::Seen(_) => "absent".to_owned(),
            CacheLookup::Ask => "ask".to_owned(),
            CacheLookup::TooOld => "too old".to_owned(),
        }
    }

    #[test]
    fn a_list_answers_for_what_it_holds_and_for_what_it_does_not_until_it_is_too_old() {
        let known = known(100, vec![Item("a", 1)]);
        assert_eq!(found(&known, "a", Freshness::Listed(at(100))), "1");
        assert_eq!(found(&known, "b", Freshness::Listed(at(100))), "absent");
        assert_eq!(found(&known, "a", Freshness::Listed(at(101))), "too old");
        assert_eq!(found(&known, "a", Freshness::Asked(at(101))), "ask");
        assert_eq!(found(&CachedList::default(), "a", Freshness::Listed(at(0))), "too old");
    }

    #[test]
    fn what_was_asked_for_by_itself_is_newer_than_the_list_and_older_than_the_next() {
        let mut known = known(100, vec![Item("a", 1)]);
        known.learn("a", CachedItem { at: at(150), read: Some(Some(Arc::new(Item("a", 2)))) });
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
        known.learn("a", CachedItem { at: at(150), read: None });
        assert_eq!(found(&known, "a", Freshness::Listed(at(0))), "ask");
        known.replace(at(149), vec![Item("a", 1)]);
        assert_eq!(found(&known, "a", Freshness::Listed(at(0))), "ask");
        // An answer that was in flight during the write.
        known.learn("a", CachedItem { at: at(148), read: Some(None) });
        assert_eq!(found(&known, "a", Freshness::Listed(at(0))), "ask");
        assert_eq!(known.unknown(), ["a"]);
        known.replace(at(151), vec![Item("a", 2)]);
        assert_eq!(found(&known, "a", Freshness::Listed(at(151))), "2");
    }
}
