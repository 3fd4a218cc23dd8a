//! One task: copies the artifacts of a repository, or deletes them, and keeps the log that alone says why it failed.

use std::{pin::Pin, sync::Arc};

use super::{
    ends::End,
    filters::{Deletes, Found},
};
use crate::{
    harbor::{Core, artifacts::manifest_blobs},
    index,
};

/// Attempts at a blob; between them Harbor waits 2, 4, 8 and 16 of its seconds.
const ATTEMPTS: u32 = 5;
const PLACE: &str = "/src/controller/replication/transfer/image/transfer.go";

/// A task at work.
struct Transfer<'a> {
    core: &'a Arc<Core>,
    task: i64,
    source: &'a End,
    target: &'a End,
    from: &'a str,
    to: &'a str,
}

/// The task was stopped: no failure.
struct Stopped;

type Copied = Result<(), Broken>;

enum Broken {
    Stopped,
    Failed(String),
}

impl Core {
    /// Does a task. Answers whether it is well done.
    pub(crate) async fn transfer(
        self: &Arc<Self>,
        task: i64,
        source: &End,
        target: &End,
        found: &Found,
        to: &str,
        overrides: bool,
    ) -> bool {
        let work = Transfer { core: self, task, source, target, from: &found.repository, to };
        for (end, which, line) in [(source, "source", 140), (target, "destination", 150)] {
            let (kind, url, insecure) = (end.kind(), end.url(self), end.insecure());
            work.info(
                line,
                &format!("client for {which} registry [type: {kind}, URL: {url}, insecure: {insecure}] created"),
            );
        }
        match found.deletes {
            Some(what) => work.delete(found, what).await,
            None => work.copy_all(found, overrides).await,
        }
    }
}

impl Transfer<'_> {
    async fn copy_all(&self, found: &Found, overrides: bool) -> bool {
        let references = found.references();
        let list = references.join(",");
        let both = format!("{}:[{list}](source registry) to {}:[{list}](destination registry)", self.from, self.to);
        self.info(183, &format!("copying {both}..."));
        let mut failed = false;
        for reference in &references {
            match self.copy(reference, overrides).await {
                Ok(()) => {}
                Err(Broken::Stopped) => return true,
                Err(Broken::Failed(why)) => {
                    self.error(195, &why);
                    failed = true;
                }
            }
        }
        if failed {
            self.error(201, "got error during the whole transfer period, mark the job failure");
        } else {
            self.info(205, &format!("copy {both} completed"));
        }
        !failed
    }

    /// A manifest with what it refers to. Boxed, for an index holds manifests.
    fn copy<'a>(&'a self, reference: &'a str, overrides: bool) -> Pin<Box<dyn Future<Output = Copied> + Send + 'a>> {
        Box::pin(async move {
            let (from, to) = (format!("{}:{reference}", self.from), format!("{}:{reference}", self.to));
            self.info(211, &format!("copying {from}(source registry) to {to}(destination registry)..."));
            self.go_on()?;
            self.info(465, &format!("pulling the manifest of artifact {from} ..."));
            let manifest = self.core.read_manifest(self.source, self.from, reference).await.map_err(|why| {
                self.error(468, &format!("failed to pull the manifest of artifact {from}: {why}"));
                Broken::Failed(why)
            })?;
            self.info(471, &format!("the manifest of artifact {from} pulled"));
            match self.core.find_manifest(self.target, self.to, reference).await.map_err(Broken::Failed)? {
                Some(digest) if digest == manifest.digest => {
                    self.info(227, &format!("the artifact {to} already exists on the destination registry, skip"));
                    return Ok(());
                }
                Some(_) if !overrides => {
                    let message = format!(
                        "the same name artifact {to} exists on the destination registry, but the \"override\" is set to false, skip"
                    );
                    self.note("WARNING", 233, &message);
                    return Ok(());
                }
                _ => {}
            }
            for child in index::children(&manifest.bytes) {
                self.copy(&child.digest, true).await?;
            }
            for (digest, size) in manifest_blobs(&manifest.bytes) {
                self.copy_blob(&digest, size).await?;
            }
            self.go_on()?;
            self.info(483, &format!("pushing the manifest of artifact {to} ..."));
            self.core.write_manifest(self.target, self.to, reference, manifest).await.map_err(|why| {
                self.error(492, &format!("failed to push manifest of artifact {to}: {why}"));
                Broken::Failed(why)
            })?;
            self.info(496, &format!("the manifest of artifact {to} pushed"));
            self.info(257, &format!("copy {from}(source registry) to {to}(destination registry) completed"));
            Ok(())
        })
    }

    async fn copy_blob(&self, digest: &str, size: u64) -> Copied {
        let mut wait = 2.0;
        for attempt in 1..=ATTEMPTS {
            self.info(290, &format!("copying the blob {digest}(the {attempt}th running)..."));
            match self.try_blob(digest, size).await {
                Ok(()) => {
                    self.info(292, &format!("copy the blob {digest} completed"));
                    return Ok(());
                }
                Err(Broken::Failed(_)) if attempt < ATTEMPTS => {
                    self.info(298, &format!("will retry {wait}s later"));
                    self.core.pause(wait).await;
                    wait *= 2.0;
                }
                Err(broken) => return Err(broken),
            }
        }
        Ok(())
    }

    async fn try_blob(&self, digest: &str, size: u64) -> Copied {
        self.go_on()?;
        if self.core.has_blob(self.target, self.to, digest).await.map_err(Broken::Failed)? {
            self.info(344, &format!("the blob {digest} already exists on the destination registry, skip"));
            return Ok(());
        }
        let bytes = self.core.read_blob(self.source, self.from, digest).await.map_err(|why| {
            self.error(379, &format!("failed to pulling the blob {digest}: {why}"));
            Broken::Failed(why)
        })?;
        self.core.write_blob(self.target, self.to, digest, bytes).await.map_err(|why| {
            self.error(396, &format!("failed to pushing the blob {digest}, size {size}: {why}"));
            Broken::Failed(why)
        })
    }

    async fn delete(&self, found: &Found, what: Deletes) -> bool {
        let noun = if what == Deletes::Tags { "tag" } else { "manifest of artifact" };
        for reference in found.references() {
            let at = format!("{}:{reference}", self.to);
            match self.core.erase(self.target, self.to, &reference, what).await {
                Ok(true) => self.info(551, &format!("the {noun} {at} is deleted")),
                Ok(false) => {
                    self.info(543, &format!("the {noun} {at} doesn't exist on the destination registry, skip"));
                }
                Err(why) => {
                    self.error(548, &format!("failed to delete the {noun} {at} on the destination registry: {why}"));
                    return false;
                }
            }
        }
        true
    }

    fn go_on(&self) -> Result<(), Stopped> {
        let stopped = self.core.state.lock().tasks.get(&self.task).is_none_or(|task| task.status.is_final());
        if stopped {
            self.info(172, "the job is stopped");
            return Err(Stopped);
        }
        Ok(())
    }

    fn info(&self, line: u32, message: &str) {
        self.note("INFO", line, message);
    }

    fn error(&self, line: u32, message: &str) {
        self.note("ERROR", line, message);
    }

    fn note(&self, level: &str, line: u32, message: &str) {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        if let Some(task) = self.core.state.lock().tasks.get_mut(&self.task) {
            task.log.push_str(&format!("{time} [{level}] [{PLACE}:{line}]: {}\n", message.trim_end()));
        }
    }
}

impl From<Stopped> for Broken {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}
