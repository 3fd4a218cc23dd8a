//! `harbor-pilot check`

use std::{collections::BTreeMap, io::Write, process::ExitCode};

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::report::{Checked, Level, Violation};
use super::{input, sources, tell};
use crate::{
    manifests::{Manifests, Template},
    policy::{Judged, Judgement, Policies},
    rewrite::{Request, Rules, Subject, decide, pod::Pod},
};

mod report;

const ADMITTED: u8 = 0;
const REFUSED: u8 = 1;
/// As clap has it for a wrong command line.
const FAILED: u8 = 2;

const EXIT_CODES: &str = "\
Exit status:
  0  no policy refuses anything; there may be warnings
  1  a policy with action Enforce would refuse Pods
  2  an error: nothing was judged

What is judged is what `harbor-pilot rewrite` would make of the images, as admission does.

Examples:
  helm template web ./chart | harbor-pilot check -f - --rules rules/
  harbor-pilot check -f deploy/ -R --output sarif > check.sarif";

/// What checking takes from the command line.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: input::Arguments,
    #[command(flatten)]
    sources: sources::Arguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Namespace of objects that name none [default: that of the kubeconfig, where rules come from the cluster]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for each violation
    Text,
    /// A list of violations
    Json,
    /// A test case for each image, which fails when it would be refused
    Junit,
    /// SARIF 2.1.0, which code hosts show beside the lines
    Sarif,
}

/// Checks; see [`EXIT_CODES`].
pub(super) async fn run(arguments: Arguments) -> ExitCode {
    match check(&arguments).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tell(format_args!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn check(arguments: &Arguments) -> anyhow::Result<u8> {
    let inputs = arguments.input.read()?;
    let sources = arguments.sources.read().await?;
    let (rules, problems) = sources.rules();
    if let Some(problem) = problems.into_iter().next() {
        return Err(problem).context("rules");
    }
    let policies = Policies::compile(sources.policies.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?);
    rules.findings().iter().for_each(|finding| tell(format_args!("warning: {finding}")));
    policies.findings().iter().for_each(|finding| tell(format_args!("warning: {finding}")));
    if policies.is_empty() {
        tell("warning: there is no policy in force: nothing is judged");
    }

    let mut read = Vec::with_capacity(inputs.len());
    for input in &inputs {
        read.push(Manifests::read(&input.text).map_err(|error| anyhow::anyhow!("{}: {error}", input.name))?);
    }
    let known = sources.namespaces.iter().chain(read.iter().flat_map(Manifests::namespaces));
    let check = Check {
        rules: &rules,
        policies: &policies,
        namespace: arguments.namespace.as_deref().or(sources.default_namespace.as_deref()),
        namespaces: known.map(|(name, labels)| (name.as_str(), labels)).collect(),
    };
    let mut checked = Vec::new();
    for (input, manifests) in inputs.iter().zip(&read) {
        for template in manifests.templates() {
            check.judge(&input.name, template, &mut checked)?;
        }
    }
    let text = match arguments.output {
        Output::Text => report::text(&checked),
        Output::Json => report::json(&checked),
        Output::Junit => report::junit(&checked),
        Output::Sarif => report::sarif(&checked),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")?;
    let refused = checked.iter().filter(|checked| checked.is_refused()).count();
    tell(format_args!("{refused} of {} images would be refused", checked.len()));
    Ok(if refused > 0 { REFUSED } else { ADMITTED })
}

struct Check<'c> {
    rules: &'c Rules,
    policies: &'c Policies,
    namespace: Option<&'c str>,
    /// Labels by namespace: those of the input win over the others.
    namespaces: BTreeMap<&'c str, &'c BTreeMap<String, String>>,
}

impl Check<'_> {
    fn judge(&self, file: &str, template: &Template, checked: &mut Vec<Checked>) -> anyhow::Result<()> {
        let text = template.pod(self.namespace);
        let pod: Pod<'_> = serde_json::from_str(&text).with_context(|| file.to_owned())?;
        let namespace = template.object.namespace.as_deref().or(self.namespace).unwrap_or_default();
        let namespace_labels = self.namespaces.get(namespace).copied();
        let subject = Subject { namespace, namespace_labels, labels: pod.labels() };
        let outcome = decide(Request::Create { pod: &pod }, self.rules, &subject);
        for image in &template.images {
            let judged = Judged {
                noun: image.list.noun(),
                name: &image.name,
                sent: &image.image,
                image: outcome.image(image.list, image.index).unwrap_or(&image.image),
                unavailable: false,
            };
            checked.push(Checked {
                file: file.to_owned(),
                line: image.line,
                column: image.column,
                object: template.object.to_string(),
                place: format!("{} {}", image.list.noun(), image.name),
                violations: violations(&self.policies.judge(&subject, [judged])),
            });
        }
        Ok(())
    }
}

fn violations(judgement: &Judgement) -> Vec<Violation> {
    let levels =
        [(Level::Error, judgement.denials()), (Level::Warning, judgement.warnings()), (Level::Note, judgement.notes())];
    let all = levels.into_iter().flat_map(|(level, texts)| texts.into_iter().map(move |text| (level, text)));
    all.map(|(level, message)| Violation { level, message }).collect()
}
