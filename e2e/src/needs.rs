//! What a test needs of the machine: a test that cannot run is reported as ignored, and never as passed.
//!
//! In: what is missing. Out: a [`Trial`] that is ignored where something is, unless an environment variable requires it.

use std::env;

use anyhow::{Result, bail};
use libtest_mimic::Trial;

use crate::process::note;

/// A test that runs only where nothing is missing.
///
/// Where something is missing, the test is ignored and the reason printed. If the environment variable `required` is set, or the
/// test is run by `--ignored`, the test fails with the reason instead.
#[must_use]
pub fn trial(name: &str, required: &str, missing: Vec<String>, test: fn()) -> Trial {
    let required = env::var_os(required).is_some_and(|value| !value.is_empty() && value != "0");
    let ignored = !missing.is_empty() && !required;
    if ignored {
        note(&format!("{name} is ignored: {}", missing.join("; ")));
    }
    let run = move || Ok(check(&missing).map(|()| test())?);
    Trial::test(name, run).with_ignored_flag(ignored)
}

fn check(missing: &[String]) -> Result<()> {
    if missing.is_empty() { Ok(()) } else { bail!("this machine cannot run the test: {}", missing.join("; ")) }
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use libtest_mimic::{Arguments, Conclusion, run};

    use super::*;

    fn conclusion(required: &str, missing: &[&str]) -> Conclusion {
        let missing = missing.iter().map(ToString::to_string).collect();
        run(&Arguments::default(), vec![trial("a", required, missing, || ())])
    }

    #[test]
    fn trial_is_ignored_where_something_is_missing_and_nothing_requires_it() {
        let ignored = conclusion("HARBOR_PILOT_NO_SUCH_VARIABLE", &["no Chromium"]);
        assert_eq!((ignored.num_ignored, ignored.num_passed, ignored.num_failed), (1, 0, 0));
        let passed = conclusion("HARBOR_PILOT_NO_SUCH_VARIABLE", &[]);
        assert_eq!((passed.num_ignored, passed.num_passed, passed.num_failed), (0, 1, 0));
    }

    #[test]
    fn trial_fails_where_something_is_missing_that_is_required() {
        // PATH is set wherever a test runs.
        let failed = conclusion("PATH", &["no Chromium"]);
        assert_eq!((failed.num_ignored, failed.num_passed, failed.num_failed), (0, 0, 1));
        assert_eq!(failed.exit_code(), ExitCode::from(101));
    }
}
