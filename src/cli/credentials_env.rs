//! The account at Harbor that the environment names, in the place of a Secret.

use anyhow::bail;

use crate::{controller::SecretValue, standalone};

/// Its name.
pub(super) const USERNAME: &str = "HARBOR_USERNAME";
/// Its password.
pub(super) const PASSWORD: &str = "HARBOR_PASSWORD";

/// The account of the environment, if there is one.
///
/// # Errors
/// When half of it is there.
pub(super) fn from_environment() -> anyhow::Result<Option<SecretValue>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable(USERNAME), variable(PASSWORD)) {
        (Some(username), Some(password)) => {
            let values = [("username".to_owned(), username), ("password".to_owned(), password)].into();
            Ok(Some(standalone::secret_value(values)))
        }
        (None, None) => Ok(None),
        _ => bail!("{USERNAME} and {PASSWORD} go together: set both, or none"),
    }
}
