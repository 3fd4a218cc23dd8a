//! HarborInstance: checks whether Harbor answers, its version and its health.

use k8s_openapi::jiff::Timestamp;

use super::{
    Connections, EventMessage, ReconcileError, ReconcileResult, ResourceStore,
    status_report::{probe, warn_of_change},
};
use crate::{
    api::{ConditionType, Conditions, HarborInstance, HarborInstanceStatus, Reason, common, condition},
    harbor::{Client, Error},
    transport::Redactor,
};

/// Maximum number of components; Harbor has ten.
const MOST_COMPONENTS: usize = 32;

/// Reconciles a HarborInstance once.
pub async fn reconcile(
    directory: &dyn ResourceStore,
    instances: &Connections,
    instance: &HarborInstance,
    now: Timestamp,
) -> ReconcileResult<HarborInstanceStatus> {
    let mut old = instance.status.clone().unwrap_or_default();
    let before = std::mem::take(&mut old.conditions);
    let generation = instance.metadata.generation;
    let mut conditions = Conditions::from_status(&before, generation, now);
    let asked_for = common::is_requested(&instance.metadata, &mut old.last_reconcile_token);
    let mut status = HarborInstanceStatus {
        observed_generation: generation,
        pull_host: Some(instance.spec.effective_pull_host().to_owned()),
        ..old
    };
    let mut notes = Vec::new();
    if instance.spec.suspend {
        conditions.suspended();
    } else {
        let name = instance.metadata.name.as_deref().unwrap_or_default();
        match instances.connect_to(directory, name, instance).await {
            Err(unusable) => conditions.failed(&unusable),
            Ok(connection) => match check(&connection.client).await {
                Ok(seen) => {
                    let seen = seen.without(connection.client.secrets());
                    if asked_for || !condition::is_true(&before, ConditionType::Ready) {
                        // Harbor may have been restored or reinstalled.
                        connection.view.clear();
                    }
                    if status.version.as_ref().is_some_and(|version| *version != seen.version) {
                        notes.push(EventMessage::done(Reason::Healthy, format!("Harbor is now {}", seen.version)));
                    }
                    conditions.ready(seen.reason(), seen.message(connection.client.is_user_account()));
                    status.version = Some(seen.version);
                    status.unhealthy_components = seen.unhealthy;
                }
                Err(error) => conditions.failed(&ReconcileError::from(error)),
            },
        }
    }
    status.conditions = conditions.into_list();
    warn_of_change(&before, &status.conditions, &mut notes);
    let requeue = probe(&status.conditions, instance.spec.suspend, instance.spec.interval.duration());
    ReconcileResult { status, requeue, notes }
}

struct InstanceState {
    version: String,
    unhealthy: Vec<String>,
}

impl InstanceState {
    /// The same, with secrets redacted from text that Harbor sent.
    fn without(self, secrets: &Redactor) -> Self {
        let said = |text: String| secrets.message(text.as_bytes(), false, &[]);
        let unhealthy = self.unhealthy.into_iter().take(MOST_COMPONENTS).map(said);
        Self { unhealthy: unhealthy.collect(), version: said(self.version) }
    }

    fn reason(&self) -> Reason {
        if self.unhealthy.is_empty() { Reason::Healthy } else { Reason::Degraded }
    }

    fn message(&self, user_account: bool) -> String {
        let mut message = format!("Harbor {} answers", self.version);
        if !self.unhealthy.is_empty() {
            message.push_str(&format!("; unhealthy components: {}", self.unhealthy.join(", ")));
        }
        if user_account {
            message.push_str("; the credentials are those of a user, which costs Harbor about 100 ms of CPU per request: use a system robot account");
        }
        message
    }
}

async fn check(client: &Client) -> Result<InstanceState, Error> {
    let info = client.system_info().await?;
    // With a wrong password Harbor answers here as without one: 200, without the version.
    let Some(version) = info.harbor_version else {
        return Err(Error::Unauthorized { operation: "GET /systeminfo".to_owned() });
    };
    let health = client.health().await?;
    let unhealthy = health.components.into_iter().filter(|component| component.status != "healthy");
    Ok(InstanceState { version, unhealthy: unhealthy.map(|component| component.name).collect() })
}
