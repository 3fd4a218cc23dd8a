//! The kinds that name images: Pods, and workloads whose Pods do not exist yet. Each is streamed, and listed in pages to
//! find which images are in use. None is stored.

use std::{collections::HashSet, fmt::Debug};

use futures::StreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Pod, PodTemplateSpec},
    },
};
use kube::{
    Api, Resource,
    api::ListParams,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;

use super::{
    Error,
    backend::ApiResources,
    bounded,
    image_usage::{PodImages, named},
    turn,
};
use crate::{
    active_config::ActiveConfig,
    engine::{image_usage::ImageUsage, watch},
    prewarm::queue::Order,
    rewrite::PrewarmTarget,
};

/// Objects per page: half the page size of a watch, so that an audit log shows which request is which.
const PAGE: u32 = 250;

/// Finds the images that objects of the API server name, records and enqueues them.
pub(super) struct ImageSources<'a> {
    pub(super) resources: &'a ApiResources,
    pub(super) images: &'a PodImages,
    pub(super) usage: &'a ImageUsage,
}

impl ImageSources<'_> {
    /// Follows all sources until dropped: records and enqueues the images they need.
    pub(super) async fn follow_all(&self) {
        tokio::join!(
            self.follow::<Pod>(),
            self.follow::<Deployment>(),
            self.follow::<StatefulSet>(),
            self.follow::<DaemonSet>(),
            self.follow::<Job>(),
            self.follow::<CronJob>(),
        );
    }

    /// Lists all sources once: records and enqueues the images they need. Returns which of the images `among` are in use.
    ///
    /// # Errors
    /// [`Error`] when the list is incomplete: then it is unknown which images are unused.
    pub(super) async fn list_all(&self, among: &HashSet<String>) -> Result<HashSet<String>, Error> {
        let mut in_use = HashSet::new();
        self.list::<Pod>(among, &mut in_use).await?;
        self.list::<Deployment>(among, &mut in_use).await?;
        self.list::<StatefulSet>(among, &mut in_use).await?;
        self.list::<DaemonSet>(among, &mut in_use).await?;
        self.list::<Job>(among, &mut in_use).await?;
        self.list::<CronJob>(among, &mut in_use).await?;
        Ok(in_use)
    }

    async fn follow<K: ImageSource>(&self) {
        let config = watcher::Config { field_selector: K::FIELDS.map(str::to_owned), ..watcher::Config::default() };
        let events = self.resources.watch_as(Api::<K>::all(self.resources.client.clone()), config, K::KIND);
        let mut events = std::pin::pin!(watch::resumed(events, watch::backoff(), K::KIND, || ()));
        while let Some(event) = events.next().await {
            match event {
                Event::Apply(object) | Event::InitApply(object) => drop(self.take(&object)),
                // It needed its images until now.
                Event::Delete(object) => self.usage.record(namespace(&object), &self.wanted(&object)),
                Event::Init | Event::InitDone => {}
            }
        }
    }

    async fn list<K: ImageSource>(&self, among: &HashSet<String>, in_use: &mut HashSet<String>) -> Result<(), Error> {
        let api: Api<K> = Api::all(self.resources.client.clone());
        let mut parameters = ListParams::default().limit(PAGE);
        parameters.field_selector = K::FIELDS.map(str::to_owned);
        loop {
            let page = bounded("listing workloads", api.list(&parameters)).await?;
            for object in &page.items {
                let wanted = self.take(object);
                let at_harbor = wanted.iter().map(|wanted| wanted.image.to_string());
                in_use.extend(at_harbor.chain(object.named()).filter(|image| among.contains(image)));
            }
            if !turn(&mut parameters, page.metadata) {
                return Ok(());
            }
        }
    }

    fn take<K: ImageSource>(&self, object: &K) -> Vec<PrewarmTarget> {
        let wanted = self.wanted(object);
        self.usage.record(namespace(object), &wanted);
        self.usage.enqueue(object.order(), namespace(object), &wanted);
        wanted
    }

    fn wanted<K: ImageSource>(&self, object: &K) -> Vec<PrewarmTarget> {
        object.wanted(self.images, &self.usage.active)
    }
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
    fn wanted(&self, images: &PodImages, active: &ActiveConfig) -> Vec<PrewarmTarget>;

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

    fn wanted(&self, images: &PodImages, active: &ActiveConfig) -> Vec<PrewarmTarget> {
        images.of_pod(active, self)
    }

    fn named(&self) -> HashSet<String> {
        named(self)
    }
}

macro_rules! workload {
    ($kind:ty, $template:expr, $rests:expr) => {
        impl ImageSource for $kind {
            const KIND: &'static str = <Self as k8s_openapi::Resource>::KIND;

            fn wanted(&self, images: &PodImages, active: &ActiveConfig) -> Vec<PrewarmTarget> {
                let template: fn(&$kind) -> Option<&PodTemplateSpec> = $template;
                template(self).map(|template| images.of_template(active, &self.metadata, template)).unwrap_or_default()
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
