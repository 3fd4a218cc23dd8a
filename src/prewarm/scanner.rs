//! Asks Harbor for scans when [`scan`](super::scan) says that one is due.

use k8s_openapi::jiff::Timestamp;

use super::{
    scan::{self, ScanFindings, ScanTerms},
    target::Target,
    timing::PrewarmTiming,
};
use crate::{
    api::{ScanStatus, cached_image::PlatformStatus, condition::since},
    harbor::{
        self,
        model::{Artifact, ScanStage, is_for_its_scan},
    },
};

/// Maximum number of manifests of one image for which one step asks for a scan.
const MOST: usize = 16;

/// The scans of one image.
pub(super) struct ImageScanner<'a> {
    pub(super) harbor: &'a harbor::Client,
    pub(super) target: &'a Target,
    pub(super) terms: ScanTerms,
    pub(super) timing: &'a PrewarmTiming,
    pub(super) now: Timestamp,
}

impl ImageScanner<'_> {
    /// Reads the scan status of each wanted manifest from the list, and asks for scans that are due. If Harbor refuses a scan,
    /// that is no failure: the status shows Harbor's message.
    pub(super) async fn after_look(
        &self,
        wanted: &[PlatformStatus],
        artifacts: &[Artifact],
        refused: &[Option<String>],
        warmed: Timestamp,
    ) -> ScanFindings {
        let refused: Vec<bool> = refused.iter().map(Option::is_some).collect();
        let mut each = Vec::with_capacity(wanted.len());
        let mut asked = 0;
        for (at, child) in wanted.iter().enumerate() {
            let Some(artifact) = artifacts.iter().find(|artifact| artifact.digest == child.digest) else {
                each.push(None);
                continue;
            };
            let mut scan = scan::read(artifact, child.scan.as_ref());
            let is_refused = refused.get(at).copied().unwrap_or(false);
            if asked < MOST && scan::is_due(&scan, &self.terms, is_refused, self.now, self.timing) {
                asked += 1;
                scan = self.ask(scan, &child.digest).await;
            }
            each.push(Some(scan));
        }
        let age = since(warmed, self.now);
        scan::found(each, &refused, &self.terms, age, self.now, self.timing)
    }

    /// Asks for scans of an image that Harbor refused to serve: of the artifact under this tag or digest, or, if that is not
    /// cached, of everything in the repository. Returns the status of one that is still unscanned, if any.
    pub(super) async fn of_refused(&self, refusal: &str, known: &[PlatformStatus]) -> Option<ScanStatus> {
        if !is_for_its_scan(refusal) {
            return None;
        }
        let artifacts = self.harbor.scanned_artifacts(self.target.project(), self.target.repository()).await.ok()?;
        let named = artifacts.iter().find(|artifact| match self.target.digest() {
            Some(digest) => artifact.digest == digest.as_str(),
            None => artifact.tags.iter().any(|tag| Some(tag.name.as_str()) == self.target.tag()),
        });
        let belongs = |artifact: &&Artifact| {
            let within = |named: &Artifact| {
                named.digest == artifact.digest
                    || named.references.iter().any(|child| child.child_digest == artifact.digest)
            };
            let done = matches!(artifact.scan_stage(), ScanStage::Done(_));
            !done && artifact.references.is_empty() && named.is_none_or(within)
        };
        let mut unscanned = None;
        for artifact in artifacts.iter().filter(belongs).take(MOST) {
            let known =
                known.iter().find(|child| child.digest == artifact.digest).and_then(|child| child.scan.as_ref());
            let mut scan = scan::read(artifact, known);
            if scan::is_due(&scan, &self.terms, true, self.now, self.timing) {
                scan = self.ask(scan, &artifact.digest).await;
            }
            unscanned = Some(scan);
        }
        unscanned
    }

    async fn ask(&self, scan: ScanStatus, digest: &str) -> ScanStatus {
        let answer = self.harbor.start_scan(self.target.project(), self.target.repository(), digest).await;
        if let Err(error) = &answer {
            tracing::debug!(%error, digest, "started a scan");
        }
        scan::asked(scan, &answer, self.now)
    }
}
