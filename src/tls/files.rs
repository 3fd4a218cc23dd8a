//! Certificates from a directory with the files of a mounted Secret: `tls.crt` and `tls.key`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::AsyncReadExt;

use super::certificate::{Certificate, CertificateError};

/// The certificate and its intermediate CAs, as in a Secret of type `kubernetes.io/tls`.
pub const CERTIFICATE: &str = "tls.crt";
/// The private key of the certificate.
pub const KEY: &str = "tls.key";
/// The CA of the certificate.
pub const AUTHORITY: &str = "ca.crt";

const MAX_FILE: u64 = 1024 * 1024;
/// The timeout of one read: mounted files can hang, and a poll must not.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// The reason why the files of a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}; is the Secret mounted?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the read.
        error: io::Error,
    },
    /// The files exist, but are not a valid pair.
    #[error("cannot use the certificate in {}: {error}", directory.display())]
    Certificate {
        /// The directory.
        directory: PathBuf,
        /// The problem.
        error: CertificateError,
    },
}

/// A directory with a certificate, and its loaded content.
#[derive(Debug)]
pub struct CertificateDirectory {
    directory: PathBuf,
    in_use: CertificatePair,
    /// The last refused pair, so that it is reported once.
    refused: Option<CertificatePair>,
    certificate: Arc<Certificate>,
}

/// The result of one poll of the files.
#[derive(Debug)]
pub enum Poll {
    /// The same bytes as before.
    Same,
    /// Another valid pair, which is served from now on.
    Replaced,
    /// The new content cannot be used; the old certificate is still served. Reported once for the same bytes.
    Kept(FilesError),
}

#[derive(PartialEq, Eq)]
struct CertificatePair {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl CertificateDirectory {
    /// Reads `tls.crt` and `tls.key`, each up to 1 MiB.
    pub async fn load(directory: impl Into<PathBuf>) -> Result<Self, FilesError> {
        let directory = directory.into();
        let in_use = CertificatePair::read(&directory).await?;
        let certificate = Certificate::from_pem(&in_use.chain, &in_use.key)
            .map_err(|error| FilesError::Certificate { directory: directory.clone(), error })?;
        Ok(Self { directory, in_use, refused: None, certificate: Arc::new(certificate) })
    }

    /// Returns the certificate, which follows the files while [`CertificateDirectory::watch`] runs.
    pub fn certificate(&self) -> Arc<Certificate> {
        Arc::clone(&self.certificate)
    }

    /// Reads the files once, and serves a new valid pair. A pair outside of its validity at `now` does not replace one that
    /// is valid; it is served once it is valid.
    pub async fn poll(&mut self, now: Timestamp) -> Poll {
        let found = match CertificatePair::read(&self.directory).await {
            Ok(found) => found,
            Err(error) => return Poll::Kept(error),
        };
        if found == self.in_use {
            self.refused = None;
            self.certificate.is_as_wanted();
            return Poll::Same;
        }
        match self.certificate.replace(&found.chain, &found.key, now) {
            Ok(()) => {
                (self.in_use, self.refused) = (found, None);
                Poll::Replaced
            }
            Err(_) if self.refused.as_ref() == Some(&found) => Poll::Same,
            Err(error) => {
                self.refused = Some(found);
                Poll::Kept(FilesError::Certificate { directory: self.directory.clone(), error })
            }
        }
    }

    /// Polls the files without an end. File notification does not work on all mounts; reads do.
    pub async fn watch(mut self, every: Duration) {
        let directory = self.directory.display().to_string();
        loop {
            tokio::time::sleep(every).await;
            match self.poll(Timestamp::now()).await {
                Poll::Same => {}
                Poll::Replaced => tracing::info!(%directory, "serving the new certificate"),
                Poll::Kept(error @ FilesError::Certificate { .. }) => {
                    tracing::error!(%directory, %error, "keeping the old certificate");
                }
                Poll::Kept(error) => tracing::warn!(%directory, %error, "keeping the old certificate"),
            }
        }
    }
}

impl CertificatePair {
    async fn read(directory: &Path) -> Result<Self, FilesError> {
        let chain = read(&directory.join(CERTIFICATE)).await?;
        let key = read(&directory.join(KEY)).await?;
        Ok(Self { chain, key })
    }
}

impl std::fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}

pub(super) async fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    let reading = async {
        let mut bytes = Vec::new();
        tokio::fs::File::open(path).await?.take(MAX_FILE).read_to_end(&mut bytes).await?;
        Ok(bytes)
    };
    let read = tokio::time::timeout(READ_DEADLINE, reading).await;
    read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| FilesError::Read { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::tls::issue::{Authority, Issued, Validity};

    /// Issues a certificate that is valid between these hours.
    fn issued(from: i64, until: i64) -> Issued {
        let validity = Validity { from: hour(from), until: hour(until) };
        let authority = Authority::new("test", Validity { from: hour(0), until: hour(1000) }).unwrap();
        authority.issue(&["localhost".to_owned()], validity).unwrap()
    }

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_second(2_000_000_000).unwrap() + SignedDuration::from_hours(hour)
    }

    fn write(directory: &Path, chain: &str, key: &str) {
        std::fs::write(directory.join(CERTIFICATE), chain).unwrap();
        std::fs::write(directory.join(KEY), key).unwrap();
    }

    #[tokio::test]
    async fn a_new_pair_is_taken_and_a_bad_one_leaves_the_old_in_use() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(CertificateDirectory::load(directory.path()).await, Err(FilesError::Read { .. })));

        let (first, second) = (issued(0, 100), issued(0, 100));
        write(directory.path(), &first.certificate_pem, &first.key_pem);
        let mut files = CertificateDirectory::load(directory.path()).await.unwrap();
        assert!(matches!(files.poll(hour(1)).await, Poll::Same));

        // Half of a rotation, reported once.
        write(directory.path(), &second.certificate_pem, &first.key_pem);
        let Poll::Kept(error) = files.poll(hour(1)).await else { panic!("a wrong pair was taken") };
        assert!(error.to_string().contains("do not match"), "{error}");
        assert!(matches!(files.poll(hour(1)).await, Poll::Same));

        write(directory.path(), &second.certificate_pem, &second.key_pem);
        assert!(matches!(files.poll(hour(1)).await, Poll::Replaced));

        for (chain, key) in [("", &*second.key_pem), ("x", "y"), (&*second.certificate_pem, "")] {
            write(directory.path(), chain, key);
            assert!(matches!(files.poll(hour(1)).await, Poll::Kept(_)), "{chain}");
        }
        std::fs::remove_file(directory.path().join(KEY)).unwrap();
        assert!(matches!(files.poll(hour(1)).await, Poll::Kept(FilesError::Read { .. })));
    }

    /// Each row: when the served and the next certificate are valid, and the hours at which the next one is served.
    #[tokio::test]
    async fn a_certificate_that_is_not_valid_does_not_replace_one_that_is() {
        type Row = (&'static str, (i64, i64), (i64, i64), [(i64, bool); 3]);
        let rows: [Row; 6] = [
            ("both are valid", (0, 100), (5, 200), [(10, true), (11, true), (12, true)]),
            ("the next is expired", (0, 100), (0, 9), [(10, false), (50, false), (99, false)]),
            ("the next is expired, and then both are", (0, 20), (0, 9), [(10, false), (19, false), (21, true)]),
            ("the next is not yet valid", (0, 100), (30, 200), [(10, false), (29, false), (31, true)]),
            (
                "the next is not yet valid when the served one ends",
                (0, 20),
                (30, 200),
                [(10, false), (19, false), (21, true)],
            ),
            ("the served one is expired", (0, 5), (8, 200), [(10, true), (11, true), (12, true)]),
        ];
        for (what, served, next, looks) in rows {
            let directory = tempfile::tempdir().unwrap();
            let (served, next) = (issued(served.0, served.1), issued(next.0, next.1));
            write(directory.path(), &served.certificate_pem, &served.key_pem);
            let mut files = CertificateDirectory::load(directory.path()).await.unwrap();
            let certificate = files.certificate();
            let before = certificate.validity();
            write(directory.path(), &next.certificate_pem, &next.key_pem);
            let mut complaints = 0;
            for (at, replaced) in looks {
                if let Poll::Kept(error) = files.poll(hour(at)).await {
                    assert!(error.to_string().contains("check the clock"), "{what}: {error}");
                    complaints += 1;
                }
                assert_eq!(certificate.validity() != before, replaced, "{what}, at {at}");
                assert_eq!(certificate.has_rejected(), !replaced, "{what}, at {at}");
            }
            assert_eq!(complaints, usize::from(!looks[0].1), "{what}");
            write(directory.path(), &served.certificate_pem, &served.key_pem);
            files.poll(hour(1)).await;
            assert!(!certificate.has_rejected(), "{what}: the old files are back");
        }
    }

    #[test]
    fn an_authority_that_was_stored_goes_on_issuing() {
        let validity = Validity::starting(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(9), SignedDuration::MAX);
        assert!(matches!(
            Authority::new("pilot", Validity { until: validity.from, ..validity }),
            Err(IssueError::Validity { .. })
        ));
        let validity = Validity { until: Timestamp::from_second(4_000_000_000).unwrap(), ..validity };
        let stored = Authority::new("pilot", validity).unwrap().issued().clone();
        let restored = Authority::restore(stored.clone()).unwrap();
        let leaf = restored.issue(&["10.0.0.1".to_owned(), "a.b.svc".to_owned()], validity).unwrap();
        let chain = format!("{}{}", leaf.certificate_pem, stored.certificate_pem);
        assert!(Certificate::from_pem(chain.as_bytes(), leaf.key_pem.as_bytes()).is_ok());
        assert!(restored.issue(&["ä".to_owned()], validity).is_err());
        assert!(!format!("{restored:?}").contains("PRIVATE KEY"));
    }

    use crate::tls::issue::IssueError;
}
