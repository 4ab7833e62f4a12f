//! How much is logged. Owns the level, which the cluster may change while the speaker runs.

use model::LogSeverity;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// The log's level.
#[derive(Debug)]
pub(crate) struct LogLevel {
    handle: reload::Handle<LevelFilter, Registry>,
    started_with: LevelFilter,
    now: LevelFilter,
}

impl LogLevel {
    /// Begins to log to standard error.
    pub(crate) fn start(level: LevelFilter) -> Self {
        let (filter, handle) = reload::Layer::new(level);
        let lines = fmt::layer().with_ansi(false).with_writer(std::io::stderr);
        tracing_subscriber::registry().with(filter).with(lines).init();
        Self { handle, started_with: level, now: level }
    }

    /// Goes over to what the cluster says; when it says nothing, to what the process was started with.
    pub(crate) fn set(&mut self, severity: Option<LogSeverity>) {
        let level = severity.map_or(self.started_with, |severity| match severity {
            LogSeverity::Trace => LevelFilter::TRACE,
            LogSeverity::Debug => LevelFilter::DEBUG,
            LogSeverity::Info => LevelFilter::INFO,
            LogSeverity::Warning => LevelFilter::WARN,
            LogSeverity::Error => LevelFilter::ERROR,
        });
        if std::mem::replace(&mut self.now, level) != level && self.handle.reload(level).is_ok() {
            tracing::info!(%level, "log level");
        }
    }
}
