//! Cron lines as Harbor's parser takes them: six fields, no descriptors, Sunday is 0.

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// The longest that each month can be.
const LENGTHS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// A parsed line, as far as it matters whether it ever fires.
#[derive(Debug)]
pub(crate) struct Cron {
    days: Vec<u32>,
    months: Vec<u32>,
    any_day: bool,
    any_weekday: bool,
}

impl Cron {
    /// Parses a line; `None` for what Harbor calls an invalid cron string.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [second, minute, hour, day, month, weekday] = fields.as_slice() else {
            return None;
        };
        for (field, last) in [(second, 59), (minute, 59), (hour, 23)] {
            values(field, 0, last, &[])?;
        }
        values(weekday, 0, 6, &DAYS)?;
        let star = |field: &str| field == "*" || field == "?";
        Some(Self {
            days: values(day, 1, 31, &[])?,
            months: values(month, 1, 12, &MONTHS)?,
            any_day: star(day),
            any_weekday: star(weekday),
        })
    }

    /// Whether there is a day on which it fires. With both days named, either will do.
    pub(crate) fn fires(&self) -> bool {
        if self.any_day || !self.any_weekday {
            return true;
        }
        let fits = |month: &u32| {
            let length = LENGTHS.get(*month as usize - 1).copied().unwrap_or_default();
            self.days.iter().any(|day| *day <= length)
        };
        self.months.iter().any(fits)
    }
}

/// The values of one field.
fn values(field: &str, first: u32, last: u32, names: &[&str]) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let number = |text: &str| {
            let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
            named.and_then(|at| u32::try_from(at).ok()).map_or_else(|| text.parse().ok(), |at| Some(at + first))
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (first, last),
            Some((low, high)) => (number(low)?, number(high)?),
            None if step.is_some() => (number(range)?, last),
            None => (number(range)?, number(range)?),
        };
        let step = step.map_or(Some(1), |step| step.parse().ok().filter(|step| *step > 0))?;
        if low < first || high > last || low > high {
            return None;
        }
        all.extend((low..=high).step_by(step));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_as_recorded() {
        for good in
            ["0 0 2 * * *", "0 */5 * * * *", "0 0 2 ? * MON", "30 0 2 * * *", "0 0 2 30 2 *", "0 0 2 1,15 JAN-MAR *"]
        {
            assert!(Cron::parse(good).is_some(), "{good}");
        }
        for bad in ["0 2 * * *", "@daily", "0 0 2 * *", "", "bad", "0 0 2 * * 7", "0 0 25 * * *", "0 0 2 0 * *"] {
            assert!(Cron::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_thirtieth_of_february_never_comes() {
        for (line, fires) in [
            ("0 0 2 30 2 *", false),
            ("0 0 2 31 4,6,9,11 *", false),
            ("0 0 2 29 2 *", true),
            ("0 0 2 30 2 MON", true),
            ("0 0 2 31 * *", true),
        ] {
            assert_eq!(Cron::parse(line).map(|cron| cron.fires()), Some(fires), "{line}");
        }
    }
}
