//! Who asks, and what they may: the administrator, robots, registry tokens, the anonymous.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, header};
use rand::Rng as _;
use serde_json::{Value, json};

use super::{
    Core,
    http::{Ask, Fault, Outcome, empty, json_reply, put, text},
    state::{Project, Robot, State},
};

/// The sender of a request, as far as its credentials are right.
#[derive(Debug, Clone)]
pub(crate) enum Who {
    Anonymous,
    Admin(String),
    Robot(Robot),
    Token(Claims),
}

/// What a registry token allows.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    subject: Option<String>,
    /// (repository, actions).
    access: Vec<(String, Vec<String>)>,
}

impl Who {
    /// For the log.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Self::Anonymous => None,
            Self::Admin(name) => Some(name.clone()),
            Self::Robot(robot) => Some(robot.name.clone()),
            Self::Token(claims) => Some(format!("token:{}", claims.subject.as_deref().unwrap_or_default())),
        }
    }

    /// Whether it may do this in the whole system.
    pub(crate) fn may(&self, resource: &str, action: &str) -> bool {
        match self {
            Self::Admin(_) => true,
            Self::Robot(robot) => robot.grants("system", "/", resource, action),
            Self::Anonymous | Self::Token(_) => false,
        }
    }

    /// Whether it may do this in a project.
    pub(crate) fn may_in(&self, project: &Project, resource: &str, action: &str) -> bool {
        let open = project.metadata.get("public").is_some_and(|public| public == "true")
            && matches!(action, "read" | "list" | "pull");
        match self {
            Self::Admin(_) => true,
            Self::Robot(robot) => open || robot.grants("project", &project.name, resource, action),
            Self::Anonymous | Self::Token(_) => open,
        }
    }

    /// Lets it through where it may do this in the project of that id.
    pub(crate) fn check_in(&self, state: &State, project: i64, resource: &str, action: &str) -> Result<(), Fault> {
        let allowed = match self {
            Self::Admin(_) => true,
            Self::Robot(_) => state.projects.get(&project).is_some_and(|found| self.may_in(found, resource, action)),
            Self::Anonymous | Self::Token(_) => false,
        };
        if allowed { Ok(()) } else { Err(self.project_refusal()) }
    }

    /// Whether it may pull, push or delete in a repository (full name).
    pub(crate) fn may_on_repository(&self, project: &Project, repository: &str, action: &str) -> bool {
        if let Self::Token(claims) = self {
            let listed =
                |(name, actions): &(String, Vec<String>)| name == repository && actions.iter().any(|a| a == action);
            return claims.access.iter().any(listed) || Self::Anonymous.may_in(project, "repository", action);
        }
        self.may_in(project, "repository", action)
    }

    /// The refusal for what [`Who::may`] denies.
    pub(crate) fn refusal(&self) -> Fault {
        match self {
            Self::Robot(robot) => Fault::forbidden(robot.name.clone()),
            _ => Fault::unauthorised("unauthorized"),
        }
    }

    /// The refusal for what [`Who::may_in`] denies, or for a project that is not there.
    pub(crate) fn project_refusal(&self) -> Fault {
        match self {
            Self::Robot(_) => Fault::forbidden("forbidden"),
            _ => Fault::unauthorised("unauthorized"),
        }
    }
}

impl Robot {
    fn grants(&self, kind: &str, namespace: &str, resource: &str, action: &str) -> bool {
        let permissions = self.document.get("permissions").and_then(Value::as_array);
        permissions.into_iter().flatten().any(|permission| {
            let here = permission["namespace"] == namespace || permission["namespace"] == "*";
            let access = permission["access"].as_array();
            permission["kind"] == kind
                && here
                && access.into_iter().flatten().any(|each| {
                    // Over all projects a right on projects is the same right on all that is in them.
                    let of_all = kind == "project" && permission["namespace"] == "*" && each["resource"] == "project";
                    let implied = of_all && matches!(action, "read" | "update" | "delete");
                    (each["resource"] == resource || implied) && each["action"] == action
                })
        })
    }

    /// Neither disabled nor expired.
    fn is_live(&self) -> bool {
        let expires = self.document.get("expires_at").and_then(Value::as_i64).unwrap_or(-1);
        self.document.get("disable") != Some(&json!(true))
            && (expires < 0 || expires > jiff::Timestamp::now().as_second())
    }
}

/// Reads the credentials of a request. Wrong ones are none, as in Harbor.
pub(crate) fn identify(core: &Core, headers: &HeaderMap) -> Who {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Some(token) = given.strip_prefix("Bearer ") {
        return core.read_token(token).map_or(Who::Anonymous, Who::Token);
    }
    let Some((user, password)) = basic(given) else {
        return Who::Anonymous;
    };
    if (&user, &password) == (&core.settings.admin.0, &core.settings.admin.1) {
        return Who::Admin(user);
    }
    let state = core.state.lock();
    let robot = state.robots.values().find(|robot| robot.name == user && robot.secret == password && robot.is_live());
    robot.map_or(Who::Anonymous, |robot| Who::Robot(robot.clone()))
}

fn basic(given: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(given.strip_prefix("Basic ")?).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

impl Core {
    /// `GET /service/token`: a token for what the sender may, of what it asked for. Nothing of it is still 200.
    pub(crate) fn token(&self, ask: &Ask) -> Outcome {
        let service = ask.param("service").unwrap_or_default();
        if service != "harbor-registry" {
            let message = format!("Unable to handle service: {service}");
            return Ok(text(http::StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", message));
        }
        let scopes: Vec<&str> =
            ask.query.iter().filter(|(key, _)| key == "scope").flat_map(|(_, scopes)| scopes.split(' ')).collect();
        if scopes.is_empty() && matches!(ask.who, Who::Anonymous) {
            return Ok(empty(http::StatusCode::UNAUTHORIZED));
        }
        let state = self.state.lock();
        let access: Vec<Value> = scopes.iter().filter_map(|scope| granted(&state, &ask.who, scope)).collect();
        drop(state);
        let now = jiff::Timestamp::now();
        let lifetime = i64::try_from(self.settings.token_lifetime.as_secs()).unwrap_or(1800);
        let mut claims = json!({
            "iss": "harbor-token-issuer", "aud": "harbor-registry", "access": access, "iat": now.as_second(),
            "nbf": now.as_second(), "exp": now.as_second() + lifetime, "jti": format!("{:016x}", rand::rng().random::<u64>()),
        });
        if let Some(name) = ask.who.name() {
            claims["sub"] = json!(name);
        }
        let issued = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let body =
            json!({"token": self.sign(&claims), "access_token": "", "expires_in": lifetime, "issued_at": issued});
        let mut reply = json_reply(&body);
        put(&mut reply, header::CONTENT_TYPE, "application/json; charset=utf-8");
        Ok(reply)
    }

    /// Shaped like a JSON web token; the signature is this double's own.
    fn sign(&self, claims: &Value) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", part("{\"alg\":\"none\",\"typ\":\"JWT\"}"), part(&claims.to_string()));
        let signature = part(&crate::digest::sha256(format!("{}{signed}", self.key).as_bytes()));
        format!("{signed}.{signature}")
    }

    fn read_token(&self, token: &str) -> Option<Claims> {
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        if self.sign(&claims) != token || claims["exp"].as_i64()? <= jiff::Timestamp::now().as_second() {
            return None;
        }
        let actions = |entry: &Value| -> Vec<String> {
            entry["actions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|a| a.as_str().map(ToOwned::to_owned))
                .collect()
        };
        let access = claims["access"].as_array().into_iter().flatten();
        Some(Claims {
            subject: claims["sub"].as_str().map(ToOwned::to_owned),
            access: access
                .map(|entry| (entry["name"].as_str().unwrap_or_default().to_owned(), actions(entry)))
                .collect(),
        })
    }
}

/// The access entry for a scope `repository:NAME:ACTIONS`: what the sender may there, asked for or not. Garbage is left out.
fn granted(state: &State, who: &Who, scope: &str) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, _) = rest.rsplit_once(':')?;
    let project = state.project_named(name.split('/').next().unwrap_or_default());
    let may = |action: &&str| project.is_some_and(|project| who.may_in(project, "repository", action));
    let actions: Vec<&str> = ["pull", "push", "delete"].into_iter().filter(may).collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}
