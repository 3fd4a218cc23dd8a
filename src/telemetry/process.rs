//! The standard process metrics, under the names of Prometheus' own clients. Read from `/proc` at each scrape; without
//! `/proc` they are absent.

use std::fmt::Error;

use procfs::process::{self, LimitValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The metrics of this process.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(seen) = ProcessSample::now() else { return Ok(()) };
        let cpu = ConstCounter::new(seen.cpu_seconds);
        put(&mut encoder, "process_cpu", "CPU time in user and system mode", Some(&Unit::Seconds), &cpu)?;
        let gauges = [
            ("process_resident_memory", "Resident memory", Some(&Unit::Bytes), seen.resident_bytes as f64),
            ("process_open_fds", "Open file descriptors", None, seen.open_fds as f64),
            ("process_max_fds", "Maximum number of open file descriptors", None, seen.max_fds as f64),
            ("process_threads", "Threads", None, seen.threads as f64),
            ("process_start_time", "Start of the process, in seconds since 1970", Some(&Unit::Seconds), seen.started),
        ];
        for (name, help, unit, value) in gauges {
            put(&mut encoder, name, help, unit, &ConstGauge::new(value))?;
        }
        Ok(())
    }
}

/// The values of the process at one moment.
struct ProcessSample {
    cpu_seconds: f64,
    resident_bytes: u64,
    open_fds: usize,
    /// 0 means no limit.
    max_fds: u64,
    threads: i64,
    started: f64,
}

impl ProcessSample {
    fn now() -> Option<Self> {
        let own = process::Process::myself().ok()?;
        let stat = own.stat().ok()?;
        let ticks = procfs::ticks_per_second() as f64;
        let max_fds = match own.limits().ok()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => limit,
            LimitValue::Unlimited => 0,
        };
        Some(Self {
            cpu_seconds: stat.utime.saturating_add(stat.stime) as f64 / ticks,
            resident_bytes: stat.rss.saturating_mul(procfs::page_size()),
            open_fds: own.fd_count().ok()?,
            max_fds,
            threads: stat.num_threads,
            started: procfs::boot_time_secs().ok()? as f64 + stat.starttime as f64 / ticks,
        })
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> Result<(), Error> {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use crate::telemetry::exposition::{Exposed, Exposition};

    #[test]
    fn process_metrics_have_memory_files_and_start() {
        let text = Exposition::new().encode().unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6, "{text}");
        assert!(value("process_open_fds") >= 3.0 && value("process_threads") >= 1.0, "{text}");
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..3600.0 * 24.0).contains(&age), "started {age} s ago");
        assert!(value("process_cpu_seconds_total") >= 0.0, "{text}");
        assert!(text.contains("harbor_pilot_build_info{version=") && text.ends_with("# EOF\n"), "{text}");
    }
}
