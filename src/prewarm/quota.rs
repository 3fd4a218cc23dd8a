//! Caps on the number of CachedImages: in total, and of one namespace.
//!
//! Pure. An image that several namespaces use belongs to the one with the fewest images. A namespace that names the images of
//! others takes nothing from them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;

/// Default cap of managed CachedImages.
pub const TOTAL: usize = 5000;
/// Default cap of CachedImages of one namespace: a fifth of all.
pub const OF_NAMESPACE: usize = 1000;

/// The watch shows created and deleted CachedImages within this time.
const SHOWN: Duration = Duration::from_secs(30);
/// The counts are rebuilt after this time; until then they are updated with each create and delete.
const REBUILD: Duration = Duration::from_secs(1);

/// The caps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Managed CachedImages in total.
    pub total: usize,
    /// CachedImages of one namespace.
    pub of_namespace: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { total: TOTAL, of_namespace: OF_NAMESPACE }
    }
}

impl Caps {
    /// Returns the share that each of `namespaces` namespaces may use independent of the others.
    pub fn share(&self, namespaces: usize) -> usize {
        (self.total / namespaces.max(1)).min(self.of_namespace)
    }
}

/// A managed CachedImage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Its name.
    pub name: String,
    /// The namespaces that are known to use it.
    pub namespaces: Vec<Arc<str>>,
    /// Its worth in an eviction.
    pub worth: Worth,
}

/// The worth of a CachedImage; the lowest is evicted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worth {
    /// Scans found that a policy refuses it.
    pub refused: bool,
    /// The image is warm.
    pub ready: bool,
    /// Time of the last request.
    pub last: Timestamp,
}

/// Why there is no room for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Full {
    /// The namespace is at its cap.
    Namespace,
    /// All namespaces together are at the cap, and no other namespace has more images than this one.
    Total,
}

/// Whether there is room for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Free,
    /// There is room after this CachedImage of the largest namespace is deleted.
    InPlaceOf(String),
    /// There is no room.
    None(Full),
}

/// Which namespace each CachedImage belongs to.
#[derive(Debug, Default)]
pub struct Holdings {
    total: usize,
    of: BTreeMap<Arc<str>, HashMap<String, Worth>>,
}

impl Holdings {
    /// Counts these CachedImages.
    pub fn new(images: &[Holding]) -> Self {
        let mut holdings = Self::default();
        for (image, owner) in images.iter().zip(owners(images.iter().map(|image| image.namespaces.as_slice()))) {
            holdings.add(&owner, image.name.clone(), image.worth);
        }
        holdings
    }

    /// Returns the number of images of a namespace.
    pub fn count(&self, namespace: &str) -> usize {
        self.of.get(namespace).map_or(0, HashMap::len)
    }

    /// Returns whether there is room for one more image of a namespace.
    pub fn room(&self, namespace: &str, caps: &Caps) -> Room {
        let own = self.count(namespace);
        if own >= caps.of_namespace {
            return Room::None(Full::Namespace);
        }
        if self.total < caps.total {
            return Room::Free;
        }
        let most = self.of.values().max_by_key(|images| images.len());
        let victim = most.filter(|images| images.len() > own + 1).and_then(|images| {
            images.iter().min_by(|(one, a), (other, b)| (a, one).cmp(&(b, other))).map(|(name, _)| name.clone())
        });
        victim.map_or(Room::None(Full::Total), Room::InPlaceOf)
    }

    fn add(&mut self, namespace: &Arc<str>, name: String, worth: Worth) {
        if self.of.entry(Arc::clone(namespace)).or_default().insert(name, worth).is_none() {
            self.total += 1;
        }
    }

    fn remove(&mut self, name: &str) {
        let mut removed = false;
        self.of.retain(|_, images| {
            removed |= images.remove(name).is_some();
            !images.is_empty()
        });
        if removed {
            self.total = self.total.saturating_sub(1);
        }
    }
}

/// Returns the owner of each image: the namespace with the fewest images of those that use it, the first by name among equals.
/// Images without a known namespace belong to the empty namespace.
pub fn owners<'n>(images: impl Iterator<Item = &'n [Arc<str>]> + Clone) -> Vec<Arc<str>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for namespace in images.clone().flatten() {
        *counts.entry(namespace).or_default() += 1;
    }
    let count = |namespace: &Arc<str>| counts.get(&**namespace).copied().unwrap_or_default();
    let smallest = |namespaces: &[Arc<str>]| {
        namespaces.iter().min_by(|one, other| (count(one), one).cmp(&(count(other), other))).cloned()
    };
    let none: Arc<str> = "".into();
    images.map(|namespaces| smallest(namespaces).unwrap_or_else(|| Arc::clone(&none))).collect()
}

/// The holdings as a watch shows them, plus the creates and deletes that it does not show yet.
#[derive(Debug, Default)]
pub struct Ledger {
    holdings: Holdings,
    built: Option<Instant>,
    created: HashMap<String, (Holding, Instant)>,
    deleted: HashMap<String, Instant>,
}

impl Ledger {
    /// Rebuilds the counts from `images` unless that was done a moment ago.
    pub fn refresh(&mut self, images: impl FnOnce() -> Vec<Holding>, now: Instant) {
        if self.built.is_some_and(|built| now.saturating_duration_since(built) < REBUILD) {
            return;
        }
        self.built = Some(now);
        let mut images = images();
        let recent = |at: &Instant| now.saturating_duration_since(*at) < SHOWN;
        self.deleted.retain(|_, at| recent(at));
        images.retain(|image| !self.deleted.contains_key(&image.name));
        for image in &images {
            self.created.remove(&image.name);
        }
        self.created.retain(|_, (_, at)| recent(at));
        images.extend(self.created.values().map(|(image, _)| image.clone()));
        self.holdings = Holdings::new(&images);
    }

    /// Returns the current holdings.
    pub fn holdings(&self) -> &Holdings {
        &self.holdings
    }

    /// Records that this process created a CachedImage.
    pub fn created(&mut self, namespace: &str, name: String, worth: Worth, now: Instant) {
        let namespace: Arc<str> = namespace.into();
        self.deleted.remove(&name);
        self.holdings.add(&namespace, name.clone(), worth);
        let holding = Holding { name: name.clone(), namespaces: vec![namespace], worth };
        self.created.insert(name, (holding, now));
    }

    /// Records that this process deleted a CachedImage.
    pub fn deleted(&mut self, name: String, now: Instant) {
        self.created.remove(&name);
        self.holdings.remove(&name);
        self.deleted.insert(name, now);
    }
}

#[cfg(test)]
mod tests;
