//! Lists, read page by page, with a bound that no real Harbor reaches.

use std::hash::{BuildHasher, RandomState};

use http::Method;
use serde::de::DeserializeOwned;

use super::{Client, Error};
use crate::transport::{self, Request};

/// Harbor's maximum; a larger page is 422.
const PAGE_SIZE: usize = 100;
/// Maximum number of objects in one list.
const MAX_ITEMS: usize = 100_000;
/// Maximum bytes of one list: 35,000 projects take as much.
const MAX_BYTES: usize = 32 << 20;

impl Client {
    /// Reads all pages of a list. It requests pages by number and does not follow `Link`.
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<T>, Error> {
        let (deadline, operation) = (self.transport().deadlines().list, format!("all pages of GET /{path}"));
        let late = |_| Err(transport::Error::Timeout { operation, deadline }.into());
        tokio::time::timeout(deadline, self.pages(path, query)).await.unwrap_or_else(late)
    }

    async fn pages<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<T>, Error> {
        let page_size = PAGE_SIZE.to_string();
        let (mut all, mut bytes, mut before) = (Vec::new(), 0, None);
        let hasher = RandomState::new();
        for number in 1_usize.. {
            let page = number.to_string();
            let mut paged = query.to_vec();
            paged.extend([("page", page.as_str()), ("page_size", page_size.as_str())]);
            let request = Request { method: Method::GET, path, query: &paged };
            let (headers, body) = self.send(&request, None::<&()>).await?;
            let total = headers.get("x-total-count").and_then(|total| total.to_str().ok()?.parse::<usize>().ok());
            bytes += body.len();
            // An empty list is `null` at some endpoints.
            let items = self.decode::<Option<Vec<T>>>(&request, &body)?.unwrap_or_default();
            let last = items.len() < PAGE_SIZE;
            all.extend(items);
            if last || total.is_some_and(|total| all.len() >= total) {
                break;
            }
            let same = Some(hasher.hash_one(&body));
            if before == same {
                let detail = format!("page {number} of the list repeats page {}", number - 1);
                return Err(Error::Malformed { operation: request.to_string(), detail });
            }
            before = same;
            if bytes > MAX_BYTES || all.len() >= MAX_ITEMS {
                let (read, size, limit) = (all.len(), bytes >> 20, MAX_BYTES >> 20);
                let detail = format!(
                    "{read} objects in {number} pages ({size} MiB) are not all of the list, and no more than {MAX_ITEMS} \
                     objects or {limit} MiB are read"
                );
                return Err(transport::Error::TooLarge { operation: request.to_string(), detail }.into());
            }
        }
        Ok(all)
    }

    /// Reads the first `limit` (1 to 100) objects of a list.
    pub(super) async fn first<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: usize,
    ) -> Result<Vec<T>, Error> {
        let page_size = limit.clamp(1, PAGE_SIZE).to_string();
        let mut paged = query.to_vec();
        paged.push(("page_size", page_size.as_str()));
        let mut found = self.get::<Option<Vec<T>>>(path, &paged).await?.unwrap_or_default();
        found.truncate(PAGE_SIZE);
        Ok(found)
    }
}
