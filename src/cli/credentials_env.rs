//! The credentials for Harbor from the environment, which replace a Secret.

use anyhow::bail;

use crate::{controller::SecretValue, standalone};

/// The user name.
pub(super) const USERNAME: &str = "HARBOR_USERNAME";
/// The password.
pub(super) const PASSWORD: &str = "HARBOR_PASSWORD";

/// Returns the credentials from the environment, if set.
///
/// # Errors
/// If only one of the two variables is set.
pub(super) fn from_environment() -> anyhow::Result<Option<SecretValue>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable(USERNAME), variable(PASSWORD)) {
        (Some(username), Some(password)) => {
            let values = [("username".to_owned(), username), ("password".to_owned(), password)].into();
            Ok(Some(standalone::secret_value(values)))
        }
        (None, None) => Ok(None),
        _ => bail!("set both {USERNAME} and {PASSWORD}, or none"),
    }
}
