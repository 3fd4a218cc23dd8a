//! `harbor-pilot controller`

use std::sync::Arc;

use clap::Args;

use crate::{
    cluster::{admitted_namespaces::AdmittedNamespaces, run},
    engine::{collectors::ControllerCollector, instruments::Instruments, page_inputs},
    telemetry::exposition::Exposition,
};

/// Arguments of `controller`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The operator's own namespace, with its Secrets
    #[arg(long, env = "POD_NAMESPACE", default_value = "harbor-pilot")]
    namespace: String,
    /// Name of this installation in Harbor's markers [default: the uid of the namespace kube-system]
    #[arg(long, env = "HARBOR_PILOT_INSTALLATION")]
    installation_id: Option<String>,
    #[command(flatten)]
    engine: super::engine::Arguments,
    /// The namespaceSelector of the webhook configuration, as JSON: workloads in other namespaces are not prewarmed [default: all
    /// namespaces except kube-system and the operator's own]
    #[arg(long, value_name = "SELECTOR", value_parser = namespace_selector)]
    namespace_selector: Option<AdmittedNamespaces>,
    #[command(flatten)]
    certificates: super::certificates::Arguments,
    #[command(flatten)]
    election: super::election::Arguments,
    #[command(flatten)]
    logs: super::logs::Arguments,
    #[command(flatten)]
    ops: super::ops::Arguments,
}

/// Runs until SIGTERM.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let begun = arguments.logs.begin("controller")?;
    let mut exposition = Exposition::new();
    let meters = Instruments::register(exposition.registry_mut());
    exposition.collect(ControllerCollector(meters.clone()));
    let ops = arguments.ops.bind()?;
    let shutdown = super::signals::serve_until_signal()?;
    let certificates = arguments.certificates.settings(&arguments.namespace)?;
    let admitted_namespaces = match arguments.namespace_selector {
        Some(selected) => selected,
        None => AdmittedNamespaces::all_but_system(&arguments.namespace)?,
    };
    let settings = run::ControllerOptions {
        namespace: arguments.namespace.clone(),
        admitted_namespaces,
        installation: arguments.installation_id,
        engine: arguments.engine.options(),
        meters: meters.clone(),
    };
    let page = page_inputs::of_controller(meters, begun.about());
    let ops = ops.serve(Arc::new(exposition), page, &begun);
    let election = arguments.election;
    let end = shutdown.clone();
    let work = |client: kube::Client, leadership| async move {
        let ended = end.child_token();
        let certificates = super::certificates::keep(client.clone(), certificates, ended.clone());
        let controllers = async {
            let _ended = ended.drop_guard();
            Box::pin(run::run(client, settings, leadership, end)).await
        };
        tokio::join!(controllers, certificates).0
    };
    let result = tokio::select! {
        result = Box::pin(election.run(&arguments.namespace, shutdown, work)) => result,
        result = ops => result,
    };
    begun.end().await;
    result
}

fn namespace_selector(text: &str) -> Result<AdmittedNamespaces, String> {
    let example = r#"write a label selector as JSON, such as {"matchLabels": {"images": "harbor"}}"#;
    let refuse = |why: String| format!("{why}; {example}");
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| refuse("this is not JSON".to_owned()))?;
    let fields = value.as_object().ok_or_else(|| refuse("this is not a JSON object".to_owned()))?;
    // A selector with a misspelt field would select every namespace.
    if let Some(unknown) = fields.keys().find(|field| !["matchLabels", "matchExpressions"].contains(&field.as_str())) {
        return Err(refuse(format!("a label selector has no field {unknown:?}")));
    }
    let selector = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
    AdmittedNamespaces::new(&selector).map_err(|error| format!("{error}; {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_selector_refuses_what_would_select_every_namespace_by_mistake() {
        assert!(namespace_selector(r#"{"matchLabels": {"images": "harbor"}}"#).is_ok());
        assert!(namespace_selector("{}").is_ok(), "every namespace, by intention");
        let refused = [
            ("foo", "this is not JSON;"),
            ("[]", "this is not a JSON object;"),
            (r#"{"matchlabels": {"images": "harbor"}}"#, "a label selector has no field \"matchlabels\";"),
            (r#"{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}"#, "operator \"Gt\" of key"),
            (r#"{"matchLabels": ["a"]}"#, "invalid type"),
        ];
        for (text, why) in refused {
            let error = namespace_selector(text).unwrap_err();
            assert!(error.starts_with(why) && error.contains("such as {"), "{text}: {error}");
        }
    }
}
