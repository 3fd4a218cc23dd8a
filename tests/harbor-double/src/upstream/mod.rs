//! The upstream registry. In: images from a test, pulls from Harbor or from anyone. Out: the distribution API
//! (<https://github.com/opencontainers/distribution-spec>), pushes and deletions too, with the failures that a test asks for.

mod ecr;
mod push;
mod serve;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::{
    image::{self, Image, Pushed},
    log::{Log, Request},
    net::Server,
};

pub(crate) use ecr::{TARGET, signed};

/// Tokens that are remembered; the oldest is forgotten.
const TOKENS: usize = 1000;

/// A running upstream registry on a loopback port. Dropping it stops it.
#[derive(Debug)]
pub struct Upstream {
    server: Server,
    inner: Arc<Inner>,
}

/// Settings of an [`Upstream`].
#[derive(Debug, Default)]
pub struct Builder {
    port: u16,
    auth: Auth,
}

/// A failure for the next matching requests; see [`Upstream::fail_next`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// 429 TOOMANYREQUESTS, with `Retry-After` in seconds where given.
    TooManyRequests(Option<u64>),
    /// An answer with this status and an error body.
    Status(u16),
    /// 200, and bytes that do not match the digest.
    WrongBytes,
    /// The headers and half of the body, then the connection is cut.
    CutShort,
    /// Nothing for this long, then the proper answer.
    Delay(Duration),
}

#[derive(Debug, Clone, Default)]
enum Auth {
    #[default]
    Anonymous,
    Basic(String, String),
    Token(String, String),
    /// An access key and its secret key.
    Amazon(String, String),
}

#[derive(Debug)]
struct Inner {
    auth: Auth,
    store: Mutex<Store>,
    log: Log,
}

#[derive(Debug, Default)]
struct Store {
    /// (repository, digest) → media type, bytes.
    manifests: HashMap<(String, String), (String, Bytes)>,
    tags: BTreeMap<(String, String), String>,
    /// (repository, digest) → bytes.
    blobs: HashMap<(String, String), Bytes>,
    failures: VecDeque<(String, Failure)>,
    rate: Option<u64>,
    tokens: Vec<String>,
    /// Those that Amazon was asked to make.
    repositories: BTreeSet<String>,
    /// Uploads under way: session → bytes so far.
    uploads: HashMap<String, Vec<u8>>,
}

impl Upstream {
    /// A registry that anyone may read, unless the builder is told otherwise.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        self.server.address().to_string()
    }

    /// Stores an image under a tag, as `docker push` does. What the tag pointed to stays, untagged.
    pub fn push_image(&self, repository: &str, tag: &str, image: &Image) -> Pushed {
        let built = image::build(&format!("{repository}:{tag}"), image);
        let mut store = self.inner.store.lock();
        for (digest, media_type, bytes) in built.manifests {
            store.manifests.insert((repository.to_owned(), digest), (media_type, bytes));
        }
        for (digest, bytes) in built.blobs {
            store.blobs.insert((repository.to_owned(), digest), bytes);
        }
        store.tags.insert((repository.to_owned(), tag.to_owned()), built.pushed.digest.clone());
        store.repositories.insert(repository.to_owned());
        built.pushed
    }

    /// Points a tag to a digest that the repository has. Answers whether it has it.
    pub fn move_tag(&self, repository: &str, tag: &str, digest: &str) -> bool {
        let mut store = self.inner.store.lock();
        let known = store.manifests.contains_key(&(repository.to_owned(), digest.to_owned()));
        if known {
            store.tags.insert((repository.to_owned(), tag.to_owned()), digest.to_owned());
        }
        known
    }

    /// Removes a tag; the manifest stays. Answers whether there was one.
    pub fn delete_tag(&self, repository: &str, tag: &str) -> bool {
        self.inner.store.lock().tags.remove(&(repository.to_owned(), tag.to_owned())).is_some()
    }

    /// Removes a manifest and its tags. Answers whether there was one.
    pub fn delete_manifest(&self, repository: &str, digest: &str) -> bool {
        let mut store = self.inner.store.lock();
        store.tags.retain(|(name, _), target| name != repository || target != digest);
        store.manifests.remove(&(repository.to_owned(), digest.to_owned())).is_some()
    }

    /// The tags of a repository, each with the digest that it points to.
    #[must_use]
    pub fn tags(&self, repository: &str) -> BTreeMap<String, String> {
        let store = self.inner.store.lock();
        let own = store.tags.iter().filter(|((name, _), _)| name == repository);
        own.map(|((_, tag), digest)| (tag.clone(), digest.clone())).collect()
    }

    /// The bytes of a manifest, by tag or digest.
    #[must_use]
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Bytes> {
        self.inner.store.lock().manifest(repository, reference).map(|(_, _, bytes)| bytes)
    }

    /// The bytes of a blob.
    #[must_use]
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Bytes> {
        self.inner.store.lock().blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }

    /// Each request so far, oldest first (the newest 20,000).
    #[must_use]
    pub fn log(&self) -> Vec<Request> {
        self.inner.log.snapshot()
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        self.inner.log.clear();
    }

    /// Closes the port and cuts every connection, or opens it again. Returns once it is so.
    pub async fn set_down(&self, down: bool) {
        self.server.set_down(down).await;
    }

    /// The next `times` requests whose path contains `part` (empty: any) fail so. Failures of a kind queue up, first in,
    /// first out.
    pub fn fail_next(&self, part: &str, times: usize, failure: &Failure) {
        let mut store = self.inner.store.lock();
        store.failures.extend(std::iter::repeat_n((part.to_owned(), failure.clone()), times));
    }

    /// Drops the failures that have not happened yet.
    pub fn clear_failures(&self) {
        self.inner.store.lock().failures.clear();
    }

    /// Blobs trickle at this many bytes a second and connection; `None` is as fast as can be.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.inner.store.lock().rate = bytes_per_second;
    }
}

impl Builder {
    /// The port to listen on; the default is any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Each request needs these credentials: 401 with `Basic realm=…` otherwise.
    #[must_use]
    pub fn basic_auth(mut self, user: &str, password: &str) -> Self {
        self.auth = Auth::Basic(user.to_owned(), password.to_owned());
        self
    }

    /// Each request needs a token, as Docker Hub wants it: 401 with `Bearer realm="…/token"`, which gives one for these
    /// credentials.
    #[must_use]
    pub fn token_auth(mut self, user: &str, password: &str) -> Self {
        self.auth = Auth::Token(user.to_owned(), password.to_owned());
        self
    }

    /// It is a private registry of Amazon: its API gives a login for these keys, and nothing is pushed to a repository that the
    /// API was not asked to make.
    #[must_use]
    pub fn amazon(mut self, access_key: &str, secret_key: &str) -> Self {
        self.auth = Auth::Amazon(access_key.to_owned(), secret_key.to_owned());
        self
    }

    /// Starts the registry on 127.0.0.1.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn try_start(self) -> std::io::Result<Upstream> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        let inner = Arc::new(Inner { auth: self.auth, store: Mutex::default(), log: Log::default() });
        Ok(Upstream { server: Server::start(listener, None, inner.clone())?, inner })
    }

    /// Starts the registry on 127.0.0.1.
    ///
    /// # Panics
    /// The port cannot be bound.
    #[allow(clippy::expect_used, reason = "a test that cannot start its registry shall end there")]
    pub async fn start(self) -> Upstream {
        self.try_start().await.expect("the upstream's loopback port can be bound")
    }
}

impl Store {
    /// Takes a token for one of ours from now on.
    fn remember(&mut self, token: &str) {
        if self.tokens.len() >= TOKENS {
            self.tokens.remove(0);
        }
        self.tokens.push(token.to_owned());
    }

    /// Digest, media type and bytes of a manifest by tag or digest.
    fn manifest(&self, repository: &str, reference: &str) -> Option<(String, String, Bytes)> {
        let tag = (repository.to_owned(), reference.to_owned());
        let digest = self.tags.get(&tag).cloned().unwrap_or_else(|| reference.to_owned());
        let (media_type, bytes) = self.manifests.get(&(repository.to_owned(), digest.clone()))?;
        Some((digest, media_type.clone(), bytes.clone()))
    }

    /// Takes the failure that is due for a path.
    fn failure(&mut self, path: &str) -> Option<Failure> {
        let at = self.failures.iter().position(|(part, _)| path.contains(part.as_str()))?;
        self.failures.remove(at).map(|(_, failure)| failure)
    }
}
