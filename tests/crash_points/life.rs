//! A life: resources are made, changed and deleted, by a process that may be killed.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use harbor_double::{Harbor, Image, Upstream};
use harbor_pilot::{
    api::{ProxyProject, Registry, ReplicationRule, replication_rule::RUN_NOW},
    controller::{FinalizeResult, ReconciledKind, Reconciler, Reconcilers},
    harbor::model::ReplicationExecution,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Kill, harbor,
    support::{Declared, Site},
};

/// Make, change, delete.
pub const PHASES: usize = 3;
/// No life takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// Two registries with another password each.
pub async fn upstreams() -> [Upstream; 2] {
    let first = Upstream::builder().basic_auth("puller", "first").start().await;
    let second = Upstream::builder().basic_auth("puller", "second").start().await;
    for upstream in [&first, &second] {
        upstream.push_image("team/app", "v1", &Image::single("linux", "amd64").layers([64]));
    }
    [first, second]
}

/// What there is at the end of a phase.
#[derive(Debug)]
pub struct End {
    pub was_killed: bool,
    /// All of Harbor, but for ids and times.
    pub harbor: Value,
    /// Creations that Harbor answered 201, by path.
    pub created: BTreeMap<String, usize>,
    /// Of all resources, but for ids and times.
    pub statuses: Vec<Value>,
    /// Requests to Harbor in this phase, of a life that was not interrupted.
    pub requests: usize,
}

impl End {
    /// Of an uninterrupted life.
    pub fn assert_right(&self, phase: usize) {
        assert!(!self.was_killed);
        assert!(self.created.values().all(|count| *count <= 1), "{:?}", self.created);
        let ready = |status: &Value| {
            let conditions = status["conditions"].as_array().unwrap();
            conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        assert!(self.statuses.iter().all(ready), "{:#?}", self.statuses);
        let last = phase == PHASES - 1;
        assert_eq!(self.statuses.len(), if last { 0 } else { 3 });
        let ours = self.harbor.to_string().contains("[harbor-pilot ours/");
        assert_eq!(ours, !last, "{:#}", self.harbor);
        assert_eq!(self.created.len(), 5, "registry, project, label, policy and execution: {:?}", self.created);
    }
}

/// Resources, a Harbor, and what was there before.
pub struct Life<'a> {
    site: Site,
    upstreams: &'a [Upstream; 2],
    before: Value,
    stored: Cell<usize>,
}

impl<'a> Life<'a> {
    pub async fn begin(upstreams: &'a [Upstream; 2]) -> Self {
        let harbor = Harbor::builder().speed(3000.0).health_interval(Duration::from_secs(3600));
        let site = Site::doubled(harbor).await;
        harbor::add_strangers(site.double.as_ref().unwrap(), &upstreams[0]).await;
        let before = harbor::strangers(site.double.as_ref().unwrap()).await;
        site.double.as_ref().unwrap().clear_log();
        Self { site, upstreams, before, stored: Cell::new(0) }
    }

    /// Lives this phase after those before it, and is killed in it. What there is at its end.
    pub async fn live(&self, phase: usize, kill: Kill) -> End {
        for before in 0..phase {
            self.begin_phase(before);
            assert!(self.run(Kill::Never).await);
        }
        self.begin_phase(phase);
        let was_killed = !self.run(kill).await;
        if was_killed {
            self.run(Kill::Never).await;
        }
        self.end(was_killed).await
    }

    /// Is killed amid the first phase, and all resources are deleted before the process is there again. `None`: it was not
    /// killed.
    pub async fn cut_short(self, kill: Kill) -> Option<End> {
        self.begin_phase(0);
        if self.run(kill).await {
            return None;
        }
        for resource in ["nightly", "cache", "hub"] {
            self.site.delete::<ReplicationRule>(resource);
            self.site.delete::<ProxyProject>(resource);
            self.site.delete::<Registry>(resource);
        }
        self.run(Kill::Never).await;
        Some(self.end(true).await)
    }

    fn begin_phase(&self, phase: usize) {
        let site = &self.site;
        let [first, second] = self.upstreams;
        let registry = |url: String| {
            json!({"type": "docker-registry", "url": url, "credentialsSecretRef": {"name": "upstream"},
                "description": "of Git", "deletionPolicy": "Delete"})
        };
        let project = |limit: &str, cve: &str, days: i32| {
            json!({"registryRef": {"name": "hub"}, "public": true, "proxySpeedKB": 512, "storageLimit": limit,
                "cveAllowlist": {"items": [cve]}, "vulnerabilities": {"prevent": true, "severity": "High"},
                "retention": {"rules": [{"pulledWithinDays": days}]}, "deletionPolicy": "Purge"})
        };
        let rule = |name: &str| {
            json!({"name": name, "source": {"registryRef": {"name": "hub"}}, "filters": {"name": "team/app"},
                "destination": {"namespace": "mirror"}, "override": true})
        };
        match phase {
            0 => {
                site.secret("upstream", "puller", "first");
                site.apply::<Registry>("hub", registry(first.url()));
                site.apply::<ProxyProject>("cache", project("10Gi", "CVE-2024-1", 30));
                site.apply::<ReplicationRule>("nightly", rule("nightly"));
                site.annotate::<ReplicationRule>("nightly", RUN_NOW, "once");
            }
            1 => {
                site.secret("upstream", "puller", "second");
                site.apply::<Registry>("hub", registry(second.url()));
                site.apply::<ProxyProject>("cache", project("20Gi", "CVE-2024-2", 60));
                site.apply::<ReplicationRule>("nightly", rule("weekly"));
                site.annotate::<ReplicationRule>("nightly", RUN_NOW, "once");
            }
            _ => {
                for name in ["team/app", "other"] {
                    let image = Image::single("linux", "amd64").layers([8]);
                    site.double.as_ref().unwrap().store_image(&format!("cache/{name}"), "v1", &image);
                }
                site.delete::<ReplicationRule>("nightly");
                site.delete::<ProxyProject>("cache");
                site.delete::<Registry>("hub");
            }
        }
    }

    /// A process, until nothing changes any more. Answers whether it lived to see that.
    async fn run(&self, kill: Kill) -> bool {
        let (process, double) = (self.site.restarted(), self.site.double.as_ref().unwrap());
        double.hold(match kill {
            Kill::Request(hold) => Some(hold),
            _ => None,
        });
        self.stored.set(0);
        tokio::select! {
            biased;
            () = double.until_held() => {
                double.hold(None);
                false
            }
            lived = tokio::time::timeout(PATIENCE, self.work(&process, kill)) => lived.expect("no end of work"),
        }
    }

    async fn work(&self, process: &Arc<Reconcilers>, kill: Kill) -> bool {
        let begun = Instant::now();
        loop {
            self.until_executed().await;
            // In the order that is the worst for whoever waits for another.
            let steps = [
                self.step::<ReplicationRule>(process, "nightly", kill).await,
                self.step::<ProxyProject>(process, "cache", kill).await,
                self.step::<Registry>(process, "hub", kill).await,
            ];
            if steps.contains(&Step::Killed) {
                return false;
            }
            if !steps.contains(&Step::Changed) && self.is_settled() {
                return true;
            }
            assert!(begun.elapsed() < PATIENCE, "{:#?}", self.statuses());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    async fn step<K>(&self, process: &Arc<Reconcilers>, name: &str, kill: Kill) -> Step
    where
        K: ReconciledKind + Declared,
        Reconcilers: Reconciler<K>,
    {
        let Some(object) = self.site.world.get::<K>(name) else { return Step::Same };
        let now = Timestamp::now();
        let status = if object.meta().deletion_timestamp.is_none() {
            Some(process.reconcile(object.as_ref(), now).await.status)
        } else {
            match process.finalize(object.as_ref(), now).await {
                FinalizeResult::Done(_) => None,
                FinalizeResult::Blocked(outcome) => Some(outcome.status),
            }
        };
        if status.is_some() && object.status() == status.as_ref() {
            return Step::Same;
        }
        let number = self.stored.replace(self.stored.get() + 1);
        if matches!(kill, Kill::Store(at) if at == number) {
            return Step::Killed;
        }
        match status {
            Some(status) => drop(self.site.world.set_status::<K>(name, status)),
            None => drop(self.site.world.set_finalizers::<K>(name, None, Vec::new())),
        }
        Step::Changed
    }

    /// Until nothing runs in Harbor, so that a life does not differ from the next by how often it looks at what does.
    async fn until_executed(&self) {
        while harbor::is_busy(self.site.double.as_ref().unwrap()).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Whether what ran in Harbor has been told, too.
    fn is_settled(&self) -> bool {
        let Some(rule) = self.site.world.get::<ReplicationRule>("nightly") else { return true };
        let status = rule.status.clone().unwrap_or_default();
        let last = status.last_execution.filter(|last| last.status != ReplicationExecution::IN_PROGRESS);
        status.pending_run.is_none() && last.is_some_and(|last| last.end_time.is_some())
    }

    fn statuses(&self) -> Vec<Value> {
        let world = &self.site.world;
        let all = [
            world.get::<Registry>("hub").map(|object| json!(object.status)),
            world.get::<ProxyProject>("cache").map(|object| json!(object.status)),
            world.get::<ReplicationRule>("nightly").map(|object| json!(object.status)),
        ];
        all.into_iter().flatten().collect()
    }

    async fn end(&self, was_killed: bool) -> End {
        let double = self.site.double.as_ref().unwrap();
        let strangers = harbor::strangers(double).await;
        let touched = harbor::difference(&self.before, &strangers);
        assert_eq!(touched, "", "what a stranger has was touched:\n{touched}");
        let mut created = BTreeMap::new();
        for write in double.writes().iter().filter(|write| write.method == "POST" && write.status == 201) {
            *created.entry(write.path.clone()).or_default() += 1;
        }
        let installation = &self.site.kinds.installation.0;
        let plain = |value: &Value| {
            let text = value.to_string().replace(installation, "ours").replace(&double.host(), "harbor");
            harbor::without_ids(serde_json::from_str(&text).unwrap())
        };
        End {
            was_killed,
            harbor: plain(&harbor::everything(double).await),
            created,
            statuses: self.statuses().iter().map(plain).collect(),
            requests: double.requests_since_hold(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Same,
    Changed,
    Killed,
}
