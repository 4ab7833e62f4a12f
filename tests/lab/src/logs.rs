//! `lab logs`: the files that the programs write, printed one after the other or followed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::{self, Failure};
use crate::names::LabName;

/// Prints a target's logs.
pub fn run(lab: &LabName, target: &str, component: Option<&str>, follow: bool) -> Result<u8, Failure> {
    let state = lab.state_dir();
    if !state.is_dir() {
        return Err(control::no_such_lab(lab));
    }
    let files = if target == "lab" {
        vec![state.join("daemon.log")]
    } else {
        target_logs(&state, target, component)?
    };
    let mut positions = vec![0; files.len()];
    let many = files.len() > 1;
    loop {
        for (file, position) in files.iter().zip(&mut positions) {
            if print_from(file, position, many).is_err() {
                return Ok(0);
            }
        }
        if !follow {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn target_logs(state: &Path, target: &str, component: Option<&str>) -> Result<Vec<PathBuf>, Failure> {
    let targets = names(state, |path| path.is_dir() && !logs_in(path).is_empty());
    if !targets.iter().any(|t| t == target) {
        return Err(Failure::unknown(
            "node with logs",
            target,
            targets.iter().map(String::as_str).chain(["lab"]),
        ));
    }
    let logs = logs_in(&state.join(target));
    let Some(component) = component else { return Ok(logs) };
    let wanted = logs.iter().find(|p| p.file_stem().is_some_and(|s| s == component));
    wanted.map(|p| vec![p.clone()]).ok_or_else(|| {
        let known: Vec<String> =
            logs.iter().filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect();
        Failure::unknown("log", component, known.iter().map(String::as_str))
    })
}

fn names(dir: &Path, keep: impl Fn(&Path) -> bool) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| keep(&e.path()))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn logs_in(dir: &Path) -> Vec<PathBuf> {
    names(dir, |p| p.extension().is_some_and(|e| e == "log")).into_iter().map(|n| dir.join(n)).collect()
}

/// Prints what a file has beyond `position`; an error means that nobody reads any more.
fn print_from(path: &Path, position: &mut u64, title: bool) -> io::Result<()> {
    let Ok(mut file) = File::open(path) else { return Ok(()) };
    let mut text = Vec::new();
    if file.seek(SeekFrom::Start(*position)).is_err()
        || file.read_to_end(&mut text).is_err()
        || text.is_empty()
    {
        return Ok(());
    }
    *position += text.len() as u64;
    let mut out = io::stdout().lock();
    if title {
        writeln!(out, "==> {} <==", path.display())?;
    }
    out.write_all(&text)?;
    out.flush()
}
