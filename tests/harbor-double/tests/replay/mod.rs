//! Plays recorded exchanges against the double.

#![allow(dead_code, reason = "each test binary uses its part")]

mod compare;
pub(crate) mod notes;
mod parse;
mod send;

use std::{collections::BTreeMap, path::Path, time::Duration};

use harbor_double::{Harbor, Image, Upstream};
use serde_json::{Value, json};

use compare::{Digests, IDS};

pub(crate) use parse::{Exchange, Item, parse};

/// What of a recording is left out, and why. The needle is found in `METHOD /path BODY`, or is `## heading`.
pub(crate) type Skipped = (&'static str, &'static str);

/// Harbor, its upstreams as the recorder had them, and what is known of the digests.
pub(crate) struct World {
    pub(crate) harbor: Harbor,
    /// Anyone may pull; port 15001 of the recordings.
    pub(crate) open: Upstream,
    /// Anyone may pull while it is up; port 15003.
    pub(crate) shaky: Upstream,
    /// Secrets of robots by name.
    pub(crate) secrets: BTreeMap<String, String>,
    /// up2user/up2pass; port 15002.
    pub(crate) closed: Upstream,
    /// A web server that is no registry; port 18099.
    stranger: Upstream,
    http: reqwest::Client,
    digests: Digests,
    /// Recorded location of what was created → the double's.
    places: Vec<(String, String)>,
    /// Members of JSON that are not compared.
    ignored: Vec<&'static str>,
    pub(crate) failures: Vec<String>,
    /// Lists of artifacts that were not seen, by repository.
    pub(crate) overtaken: Vec<(String, String)>,
    pub(crate) played: usize,
}

const ARCHES: [(&str, &str, Option<&str>); 2] = [("linux", "amd64", None), ("linux", "arm64", None)];

impl World {
    pub(crate) async fn new(speed: f64) -> Self {
        let open = Upstream::builder().start().await;
        let harbor = Harbor::builder().speed(speed).health_interval(Duration::from_secs(3600)).start().await;
        for name in ["app/single", "app/single2", "app/moving", "app/big", "full/single"] {
            open.push_image(name, "v1", &Image::single("linux", "amd64").layers([10, 20]));
        }
        for tag in ["1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0"] {
            open.push_image("app/tags", tag, &Image::single("linux", "amd64").layers([10, 20]));
        }
        for name in ["app/multi", "app/movidx", "library/tiny"] {
            open.push_image(name, "v1", &Image::multi_arch(ARCHES).layers([10, 20]));
        }
        open.push_image("app/multi-docker", "v1", &Image::multi_arch(ARCHES).layers([10, 20]).docker());
        let closed = Upstream::builder().basic_auth("up2user", "up2pass").start().await;
        closed.push_image("priv/app", "v1", &Image::multi_arch(ARCHES).layers([10, 20]));
        Self {
            harbor,
            open,
            closed,
            shaky: Upstream::builder().start().await,
            secrets: BTreeMap::new(),
            stranger: Upstream::builder().token_auth("x", "y").start().await,
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(Duration::from_secs(20))
                .build()
                .unwrap(),
            digests: Digests::default(),
            places: Vec::new(),
            ignored: Vec::new(),
            failures: Vec::new(),
            overtaken: Vec::new(),
            played: 0,
        }
    }

    /// The registries and projects that the recordings of the pull path started with; ids are not compared any more.
    pub(crate) async fn with_projects(mut self) -> Self {
        // The recorder pulled several images side by side: sums differ, too.
        self.ignored = [&IDS[..], &["repo_count", "storage"]].concat();
        let up2 = json!({"type": "basic", "access_key": "up2user", "access_secret": "up2pass"});
        for (name, kind, url, credential, description) in [
            ("up1", "docker-registry", self.open.url(), Value::Null, "no auth"),
            ("up2", "docker-registry", self.closed.url(), up2, "changed"),
            ("hub", "docker-hub", self.open.url(), Value::Null, ""),
        ] {
            let body =
                json!({"name": name, "type": kind, "url": url, "credential": credential, "description": description});
            assert_eq!(self.harbor.manual_request("POST", "/registries", Some(body)).await.0, 201, "{name}");
        }
        for (name, registry, public) in [("px", 1, "true"), ("pxpriv", 2, "false"), ("hub", 3, "true")] {
            let body = json!({"project_name": name, "registry_id": registry, "metadata": {"public": public}});
            assert_eq!(self.harbor.manual_request("POST", "/projects", Some(body)).await.0, 201, "{name}");
        }
        let plain = json!({"project_name": "plain", "metadata": {"public": "true"}});
        assert_eq!(self.harbor.manual_request("POST", "/projects", Some(plain)).await.0, 201);
        self
    }

    /// The recording is of a Harbor that has had a life before.
    pub(crate) fn ignore_ids(&mut self) {
        self.ignored = IDS.to_vec();
    }

    /// Says which of the double's digests a recorded one stands for, where no answer does.
    pub(crate) fn pair_digest(&mut self, recorded: &str, ours: &str) {
        self.digests.learn(recorded, ours);
    }

    /// Plays a fixture. `between` is called with each heading (`## …`) and note.
    pub(crate) async fn play(&mut self, name: &str, skipped: &[Skipped], between: impl AsyncFn(&mut Self, &str)) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        let mut used = vec![false; skipped.len()];
        let mut section_skipped = false;
        for item in parse(&std::fs::read_to_string(path).unwrap()) {
            let text = match &item {
                Item::Heading(heading) => format!("## {heading}"),
                Item::Note(note) => note.clone(),
                Item::Exchange(exchange) => {
                    format!("{} {}", exchange.title(), exchange.request_body.as_deref().unwrap_or_default())
                }
            };
            let skip = skipped.iter().position(|(needle, _)| text.contains(needle));
            if let Some(skip) = skip {
                used[skip] = true;
            }
            match &item {
                Item::Heading(_) => {
                    section_skipped = skip.is_some();
                    if !section_skipped {
                        between(self, &text).await;
                    }
                }
                _ if section_skipped || skip.is_some() => {}
                Item::Note(note) => {
                    if let Some((_, rest)) = note.split_once("s artifacts of ")
                        && let Some((repository, tuples)) = rest.split_once(": ")
                    {
                        self.await_artifacts(note, repository, tuples).await;
                    }
                    between(self, note).await;
                }
                Item::Exchange(exchange) => self.replay(name, exchange).await,
            }
        }
        let stale: Vec<_> = skipped.iter().zip(used).filter(|(_, used)| !used).collect();
        assert!(stale.is_empty(), "{name} has nothing of what is left out: {stale:?}");
    }

    /// Leaves out a member of JSON from here on.
    pub(crate) fn ignore(&mut self, member: &'static str) {
        self.ignored.push(member);
    }

    /// Fails with every difference.
    pub(crate) fn finish(mut self, at_least: usize) {
        self.failures.extend(self.overtaken.into_iter().map(|(_, failure)| failure));
        assert!(self.failures.is_empty(), "{} differences:\n{}", self.failures.len(), self.failures.join("\n"));
        assert!(self.played >= at_least, "only {} exchanges were played", self.played);
    }

    async fn replay(&mut self, file: &str, exchange: &Exchange) {
        self.played += 1;
        let answer = self.send(exchange).await;
        let mut wrong = Vec::new();
        if let (Some(recorded), Some(found)) = (exchange.headers.get("location"), answer.headers.get("location")) {
            self.places.push((recorded.clone(), found.clone()));
        }
        if answer.status != exchange.status {
            wrong.push(format!("status {} instead of {}", answer.status, exchange.status));
        }
        for name in [
            "www-authenticate",
            "docker-content-digest",
            "etag",
            "link",
            "x-total-count",
            "location",
            "content-type",
            "docker-distribution-api-version",
            "set-cookie",
            "content-length",
        ] {
            let (recorded, found) = (exchange.headers.get(name), answer.headers.get(name));
            let same = match (name, recorded, found) {
                (_, None, None) => true,
                // Sizes are those of other images; of errors they are the same.
                ("content-length", None, _) => true,
                ("content-length", Some(_), _)
                    if exchange.status < 400 && recorded.is_some_and(|length| length != "0") =>
                {
                    found.is_some()
                }
                ("content-length", Some(recorded), None) => recorded == "0",
                ("set-cookie", Some(recorded), Some(found)) => recorded.split('=').next() == found.split('=').next(),
                ("location", Some(recorded), Some(found))
                    if !self.ignored.is_empty() && recorded.starts_with("/api") =>
                {
                    recorded.rsplit_once('/').map(|at| at.0) == found.rsplit_once('/').map(|at| at.0)
                }
                ("docker-content-digest" | "etag" | "location", Some(recorded), Some(found)) => {
                    self.digests.same(recorded, found)
                }
                (_, recorded, found) => recorded == found,
            };
            if !same {
                wrong.push(format!("{name}: recorded {recorded:?}, found {found:?}"));
            }
        }
        wrong.extend(self.compare_bodies(exchange, &answer));
        if !wrong.is_empty() {
            let request = exchange.request_body.as_deref().unwrap_or_default();
            self.failures.push(format!("{file}: {} {request}\n    {}", exchange.title(), wrong.join("\n    ")));
        }
    }

    fn compare_bodies(&mut self, exchange: &Exchange, answer: &Answer) -> Vec<String> {
        if exchange.method == "HEAD" || exchange.is_cut() || exchange.body.starts_with("<!DOCTYPE") {
            return Vec::new();
        }
        if let Some((_, digest)) = exchange.body.split_once("bytes binary, ") {
            let same = self.digests.same(digest.trim_end_matches(')'), &harbor_double::sha256(&answer.body));
            return if same { Vec::new() } else { vec!["the body has another digest".to_owned()] };
        }
        let found = self.recorded_hosts(&String::from_utf8_lossy(&answer.body));
        match (serde_json::from_str::<Value>(&exchange.body), serde_json::from_str::<Value>(&found)) {
            (Ok(mut recorded), Ok(mut found)) => {
                if let (Some(name), Some(secret)) = (found["name"].as_str(), found["secret"].as_str()) {
                    self.secrets.insert(name.to_owned(), secret.to_owned());
                }
                for value in [&mut recorded, &mut found] {
                    // A token is compared by what it opens.
                    for key in ["token", "secret"] {
                        if let Some(token) = value.get_mut(key) {
                            *token = json!("TOKEN");
                        }
                    }
                    // The recorded configurations are of other images.
                    if let Some(rootfs) = value.get_mut("rootfs") {
                        *rootfs = json!("ROOTFS");
                    }
                }
                self.digests.differences("body", &recorded, &found, &self.ignored)
            }
            _ if self.digests.same(exchange.body.trim(), found.trim()) => Vec::new(),
            _ => vec![format!("body: recorded {:?}, found {found:?}", exchange.body)],
        }
    }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}
