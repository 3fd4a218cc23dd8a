//! The certificate that each webhook replica serves: a TLS handshake with every address of the Service.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use kube::{Api, Client, api::ListParams};

use super::{
    super::{bounded, turn},
    Error,
};
use crate::tls::{
    probe,
    rotation::{Replica, Replicas},
};

/// Maximum number of addresses; a webhook has fewer replicas.
const MOST: usize = 1024;

/// Maximum number of concurrent handshakes.
const AT_ONCE: usize = 32;

/// Timeout of one connection with its handshake, inside the cluster.
const DEADLINE: Duration = Duration::from_secs(3);

/// Name of the Service port, used when the Service has several.
const PORT: &str = "https";

/// The Service of the webhook.
pub(super) struct Service {
    api: Api<EndpointSlice>,
    name: String,
    host: String,
}

impl Service {
    pub(super) fn new(client: &Client, namespace: &str, name: &str, host: String) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), name: name.to_owned(), host }
    }

    /// Probes all addresses. Includes endpoints that are not ready or are terminating: they may still receive requests, or
    /// soon.
    pub(super) async fn replicas(&self) -> Replicas {
        let addresses = match self.addresses().await {
            Ok(addresses) if addresses.len() > MOST => {
                return Replicas::Unknown(format!("Service {} has more than {MOST} addresses", self.name));
            }
            Ok(addresses) => addresses,
            Err(error) => return Replicas::Unknown(error.to_string()),
        };
        let ask = async |(address, serving): (SocketAddr, bool)| {
            let shows = probe::served_by(address, &self.host, DEADLINE).await;
            Replica { address: address.to_string(), serving, shows: shows.map_err(|error| error.to_string()) }
        };
        Replicas::Known(futures::stream::iter(addresses).map(ask).buffer_unordered(AT_ONCE).collect().await)
    }

    /// Each address, and whether clients may send requests to it.
    async fn addresses(&self) -> Result<BTreeMap<SocketAddr, bool>, Error> {
        let mut found = BTreeMap::new();
        let mut parameters =
            ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.name)).limit(100);
        loop {
            let page = bounded("listing the EndpointSlices of the webhook", self.api.list(&parameters)).await?;
            for slice in page.items {
                let Some(port) = slice.ports.as_deref().and_then(port) else { continue };
                for endpoint in slice.endpoints.into_iter().flatten() {
                    let conditions = endpoint.conditions.unwrap_or_default();
                    // An unknown readiness counts as ready.
                    let serving = conditions.ready != Some(false) || conditions.serving == Some(true);
                    // All addresses of one endpoint are the same replica.
                    let address = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
                    if let Some(address) = address {
                        *found.entry(SocketAddr::new(address, port)).or_default() |= serving;
                    }
                }
            }
            if found.len() > MOST || !turn(&mut parameters, page.metadata) {
                return Ok(found);
            }
        }
    }
}

fn port(ports: &[EndpointPort]) -> Option<u16> {
    let port = match ports {
        [only] => Some(only),
        several => several.iter().find(|port| port.name.as_deref() == Some(PORT)),
    };
    port?.port.and_then(|port| u16::try_from(port).ok())
}
