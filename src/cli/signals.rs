//! Signals of a serving process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Like [`shutdown_on_signal`], for a process that serves: SIGHUP, SIGUSR1 and SIGUSR2 do not end it. Users send them to daemons
/// to reload files, which needs no signal here.
pub(super) fn serve_until_signal() -> anyhow::Result<CancellationToken> {
    for (name, kind) in [
        ("SIGHUP", SignalKind::hangup()),
        ("SIGUSR1", SignalKind::user_defined1()),
        ("SIGUSR2", SignalKind::user_defined2()),
    ] {
        tokio::spawn(ignore(name, signal(kind)?));
    }
    shutdown_on_signal()
}

/// Cancelled by SIGTERM or SIGINT.
pub(super) fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        cancelled.cancel();
    });
    Ok(token)
}

async fn ignore(name: &'static str, mut signals: Signal) {
    while signals.recv().await.is_some() {
        tracing::info!(signal = name, "ignoring signal: files are reloaded when they change");
    }
}
