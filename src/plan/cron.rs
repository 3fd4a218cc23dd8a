//! Harbor's schedules: six fields, seconds first, in UTC, in the dialect of its parser (robfig/cron v3).
//!
//! A schedule that never fires must not reach Harbor: Harbor accepts it, and then its job service hangs permanently.

use k8s_openapi::jiff::{Timestamp, tz::TimeZone};

/// Harbor searches this many years for the next run, and searches without an end if there is none.
const HORIZON: i16 = 5;

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule that Harbor accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    /// The same schedule in numbers and `*` alone, which every dialect reads in the same way.
    plain: String,
}

impl Cron {
    /// Parses a schedule.
    ///
    /// # Errors
    /// Why Harbor would refuse the schedule, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split(' ').collect();
        let [seconds, minutes, hours, days, months, weekdays] = *fields.as_slice() else {
            return Err(format!(
                "`{text}` does not have 6 fields with one space between: second minute hour day month weekday, such as `0 30 2 * * *`"
            ));
        };
        if seconds != "0" {
            return Err(format!("`{text}`: the first field, seconds, must be 0"));
        }
        if minutes == "*" {
            return Err(format!("`{text}`: the second field, minutes, must not be *"));
        }
        let mut plain = "0".to_owned();
        for (name, text_of_field, lowest, highest, names) in [
            ("minutes", minutes, 0, 59, &[][..]),
            ("hours", hours, 0, 23, &[]),
            ("days", days, 1, 31, &[]),
            ("months", months, 1, 12, MONTHS),
            ("weekdays", weekdays, 0, 6, WEEKDAYS),
        ] {
            let field = CronField { lowest, highest, names };
            let numbers = field.in_numbers(text_of_field).ok_or_else(|| {
                format!("`{text}`: {name} `{text_of_field}` must be of {lowest} to {highest}, such as `*`, `{lowest}`, `1-5`, `*/2` or `1,3`")
            })?;
            plain.push(' ');
            plain.push_str(&numbers);
        }
        Ok(Self { text: text.to_owned(), plain })
    }

    /// Parses a schedule for a request to Harbor. Harbor accepts one that never fires, and then its job service hangs
    /// permanently.
    ///
    /// # Errors
    /// As [`Cron::parse`], and when the schedule never fires.
    pub fn that_fires(text: &str, now: Timestamp) -> Result<Self, String> {
        let cron = Self::parse(text)?;
        match cron.next(now) {
            Some(_) => Ok(cron),
            None => Err(format!(
                "`{text}` never fires within five years, and Harbor's job service would hang: check that the day exists"
            )),
        }
    }

    /// Returns the text of the user.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the next time after `after`. `None`: never, within the years that Harbor searches.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_zoned(TimeZone::UTC);
        let bounded = format!("{} {}-{}", self.plain, after.year(), after.year().saturating_add(HORIZON));
        let schedule: croner::Cron = bounded.parse().ok()?;
        Some(schedule.find_next_occurrence(&after, false).ok()?.timestamp())
    }
}

struct CronField {
    lowest: u8,
    highest: u8,
    names: &'static [&'static str],
}

impl CronField {
    /// Returns the field as a list of numbers, or `*`. A list of all numbers differs from `*`: of day and weekday, Harbor
    /// needs both to match if one of them is `*`, and otherwise either of them.
    fn in_numbers(&self, text: &str) -> Option<String> {
        let mut numbers: Vec<u8> = Vec::new();
        let mut any = false;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(number(step).filter(|step| *step > 0)?)),
                None => (part, None),
            };
            let (from, to) = match range {
                "*" | "?" => {
                    any |= step.is_none_or(|step| step == 1);
                    (self.lowest, self.highest)
                }
                _ => match (range.split_once('-'), step) {
                    (Some((from, to)), _) => (self.value(from)?, self.value(to)?),
                    // `10/20` continues to the end of the range.
                    (None, Some(_)) => (self.value(range)?, self.highest),
                    (None, None) => (self.value(range)?, self.value(range)?),
                },
            };
            if from > to {
                return None;
            }
            numbers.extend((from..=to).step_by(usize::from(step.unwrap_or(1))));
        }
        if any {
            return Some("*".to_owned());
        }
        numbers.sort_unstable();
        numbers.dedup();
        Some(numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    }

    fn value(&self, text: &str) -> Option<u8> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|at| Some(u8::try_from(at).ok()? + self.lowest));
        named.or_else(|| number(text)).filter(|value| (self.lowest..=self.highest).contains(value))
    }
}

/// Digits only: `parse` would accept a sign.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, after: &str) -> Option<String> {
        let after: Timestamp = after.parse().unwrap();
        Cron::parse(cron).unwrap().next(after).map(|time| time.to_string())
    }

    #[test]
    fn the_next_run_is_the_one_that_harbor_would_take() {
        for (cron, after, expected) in [
            ("0 0 2 * * *", "2026-11-21T08:00:00Z", "2026-11-22T02:00:00Z"),
            ("0 0 2 * * *", "2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"),
            ("0 30 2 * * MON-fri", "2026-11-20T03:00:00Z", "2026-11-23T02:30:00Z"),
            ("0 10/20 * * * *", "2026-11-21T08:31:00Z", "2026-11-21T08:50:00Z"),
            ("0 */15 * ? * *", "2026-11-21T08:31:00Z", "2026-11-21T08:45:00Z"),
            ("0 0 0 29 2 *", "2026-11-21T08:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 0 1 jan ?", "2026-11-21T08:00:00Z", "2027-01-01T00:00:00Z"),
            // Day or weekday matches, if neither is `*`: the 21st is a Saturday.
            ("0 0 0 13 * 1", "2026-11-21T08:00:00Z", "2026-11-23T00:00:00Z"),
            ("0 0 0 1-31 * 1", "2026-11-21T08:00:00Z", "2026-11-22T00:00:00Z"),
            ("0 0 0 * * 1", "2026-11-21T08:00:00Z", "2026-11-23T00:00:00Z"),
            ("0 0 0 */2 * 1", "2026-11-21T08:00:00Z", "2026-11-23T00:00:00Z"),
        ] {
            assert_eq!(next(cron, after).as_deref(), Some(expected), "{cron} after {after}");
        }
    }

    #[test]
    fn a_schedule_that_never_fires_has_no_next_run() {
        for cron in ["0 0 2 30 2 *", "0 0 2 31 4,6,9,11 *", "0 0 2 31 FEB ?"] {
            assert_eq!(next(cron, "2026-11-21T08:00:00Z"), None, "{cron}");
        }
        // There is no 29 February for eight years, and Harbor searches five.
        assert_eq!(next("0 0 2 29 2 *", "2096-03-01T00:00:00Z"), None);
    }

    #[test]
    fn what_harbor_refuses_is_refused_before_it() {
        for (cron, about) in [
            ("@daily", "6 fields"),
            ("0 2 * * *", "6 fields"),
            ("0 0 2 * * * 2027", "6 fields"),
            ("0 0  2 * * *", "6 fields"),
            ("5 0 2 * * *", "seconds"),
            ("* 0 2 * * *", "seconds"),
            ("0 * 2 * * *", "minutes"),
            ("0 60 2 * * *", "minutes"),
            ("0 0 24 * * *", "hours"),
            ("0 0 2 0 * *", "days"),
            ("0 0 2 L * *", "days"),
            ("0 0 2 * 13 *", "months"),
            ("0 0 2 * * 7", "weekdays"),
            ("0 0 2 * * 5#2", "weekdays"),
            ("0 0 2 * * fri-mon", "weekdays"),
            ("0 5-1 2 * * *", "minutes"),
            ("0 1,,2 2 * * *", "minutes"),
            ("0 */0 2 * * *", "minutes"),
            ("0 +5 2 * * *", "minutes"),
        ] {
            let error = Cron::parse(cron).unwrap_err();
            assert!(error.contains(about), "{cron}: {error}");
        }
    }
}
