//! `ocicat audit`: is the kernel as it should be?

use proto::felix::Audit;
use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use serde_json::{Value, json};

use crate::client::CallError;
use crate::felix::FelixTarget;
use crate::table::{duration, plain, table};
use crate::{Format, Report};

/// Asks every agent; all is well when no entry differs and everything could be looked at.
pub(crate) fn run(target: &FelixTarget, format: Format) -> Result<Report, CallError> {
    let answers = target.ask_each(&Call::Audit(request::Audit {}), |answer| match answer {
        Answer::Audit(audit) => Some((audit.node.clone(), audit)),
        _ => None,
    })?;
    let audits = answers.given;
    let is_well = audits.iter().all(|audit| audit.differences.is_empty() && audit.problems.is_empty());
    let text = match format {
        Format::Json => format!("{:#}\n", Value::Array(audits.iter().map(audit_json).collect())),
        Format::Table => audits_text(&audits),
    };
    Ok(Report::new(text, is_well && answers.is_complete))
}

/// A line for each node, and one table of all that differs.
fn audits_text(audits: &[Audit]) -> String {
    let mut text: String = audits.iter().map(node_text).collect();
    let differences = audits.iter().flat_map(|audit| audit.differences.iter().map(move |one| (audit, one)));
    // Of most kinds of state the kernel never tells who changed it.
    let is_any_known = differences.clone().any(|(_, difference)| !difference.by.is_empty());
    let rows = differences.map(|(audit, difference)| {
        let by = if difference.by.is_empty() { "unknown".to_owned() } else { plain(&difference.by) };
        let (entry, what) = (plain(&difference.entry), plain(&difference.what));
        let row = [audit.node.clone(), difference.kind.clone(), entry, what];
        row.into_iter().chain(is_any_known.then_some(by)).collect()
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        let header = ["NODE", "KIND", "ENTRY", "DIFFERENCE", "BY"];
        text.push_str(&table(&header[..if is_any_known { 5 } else { 4 }], &rows));
    }
    text
}

fn node_text(audit: &Audit) -> String {
    let checked = audit.checked.iter().filter(|kind| kind.entries > 0);
    let checked: Vec<_> = checked.map(|kind| format!("{} {}", kind.entries, kind.kind)).collect();
    let verdict = match audit.differences.len() {
        0 if audit.problems.is_empty() => "as intended".to_owned(),
        0 => "not everything could be looked at".to_owned(),
        1 => "1 entry differs".to_owned(),
        many => format!("{many} entries differ"),
    };
    let mut text = format!("{}: {verdict} ({})\n", audit.node, checked.join(", "));
    for problem in &audit.problems {
        text.push_str(&format!("  {}\n", plain(problem)));
    }
    for writer in &audit.writers {
        let (process, ago) = (plain(&writer.process), duration(writer.seconds_ago));
        let (kind, pid) = (&writer.kind, writer.pid);
        text.push_str(&format!("  {kind}: {process} (process {pid}) wrote there, too, {ago} ago\n"));
    }
    text
}

fn audit_json(audit: &Audit) -> Value {
    let differences = audit.differences.iter().map(|difference| {
        json!({
            "kind": difference.kind,
            "entry": difference.entry,
            "difference": difference.what,
            "by": difference.by,
        })
    });
    let writers = audit.writers.iter().map(|writer| {
        json!({
            "kind": writer.kind,
            "process": writer.process,
            "pid": writer.pid,
            "secondsAgo": writer.seconds_ago,
        })
    });
    let checked = audit.checked.iter().map(|kind| (kind.kind.clone(), Value::from(kind.entries)));
    json!({
        "node": audit.node,
        "asIntended": audit.differences.is_empty() && audit.problems.is_empty(),
        "checked": checked.collect::<serde_json::Map<_, _>>(),
        "differences": differences.collect::<Vec<_>>(),
        "problems": audit.problems,
        "writers": writers.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use proto::felix::{Checked, Difference, Writer};

    use super::*;

    #[test]
    fn an_audit_names_what_differs() {
        let mut audit = Audit {
            node: "n1".into(),
            checked: vec![Checked { kind: "routes".into(), entries: 3 }],
            ..Audit::default()
        };
        assert_eq!(node_text(&audit), "n1: as intended (3 routes)\n");

        audit.differences.push(Difference {
            kind: "routes".into(),
            entry: "10.65.0.1/32".into(),
            what: "missing".into(),
            by: String::new(),
        });
        let expected = "\
n1: 1 entry differs (3 routes)
n2: as intended ()
NODE  KIND    ENTRY         DIFFERENCE
n1    routes  10.65.0.1/32  missing
";
        let other = Audit { node: "n2".into(), ..Audit::default() };
        assert_eq!(audits_text(&[audit.clone(), other]), expected);
        assert_eq!(audit_json(&audit)["asIntended"], false);
    }

    #[test]
    fn who_changed_it_is_told_where_the_kernel_knows() {
        let difference = |kind: &str, by: &str| Difference {
            kind: kind.into(),
            entry: "x".into(),
            what: "missing".into(),
            by: by.into(),
        };
        let writer = Writer { kind: "nftables".into(), process: "nft".into(), pid: 42, seconds_ago: 3 };
        let audit = Audit {
            node: "n1".into(),
            differences: vec![difference("nftables", "nft (process 42)"), difference("route", "")],
            writers: vec![writer],
            ..Audit::default()
        };
        let expected = "\
n1: 2 entries differ ()
  nftables: nft (process 42) wrote there, too, 3s ago
NODE  KIND      ENTRY  DIFFERENCE  BY
n1    nftables  x      missing     nft (process 42)
n1    route     x      missing     unknown
";
        assert_eq!(audits_text(&[audit]), expected);
    }
}
