//! The address of a Harbor, and the HTTP client for it, which follows no redirect, keeps no cookie, and connects to no address
//! that cannot be a Harbor.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

use crate::addresses;

/// Parses the base of a Harbor's URLs.
///
/// # Errors
/// What is wrong with the URL. The message contains no part of the URL, which may hold a password.
pub fn base(url: &str) -> Result<Url, String> {
    let base = Url::parse(url).map_err(|error| format!("the URL cannot be read: {error}"))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none_or(str::is_empty) {
        return Err("the URL must have http:// or https:// and a host".to_owned());
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err("the URL has a user: set user name and password in the Secret".to_owned());
    }
    let host = base.host_str().unwrap_or_default();
    match addresses::literal_objection(&base, host) {
        Some(why) if !addresses::is_written_plainly(&base, url) => {
            Err(format!("{why}; write the address in its usual form"))
        }
        _ => Ok(base),
    }
}

/// Returns the builder of the HTTP client.
///
/// # Errors
/// What is wrong with the CA bundle.
pub fn builder(ca_bundle: Option<&str>) -> Result<reqwest::ClientBuilder, String> {
    // No cookie store: Harbor answers 403 to Basic auth that is sent with its own session cookie.
    let mut http = reqwest::Client::builder()
        .user_agent(concat!("harbor-pilot/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(GuardedResolver);
    if let Some(pem) = ca_bundle {
        let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
            .map_err(|error| format!("caBundle is not PEM: {error}"))?;
        // Text without PEM is an empty bundle; without this check a failed handshake would be the first sign of it.
        if certificates.is_empty() {
            return Err("caBundle has no PEM certificate".to_owned());
        }
        http = http.tls_certs_merge(certificates);
    }
    Ok(http)
}

/// Resolves names like the system, and drops forbidden addresses. The client connects to the remaining addresses only, and each
/// later resolution is checked again.
#[derive(Debug, Clone, Copy)]
struct GuardedResolver;

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = look_up(name.as_str()).await?;
            Ok(Box::new(allowed(name.as_str(), found)?.into_iter()) as Addrs)
        })
    }
}

/// Why the client does not connect to a name.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} resolves to {address}, {why}, which is never connected to by name: correct DNS, or write the address itself into the URL"
)]
struct RefusedAddress {
    name: String,
    address: std::net::IpAddr,
    why: &'static str,
}

fn allowed(name: &str, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, RefusedAddress> {
    let (mut kept, mut refused) = (Vec::new(), None);
    for address in found {
        match addresses::objection(address.ip()) {
            None => kept.push(address),
            Some(why) => refused = Some(RefusedAddress { name: name.to_owned(), address: address.ip(), why }),
        }
    }
    match refused {
        Some(refused) if kept.is_empty() => Err(refused),
        _ => Ok(kept),
    }
}

/// Returns the addresses from the system's resolver.
#[cfg(not(test))]
async fn look_up(name: &str) -> std::io::Result<impl Iterator<Item = SocketAddr>> {
    tokio::net::lookup_host((name, 0)).await
}

#[cfg(test)]
use tests::look_up;

#[cfg(test)]
mod tests {
    use std::io;

    use http::Method;
    use tokio::net::TcpListener;

    use super::*;
    use crate::transport::{Api, Client, Endpoint, Error, Request, Shared};

    /// Resolves `127-0-0-1.0-0-0-0.addresses.localhost` to the addresses in the name, and no other name.
    pub(super) async fn look_up(name: &str) -> io::Result<impl Iterator<Item = SocketAddr>> {
        let list = name.strip_suffix(".addresses.localhost").ok_or(io::ErrorKind::NotFound)?;
        let read = |address: &str| SocketAddr::new(address.replace('-', ".").parse().unwrap(), 0);
        Ok(list.split('.').map(read).collect::<Vec<_>>().into_iter())
    }

    #[tokio::test]
    async fn builder_makes_clients_that_connect_to_no_refused_address_of_a_name() {
        // On Linux a connection to 0.0.0.0 reaches this listener.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ask = async |api, addresses: &str| {
            let endpoint = Endpoint::new(format!("http://{addresses}.addresses.localhost:{port}"));
            let client = Client::new(&endpoint, api, Shared::default()).unwrap();
            client.open(&Request::new(Method::GET, "v2/"), None, |http| http).await.map(|response| response.status())
        };
        for api in [Api::Management, Api::Registry] {
            tokio::select! {
                result = ask(api, "0-0-0-0") => {
                    let error = result.unwrap_err();
                    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
                    assert!(error.to_string().contains("resolves to 0.0.0.0, an address that no server can have"), "{error}");
                }
                _ = listener.accept() => panic!("a refused address was connected to"),
            }
            for addresses in ["127-0-0-1", "169-254-169-254.127-0-0-1"] {
                tokio::select! {
                    result = ask(api, addresses) => panic!("{addresses}: {:?}", result.err()),
                    accepted = listener.accept() => assert!(accepted.is_ok(), "{addresses}"),
                }
            }
        }
    }

    #[test]
    fn base_refuses_what_is_no_harbor_and_repeats_no_password() {
        for url in [
            "ftp://harbor.test",
            "harbor.test",
            "http://",
            "https://admin:hunter2@harbor.test",
            "http://2852039166",
            "http://0251.0376.0251.0376",
        ] {
            let error = base(url).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for url in ["https://harbor.test", "http://127.0.0.1:8080", "http://169.254.1.1", "http://[::1]:80"] {
            assert!(base(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn allowed_drops_addresses_that_nothing_may_connect_to() {
        let resolve = |addresses: &[&str]| {
            let found: Vec<SocketAddr> =
                addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect();
            allowed("harbor.test", found.into_iter())
        };
        assert_eq!(resolve(&["169.254.169.254", "10.0.0.1", "fe80::1"]).unwrap().len(), 1);
        assert!(resolve(&[]).unwrap().is_empty());
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"] {
            assert!(resolve(&[address]).unwrap_err().to_string().contains("harbor.test"), "{address}");
        }
    }
}
