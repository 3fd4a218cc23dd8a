//! A small client with a token for everything, for tests.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{collections::HashMap, time::Duration};

use harbor_double::{Child, Harbor, Pushed};
use serde_json::Value;

/// What a container runtime accepts.
pub(crate) const INDEXES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                           application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn ok(&self) {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    pub(crate) async fn new(harbor: &Harbor) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        Self { http, base: harbor.url() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_as(path, INDEXES).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send("GET", path, accept).await.unwrap()
    }

    pub(crate) async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.send("GET", path, INDEXES).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, INDEXES).await.unwrap()
    }

    /// The answer with its body unread.
    pub(crate) async fn open(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(format!("{}{path}", self.base)).basic_auth("admin", Some("Harbor12345"));
        request.send().await.unwrap()
    }

    /// Pulls index, chosen children and their blobs by digest.
    pub(crate) async fn pull(&self, repository: &str, image: &Pushed, wanted: impl Fn(&Child) -> bool) {
        self.get(&format!("/v2/{repository}/manifests/{}", image.digest)).await.ok();
        for child in image.children.iter().filter(|child| wanted(child)) {
            self.get(&format!("/v2/{repository}/manifests/{}", child.digest)).await.ok();
            for blob in child.blobs() {
                self.get(&format!("/v2/{repository}/blobs/{}", blob.digest)).await.ok();
            }
        }
    }

    async fn send(&self, method: &str, path: &str, accept: &str) -> Result<Answer, reqwest::Error> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}{path}", self.base));
        let answer = request.basic_auth("admin", Some("Harbor12345")).header("accept", accept).send().await?;
        let status = answer.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Ok(Answer { status, headers, body: answer.bytes().await?.to_vec() })
    }
}

/// Waits, up to ten seconds, until something is so.
pub(crate) async fn eventually(mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come about in ten seconds");
}
