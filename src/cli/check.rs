//! `harbor-pilot check`

use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;

use self::report::{Checked, Level, Violation};
use super::{
    deadline, exit, input, listing,
    output::{eprint_line, print, warn_of},
    sources,
    templates::TemplateAdmission,
};
use crate::{
    image::ImageRef,
    manifests::{Placeholder, Template, TemplateImage},
    policy::{ForeignReason, JudgedImage, Policies, PolicyResult, ScanEvidence, ScanIndex, ScanRecord},
    rewrite::placeholder,
};

mod report;

const EXIT_CODES: &str = "\
Exit status:
  0  no policy rejects an image; there may be warnings
  1  a policy with action Enforce would reject Pods; with --strict also: a text may be an
     image of a mapped host, or an image of a mapped host is a placeholder or an invalid
     reference
  2  an error: the readable files were still checked, unless --fail-fast was given

Images are checked as `harbor-pilot rewrite` would change them, as at admission.

Examples:
  helm template web ./chart | harbor-pilot check -f - --rules rules/
  harbor-pilot check -f deploy/ -R --output sarif > check.sarif";

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: input::Arguments,
    #[command(flatten)]
    reading: input::ReadOptions,
    #[command(flatten)]
    sources: sources::Arguments,
    #[command(flatten)]
    deadline: deadline::Arguments,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Exits with 1 if a text with an image of a mapped host is not checked, or is not a valid reference
    #[arg(long)]
    strict: bool,
    /// Namespace of objects without one [default: that of the kubeconfig, if rules come from the cluster]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line for each violation
    Text,
    /// A list of violations
    Json,
    /// One test case for each image, which fails if a policy would reject it
    Junit,
    /// SARIF 2.1.0, which code hosts show next to the lines
    Sarif,
}

/// Runs the command; see [`EXIT_CODES`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let files = arguments.input.manifests(&arguments.reading)?;
    let sources = arguments.deadline.bound(arguments.sources.read()).await?;
    let policies = Policies::compile(sources.policies.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?);
    let rules = sources.active_rules()?;
    warn_of(policies.findings());
    if policies.is_empty() {
        eprint_line("warning: no active policy: no image is checked");
    }

    let records: Vec<ScanRecord> = sources.images.iter().filter_map(ScanRecord::of).collect();
    let scans = ScanIndex::compile(&records);
    let at_harbor = |image: &ImageRef| rules.canonical_for_anyone(image);
    let evidence = ScanEvidence { scans: &scans, now: Timestamp::now(), at_harbor: &at_harbor };

    let admission = TemplateAdmission::new(&rules, &sources, arguments.namespace.as_deref(), &files.namespaces);
    let (mut checked, mut defects) = (Vec::new(), 0);
    for input in &files.inputs {
        let manifests = files.parse(input)?;
        // Entries of Kustomizations are parts of images.
        for template in manifests.templates().iter().filter(|template| !template.object.is_kustomization()) {
            for image in &template.images {
                if let Some(why) = listing::defect(&rules, image) {
                    let what_happens = match image.placeholder {
                        Some(_) => format!("cannot be checked: {why}"),
                        None => format!("is checked as written: {why}"),
                    };
                    eprint_line(listing::image_line(input, template, image, &what_happens));
                    defects += 1;
                }
            }
            checked.extend(check(&input.name, template, &admission, &policies, &evidence)?);
        }
    }
    let what_happens = "is not checked: it is not certain that this is an image";
    let listed = listing::tell_mentions(&files, &rules, what_happens, true)?;
    let text = match arguments.output {
        Output::Text => report::text(&checked),
        Output::Json => report::json(&checked),
        Output::Junit => report::junit(&checked),
        Output::Sarif => report::sarif(&checked),
    };
    print(&text)?;
    let refused = checked.iter().filter(|checked| checked.is_refused()).count();
    let some = |count: usize, one: &str, several: &str| match count {
        0 => String::new(),
        1 => format!(", 1 {one}"),
        _ => format!(", {count} {several}"),
    };
    eprint_line(format_args!(
        "{refused} of {} images would be rejected{}; {}{}",
        checked.len(),
        some(defects, "is a placeholder or an invalid reference", "are placeholders or invalid references"),
        listing::counted(listed, "is not checked", "are not checked"),
        some(files.failed, "file could not be read", "files could not be read"),
    ));
    Ok(if files.failed > 0 {
        exit::FAILED
    } else if refused > 0 || (arguments.strict && listed + defects > 0) {
        exit::FOUND
    } else {
        exit::DONE
    })
}

fn check(
    file: &str,
    template: &Template,
    admission: &TemplateAdmission<'_>,
    policies: &Policies,
    evidence: &ScanEvidence<'_>,
) -> anyhow::Result<Vec<Checked>> {
    admission.admit(file, template, |subject, outcome| {
        // The Pod is checked after the webhook, or the controller of the kind, has set the image.
        let is_later = |image: &TemplateImage| {
            placeholder(&image.image).is_some() || image.placeholder == Some(Placeholder::RunTime)
        };
        let images = template.images.iter().filter(|image| !is_later(image));
        let checked = images.map(|image| {
            let judged = JudgedImage {
                noun: image.list.noun(),
                name: &image.name,
                sent: &image.image,
                image: outcome.image(image.list, image.index).unwrap_or(&image.image),
                unavailable: false,
                note: ForeignReason::None,
            };
            Checked {
                file: file.to_owned(),
                line: image.line,
                column: image.column,
                object: template.object.to_string(),
                place: format!("{} {}", image.list.noun(), image.name),
                violations: violations(image, &policies.evaluate(subject, [judged], Some(evidence))),
            }
        });
        checked.collect()
    })
}

/// Returns the violations of an image. A placeholder has only one: its value is not known yet.
fn violations(image: &TemplateImage, judgement: &PolicyResult) -> Vec<Violation> {
    let levels =
        [(Level::Error, judgement.denials()), (Level::Warning, judgement.warnings()), (Level::Note, judgement.notes())];
    let all = levels.into_iter().flat_map(|(level, texts)| texts.into_iter().map(move |text| (level, text)));
    let all = all.map(|(level, message)| Violation { level, message });
    let Some(placeholder) = image.placeholder else { return all.collect() };
    let message = format!("{} {:?}: image {:?}: {}", image.list.noun(), image.name, image.image, placeholder.advice());
    all.take(1).map(|first| Violation { message: message.clone(), ..first }).collect()
}
