//! Reads the recordings: Markdown with one fenced block for each exchange, headings and notes between them.

use std::collections::BTreeMap;

/// One thing of a recording, in its order.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Heading(String),
    Note(String),
    Exchange(Exchange),
}

/// A request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) request_headers: BTreeMap<String, String>,
    pub(crate) request_body: Option<String>,
    pub(crate) status: u16,
    /// Lower-case names; of several only the last.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Exchange {
    /// `GET /path`.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Whether the recorder shortened the body.
    pub(crate) fn is_cut(&self) -> bool {
        self.body.contains("(cut, ")
    }
}

pub(crate) fn parse(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut block: Option<Vec<&str>> = None;
    for line in text.lines() {
        match (&mut block, line) {
            (None, "```") => block = Some(Vec::new()),
            (Some(lines), "```") => {
                items.extend(exchange(lines).map(Item::Exchange));
                block = None;
            }
            (Some(lines), line) => lines.push(line),
            (None, line) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    items.push(Item::Heading(heading.to_owned()));
                } else if let Some(note) = line.strip_prefix("> ") {
                    items.push(Item::Note(note.to_owned()));
                }
            }
        }
    }
    items
}

fn exchange(lines: &[&str]) -> Option<Exchange> {
    let (method, path) = lines.first()?.strip_prefix("> ")?.split_once(' ')?;
    let mut exchange = Exchange {
        method: method.to_owned(),
        path: path.to_owned(),
        request_headers: BTreeMap::new(),
        request_body: None,
        status: 0,
        headers: BTreeMap::new(),
        body: String::new(),
    };
    let mut body = Vec::new();
    for line in &lines[1..] {
        if exchange.status == 0 && line.starts_with('>') {
            let line = line.strip_prefix("> ").unwrap_or_default();
            match line.split_once(": ").filter(|(name, _)| is_header(name)) {
                Some((name, value)) => {
                    exchange.request_headers.insert(name.to_lowercase(), value.to_owned());
                }
                None => exchange.request_body = Some(line.to_owned()),
            }
        } else if let Some(line) = line.strip_prefix("< ").filter(|_| body.is_empty()) {
            if exchange.status == 0 {
                exchange.status = line.split(' ').next()?.parse().ok()?;
            } else if let Some((name, value)) = line.split_once(':') {
                exchange.headers.insert(name.to_lowercase(), value.trim().to_owned());
            }
        } else {
            body.push(*line);
        }
    }
    exchange.body = body.join("\n");
    Some(exchange)
}

fn is_header(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.chars().all(|each| each.is_ascii_alphanumeric() || each == '-')
}
