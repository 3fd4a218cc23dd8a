//! The webhook as a process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use harbor_pilot::tls::issue::{Authority, Validity};
use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(30);

/// Images of docker.io come from harbor.test, and images of other hosts are refused.
const RULES: &str = r#"
apiVersion: harbor-pilot.dev/v1alpha1
kind: HarborInstance
metadata: {name: default}
spec: {url: "https://harbor.test", credentialsSecretRef: {name: harbor}}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: Registry
metadata: {name: dockerhub}
spec: {type: docker-hub, url: "https://hub.docker.com"}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ProxyProject
metadata: {name: dockerhub}
spec: {registryRef: {name: dockerhub}, public: true}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ImagePolicy
metadata: {name: only-harbor}
spec: {action: Enforce, allowed: [{host: harbor.test}]}
"#;

/// A webhook that runs.
pub struct Webhook {
    child: Child,
    pub address: SocketAddr,
    ops: SocketAddr,
    pub authority: String,
    _directory: TempDir,
}

impl Webhook {
    /// Starts one with further arguments, and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let validity = Validity::starting(Timestamp::now(), SignedDuration::from_hours(24));
        let authority = Authority::new("test", validity).unwrap();
        let leaf = authority.issue(&["localhost".to_owned()], validity).unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("tls.crt", &leaf.certificate_pem);
        write("tls.key", &leaf.key_pem);
        write("rules.yaml", RULES);
        let [address, ops] = free_addresses();
        let child = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"))
            .arg("webhook")
            .args(["--rules".as_ref(), directory.path().join("rules.yaml").as_os_str()])
            .args(["--tls-dir".as_ref(), directory.path().as_os_str()])
            .args(["--webhook-bind-address", &address.to_string(), "--metrics-bind-address", &ops.to_string()])
            .args(arguments)
            // As the chart sets them.
            .envs([("MIMALLOC_ARENA_EAGER_COMMIT", "0"), ("MIMALLOC_PURGE_DELAY", "0"), ("HARBOR_PILOT_LOG", "error")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let authority = authority.issued().certificate_pem.clone();
        let webhook = Self { child, address, ops, authority, _directory: directory };
        let start = Instant::now();
        while TcpStream::connect(webhook.ops).is_err() || webhook.ops("/readyz").0 != 200 {
            assert!(start.elapsed() < SOON, "it does not become ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        webhook
    }

    /// Status and text of a path of the ops port.
    pub fn ops(&self, path: &str) -> (u16, String) {
        get(self.ops, path)
    }

    pub fn ops_address(&self) -> SocketAddr {
        self.ops
    }

    /// Makes the high-water mark of the memory that of now, and returns it, in bytes.
    pub fn reset_high_water(&self) -> u64 {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
        self.high_water()
    }

    /// The most memory that was resident since, in bytes.
    pub fn high_water(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < SOON, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Status and text of a path over plain HTTP; status 0 where there is no answer.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_default();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

/// The value of a metric without labels.
pub fn metric(text: &str, name: &str) -> f64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).expect(name)
}

fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}
