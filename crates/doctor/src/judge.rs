//! Facts in, findings out. One file for each subject; a check is a function that adds what it finds.

mod address;
mod host;
mod leaks;
mod others;
mod path;
mod rules;
mod sessions;
#[cfg(test)]
mod tests;

use crate::{Facts, Finding};

/// All findings, the gravest first, in the order of the subjects.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for subject in
        [address::judge, sessions::judge, path::judge, host::judge, rules::judge, others::judge, leaks::judge]
    {
        subject(facts, &mut found);
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}
