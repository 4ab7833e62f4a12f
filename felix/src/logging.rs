//! Log lines: level and format, the level changeable while the agent runs.

use anyhow::Result;
use model::LogSeverity;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use crate::settings::LogFormat;

/// Changes the level.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

/// Starts to log to standard error.
pub fn start(format: LogFormat, severity: Option<LogSeverity>) -> Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(targets(severity.unwrap_or_default()));
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(false)).try_init()?
        }
        LogFormat::Json => registry.with(fmt::layer().with_writer(std::io::stderr).json()).try_init()?,
    }
    Ok(LogLevel(handle))
}

impl LogLevel {
    /// From now on, messages of at least this severity.
    pub fn set(&self, severity: Option<LogSeverity>) {
        let _ = self.0.reload(targets(severity.unwrap_or_default()));
    }
}

/// Libraries speak up from `warn` on at most, so that `debug` shows what this agent does.
fn targets(severity: LogSeverity) -> Targets {
    let level = match severity {
        LogSeverity::Trace => LevelFilter::TRACE,
        LogSeverity::Debug => LevelFilter::DEBUG,
        LogSeverity::Info => LevelFilter::INFO,
        LogSeverity::Warning => LevelFilter::WARN,
        LogSeverity::Error => LevelFilter::ERROR,
    };
    let ours = ["felix", "felix_dataplane", "datastore", "ipam", "kernel_linux"];
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        // Says of every connection that fails what `datastore` says better.
        .with_target("kube_client", LevelFilter::OFF)
        .with_targets(ours.map(|target| (target, level)))
}
