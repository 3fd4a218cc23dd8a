//! Registry: observe → plan → apply → status.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{
    Directory, Finalized, Installation, Instances, Note, Outcome, RECHECK,
    instances::{Unusable, read_secret},
};
use crate::{
    api::{ConditionType, Conditions, ManagementPolicy, Reason, Registry, RegistryStatus, condition},
    harbor::{Client, Error, model},
    plan::{Drift, Refusal, marker::Marker, registry as plan},
};

/// Why a registry is not as its spec says.
#[derive(Debug)]
enum Failure {
    Unusable(Unusable),
    Refused(Refusal),
    Harbor(Error),
    /// Harbor's probe of the upstream failed, and why we think so.
    Upstream(Reason, String),
}

impl From<Unusable> for Failure {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Harbor(error)
    }
}

/// Brings a Registry's object in Harbor to what its spec says.
pub async fn reconcile(
    directory: &dyn Directory,
    instances: &Instances,
    installation: &Installation,
    registry: &Registry,
    now: Timestamp,
) -> Outcome<RegistryStatus> {
    let generation = registry.metadata.generation;
    let mut status = registry.status.clone().unwrap_or_default();
    let mut conditions = Conditions::from_status(&status.conditions, generation, now);
    status.observed_generation = generation;
    conditions.remove(ConditionType::DeletionBlocked);
    let mut notes = Vec::new();
    if registry.spec.suspend {
        conditions.suspended();
    } else {
        match bring(directory, instances, installation, registry, &mut status, &mut notes).await {
            Ok(()) if status.drift.is_empty() => {
                conditions.remove(ConditionType::Drifted);
                conditions.ready(Reason::Reconciled, "Harbor has this registry as specified");
            }
            Ok(()) => conditions.drifted(&status.drift),
            Err(failure) => explain(&mut conditions, &failure),
        }
    }
    status.conditions = conditions.into_list();
    warn_of_change(registry.status.as_ref().map(|status| status.conditions.as_slice()), &status.conditions, &mut notes);
    let wait = registry.spec.interval.duration();
    let requeue = if is_ready(&status.conditions) || registry.spec.suspend { wait } else { wait.min(RECHECK) };
    Outcome { status, requeue, notes }
}

/// Deletes a Registry's object in Harbor, for `deletionPolicy: Delete`.
pub async fn finalize(
    directory: &dyn Directory,
    instances: &Instances,
    installation: &Installation,
    registry: &Registry,
    now: Timestamp,
) -> Finalized<RegistryStatus> {
    let (reason, message) = match remove(directory, instances, installation, registry).await {
        Ok(notes) => return Finalized::Done(notes),
        Err(Failure::Harbor(Error::Precondition { message })) => {
            (Reason::InUse, in_the_way(directory, instances, registry).await.unwrap_or(message))
        }
        Err(Failure::Harbor(error)) => (error.reason(), error.to_string()),
        Err(Failure::Unusable(unusable)) => (unusable.reason, unusable.message),
        Err(Failure::Refused(refusal)) => (refusal.reason, refusal.message),
        Err(Failure::Upstream(reason, message)) => (reason, message),
    };
    let message = format!("{message}; set spec.deletionPolicy: Retain to leave it in Harbor");
    let mut status = registry.status.clone().unwrap_or_default();
    let mut conditions = Conditions::from_status(&status.conditions, registry.metadata.generation, now);
    status.observed_generation = registry.metadata.generation;
    conditions.set(ConditionType::DeletionBlocked, true, reason, message);
    status.conditions = conditions.into_list();
    let mut notes = Vec::new();
    let before = registry.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if let Some(note) = blocked_note(before, &status.conditions) {
        notes.push(note);
    }
    Finalized::Blocked(Outcome { status, requeue: RECHECK, notes })
}

/// Whether Ready is true.
pub(crate) fn is_ready(conditions: &[Condition]) -> bool {
    condition::is_true(conditions, ConditionType::Ready)
}

/// A note when Ready became false, or is false for another reason than before.
pub(crate) fn warn_of_change(before: Option<&[Condition]>, after: &[Condition], notes: &mut Vec<Note>) {
    let ready = |conditions| condition::find(conditions, ConditionType::Ready);
    let Some(new) = ready(after).filter(|condition| condition.status == "False" && condition.reason != "Suspended")
    else {
        return;
    };
    if before.and_then(ready).is_none_or(|old| old.status != new.status || old.reason != new.reason) {
        notes.push(Note { warning: true, reason: new.reason.clone(), message: new.message.clone() });
    }
}

/// A note when the deletion is blocked by something else than before.
pub(crate) fn blocked_note(before: &[Condition], after: &[Condition]) -> Option<Note> {
    let blocked = |conditions| condition::find(conditions, ConditionType::DeletionBlocked);
    let new = blocked(after)?;
    let changed = blocked(before).is_none_or(|old| old.message != new.message);
    changed.then(|| Note::warning(Reason::InUse, new.message.clone()))
}

async fn bring(
    directory: &dyn Directory,
    instances: &Instances,
    installation: &Installation,
    registry: &Registry,
    status: &mut RegistryStatus,
    notes: &mut Vec<Note>,
) -> Result<(), Failure> {
    let connection = instances.connect(directory, &registry.spec.harbor_ref.name).await?;
    let client = &connection.client;
    let desired = dereference(directory, installation, registry).await?;
    let have = client.registry_named(&desired.name).await?;
    status.id = have.as_ref().map(|registry| registry.id);
    let observed = plan::Observed { registry: have, credentials_revision: status.credentials_revision.clone() };
    let plan = plan::plan(&desired, &observed)?;
    if registry.spec.management_policy == ManagementPolicy::ObserveOnly {
        status.drift = described_drift(&plan.drift, observed.registry.is_none());
        return Ok(());
    }
    status.drift.clear();
    for step in &plan.steps {
        match apply(client, step).await {
            Ok(id) => status.id = Some(id),
            Err(error) if error.is_unhealthy_registry() => {
                let (reason, message) = diagnose(client, &desired).await;
                return Err(Failure::Upstream(reason, message));
            }
            Err(error) => return Err(error.into()),
        }
        notes.push(told(step, &plan.drift));
    }
    status.credentials_revision = desired.credentials_revision;
    Ok(())
}

async fn dereference(
    directory: &dyn Directory,
    installation: &Installation,
    registry: &Registry,
) -> Result<plan::Desired, Unusable> {
    let spec = &registry.spec;
    let (credentials, credentials_revision) = match &spec.credentials_secret_ref {
        None => (None, None),
        Some(reference) => {
            let secret = read_secret(directory, &reference.name).await?;
            let credentials = secret.credentials().map_err(|detail| Unusable {
                reason: Reason::SecretInvalid,
                message: format!("Secret {}: {detail}", reference.name),
                stalled: false,
            })?;
            (Some(credentials), Some(secret.revision))
        }
    };
    Ok(plan::Desired {
        name: registry.harbor_name().to_owned(),
        type_: spec.type_.as_str(),
        url: spec.url.clone(),
        description: spec.description.clone(),
        credentials,
        credentials_revision,
        ca_certificate: spec.ca_bundle.clone(),
        insecure: spec.insecure,
        marker: marker(installation, registry),
        adoption: spec.adoption,
    })
}

async fn apply(client: &Client, step: &plan::Step) -> Result<i64, Error> {
    match step {
        plan::Step::Create(new) => client.create_registry(new).await,
        plan::Step::Update(id, update) => client.update_registry(*id, update).await.map(|()| *id),
    }
}

/// Harbor has one answer for every upstream it cannot use. Without our credentials it may say more.
async fn diagnose(client: &Client, desired: &plan::Desired) -> (Reason, String) {
    let anonymous =
        model::RegistryPing { type_: desired.type_.to_owned(), url: desired.url.clone(), insecure: desired.insecure };
    let url = &desired.url;
    if desired.credentials.is_some() {
        if client.ping_registry(&anonymous).await.is_ok() {
            let message = format!(
                "{url} answers Harbor, and refuses the credentials of spec.credentialsSecretRef: correct username and password there"
            );
            return (Reason::CredentialsRejected, message);
        }
        let message = format!(
            "Harbor cannot use {url}: it is unreachable from Harbor, or refuses the credentials (Harbor does not tell which)"
        );
        return (Reason::UpstreamUnhealthy, message);
    }
    let message = format!("Harbor cannot use {url}: it is unreachable from Harbor, or wants credentials");
    (Reason::UpstreamUnhealthy, message)
}

fn told(step: &plan::Step, drift: &[Drift]) -> Note {
    match step {
        plan::Step::Create(new) => Note::done(Reason::Reconciled, format!("created registry {} in Harbor", new.name)),
        plan::Step::Update(..) => {
            let fields: Vec<String> = drift.iter().map(ToString::to_string).collect();
            Note::done(Reason::Reconciled, format!("changed the registry in Harbor, which had {}", fields.join("; ")))
        }
    }
}

/// The drift as text for status; an object that does not exist is drift, too.
pub(crate) fn described_drift(drift: &[Drift], missing: bool) -> Vec<String> {
    if missing {
        return vec!["Harbor has no such object".to_owned()];
    }
    drift.iter().map(ToString::to_string).collect()
}

fn explain(conditions: &mut Conditions, failure: &Failure) {
    match failure {
        Failure::Unusable(unusable) => conditions.unusable(unusable),
        Failure::Harbor(error) => conditions.failed(error),
        Failure::Refused(refusal) => conditions.stalled(refusal.reason, refusal.message.clone()),
        Failure::Upstream(reason @ Reason::CredentialsRejected, message) => {
            conditions.stalled(*reason, message.clone());
        }
        Failure::Upstream(reason, message) => conditions.progressing(*reason, message.clone()),
    }
}

async fn remove(
    directory: &dyn Directory,
    instances: &Instances,
    installation: &Installation,
    registry: &Registry,
) -> Result<Vec<Note>, Failure> {
    if registry.spec.management_policy == ManagementPolicy::ObserveOnly {
        return Ok(Vec::new());
    }
    let connection = instances.connect(directory, &registry.spec.harbor_ref.name).await?;
    let name = registry.harbor_name();
    let Some(have) = connection.client.registry_named(name).await? else {
        return Ok(Vec::new());
    };
    if Marker::split(&have.description).1 != Some(marker(installation, registry)) {
        let message = format!("registry {name} in Harbor is not marked as ours and was left alone");
        return Ok(vec![Note::warning(Reason::AdoptionRequired, message)]);
    }
    connection.client.delete_registry(have.id).await?;
    Ok(vec![Note::done(Reason::Reconciled, format!("deleted registry {name} in Harbor"))])
}

/// Who uses the registry, by name.
async fn in_the_way(directory: &dyn Directory, instances: &Instances, registry: &Registry) -> Option<String> {
    let name = registry.metadata.name.as_deref()?;
    let connection = instances.connect(directory, &registry.spec.harbor_ref.name).await.ok()?;
    let id = connection.client.registry_named(registry.harbor_name()).await.ok()??.id;
    let projects = connection.client.projects_of_registry(id).await.ok()?;
    let resources = directory.proxy_projects();
    let users: Vec<String> = projects
        .iter()
        .map(|project| {
            let resource = resources
                .iter()
                .find(|resource| resource.spec.registry_ref.name == name && resource.harbor_name() == project.name);
            match resource.and_then(|resource| resource.metadata.name.as_deref()) {
                Some(resource) => format!("project {} in Harbor (ProxyProject {resource})", project.name),
                None => format!("project {} in Harbor", project.name),
            }
        })
        .collect();
    if users.is_empty() {
        return None;
    }
    Some(format!("registry {} in Harbor is used by {}; delete that first", registry.harbor_name(), users.join(", ")))
}

fn marker(installation: &Installation, registry: &Registry) -> Marker {
    Marker {
        installation: installation.0.clone(),
        kind: "Registry".to_owned(),
        name: registry.metadata.name.clone().unwrap_or_default(),
    }
}

impl Conditions {
    /// Harbor differs, and the policy is to observe only.
    pub(crate) fn drifted(&mut self, drift: &[String]) {
        let message = drift.join("; ");
        self.set(ConditionType::Drifted, true, Reason::Drifted, message.clone());
        self.set(ConditionType::Ready, false, Reason::Drifted, message);
        self.remove(ConditionType::Reconciling);
        self.remove(ConditionType::Stalled);
    }
}
