//! The agent's configuration file, as Calico has it: `Name = value` a line, sections that mean nothing, comments
//! behind `#` or `;`. Owns how it is read; what the names mean is `model::FelixConfiguration`'s.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use crate::settings::IgnoredSetting;

/// Where it is unless the command line says otherwise.
pub const PLACE: &str = "/etc/calico/felix.cfg";
/// More is no configuration.
const MOST: u64 = 1 << 20;

/// Reads the file; one that is not there says nothing.
///
/// # Errors
/// What the system says, but for a file that does not exist.
pub fn read(path: &Path) -> io::Result<String> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        opened => opened?,
    };
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// Values by name, the last of one name counts; and the lines that say nothing understandable.
pub fn parse(text: &str) -> (BTreeMap<String, String>, Vec<IgnoredSetting>) {
    let (mut values, mut ignored) = (BTreeMap::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let is_section = line.starts_with('[') && line.ends_with(']');
        if line.is_empty() || is_section || line.starts_with(['#', ';']) {
            continue;
        }
        match line.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some((name, value)) if !name.is_empty() => {
                values.insert(name.to_owned(), value.to_owned());
            }
            _ => ignored.push(IgnoredSetting {
                key: format!("line {} of the configuration file", number + 1),
                value: line.to_owned(),
                reason: "it is not of the form name = value".to_owned(),
            }),
        }
    }
    (values, ignored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_values() {
        let (values, ignored) = parse(
            "# ours\n[global]\nMTU = 1400\n; no\nChainInsertMode=append\n[other]\nMTU = 1300\nwhat\n= 3\nLogPrefix = a=b\n",
        );

        let values: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(values, [("ChainInsertMode", "append"), ("LogPrefix", "a=b"), ("MTU", "1300")]);
        assert_eq!(ignored.iter().map(|line| line.value.as_str()).collect::<Vec<_>>(), ["what", "= 3"]);
        assert!(ignored[0].key.starts_with("line 8 "), "{ignored:?}");
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing() {
        assert_eq!(read(Path::new("/nonexistent/felix.cfg")).unwrap(), "");
    }
}
