//! A private registry of Amazon: an API that takes signed requests, gives a login for the registry, and makes repositories.
//!
//! Of the API it is what Harbor asks for (<https://docs.aws.amazon.com/AmazonECR/latest/APIReference>). A signature here is the
//! digest of the secret key and the body: who does not have the key cannot make it, as with Amazon's own.

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, Response, StatusCode, header};
use rand::Rng as _;
use serde_json::{Value, json};

use super::{
    Inner,
    serve::{error, plain},
};
use crate::digest::sha256;

/// The header that names the operation, and what stands before its name.
pub(crate) const TARGET: (&str, &str) = ("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.");
/// The user of each login that the API gives.
pub(super) const USER: &str = "AWS";

/// The `Authorization` of a request to the API.
pub(crate) fn signed(access_key: &str, secret_key: &str, body: &[u8]) -> String {
    let signature = sha256(&[secret_key.as_bytes(), body].concat());
    format!(
        "AWS4-HMAC-SHA256 Credential={access_key}, SignedHeaders=host;x-amz-target, Signature={}",
        signature.trim_start_matches("sha256:")
    )
}

impl Inner {
    /// Answers a request to the API, if it is one.
    pub(super) fn amazon(
        &self,
        keys: (&str, &str),
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<Response<Body>> {
        let operation = headers.get(TARGET.0)?.to_str().ok()?.strip_prefix(TARGET.1)?;
        if path != "/" {
            return None;
        }
        let authorised = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if authorised != Some(&signed(keys.0, keys.1, body)) {
            let message = "The security token included in the request is invalid.";
            return Some(refused("UnrecognizedClientException", message));
        }
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        Some(match operation {
            "GetAuthorizationToken" => self.login(),
            "DescribeRepositories" => self.describe(asked["repositoryNames"][0].as_str().unwrap_or_default()),
            "CreateRepository" => self.create(asked["repositoryName"].as_str().unwrap_or_default()),
            _ => refused("UnknownOperationException", ""),
        })
    }

    /// 404 for a push to a repository that nobody made.
    pub(super) fn unmade(&self, repository: &str) -> Option<Response<Body>> {
        if self.store.lock().repositories.contains(repository) {
            return None;
        }
        let message = format!("The repository with name '{repository}' does not exist in the registry");
        Some(error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", &message, None))
    }

    fn login(&self) -> Response<Body> {
        let token = format!("{:032x}", rand::rng().random::<u128>());
        self.store.lock().remember(&token);
        let login = STANDARD.encode(format!("{USER}:{token}"));
        ok(&json!({"authorizationData": [{"authorizationToken": login, "expiresAt": 4_102_444_800_i64}]}))
    }

    fn describe(&self, name: &str) -> Response<Body> {
        if self.store.lock().repositories.contains(name) {
            return ok(&json!({"repositories": [{"repositoryName": name}]}));
        }
        let message = format!("The repository with name '{name}' does not exist in the registry");
        refused("RepositoryNotFoundException", &message)
    }

    fn create(&self, name: &str) -> Response<Body> {
        if self.store.lock().repositories.insert(name.to_owned()) {
            return ok(&json!({"repository": {"repositoryName": name}}));
        }
        let message = format!("The repository with name '{name}' already exists in the registry");
        refused("RepositoryAlreadyExistsException", &message)
    }
}

fn ok(body: &Value) -> Response<Body> {
    plain(StatusCode::OK, "application/x-amz-json-1.1", Body::from(body.to_string()))
}

fn refused(kind: &str, message: &str) -> Response<Body> {
    let body = json!({"__type": kind, "message": message});
    plain(StatusCode::BAD_REQUEST, "application/x-amz-json-1.1", Body::from(body.to_string()))
}
