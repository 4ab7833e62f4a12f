//! Configurations in the runtime's directory.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use doctor::{CniFacts, CniFile};
use serde_json::Value;

/// A configuration is larger than this in no network; bytes.
const LARGEST: u64 = 64 << 10;
/// Files that are looked at.
const MOST: usize = 32;

pub(super) fn read(directory: &Path) -> io::Result<CniFacts> {
    let mut names: Vec<String> = fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending)))
        .collect();
    names.sort();
    names.truncate(MOST);
    let file = |name: String| {
        let plugins = plugins(&directory.join(&name)).unwrap_or_default();
        CniFile { name, plugins }
    };
    let shown = directory
        .strip_prefix("/host")
        .map_or_else(|_| directory.to_owned(), |inner| Path::new("/").join(inner));
    Ok(CniFacts { directory: shown.display().to_string(), files: names.into_iter().map(file).collect() })
}

fn plugins(path: &Path) -> Option<Vec<String>> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    let kind = |plugin: &Value| Some(crate::table::plain(plugin["type"].as_str()?));
    match value["plugins"].as_array() {
        Some(plugins) => Some(plugins.iter().filter_map(kind).collect()),
        None => Some(kind(&value).into_iter().collect()),
    }
}
