//! Registry: observe → plan → apply → status.

use k8s_openapi::jiff::Timestamp;

use super::{
    EventMessage, FinalizeResult, RECHECK, ReconcileError, ReconcileResult, Reconcilers,
    connections::{Connection, read_secret, version},
    reconcile_context::{self, ReconcileContext},
    resync::{ReadMode, disowns, is_settled},
};
use crate::{
    api::{ManagementPolicy, OwnedObject, Reason, Registry, RegistryStatus, UpstreamPulls},
    harbor::{Cached, Client, Error, Freshness, model},
    plan::{Plan, Refusal, hosts, ownership_marker::Marker, registry as plan},
    transport::{Credentials, Redactor},
};

/// Reconciles a Registry's object in Harbor with its spec.
pub async fn reconcile(kinds: &Reconcilers, registry: &Registry, now: Timestamp) -> ReconcileResult<RegistryStatus> {
    let mut frame = ReconcileContext::open(kinds, registry, now);
    if frame.is_suspended() {
        return frame.close();
    }
    let mut result = ensure(kinds, registry, frame.sight, &mut frame.status, &mut frame.notes).await;
    if result.as_ref().is_err_and(ReconcileError::is_conflict) {
        // Another client changed Harbor after the read: read again and retry.
        result = ensure(kinds, registry, frame.sight.uncached(), &mut frame.status, &mut frame.notes).await;
    }
    remember_pulls(kinds, registry, &mut frame.status, &mut frame.notes);
    frame.conclude(result.map(|()| "the registry in Harbor matches the spec".to_owned()));
    let mut outcome = frame.close();
    // Harbor notices only after minutes that an upstream recovered; we check sooner.
    outcome.requeue = outcome.requeue.min(RECHECK);
    outcome
}

/// Deletes a Registry's object in Harbor, for `deletionPolicy: Delete`.
pub async fn finalize(kinds: &Reconcilers, registry: &Registry, now: Timestamp) -> FinalizeResult<RegistryStatus> {
    let words = match remove(kinds, registry).await {
        Ok(notes) => return FinalizeResult::Done(notes),
        Err(ReconcileError { reason: Reason::InUse, message, .. }) => {
            (Reason::InUse, in_the_way(kinds, registry).await.unwrap_or(message))
        }
        Err(failure) => (failure.reason, failure.message),
    };
    reconcile_context::blocked(kinds, registry, now, words)
}

/// Stores in the status what warming has to remember, and adds a note when the registry rate-limits us.
fn remember_pulls(
    kinds: &Reconcilers,
    registry: &Registry,
    status: &mut RegistryStatus,
    notes: &mut Vec<EventMessage>,
) {
    let pulls = kinds.instances.allowances.of(registry).to_remember();
    let pause = |pulls: &Option<UpstreamPulls>| pulls.as_ref().and_then(|pulls| pulls.paused_until.clone());
    let now = pause(&pulls);
    if let Some(until) = now.as_ref().filter(|_| pause(&status.pulls) != now) {
        let message = format!("the registry limits the rate of pulls: prewarming from it is paused until {}", until.0);
        notes.push(EventMessage::warning(Reason::RateLimited, message));
    }
    status.pulls = pulls;
}

async fn ensure(
    kinds: &Reconcilers,
    registry: &Registry,
    sight: ReadMode,
    status: &mut RegistryStatus,
    notes: &mut Vec<EventMessage>,
) -> Result<(), ReconcileError> {
    let remembered = LastApplied::of(status);
    status.url = Some(registry.url().into_owned());
    let writes = registry.spec.management_policy == ManagementPolicy::Full;
    let purpose = if writes { ComparePurpose::Write } else { ComparePurpose::Observe };
    let mut look = compare(kinds, registry, remembered.clone(), purpose, sight.freshness).await?;
    if sight.is_too_old(look.at) && !is_settled(&look.plan, status.id) {
        look = compare(kinds, registry, remembered, purpose, sight.uncached().freshness).await?;
    }
    let client = &look.connection.client;
    status.id = look.id;
    if disowns(&look.plan) || look.id.is_none() {
        status.owned = None;
    }
    let plan = look.plan?;
    let difference = plan.difference(object(registry));
    if !writes {
        status.drift = difference.lines();
        return Ok(());
    }
    status.drift.clear();
    for step in &plan.steps {
        match apply(&look.connection, &look.desired.name, step).await {
            Ok(id) => status.id = Some(id),
            Err(error) if error.is_unhealthy_registry() => {
                return Err(diagnose(client, &look.desired).await);
            }
            Err(error) => return Err(error.into()),
        }
        notes.push(EventMessage::done(Reason::Reconciled, difference.done()));
    }
    status.credentials_revision = look.desired.credentials_revision;
    OwnedObject::remember(&mut status.owned, status.id, sight.now);
    Ok(())
}

/// State of the registry that is in the status and not readable from Harbor.
#[derive(Debug, Clone, Default)]
pub(super) struct LastApplied {
    /// Revision of the credentials that were last sent to Harbor.
    credentials_revision: Option<String>,
    /// The registry that was ours, and its URL.
    owned: Option<(OwnedObject, String)>,
}

impl LastApplied {
    pub(super) fn of(status: &RegistryStatus) -> Self {
        let owned = status.owned.clone().zip(status.url.clone());
        Self { credentials_revision: status.credentials_revision.clone(), owned }
    }
}

/// Purpose of a comparison. Harbor never shows the secret of the credentials, so only the revision that was last sent can
/// be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ComparePurpose {
    /// Sends the secret unless Harbor is known to have it.
    Write,
    /// Assumes that Harbor has the right secret unless it is known to have another.
    Observe,
    /// As [`Purpose::Observe`]; in addition, assumes that Harbor has the content of a Secret that is not available here.
    Preview,
}

/// Result of comparing a Registry with Harbor.
pub(super) struct Comparison {
    pub(super) connection: Connection,
    pub(super) desired: plan::Desired,
    /// Harbor's id, whether or not the registry is ours.
    pub(super) id: Option<i64>,
    /// When Harbor was read.
    at: Timestamp,
    /// The steps to take, or why there are none.
    pub(super) plan: Result<Plan<plan::Step>, Refusal>,
    /// What could not be compared.
    pub(super) remarks: Vec<String>,
}

/// The Registry's object in Harbor, for messages.
pub(super) fn object(registry: &Registry) -> String {
    format!("registry {}", registry.harbor_name())
}

/// Compares without writing.
pub(super) async fn compare(
    kinds: &Reconcilers,
    registry: &Registry,
    LastApplied { credentials_revision: remembered, owned }: LastApplied,
    purpose: ComparePurpose,
    freshness: Freshness,
) -> Result<Comparison, ReconcileError> {
    kinds.yield_to_older(registry)?;
    let connection = kinds.connect(&registry.spec.harbor_ref).await?;
    let specification = dereference(kinds, registry, connection.client.secrets()).await;
    check_host(kinds, registry)?;
    let specification = match specification {
        Err(ReconcileError { reason: Reason::SecretNotFound, .. }) if purpose == ComparePurpose::Preview => None,
        specification => Some(specification?),
    };
    let Cached { item: have, at } = connection.view.registry(registry.harbor_name(), freshness).await?;
    let have = have.map(|registry| registry.as_ref().clone());
    let (id, mut remarks) = (have.as_ref().map(|registry| registry.id), Vec::new());
    let desired = specification.unwrap_or_else(|| {
        remarks.push("its Secret is not available, so its credentials were not compared".to_owned());
        let key = have.as_ref().map(|have| have.credential.access_key.clone()).filter(|key| !key.is_empty());
        let credentials = key.map(|username| Credentials { username, password: String::new().into() });
        specified(kinds, registry, credentials, None)
    });
    let assumed = remembered.is_none() && purpose != ComparePurpose::Write;
    if assumed && purpose == ComparePurpose::Preview && id.is_some() && desired.credentials_revision.is_some() {
        remarks.push("Harbor does not return its secret, so it was not compared".to_owned());
    }
    let credentials_revision = if assumed { desired.credentials_revision.clone() } else { remembered };
    let version = match desired.ca_certificate {
        Some(_) => version(kinds.directory.as_ref(), &registry.spec.harbor_ref.name, &connection.client).await?,
        None => None,
    };
    let found = have.as_ref().and_then(|have| Marker::split(&have.description).1);
    let other = kinds.other(registry, found.as_ref());
    let plan = plan::plan(&desired, &plan::Observed { registry: have, credentials_revision, version, other, owned });
    Ok(Comparison { connection, desired, id, at, plan, remarks })
}

/// Checks whether Harbor may connect to this host. A Registry that is only observed makes Harbor connect to no host.
pub(super) fn check_host(kinds: &Reconcilers, registry: &Registry) -> Result<(), Refusal> {
    let harbor = &registry.spec.harbor_ref.name;
    let Some(instance) = kinds.directory.instance(harbor) else { return Ok(()) };
    if registry.spec.management_policy == ManagementPolicy::ObserveOnly {
        return Ok(());
    }
    hosts::check(&registry.url(), &instance.spec.allowed_registry_hosts, harbor)
}

/// The desired state of the Registry, with its Secret. Adds the secret to `secrets` first, because Harbor may show it
/// before we send it.
async fn dereference(
    kinds: &Reconcilers,
    registry: &Registry,
    secrets: &Redactor,
) -> Result<plan::Desired, ReconcileError> {
    let (credentials, revision) = match &registry.spec.credentials_secret_ref {
        None => (None, None),
        Some(reference) => {
            let secret = read_secret(kinds.directory.as_ref(), &reference.name).await?;
            secret.redact_with(secrets);
            let credentials = secret.credentials().map_err(|detail| {
                ReconcileError::waiting(Reason::SecretInvalid, format!("Secret {}: {detail}", reference.name))
            })?;
            (Some(credentials), Some(secret.revision))
        }
    };
    Ok(specified(kinds, registry, credentials, revision))
}

fn specified(
    kinds: &Reconcilers,
    registry: &Registry,
    credentials: Option<Credentials>,
    credentials_revision: Option<String>,
) -> plan::Desired {
    let spec = &registry.spec;
    plan::Desired {
        name: registry.harbor_name().to_owned(),
        type_: spec.type_.adapter(),
        url: registry.url().into_owned(),
        description: spec.description.clone(),
        credentials,
        credentials_revision,
        ca_certificate: spec.ca_bundle.clone(),
        insecure: spec.insecure,
        marker: kinds.installation.marker(registry),
        adoption: spec.adoption_policy,
    }
}

async fn apply(Connection { client, view, .. }: &Connection, name: &str, step: &plan::Step) -> Result<i64, Error> {
    match step {
        plan::Step::Create(new) => {
            let id = client.create_registry(new).await.inspect_err(|_| view.wrote_registry(name))?;
            view.made_registry(plan::stored(new, id));
            Ok(id)
        }
        plan::Step::Update(id, update) => {
            let updated = client.update_registry(*id, update).await;
            view.wrote_registry(name);
            updated.map(|()| *id)
        }
    }
}

/// Finds out why Harbor cannot use the upstream. Harbor gives the same answer for every cause; without our credentials it
/// may say more.
async fn diagnose(client: &Client, desired: &plan::Desired) -> ReconcileError {
    let anonymous =
        model::RegistryPing { type_: desired.type_.to_owned(), url: desired.url.clone(), insecure: desired.insecure };
    let url = &desired.url;
    if desired.credentials.is_some() {
        if client.ping_registry(&anonymous).await.is_ok() {
            let message = format!(
                "{url} answers Harbor and refuses the credentials: correct username and password in the Secret of spec.credentialsSecretRef"
            );
            return ReconcileError::stalled(Reason::CredentialsRejected, message);
        }
        let message = format!(
            "Harbor cannot use {url}: it is unreachable from Harbor, or refuses the credentials (Harbor does not report which)"
        );
        return ReconcileError::waiting(Reason::UpstreamUnhealthy, message);
    }
    let message = format!("Harbor cannot use {url}: it is unreachable from Harbor, or requires credentials");
    ReconcileError::waiting(Reason::UpstreamUnhealthy, message)
}

async fn remove(kinds: &Reconcilers, registry: &Registry) -> Result<Vec<EventMessage>, ReconcileError> {
    if registry.spec.management_policy == ManagementPolicy::ObserveOnly {
        return Ok(Vec::new());
    }
    let connection = kinds.connect(&registry.spec.harbor_ref).await?;
    let name = registry.harbor_name();
    let Some(have) = connection.client.registry_named(name).await? else {
        return Ok(Vec::new());
    };
    if Marker::split(&have.description).1 != Some(kinds.installation.marker(registry)) {
        let message = format!("registry {name} in Harbor has no marker of ours and was not modified");
        return Ok(vec![EventMessage::warning(Reason::AdoptionRequired, message)]);
    }
    let deleted = connection.client.delete_registry(have.id).await;
    connection.view.wrote_registry(name);
    deleted?;
    Ok(vec![EventMessage::done(Reason::Reconciled, format!("deleted registry {name} in Harbor"))])
}

/// The names of resources that use the registry.
async fn in_the_way(kinds: &Reconcilers, registry: &Registry) -> Option<String> {
    let name = registry.metadata.name.as_deref()?;
    let connection = kinds.connect(&registry.spec.harbor_ref).await.ok()?;
    let id = connection.client.registry_named(registry.harbor_name()).await.ok()??.id;
    let projects = connection.client.projects_of_registry(id).await.ok()?;
    let policies = connection.client.replication_policies().await.unwrap_or_default();
    let (project_resources, rules) = (kinds.directory.proxy_projects(), kinds.directory.replication_rules());
    let called = |object: String, kind: &str, resource: Option<&str>| match resource {
        Some(resource) => format!("{object} in Harbor ({kind} {resource})"),
        None => format!("{object} in Harbor"),
    };
    let mut users: Vec<String> = projects
        .iter()
        .map(|project| {
            let resource = project_resources
                .iter()
                .find(|resource| resource.spec.registry_ref.name == name && resource.harbor_name() == project.name);
            let resource = resource.and_then(|resource| resource.metadata.name.as_deref());
            called(format!("project {}", project.name), "ProxyProject", resource)
        })
        .collect();
    let uses = |policy: &&model::ReplicationPolicy| {
        policy.content.src_registry.id == id || policy.content.dest_registry.id == id
    };
    users.extend(policies.iter().filter(uses).map(|policy| {
        let resource =
            rules.iter().find(|rule| rule.registry_name() == name && rule.harbor_name() == policy.content.name);
        let resource = resource.and_then(|resource| resource.metadata.name.as_deref());
        called(format!("replication policy {}", policy.content.name), "ReplicationRule", resource)
    }));
    if users.is_empty() {
        return None;
    }
    Some(format!(
        "registry {} in Harbor is used by {}; delete its users first",
        registry.harbor_name(),
        users.join(", ")
    ))
}
