//! The two Secrets of the certificates, in the operator's own namespace.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::{super::bounded, Error, FIELD_MANAGER};
use crate::tls::{
    secret_format::{AuthoritySet, SecretData, StoredState, read_leaf, recover},
    x509::X509,
};

/// Label that marks the Secrets we may write.
const MARK: (&str, &str) = ("harbor-pilot.dev/certificates", "managed");

const LABELS: [(&str, &str); 3] =
    [("app.kubernetes.io/name", "harbor-pilot"), ("app.kubernetes.io/component", "webhook"), MARK];

/// Reads and writes the two Secrets.
pub(super) struct CertificateSecrets {
    api: Api<Secret>,
    authority: String,
    leaf: String,
}

/// The Secret of the serving certificate as it was read.
pub(super) struct ServingSecret(Option<Secret>);

/// Both Secrets as they were read.
pub(super) struct FoundSecrets {
    authority: Option<Secret>,
    leaf_secret: Option<Secret>,
    /// Content of the CA Secret.
    pub authorities: StoredState<AuthoritySet>,
    /// Content of the serving certificate's Secret.
    pub leaf: StoredState<X509>,
    /// CA certificates that are readable in either Secret.
    pub salvaged: Vec<X509>,
}

impl CertificateSecrets {
    pub(super) fn new(client: &Client, namespace: &str, service: &str) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self { api, authority: format!("{service}-ca"), leaf: format!("{service}-tls") }
    }

    pub(super) async fn read_leaf(&self) -> Result<ServingSecret, Error> {
        let found = bounded("reading the Secret of the webhook's certificate", self.api.get_opt(&self.leaf)).await?;
        Ok(ServingSecret(found))
    }

    pub(super) async fn read_authorities(&self, ServingSecret(leaf): ServingSecret) -> Result<FoundSecrets, Error> {
        let authority = self.api.get_opt(&self.authority);
        let authority = bounded("reading the Secret of the webhook's CA", authority).await?;
        let ours = [&authority, &leaf].into_iter().flatten().filter(|secret| is_ours(secret));
        let salvaged = ours.flat_map(|secret| recover(&data(secret))).collect();
        Ok(FoundSecrets {
            authorities: kept(authority.as_ref(), &self.authority, AuthoritySet::read),
            leaf: kept(leaf.as_ref(), &self.leaf, read_leaf),
            salvaged,
            authority,
            leaf_secret: leaf,
        })
    }

    pub(super) async fn write_authorities(&self, found: &FoundSecrets, data: SecretData) -> Result<(), Error> {
        self.write(&self.authority, "Opaque", found.authority.as_ref(), data).await
    }

    pub(super) async fn write_leaf(&self, found: &FoundSecrets, data: SecretData) -> Result<(), Error> {
        self.write(&self.leaf, "kubernetes.io/tls", found.leaf_secret.as_ref(), data).await
    }

    /// Creates the Secret, or replaces the version that was read.
    async fn write(&self, name: &str, kind: &str, found: Option<&Secret>, data: SecretData) -> Result<(), Error> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let data = Some(data.into_iter().map(|(key, bytes)| (key, ByteString(bytes))).collect());
        match found {
            Some(found) => {
                let secret = Secret { data, string_data: None, ..found.clone() };
                let replace = self.api.replace(name, &parameters, &secret);
                bounded("writing a Secret of the webhook's certificates", replace).await?;
            }
            None => {
                let labels = LABELS.map(|(key, value)| (key.to_owned(), value.to_owned()));
                let metadata = ObjectMeta {
                    name: Some(name.to_owned()),
                    labels: Some(BTreeMap::from(labels)),
                    ..ObjectMeta::default()
                };
                let secret = Secret { metadata, data, type_: Some(kind.to_owned()), ..Secret::default() };
                let create = self.api.create(&parameters, &secret);
                bounded("creating a Secret of the webhook's certificates", create).await?;
            }
        }
        Ok(())
    }
}

fn kept<T>(secret: Option<&Secret>, name: &str, read: impl Fn(&SecretData) -> StoredState<T>) -> StoredState<T> {
    match secret {
        None => StoredState::Missing,
        Some(secret) if is_ours(secret) => match read(&data(secret)) {
            StoredState::Damaged(why) => StoredState::Damaged(format!("Secret {name}: {why}")),
            other => other,
        },
        Some(_) => StoredState::NotOurs(format!(
            "Secret {name} is not managed by Harbor Pilot: it has no label {}={}. Delete it, and it is created again; or keep it, and run the controller \
             with `--certificates external`",
            MARK.0, MARK.1
        )),
    }
}

fn is_ours(secret: &Secret) -> bool {
    secret.metadata.labels.as_ref().and_then(|labels| labels.get(MARK.0)).is_some_and(|value| value == MARK.1)
}

fn data(secret: &Secret) -> SecretData {
    let data = secret.data.iter().flatten();
    data.map(|(key, bytes)| (key.clone(), bytes.0.clone())).collect()
}
