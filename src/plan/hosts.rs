//! Allowed hosts of Registries: Harbor connects to them, and may reach hosts that the users of a Registry cannot.

use url::Url;

use super::Refusal;
use crate::{
    addresses::{self, Hosts},
    api::Reason,
};

/// Checks the URL of a Registry against the host list of its HarborInstance `harbor`. An empty list allows all hosts except
/// the addresses where cloud providers serve credentials, in any spelling.
///
/// # Errors
/// [`Reason::HostNotAllowed`], or [`Reason::InvalidSpec`] for an invalid list or URL.
pub fn check(url: &str, allowed: &[String], harbor: &str) -> Result<(), Refusal> {
    let invalid = |message: String| Refusal { reason: Reason::InvalidSpec, message };
    let hosts = Hosts::new(allowed)
        .map_err(|error| invalid(format!("spec.allowedRegistryHosts of HarborInstance {harbor}: {error}")))?;
    // Harbor reads a URL without a scheme as http://.
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let Ok(parsed) = Url::parse(&with_scheme) else {
        return Err(invalid("spec.url cannot be read as a URL".to_owned()));
    };
    if hosts.contains(&parsed) && !hosts.is_empty() && is_named(&parsed, allowed) {
        return Ok(());
    }
    let host = parsed.host_str().unwrap_or_default();
    let refused = |why: String| {
        let message = format!(
            "{why}; an administrator can add it to spec.allowedRegistryHosts of HarborInstance {harbor}, or set another spec.url"
        );
        Err(Refusal { reason: Reason::HostNotAllowed, message })
    };
    match addresses::literal_objection(&parsed, host) {
        Some(why) => refused(why),
        None if hosts.is_empty() || hosts.contains(&parsed) => Ok(()),
        None => refused(format!("{host} is not an allowed host for Registries")),
    }
}

/// Returns whether the list names a host in full: a `*` allows no metadata address.
fn is_named(url: &Url, allowed: &[String]) -> bool {
    let named: Vec<String> = allowed.iter().filter(|entry| !entry.contains(['*', '?'])).cloned().collect();
    !named.is_empty() && Hosts::new(&named).is_ok_and(|hosts| hosts.contains(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(url: &str, allowed: &[&str]) -> Result<(), Reason> {
        let allowed: Vec<String> = allowed.iter().map(|entry| (*entry).to_owned()).collect();
        check(url, &allowed, "default").map_err(|refusal| refusal.reason)
    }

    #[test]
    fn check_allows_every_host_but_metadata_addresses_where_no_list_is() {
        for url in ["https://ghcr.io", "http://127.0.0.1:5000", "http://10.0.0.1", "registry.corp"] {
            assert_eq!(verdict(url, &[]), Ok(()), "{url}");
        }
        for url in [
            "http://169.254.169.254",
            "http://2852039166",
            "http://0251.0376.0251.0376",
            "http://0xa9.0xfe.0xa9.0xfe",
            "http://[::ffff:169.254.169.254]:80/v2",
            "http://[fd00:ec2::254]",
            "169.254.169.254",
        ] {
            assert_eq!(verdict(url, &[]), Err(Reason::HostNotAllowed), "{url}");
            assert_eq!(verdict(url, &["*"]), Err(Reason::HostNotAllowed), "{url}");
        }
        assert_eq!(verdict("http://169.254.169.254", &["169.254.169.254"]), Ok(()));
    }

    #[test]
    fn check_says_what_is_wrong_with_an_address() {
        let said = |url: &str| check(url, &[], "default").unwrap_err().message;
        let expected = "169.254.169.254 is a link-local address, where cloud providers serve credentials; ";
        assert!(said("http://169.254.169.254/v2").starts_with(expected), "{}", said("http://169.254.169.254/v2"));
    }

    #[test]
    fn check_allows_the_hosts_of_a_list_and_no_other() {
        let list = ["ghcr.io", "*.corp.example", "registry.test:5000"];
        let table = [
            ("https://ghcr.io", Ok(())),
            ("https://a.corp.example/x", Ok(())),
            ("http://registry.test:5000", Ok(())),
            ("http://registry.test:5001", Err(Reason::HostNotAllowed)),
            ("https://ghcr.io.evil.test", Err(Reason::HostNotAllowed)),
            ("https://hub.docker.com", Err(Reason::HostNotAllowed)),
            ("http://", Err(Reason::InvalidSpec)),
        ];
        for (url, expected) in table {
            assert_eq!(verdict(url, &list), expected, "{url}");
        }
        assert_eq!(verdict("https://ghcr.io", &["https://ghcr.io"]), Err(Reason::InvalidSpec));
    }
}
