//! Lists: `page`, `page_size`, `q`, the total and the links.

use http::HeaderName;
use serde_json::Value;

use super::http::{Ask, Fault, Outcome, json_reply, put};

/// Cuts a list down to the page that was asked for.
pub(crate) fn page(ask: &Ask, items: &[Value]) -> Outcome {
    let number = |name: &str, default: i64| match ask.param(name) {
        None => Ok(default),
        Some(text) => text
            .parse::<i64>()
            .map_err(|_| Fault::invalid(&format!("{name} in query must be of type int64: \"{text}\""))),
    };
    let size = number("page_size", 10)?;
    let asked = number("page", 1)?;
    // Page 0 is the first, and the first is its next.
    let page = asked.max(1);
    if size > 100 {
        return Err(Fault::invalid("page_size in query should be less than or equal to 100"));
    }
    let total = items.len();
    let length = if size <= 0 { total } else { usize::try_from(size).unwrap_or(total) };
    let start = if size <= 0 { 0 } else { length.saturating_mul(usize::try_from(page - 1).unwrap_or(0)) };
    let shown: Vec<Value> = items.iter().skip(start).take(length).cloned().collect();
    let mut links = Vec::new();
    if page > 1 && size != 0 && !shown.is_empty() {
        links.push(format!("<{}>; rel=\"prev\"", link(ask, page - 1, size)));
    }
    // A negative size is below any total, so there is always a next page.
    if size < 0 || size > 0 && start.saturating_add(length) < total {
        links.push(format!("<{}>; rel=\"next\"", link(ask, asked + 1, size)));
    }
    let mut reply = json_reply(&Value::Array(shown));
    put(&mut reply, HeaderName::from_static("x-total-count"), &total.to_string());
    if !links.is_empty() {
        put(&mut reply, http::header::LINK, &links.join(" , "));
    }
    Ok(reply)
}

fn link(ask: &Ask, page: i64, size: i64) -> String {
    let mut query: Vec<(String, String)> =
        ask.query.iter().filter(|(key, _)| key != "page" && key != "page_size").cloned().collect();
    query.push(("page".to_owned(), page.to_string()));
    query.push(("page_size".to_owned(), size.to_string()));
    query.sort();
    // Not encoded: Harbor writes the decoded query.
    let query: Vec<String> = query.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{}?{}", ask.path, query.join("&"))
}

/// Applies `q`: `key=value`, `key=~part`, `key={a b}`, `key=[a~b]`; keys that `field` does not know are ignored.
pub(crate) fn filter(
    ask: &Ask,
    items: Vec<Value>,
    field: impl Fn(&Value, &str) -> Option<String>,
) -> Result<Vec<Value>, Fault> {
    let Some(query) = ask.param("q").filter(|query| !query.is_empty()) else {
        return Ok(items);
    };
    let mut terms = Vec::new();
    for term in query.split(',') {
        let (key, value) = term.split_once('=').unwrap_or_default();
        if key.is_empty() || value.is_empty() {
            let message = "the query string must contain \"=\" and the key/value cannot be empty";
            return Err(Fault::bad(message));
        }
        if value == "~" {
            return Err(Fault::bad("invalid query string value: ~"));
        }
        terms.push((key, value));
    }
    let keep = |item: &Value| {
        terms
            .iter()
            .all(|(key, wanted)| field(item, &key.to_ascii_lowercase()).is_none_or(|found| matches(&found, wanted)))
    };
    Ok(items.into_iter().filter(keep).collect())
}

fn matches(found: &str, wanted: &str) -> bool {
    let within = |open: char, close: char| wanted.strip_prefix(open)?.strip_suffix(close);
    if let Some(part) = wanted.strip_prefix('~') {
        return found.contains(part);
    }
    if let Some(any) = within('{', '}') {
        return any.split(' ').any(|each| each == found);
    }
    if within('(', ')').is_some() {
        return true;
    }
    if let Some((low, high)) = within('[', ']').and_then(|range| range.split_once('~')) {
        return match (found.parse::<i64>(), low.parse::<i64>(), high.parse::<i64>()) {
            (Ok(found), Ok(low), Ok(high)) => low <= found && found <= high,
            _ => true,
        };
    }
    found == wanted
}

/// A field of an item as text, for [`filter`].
pub(crate) fn text_of(item: &Value, key: &str) -> Option<String> {
    match item.get(key)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
