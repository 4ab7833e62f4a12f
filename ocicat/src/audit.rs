//! `ocicat audit`: is the kernel as it should be?

use proto::felix::Audit;
use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use serde_json::{Value, json};

use crate::client::CallError;
use crate::felix::FelixTarget;
use crate::table::{or_dash, plain, table};
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
    let rows = audits.iter().flat_map(|audit| {
        audit.differences.iter().map(|difference| {
            let (entry, what) = (plain(&difference.entry), plain(&difference.what));
            vec![audit.node.clone(), difference.kind.clone(), entry, what, or_dash(&plain(&difference.by))]
        })
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        text.push_str(&table(&["NODE", "KIND", "ENTRY", "DIFFERENCE", "BY"], &rows));
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
    let checked = audit.checked.iter().map(|kind| (kind.kind.clone(), Value::from(kind.entries)));
    json!({
        "node": audit.node,
        "asIntended": audit.differences.is_empty() && audit.problems.is_empty(),
        "checked": checked.collect::<serde_json::Map<_, _>>(),
        "differences": differences.collect::<Vec<_>>(),
        "problems": audit.problems,
    })
}

#[cfg(test)]
mod tests {
    use proto::felix::{Checked, Difference};

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
NODE  KIND    ENTRY         DIFFERENCE  BY
n1    routes  10.65.0.1/32  missing     -
";
        let other = Audit { node: "n2".into(), ..Audit::default() };
        assert_eq!(audits_text(&[audit.clone(), other]), expected);
        assert_eq!(audit_json(&audit)["asIntended"], false);
    }
}
