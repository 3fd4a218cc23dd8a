//! `harbor-pilot explain`

mod reasons;

use std::collections::BTreeMap;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{deadline, exit, output::print, sources};
use crate::{
    image::ImageRef,
    rewrite::{
        PodScope, RuleDecision, placeholder,
        pod::{JsonStr, Labels},
    },
};
use reasons::Candidate;

const EXIT_CODES: &str = "\
Exit status:
  0  the result is printed, whatever it is
  2  an error: the image or the rules cannot be read

Example:
  harbor-pilot explain nginx:1.27 --rules rules/ --namespace shop --labels app=web";

/// Arguments of `explain`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    /// The image as written in a Pod
    image: String,
    #[command(flatten)]
    sources: sources::Arguments,
    #[command(flatten)]
    deadline: deadline::Arguments,
    /// Namespace of the Pod [default: that of the kubeconfig, if rules come from the cluster]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Labels of the namespace [default: its labels in the cluster]
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label)]
    namespace_labels: Vec<(String, String)>,
    /// Labels of the Pod
    #[arg(short, long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// The result of the rules for an image, with the reasons.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    /// As given.
    image: String,
    /// As container runtimes read it.
    reference: String,
    decision: &'static str,
    /// The image that the Pod gets, or that is prewarmed for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    /// The rule that applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// One sentence.
    summary: String,
    /// Every rule with its result.
    rules: Vec<Candidate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Runs the command; see [`EXIT_CODES`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let image = ImageRef::parse(&arguments.image).with_context(|| format!("image {:?}", arguments.image))?;
    let sources = arguments.deadline.bound(arguments.sources.read()).await?;
    let namespace = arguments.namespace.as_deref().or(sources.default_namespace.as_deref()).unwrap_or_default();
    let given: BTreeMap<String, String> = arguments.namespace_labels.iter().cloned().collect();
    let namespace_labels = if given.is_empty() { sources.namespaces.get(namespace) } else { Some(&given) };
    let text = |text: &String| JsonStr(text.clone().into());
    let labels = Labels::new(arguments.labels.iter().map(|(key, value)| (text(key), text(value))).collect());
    let subject = PodScope { namespace, namespace_labels, labels: &labels };

    let (rules, problems) = sources.rules();
    let mut warnings: Vec<String> = problems.iter().map(ToString::to_string).collect();
    warnings.extend(rules.findings().iter().map(ToString::to_string));
    if namespace_labels.is_none() && rules.targets().iter().any(|target| !target.selectors().namespaces.is_everything())
    {
        let whose =
            if namespace.is_empty() { "of the namespace".to_owned() } else { format!("of namespace {namespace}") };
        warnings.push(format!("the labels {whose} are unknown; set --namespace-labels"));
    }
    let found = rules.find(&image, &subject);
    let rule = match &found {
        RuleDecision::Rewritten { rule, .. }
        | RuleDecision::Mapped { rule, .. }
        | RuleDecision::Unavailable { rule }
        | RuleDecision::TooLong { rule } => Some(*rule),
        RuleDecision::AlreadyAtHarbor { rule } => *rule,
        RuleDecision::NoRule => None,
    };
    let name = rule.map(|rule| rule.name().to_string());
    let unavailable = sources.unavailable();
    let unreachable = name.as_ref().is_some_and(|name| unavailable.contains(name));
    let (mut decision, mut result, mut summary) = match &found {
        RuleDecision::Rewritten { image, .. } => ("Rewritten", Some(image), format!("the Pod gets {image}")),
        RuleDecision::Mapped { image, .. } => (
            "Mapped",
            Some(image),
            format!("the Pod keeps its image, and {image} is prewarmed (spec.rewrite.mode is Disabled)"),
        ),
        RuleDecision::Unavailable { .. } => {
            ("Unavailable", None, "not rewritten while Harbor is unavailable".to_owned())
        }
        RuleDecision::AlreadyAtHarbor { .. } => {
            ("AlreadyAtHarbor", None, "not rewritten: the image is already at Harbor".to_owned())
        }
        RuleDecision::TooLong { .. } => {
            ("TooLong", None, "not rewritten: its repository at Harbor would be longer than 255 characters".to_owned())
        }
        RuleDecision::NoRule => ("NoRule", None, "not rewritten: no rule matches".to_owned()),
    };
    let mut candidates = reasons::candidates(&sources, &image, &subject, &found);
    let whose = placeholder(&arguments.image);
    if let Some(whose) = whose {
        candidates.iter_mut().for_each(Candidate::leave_to_injector);
        (decision, result) = ("Placeholder", None);
        summary = format!("not rewritten: a placeholder that {whose} replaces");
    } else if unreachable {
        summary.push_str("; Harbor is unavailable, so spec.rewrite.whenUnavailable applies");
    }
    let explanation = Explanation {
        image: arguments.image.clone(),
        reference: image.to_string(),
        decision,
        result: result.map(ToString::to_string),
        summary,
        rules: candidates,
        rule: name.filter(|_| whose.is_none()),
        warnings,
    };
    let text = match arguments.output {
        Format::Json => serde_json::to_string_pretty(&explanation)? + "\n",
        Format::Text => explanation.text(),
    };
    print(&text)?;
    Ok(exit::DONE)
}

impl Explanation {
    fn text(&self) -> String {
        let mut lines = vec![if self.image == self.reference {
            self.image.clone()
        } else {
            format!("{}, which is {}", self.image, self.reference)
        }];
        let rule = self.rule.as_ref().map(|rule| format!(" (ProxyProject {rule})")).unwrap_or_default();
        lines.push(format!("  {}: {}{rule}", self.decision, self.summary));
        if self.rules.is_empty() {
            lines.push("There are no ProxyProjects.".to_owned());
        }
        let width = self.rules.iter().map(|candidate| candidate.rule.len()).max().unwrap_or_default();
        for Candidate { rule, verdict, why, .. } in &self.rules {
            let mark = if verdict.decides() { "*" } else { " " };
            lines.push(format!("{mark} {rule:width$}  {why}"));
        }
        lines.extend(self.warnings.iter().map(|warning| format!("Warning: {warning}")));
        lines.join("\n") + "\n"
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
