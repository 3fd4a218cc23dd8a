//! The kinds that name images: Pods, and workloads whose Pods do not exist yet. Each is streamed, and listed in pages to
//! find which images are in use. None is stored.

use std::{collections::HashSet, fmt::Debug};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Pod, PodTemplateSpec},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;

use super::{
    Error, backoff, bounded,
    image_usage::{ImageUsage, named},
    turn,
    watch::watch,
};
use crate::{prewarm::queue::Order, rewrite::PrewarmTarget, telemetry::watches::WatchMetrics};

/// Objects per page: half the page size of a watch, so that an audit log shows which request is which.
const PAGE: u32 = 250;

/// Follows all sources until dropped: records and enqueues the images they need.
pub(super) async fn follow_all(client: &Client, demand: &ImageUsage, watches: &WatchMetrics) {
    demand.asked.begin(Timestamp::now());
    tokio::join!(
        follow::<Pod>(client, demand, watches),
        follow::<Deployment>(client, demand, watches),
        follow::<StatefulSet>(client, demand, watches),
        follow::<DaemonSet>(client, demand, watches),
        follow::<Job>(client, demand, watches),
        follow::<CronJob>(client, demand, watches),
    );
}

/// Lists all sources once: records and enqueues the images they need. Returns which of the images `among` are in use.
///
/// # Errors
/// [`Error`] when the list is incomplete: then it is unknown which images are unused.
pub(super) async fn survey(
    client: &Client,
    demand: &ImageUsage,
    among: &HashSet<String>,
) -> Result<HashSet<String>, Error> {
    let mut in_use = HashSet::new();
    list::<Pod>(client, demand, among, &mut in_use).await?;
    list::<Deployment>(client, demand, among, &mut in_use).await?;
    list::<StatefulSet>(client, demand, among, &mut in_use).await?;
    list::<DaemonSet>(client, demand, among, &mut in_use).await?;
    list::<Job>(client, demand, among, &mut in_use).await?;
    list::<CronJob>(client, demand, among, &mut in_use).await?;
    Ok(in_use)
}

/// A kind that names images.
trait ImageSource:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// Name of the kind in metrics.
    const KIND: &'static str;
    /// Field selector of the objects that count.
    const FIELDS: Option<&'static str> = None;

    /// The images that the object needs from Harbor.
    fn wanted(&self, demand: &ImageUsage) -> Vec<PrewarmTarget>;

    /// When to warm its images: last when it creates no Pods now.
    fn order(&self) -> Order {
        Order::Turn
    }

    /// The images as the object names them, if something runs with them unchanged.
    fn named(&self) -> HashSet<String> {
        HashSet::new()
    }
}

impl ImageSource for Pod {
    const KIND: &'static str = <Self as k8s_openapi::Resource>::KIND;
    // Finished Pods need no images.
    const FIELDS: Option<&'static str> = Some("status.phase!=Succeeded,status.phase!=Failed");

    fn wanted(&self, demand: &ImageUsage) -> Vec<PrewarmTarget> {
        demand.of_pod(self)
    }

    fn named(&self) -> HashSet<String> {
        named(self)
    }
}

macro_rules! workload {
    ($kind:ty, $template:expr, $rests:expr) => {
        impl ImageSource for $kind {
            const KIND: &'static str = <Self as k8s_openapi::Resource>::KIND;

            fn wanted(&self, demand: &ImageUsage) -> Vec<PrewarmTarget> {
                let template: fn(&$kind) -> Option<&PodTemplateSpec> = $template;
                template(self).map(|template| demand.of_template(&self.metadata, template)).unwrap_or_default()
            }

            fn order(&self) -> Order {
                let rests: fn(&$kind) -> Option<bool> = $rests;
                if rests(self) == Some(true) { Order::Last } else { Order::Turn }
            }
        }
    };
}

workload!(Deployment, |deployment| Some(&deployment.spec.as_ref()?.template), |deployment| {
    Some(deployment.spec.as_ref()?.replicas? == 0)
});
workload!(StatefulSet, |set| Some(&set.spec.as_ref()?.template), |set| Some(set.spec.as_ref()?.replicas? == 0));
workload!(DaemonSet, |set| Some(&set.spec.as_ref()?.template), |_| None);
workload!(
    Job,
    |job| if is_over(job) || is_of_cron_job(job) { None } else { Some(&job.spec.as_ref()?.template) },
    |job| job.spec.as_ref()?.suspend
);
workload!(CronJob, |job| Some(&job.spec.job_template.spec.as_ref()?.template), |job| job.spec.suspend);

fn is_over(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| ["Complete", "Failed"].contains(&&*condition.type_) && condition.status == "True")
}

/// Whether a CronJob owns the Job; the CronJob names the same images.
fn is_of_cron_job(job: &Job) -> bool {
    job.metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.kind == "CronJob" && owner.controller == Some(true))
}

async fn follow<K: ImageSource>(client: &Client, demand: &ImageUsage, watches: &WatchMetrics) {
    let mut config = watcher::Config::default();
    if let Some(fields) = K::FIELDS {
        config = config.fields(fields);
    }
    let events = watch(Api::<K>::all(client.clone()), config, K::KIND, watches);
    let mut events = events.backoff(backoff()).boxed();
    loop {
        match events.try_next().await {
            Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                drop(take(&object, demand));
            }
            // It needed its images until now.
            Ok(Some(watcher::Event::Delete(object))) => demand.record(namespace(&object), &object.wanted(demand)),
            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => {}
            Ok(None) => return,
            Err(error) => tracing::warn!(kind = K::KIND, %error, "watching workloads"),
        }
    }
}

async fn list<K: ImageSource>(
    client: &Client,
    demand: &ImageUsage,
    among: &HashSet<String>,
    in_use: &mut HashSet<String>,
) -> Result<(), Error> {
    let api: Api<K> = Api::all(client.clone());
    let mut parameters = ListParams::default().limit(PAGE);
    parameters.field_selector = K::FIELDS.map(str::to_owned);
    loop {
        let page = bounded("listing workloads", api.list(&parameters)).await?;
        for object in &page.items {
            let wanted = take(object, demand);
            let at_harbor = wanted.iter().map(|wanted| wanted.image.to_string());
            in_use.extend(at_harbor.chain(object.named()).filter(|image| among.contains(image)));
        }
        if !turn(&mut parameters, page.metadata) {
            return Ok(());
        }
    }
}

fn take<K: ImageSource>(object: &K, demand: &ImageUsage) -> Vec<PrewarmTarget> {
    let wanted = object.wanted(demand);
    demand.record(namespace(object), &wanted);
    demand.enqueue(object.order(), namespace(object), &wanted);
    wanted
}

fn namespace<K: ImageSource>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn order<K: ImageSource>(spec: Value) -> Order {
        let template = json!({"spec": {"containers": []}});
        let mut object = json!({"spec": {"selector": {}, "serviceName": "a", "schedule": "* * * * *", "template": template,
            "jobTemplate": {"spec": {"template": template}}}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value::<K>(object).unwrap().order()
    }

    #[test]
    fn order_of_a_workload_without_pods_is_last() {
        for (spec, deployment, cron_job) in [
            (json!({}), Order::Turn, Order::Turn),
            (json!({"replicas": 0, "suspend": false}), Order::Last, Order::Turn),
            (json!({"replicas": 1, "suspend": true}), Order::Turn, Order::Last),
        ] {
            assert_eq!([order::<Deployment>(spec.clone()), order::<StatefulSet>(spec.clone())], [deployment; 2]);
            assert_eq!([order::<Job>(spec.clone()), order::<CronJob>(spec.clone())], [cron_job; 2]);
            assert_eq!(order::<DaemonSet>(spec), Order::Turn);
        }
    }
}
