//! The HTML of the page. Pure; all input is escaped.

use k8s_openapi::jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{PageContent, PageImage, PageRules};
use crate::api::condition::since;
use crate::summary::{ImageSummary, NotReadyItem, Summary, SummaryList, SummaryState};
use crate::telemetry::recent_errors;
use crate::text::{printable, short_image, size, time};

/// Renders the page at `now`.
pub(super) fn html(content: &PageContent, style: &str, now: Timestamp) -> String {
    let PageContent { component, facts, rules, report, images, troubles } = content;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Browsers request an icon when the page names none.
                link rel="icon" href="data:,";
                title { "Harbor Pilot: " (component) }
                style { (PreEscaped(style)) }
            }
            body {
                header {
                    h1 { "Harbor Pilot" small { (component) } }
                    (summary(facts, report.as_ref()))
                }
                main {
                    @if let Some(report) = report { (resources(report, now)) }
                    @if let Some(rules) = rules { (in_force(rules)) }
                    @if report.is_some() { (warm(images, now)) }
                    (last(troubles, now))
                }
                footer {
                    p { "As of " (moment(now)) ". Reload to update; " code { "/metrics" } " has the figures." }
                }
            }
        }
    }
    .into_string()
}

fn summary(facts: &[(&'static str, String)], report: Option<&Summary>) -> Markup {
    html! {
        dl {
            @if let Some(report) = report {
                div {
                    dt { "Resources" }
                    @if report.not_ready.total == 0 { dd.good { "all Ready" } }
                    @else { dd.bad { (report.not_ready.total) " not Ready" } }
                }
                (images_fact(&report.images))
            }
            @for (name, value) in facts {
                div { dt { (name) } dd { (printable(value)) } }
            }
        }
    }
}

fn images_fact(images: &ImageSummary) -> Markup {
    html! {
        div { dt { "Images warm" } dd { (images.ready) " of " (images.total) } }
        div { dt { "Stored in Harbor" } dd { (size(images.bytes)) } }
    }
}

fn resources(report: &Summary, now: Timestamp) -> Markup {
    html! {
        @if !report.not_ready.items.is_empty() { (not_ready(&report.not_ready, now)) }
        (table("Harbors", &report.instances, ["Instance", "State", "Version", "URL"], |line| [
            name(&line.state), state(&line.state), text(line.version.as_deref().unwrap_or("–")), code(&line.url),
        ]))
        (table("Registries", &report.registries, ["Registry", "State", "Type", "Upstream"], |line| [
            name(&line.state), state(&line.state), text(&line.type_), code(&line.url),
        ]))
        (table("Proxy projects", &report.proxy_projects, ["Project", "State", "Rewrites", "To", "Prewarm"], |line| [
            name(&line.state),
            state(&line.state),
            if line.in_force { code(&line.matches.join(", ")) } else { html! { span.soft { "not active" } } },
            code(line.target.as_deref().unwrap_or("–")),
            text(&line.prewarm),
        ]))
        (table("Replication", &report.replication_rules, ["Rule", "State", "Direction", "Registry", "Last run"], |line| [
            name(&line.state),
            state(&line.state),
            text(line.direction),
            text(&line.registry),
            text(line.last_execution.as_ref().map_or("–", |last| &last.status)),
        ]))
    }
}

fn not_ready(list: &SummaryList<NotReadyItem>, now: Timestamp) -> Markup {
    html! {
        section {
            h2 { "Not Ready" (beyond(list.items.len(), list.total)) }
            table {
                thead { tr { th scope="col" { "Resource" } th scope="col" { "Why" } th.num scope="col" { "For" } } }
                tbody {
                    @for trouble in &list.items {
                        tr {
                            th scope="row" { (trouble.kind) " " (printable(&trouble.name)) }
                            td {
                                span.state.bad { (printable(&trouble.reason)) }
                                @if trouble.stalled { " " span.warn { "needs user action" } }
                                @if let Some(image) = &trouble.image { p { (code(&short_image(image))) } }
                                p { (printable(&trouble.message)) }
                            }
                            td.num { @if let Some(at) = trouble.since { (ago(at, now)) } @else { "–" } }
                        }
                    }
                }
            }
        }
    }
}

fn in_force(rules: &PageRules) -> Markup {
    html! {
        section {
            h2 { "Active rules" (beyond(rules.items.len(), rules.total)) }
            @if rules.items.is_empty() { p.soft { "None: no image is rewritten." } }
            @else {
                table {
                    thead { tr {
                        th scope="col" { "Proxy project" } th scope="col" { "Rewrites to" } th scope="col" { "Mode" }
                        th scope="col" { "Now" }
                    } }
                    tbody {
                        @for rule in &rules.items {
                            tr {
                                th scope="row" { (printable(&rule.name)) }
                                td { (code(&rule.target)) }
                                td { (rule.mode) }
                                td { @if rule.waits { span.warn { "waits for Harbor" } } @else { span.good { "serves" } } }
                            }
                        }
                    }
                }
            }
            @for finding in &rules.findings { p.warn { (printable(finding)) } }
        }
    }
}

fn warm(images: &[PageImage], now: Timestamp) -> Markup {
    html! {
        section {
            h2 { "Images" small { " · most recent first" } }
            @if images.is_empty() { p.soft { "None yet." } }
            @else {
                table {
                    thead { tr {
                        th scope="col" { "Image" } th scope="col" { "State" } th scope="col" { "Offline" }
                        th.num scope="col" { "Stored" } th.num scope="col" { "Cached since" }
                    } }
                    tbody {
                        @for image in images {
                            tr {
                                td { (code(&short_image(&image.image))) }
                                td { (mark(&image.ready, &image.reason)) }
                                td { (offline(image.offline)) }
                                td.num { (size(image.bytes)) }
                                td.num { @if let Some(at) = image.warmed { (ago(at, now)) } @else { "–" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn last(list: &[recent_errors::LoggedError], now: Timestamp) -> Markup {
    html! {
        section {
            h2 { "Last warnings and errors" small { " · of this process" } }
            @if list.is_empty() { p.soft { "None." } }
            @else {
                table {
                    thead { tr { th scope="col" { "When" } th scope="col" { "Level" } th scope="col" { "What" } } }
                    tbody {
                        @for trouble in list {
                            tr {
                                td.when { (ago(trouble.at, now)) " ago" }
                                td { @if trouble.is_error { span.state.bad { "error" } } @else { span.state.warn { "warning" } } }
                                td {
                                    (printable(&trouble.text))
                                    @if trouble.times > 1 { span.soft { " (" (trouble.times) " times)" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn table<T, const N: usize>(
    title: &str,
    list: &SummaryList<T>,
    header: [&str; N],
    row: impl Fn(&T) -> [Markup; N],
) -> Markup {
    html! {
        @if list.total > 0 {
            section {
                h2 { (title) (beyond(list.items.len(), list.total)) }
                table {
                    thead { tr { @for cell in header { th scope="col" { (cell) } } } }
                    tbody {
                        @for item in &list.items {
                            tr {
                                @for (index, cell) in row(item).iter().enumerate() {
                                    @if index == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn beyond(shown: usize, total: usize) -> Markup {
    html! { @if total > shown { small { " · " (shown) " of " (total) } } }
}

fn name(state: &SummaryState) -> Markup {
    text(&state.name)
}

fn state(state: &SummaryState) -> Markup {
    mark(&state.ready, state.reason.as_deref().unwrap_or_default())
}

fn mark(ready: &str, reason: &str) -> Markup {
    // A sign repeats the colour for users who do not see colours.
    let (class, sign) = match ready {
        "True" => ("state good", "✓"),
        "False" => ("state bad", "✗"),
        _ => ("state warn", "?"),
    };
    html! { span class=(class) { (sign) " " (printable(reason)) } }
}

fn offline((by_tag, by_digest): (bool, bool)) -> Markup {
    match (by_tag, by_digest) {
        (true, true) => text("by tag and digest"),
        (true, false) => text("by tag"),
        (false, true) => text("by digest"),
        (false, false) => html! { span.soft { "no" } },
    }
}

fn text(text: &str) -> Markup {
    html! { (printable(text)) }
}

fn code(text: &str) -> Markup {
    html! { code { (printable(text)) } }
}

fn ago(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) { (time(since(at, now))) } }
}

fn moment(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d %H:%M:%S UTC")) } }
}
