//! The token flow: challenge, token for one repository, and a cache of tokens until shortly before their expiry.
//!
//! Credentials go only to the configured endpoint, whatever realm a challenge names: Harbor's token service has the same
//! address as its registry, so only the path of the realm counts. At that endpoint they go to one path: that of Harbor's token
//! service, or another configured one. A challenge that names any other path is refused.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

/// Path of Harbor's token service.
pub const TOKEN_PATH: &str = "/service/token";
/// Maximum number of cached tokens, one for each repository; the one that expires first is evicted.
const MAX_TOKENS: usize = 1024;
/// Lifetime of a token in seconds if its issuer states none (distribution's token specification).
const DEFAULT_LIFE: u64 = 60;
/// Maximum time in seconds that a token is cached, whatever its issuer states.
const MAX_LIFE: u64 = 24 * 3600;

/// How a registry authenticates clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Without credentials.
    Open,
    /// With the credentials in each request.
    Basic,
    /// With a token for each repository.
    Bearer {
        /// Path of the token service from the challenge, normalized as in a request.
        path: String,
        /// The token service's name of the registry.
        service: Option<String>,
    },
}

impl Challenge {
    /// Parses the challenge of a 401 answer to `GET /v2/`.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            for challenge in http_auth::parse_challenges(header.to_str().ok()?).ok()? {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let parameter = |name: &str| {
                        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                        found.map(|(_, value)| value.to_unescaped())
                    };
                    let path = Url::parse(&parameter("realm")?).ok()?.path().to_owned();
                    return Some(Self::Bearer { path, service: parameter("service") });
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

/// The answer of a token service.
#[derive(Deserialize)]
pub(super) struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl TokenResponse {
    /// Returns the token, and how long to use it: nine tenths of its lifetime.
    pub(super) fn token(self) -> Option<(SecretString, Duration)> {
        let life = self.expires_in.unwrap_or(DEFAULT_LIFE).min(MAX_LIFE);
        // Harbor sends both fields, one of them empty.
        let token = [self.token, self.access_token].into_iter().flatten().find(|text| !text.is_empty())?;
        Some((SecretString::from(token), Duration::from_secs(life - life / 10)))
    }
}

/// A cache of tokens by repository.
#[derive(Debug, Default)]
pub(super) struct TokenCache {
    kept: Mutex<HashMap<String, (SecretString, Instant)>>,
}

impl TokenCache {
    /// Returns the token of a repository if it is still usable at `now`.
    pub(super) fn get(&self, repository: &str, now: Instant) -> Option<SecretString> {
        self.kept.lock().get(repository).filter(|(_, until)| *until > now).map(|(token, _)| token.clone())
    }

    /// Caches a token until `until`.
    pub(super) fn put(&self, repository: &str, token: SecretString, until: Instant, now: Instant) {
        let mut kept = self.kept.lock();
        if kept.len() >= MAX_TOKENS && !kept.contains_key(repository) {
            kept.retain(|_, (_, until)| *until > now);
            let first = kept.iter().min_by_key(|(_, (_, until))| *until).map(|(name, _)| name.clone());
            if let Some(name) = first.filter(|_| kept.len() >= MAX_TOKENS) {
                kept.remove(&name);
            }
        }
        kept.insert(repository.to_owned(), (token, until));
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;
    use secrecy::ExposeSecret as _;

    use super::*;

    fn challenge(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenge::read(&headers)
    }

    #[test]
    fn challenge_takes_of_a_realm_the_path_and_nothing_else() {
        let bearer = |path: &str, service: Option<&str>| {
            Some(Challenge::Bearer { path: path.to_owned(), service: service.map(str::to_owned) })
        };
        let harbor = r#"Bearer realm="http://127.0.0.1:18080/service/token",service="harbor-registry""#;
        let foreign = r#"Basic realm="x", Bearer realm="http://169.254.169.254/latest?x=y""#;
        assert_eq!(challenge(&[harbor]), bearer("/service/token", Some("harbor-registry")));
        assert_eq!(challenge(&[foreign]), bearer("/latest", None));
        let dotted = r#"Bearer realm="https://harbor/service/token/../../api/v2.0/users""#;
        assert_eq!(challenge(&[dotted]), bearer("/api/v2.0/users", None));
        assert_eq!(challenge(&[r#"Basic realm="harbor""#]), Some(Challenge::Basic));
        assert_eq!(challenge(&[""]), None);
        assert_eq!(challenge(&["Bearer service=x"]), None);
    }

    #[test]
    fn token_is_used_for_nine_tenths_of_its_life_and_no_longer() {
        let answer: TokenResponse =
            serde_json::from_str(r#"{"token":"t","access_token":"","expires_in":1800}"#).unwrap();
        let (token, life) = answer.token().unwrap();
        assert_eq!((token.expose_secret(), life), ("t", Duration::from_secs(1620)));
        let tokens = TokenCache::default();
        let start = Instant::now();
        tokens.put("a/b", token, start + life, start);
        assert!(tokens.get("a/b", start + Duration::from_secs(1619)).is_some());
        assert!(tokens.get("a/b", start + life).is_none() && tokens.get("a/c", start).is_none());
    }

    #[test]
    fn the_cache_of_tokens_has_an_end_and_the_freshest_stay() {
        let (tokens, start) = (TokenCache::default(), Instant::now());
        for number in 0..2 * MAX_TOKENS as u64 {
            let until = start + Duration::from_secs(number + 1);
            tokens.put(&format!("r{number}"), SecretString::from("t"), until, start);
        }
        assert_eq!(tokens.kept.lock().len(), MAX_TOKENS);
        assert!(tokens.get("r0", start).is_none() && tokens.get("r2047", start).is_some());
    }
}
