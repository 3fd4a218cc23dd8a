//! Clients that want nothing special, each time on a new connection, while others attack.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::Target;
use super::process::{Webhook, get};
use super::reviews::small;

/// Within this a bystander is answered.
const ANSWERED: Duration = Duration::from_millis(500);
/// The longest that a few may wait. Without optimization the webhook takes several times as long for what attackers send.
const LONGEST: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1500 } else { 500 });
/// Of so many bystanders one may wait longer than [`ANSWERED`].
const ONE_OF: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// One of the webhook that is attacked, and one of another, which shows how busy this machine is with other things.
pub struct Bystanders {
    end: Arc<AtomicBool>,
    attacked: JoinHandle<Vec<Asked>>,
    control: JoinHandle<Vec<Asked>>,
    _control: Webhook,
}

#[derive(Debug, Clone)]
struct Asked {
    at: Instant,
    took: Duration,
    wrong: Option<String>,
}

impl Bystanders {
    pub fn start(webhook: &Webhook) -> Self {
        let (end, control) = (Arc::new(AtomicBool::new(false)), Webhook::start(&[]));
        let begin = |webhook: &Webhook| {
            let (end, ops) = (Arc::clone(&end), webhook.ops_address());
            let target = Target::of(webhook, Ipv4Addr::LOCALHOST);
            std::thread::spawn(move || ask(&target, ops, &end))
        };
        Self { attacked: begin(webhook), control: begin(&control), _control: control, end }
    }

    /// Each was answered, and in time. What a client of the webhook that nobody attacks waits at that moment is what this
    /// machine adds by being busy with other things. It is added and never multiplied, so that a blocked webhook is seen.
    pub fn assert_served(self) {
        self.end.store(true, Ordering::Relaxed);
        let (attacked, control) = (self.attacked.join().unwrap(), self.control.join().unwrap());
        assert!(attacked.len() > 5, "{attacked:?}");
        let mut late = Vec::new();
        for asked in &attacked {
            assert_eq!(asked.wrong, None);
            let (from, until) = (asked.at - ANSWERED, asked.at + asked.took + ANSWERED);
            let beside = control.iter().filter(|other| other.at + other.took >= from && other.at <= until);
            let slowest = beside.map(|other| other.took).max().unwrap_or_default();
            let Asked { took, .. } = asked;
            assert!(*took < LONGEST + 2 * slowest, "{took:?}, and {slowest:?} where nobody attacks");
            late.extend((*took >= ANSWERED + 2 * slowest).then_some(*took));
        }
        assert!(late.len() <= 1 + attacked.len() / ONE_OF, "{} of {} were late: {late:?}", late.len(), attacked.len());
    }
}

fn ask(target: &Target, ops: SocketAddr, end: &AtomicBool) -> Vec<Asked> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut all = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let at = Instant::now();
        let answer = runtime.block_on(target.post("/mutate?timeout=2s", &small("bystander")));
        let took = at.elapsed();
        let patched = |body: &[u8]| String::from_utf8_lossy(body).contains("\"patch\"");
        let mut wrong = match answer {
            Ok(answer) if answer.status == 200 && patched(&answer.body) => None,
            other => Some(format!("{other:?}")),
        };
        let alive = get(ops, "/healthz").0;
        if alive != 200 {
            wrong = wrong.or(Some(format!("/healthz says {alive}")));
        }
        all.push(Asked { at, took, wrong });
        std::thread::sleep(PAUSE);
    }
    all
}
