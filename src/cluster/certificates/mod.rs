//! The certificates of the webhook: issues them, publishes the CA to the API server, rotates them.
//!
//! In: the two Secrets, the webhook configurations, and the certificates that the addresses of the webhook's Service
//! present. Out: the next step of [`rotation`], carried out: a write of a Secret or of the `caBundle` of a configuration.
//! Each step starts with a fresh read of everything, and each write carries the resourceVersion that was read. A process
//! can stop at any point, and another process continues.

mod configurations;
mod replicas;
mod secrets;

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{api::core::v1::ObjectReference, jiff::SignedDuration, jiff::Timestamp};
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{configurations::Configurations, replicas::Service, secrets::CertificateSecrets};
use super::{Error, events::Events};
use crate::{
    api::Reason,
    controller::EventMessage,
    tls::{
        issue::{Authority, IssueError, Validity},
        rotation::{self, LOOK, Replicas, RotationAction, RotationMemory, RotationPlan, RotationPolicy, RotationState},
        secret_format::{AuthoritySet, StoredState, leaf_data},
        x509::X509,
    },
};

/// Field manager of all writes of this module, so that GitOps tools can ignore these fields.
pub const FIELD_MANAGER: &str = "harbor-pilot-certificates";

/// Maximum number of steps without a pause. A rotation takes a few; more would be an endless loop.
const MOST_STEPS: usize = 16;

/// Which certificates to keep, where, and for how long they are valid.
#[derive(Debug, Clone)]
pub struct CertificateOptions {
    /// The operator's own namespace.
    pub namespace: String,
    /// The Service of the webhook. The Secrets are named `SERVICE-ca` and `SERVICE-tls`.
    pub service: String,
    /// Name of both the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration.
    pub configuration: String,
    /// Validity of a serving certificate.
    pub certificate_lifetime: SignedDuration,
    /// Validity of a CA certificate.
    pub ca_lifetime: SignedDuration,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum RotationError {
    #[error(transparent)]
    Api(#[from] Error),
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Maintains the certificates until `shutdown`. Two concurrent instances slow each other down, but break nothing.
pub async fn run(client: Client, settings: CertificateOptions, shutdown: CancellationToken) {
    tracing::info!(service = settings.service, configuration = settings.configuration, "managing certificates");
    let mut keeper = CertificateManager::new(client, &settings);
    let keep = async {
        loop {
            tokio::time::sleep(keeper.turn().await).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = keep => {}
    }
}

struct CertificateManager {
    secrets: CertificateSecrets,
    configurations: Configurations,
    service: Service,
    events: Events,
    policy: RotationPolicy,
    authority_name: String,
    memory: RotationMemory,
    started: Instant,
    said: HashMap<&'static str, String>,
}

/// Everything that was read for one step.
struct CertificateState {
    secrets: secrets::FoundSecrets,
    configurations: configurations::FoundConfigurations,
    replicas: Replicas,
}

impl CertificateManager {
    fn new(client: Client, settings: &CertificateOptions) -> Self {
        let CertificateOptions { namespace, service, configuration, certificate_lifetime, ca_lifetime } = settings;
        let host = format!("{service}.{namespace}.svc");
        let policy = RotationPolicy {
            leaf: *certificate_lifetime,
            authority: *ca_lifetime,
            // The API server uses the first name; people and probes use the second.
            names: vec![host.clone(), format!("{host}.cluster.local")],
        };
        Self {
            secrets: CertificateSecrets::new(&client, namespace, service),
            configurations: Configurations::new(&client, configuration, namespace, service),
            service: Service::new(&client, namespace, service, host),
            events: Events::new(client),
            policy,
            authority_name: format!("{service}-ca"),
            memory: RotationMemory::default(),
            started: Instant::now(),
            said: HashMap::new(),
        }
    }

    /// Carries out all steps that are due. Returns how long to wait before the next check.
    async fn turn(&mut self) -> Duration {
        for _ in 0..MOST_STEPS {
            match self.step().await {
                Ok(Duration::ZERO) => self.said.remove("error"),
                Ok(look_again) => {
                    self.said.remove("error");
                    return look_again;
                }
                Err(RotationError::Api(error)) if error.is_conflict() => {
                    tracing::debug!(%error, "conflict with another writer; reconciling again");
                    None
                }
                Err(error) => {
                    self.log_once("error", Some(&error.to_string()), true);
                    return LOOK;
                }
            };
        }
        LOOK
    }

    async fn step(&mut self) -> Result<Duration, RotationError> {
        let observed = self.observe().await?;
        let missing = observed.configurations.missing();
        self.log_once("configuration", missing.as_deref(), false);
        let secrets = &observed.secrets;
        let seen = RotationState {
            authorities: &secrets.authorities,
            leaf: &secrets.leaf,
            salvaged: &secrets.salvaged,
            bundles: &observed.configurations.bundles,
            replicas: &observed.replicas,
        };
        let now = Timestamp::now();
        let RotationPlan { step, waits_for, look_again } =
            rotation::next(&mut self.memory, &seen, &self.policy, now, self.started.elapsed());
        self.log_once("wait", waits_for.as_deref(), false);
        if let Some(note) = self.apply(step, &observed, now).await? {
            self.publish(&observed, note).await;
        }
        Ok(look_again)
    }

    /// The order of the reads matters: a write that is guarded by the version read first cannot be based on a later read
    /// that is outdated by now.
    async fn observe(&self) -> Result<CertificateState, RotationError> {
        let leaf = self.secrets.read_leaf().await?;
        let configurations = self.configurations.read().await?;
        let secrets = self.secrets.read_authorities(leaf).await?;
        let depends = rotation::depends_on_replicas(&secrets.authorities, &secrets.leaf, &configurations.bundles);
        let replicas = if depends { self.service.replicas().await } else { Replicas::NotAsked };
        Ok(CertificateState { secrets, configurations, replicas })
    }

    async fn apply(
        &mut self,
        step: RotationAction,
        observed: &CertificateState,
        now: Timestamp,
    ) -> Result<Option<EventMessage>, RotationError> {
        let stands = matches!(step, RotationAction::Stand(_));
        let note = match step {
            RotationAction::Wait => None,
            RotationAction::Stand(why) => {
                let news = self.log_once("stands", Some(&why), true);
                news.then(|| note(Reason::CertificatesNotKept, why, true))
            }
            RotationAction::NewAuthority { because, previous } => {
                let name = format!("{} {}", self.authority_name, now.strftime("%Y-%m-%dT%H:%M:%SZ"));
                let authority = Authority::new(&name, Validity::starting(now, self.policy.authority))?;
                self.secrets.write_authorities(&observed.secrets, AuthoritySet::data(&authority, &previous)).await?;
                let others = previous.len();
                Some(note(Reason::AuthorityIssued, format!("{because}; {others} earlier CAs remain trusted"), false))
            }
            RotationAction::Publish(bundles) => {
                let message = self.configurations.publish(&observed.configurations, &bundles).await?;
                Some(note(Reason::AuthorityPublished, message, false))
            }
            RotationAction::NewLeaf { because, validity } => {
                let StoredState::Held(authorities) = &observed.secrets.authorities else { return Ok(None) };
                let authority = authorities.authority()?;
                let leaf = authority.issue(&self.policy.names, validity)?;
                self.secrets.write_leaf(&observed.secrets, leaf_data(&leaf, &authority)).await?;
                Some(note(
                    Reason::CertificateIssued,
                    format!("{because}; the new certificate is valid until {}", validity.until),
                    false,
                ))
            }
            RotationAction::Drop { because, keep } => {
                let StoredState::Held(authorities) = &observed.secrets.authorities else { return Ok(None) };
                self.secrets.write_authorities(&observed.secrets, authorities.keeping(&keep)).await?;
                let dropped = authorities.previous.iter().filter(|one| !keep.contains(one)).map(X509::subject);
                let dropped = dropped.collect::<Vec<_>>().join(", ");
                Some(note(Reason::AuthorityDropped, format!("{dropped} is no longer trusted: {because}"), false))
            }
        };
        if !stands {
            self.said.remove("stands");
        }
        Ok(note)
    }

    /// Logs the message unless it repeats the last one of this topic. Returns whether the message is new.
    fn log_once(&mut self, topic: &'static str, what: Option<&str>, warning: bool) -> bool {
        let Some(what) = what else {
            self.said.remove(topic);
            return false;
        };
        if self.said.get(topic).is_some_and(|said| said == what) {
            return false;
        }
        if warning {
            tracing::warn!(topic, "certificates: {what}");
        } else {
            tracing::info!(topic, "certificates: {what}");
        }
        self.said.insert(topic, what.to_owned());
        true
    }

    /// Writes the note to the log, and to an Event on a webhook configuration if one exists.
    async fn publish(&self, observed: &CertificateState, note: EventMessage) {
        if !note.warning {
            tracing::info!(reason = note.reason.as_str(), "certificates: {}", note.message);
        }
        let Some(about) = observed.configurations.about() else { return };
        if let Err(error) = self.events.publish(&about, &note).await {
            tracing::debug!(%error, "cannot publish an Event");
        }
    }
}

fn note(reason: Reason, message: String, warning: bool) -> EventMessage {
    EventMessage { warning, reason, message }
}

/// The object that an Event refers to.
fn reference(kind: &str, name: &str, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("admissionregistration.k8s.io/v1".to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid,
        ..ObjectReference::default()
    }
}
