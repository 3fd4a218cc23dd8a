//! Requests and answers as Harbor's core sees them: the error envelope, JSON bodies, what a body may hold.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::auth::Who;

pub(crate) type Reply = Response<Body>;
pub(crate) type Outcome = Result<Reply, Fault>;

/// A request, taken apart.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// As it came, without the query.
    pub(crate) path: String,
    /// Decoded once.
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) who: Who,
}

impl Ask {
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An error answer.
#[derive(Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: Vec<(HeaderName, String)>,
}

impl Fault {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    pub(crate) fn unauthorised(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(crate) fn manifest_unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message)
            .with("docker-distribution-api-version", "registry/2.0")
    }

    pub(crate) fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION", message)
    }

    /// A pull that the policy of a project forbids.
    pub(crate) fn violation(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "PROJECTPOLICYVIOLATION", message)
    }

    pub(crate) fn invalid(message: &str) -> Self {
        let message = format!("validation failure list:\n{message}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "UNPROCESSABLE_ENTITY", message)
    }

    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUEST", message)
    }

    pub(crate) fn unknown_upload() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    }

    pub(crate) fn wrong_digest() -> Self {
        let message = "provided digest did not match uploaded content";
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "internal server error")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((HeaderName::from_static(name), value.into()));
        self
    }

    /// As Harbor's own clients tell it.
    pub(crate) fn reported(&self) -> String {
        format!("http status code: {}, body: {}", self.status.as_u16(), self.body())
    }

    fn body(&self) -> String {
        // In the order of the fields that Harbor has: code, message.
        format!("{{\"errors\":[{{\"code\":{},\"message\":{}}}]}}\n", json!(self.code), json!(self.message))
    }

    pub(crate) fn reply(self) -> Reply {
        let body = self.body();
        let mut reply = text(self.status, "application/json; charset=utf-8", body);
        for (name, value) in self.headers {
            put(&mut reply, name, &value);
        }
        reply
    }
}

/// 200 with a JSON body.
pub(crate) fn json_reply(body: &Value) -> Reply {
    text(StatusCode::OK, "application/json", format!("{body}\n"))
}

/// A status without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = status;
    reply
}

/// 201 with a Location.
pub(crate) fn created(location: &str) -> Reply {
    let mut reply = empty(StatusCode::CREATED);
    put(&mut reply, header::LOCATION, location);
    reply
}

pub(crate) fn text(status: StatusCode, media_type: &str, body: impl Into<Body>) -> Reply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    put(&mut reply, header::CONTENT_TYPE, media_type);
    reply
}

pub(crate) fn put(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

/// The type of a field in a body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Flag,
    Number,
    Number32,
    Number8,
    /// An object of this Go type.
    Object(&'static str),
    /// A list of this Go type.
    List(&'static str),
    Any,
}

/// What a body is called in Harbor's messages: parameter, Go type, Go type with its package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema {
    pub(crate) parameter: &'static str,
    pub(crate) go_type: &'static str,
    pub(crate) fields: &'static [(&'static str, Kind)],
}

/// The body as a JSON object with fields of the right types; unknown fields pass.
pub(crate) fn object(ask: &Ask, schema: Schema) -> Result<Map<String, Value>, Fault> {
    let Schema { parameter, go_type, fields } = schema;
    let media_type = ask.header("content-type").unwrap_or("application/octet-stream");
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if media_type != "application/json" {
        let message = format!("unsupported media type \"{media_type}\", only [application/json] are allowed");
        return Err(Fault::invalid(&message));
    }
    if ask.body.is_empty() {
        return Err(Fault::invalid(&format!("{parameter} in body is required")));
    }
    let refused = |why: &str| Fault::invalid(&format!("parsing {parameter} body from \"\" failed, because {why}"));
    let value: Value = serde_json::from_slice(&ask.body).map_err(|_| refused(&go_syntax_error(&ask.body)))?;
    let Value::Object(object) = value else {
        let found = go_name(&value);
        return Err(refused(&format!("json: cannot unmarshal {found} into Go value of type models.{go_type}")));
    };
    for (field, kind) in fields {
        let Some(value) = object.get(*field).filter(|value| !value.is_null()) else {
            continue;
        };
        let fits = |bits: u32| value.as_i64().is_some_and(|number| number >> (bits - 1) == number >> 63);
        let wanted = match kind {
            Kind::Text if !value.is_string() => "string",
            Kind::Flag if !value.is_boolean() => "bool",
            Kind::Number if !value.is_i64() => "int64",
            Kind::Number32 if !fits(32) => "int32",
            Kind::Number8 if !fits(8) => "int8",
            Kind::Object(go_type) if !value.is_object() => go_type,
            Kind::List(go_type) if !value.is_array() => go_type,
            _ => continue,
        };
        let found = match value {
            Value::Number(number) if matches!(kind, Kind::Number32 | Kind::Number8) => format!("number {number}"),
            value => go_name(value).to_owned(),
        };
        let message = format!("json: cannot unmarshal {found} into Go struct field {go_type}.{field} of type {wanted}");
        return Err(refused(&message));
    }
    Ok(object)
}

/// What Go's decoder says of bytes that are not JSON, where it was seen.
fn go_syntax_error(body: &[u8]) -> String {
    let mut rest = body.iter().copied().skip_while(u8::is_ascii_whitespace);
    match rest.next() {
        Some(b'{') => match rest.find(|byte| !byte.is_ascii_whitespace()) {
            Some(byte) if byte != b'"' && byte != b'}' => {
                format!("invalid character '{}' looking for beginning of object key string", char::from(byte))
            }
            _ => "unexpected EOF".to_owned(),
        },
        Some(byte) => format!("invalid character '{}' looking for beginning of value", char::from(byte)),
        None => "EOF".to_owned(),
    }
}

pub(crate) fn go_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// An id in a path.
pub(crate) fn id(text: &str) -> Result<i64, Fault> {
    text.parse().map_err(|_| Fault::invalid(&format!("id in path must be of type int64: \"{text}\"")))
}

/// The time, as Harbor writes it: UTC, milliseconds.
pub(crate) fn now() -> String {
    stamp(jiff::Timestamp::now())
}

pub(crate) fn stamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Go's zero time.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00.000Z";
