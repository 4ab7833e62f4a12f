//! Lines on stderr and in a file: what happened, when, in which container.
//!
//! Cheap on purpose: a plugin lives for a millisecond. A log that cannot be written never fails a verb.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Level, LogConfig};

/// Where a process logs, and as what.
pub struct Log {
    level: Level,
    file: Option<File>,
    /// In front of every message, such as "ADD c1 eth0".
    context: String,
}

impl Log {
    /// Opens the file, when one is configured.
    pub fn open(config: &LogConfig, context: String) -> Self {
        let file = config.file.as_deref().and_then(|path| match open_file(path, config.max_bytes) {
            Ok(file) => Some(file),
            Err(error) => {
                let _ =
                    writeln!(io::stderr(), "calico: cannot write the log file {}: {error}", path.display());
                None
            }
        });
        Self { level: config.level, file, context }
    }

    pub fn error(&self, message: impl fmt::Display) {
        self.write(Level::Error, &message);
    }

    pub fn warn(&self, message: impl fmt::Display) {
        self.write(Level::Warn, &message);
    }

    pub fn info(&self, message: impl fmt::Display) {
        self.write(Level::Info, &message);
    }

    pub fn debug(&self, message: impl fmt::Display) {
        self.write(Level::Debug, &message);
    }

    /// Says at debug what the time goes into.
    pub fn stopwatch(&self) -> Stopwatch<'_> {
        Stopwatch { log: self, last: Instant::now() }
    }

    fn write(&self, level: Level, message: &dyn fmt::Display) {
        if level > self.level {
            return;
        }
        let name = match level {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line =
            format!("{} {name} {}: {message}\n", utc(since.as_secs(), since.subsec_millis()), self.context);
        // One write each: lines of processes side by side stay whole.
        if let Some(mut file) = self.file.as_ref() {
            let _ = file.write_all(line.as_bytes());
        }
        if level <= Level::Warn || self.level == Level::Debug {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Times the stages of a verb.
pub struct Stopwatch<'a> {
    log: &'a Log,
    last: Instant,
}

impl Stopwatch<'_> {
    /// A stage is over.
    pub fn lap(&mut self, stage: &str) {
        let now = Instant::now();
        self.log.debug(format_args!("{stage}: {} µs", now.duration_since(self.last).as_micros()));
        self.last = now;
    }
}

fn open_file(path: &Path, max_bytes: u64) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o755).create(path.parent().unwrap_or(Path::new("/")))?;
            open()?
        }
        other => other?,
    };
    if file.metadata()?.len() <= max_bytes {
        return Ok(file);
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    fs::rename(path, old)?;
    open()
}

/// RFC 3339 in UTC (the civil calendar from the count of days, H. Hinnant's algorithm).
fn utc(seconds: u64, millis: u32) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(utc(0, 7), "1970-01-01T00:00:00.007Z");
        assert_eq!(utc(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(1_795_132_799, 999), "2026-11-19T23:59:59.999Z");
    }

    #[test]
    fn a_grown_file_is_set_aside() {
        let path = std::env::temp_dir().join(format!("cni-log-{}/cni.log", std::process::id()));
        let config = LogConfig { level: Level::Info, file: Some(path.clone()), max_bytes: 10 };

        Log::open(&config, "ADD c1".into()).info("first");
        Log::open(&config, "ADD c1".into()).debug("not logged");
        Log::open(&config, "DEL c1".into()).info("second");

        let directory = path.parent().unwrap();
        assert!(fs::read_to_string(directory.join("cni.log.1")).unwrap().contains("INFO ADD c1: first"));
        assert!(fs::read_to_string(&path).unwrap().contains("INFO DEL c1: second"));
        fs::remove_dir_all(directory).unwrap();
    }
}
