//! Plays a recording to a speaker in this process: no socket, no peer, no clock but that of the recording.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

use bgp::{PeerStatus, Replayed, Step};
use serde_json::{Value, json};

use crate::client::CallError;
use crate::table::{plain, table};
use crate::{Format, Report};

/// Longest text of an input or output that is shown.
const SHOWN: usize = 200;

/// Plays `file` up to line `until`; not well when an output differs from the recorded one.
pub(super) fn run(file: &Path, format: Format, steps: bool, until: usize) -> Result<Report, CallError> {
    let wrong = |reason: String| CallError::File { path: file.to_owned(), reason };
    let opened = File::open(file).map_err(|error| wrong(error.to_string()))?;
    let lines: Result<Vec<String>, io::Error> = BufReader::new(opened).lines().take(until).collect();
    let lines = lines.map_err(|error| wrong(error.to_string()))?;
    let mut seen = Vec::new();
    let keep = |step: &Step| {
        if steps {
            seen.push(step.clone());
        }
    };
    let replayed = bgp::replay(lines.iter().map(String::as_str), Instant::now(), keep);
    let replayed = replayed.map_err(|error| wrong(error.to_string()))?;
    let shown = if steps { &seen } else { &replayed.differences };
    let text = match format {
        Format::Table => text(&replayed, shown),
        Format::Json => format!("{:#}\n", json(&replayed, shown)),
    };
    Ok(Report::new(text, !replayed.is_complete || replayed.differences.is_empty()))
}

fn text(replayed: &Replayed, shown: &[Step]) -> String {
    let mut out = String::new();
    for step in shown {
        // A String takes whatever is written.
        let _ = writeln!(out, "line {} at {:.6} s: {}", step.line, step.at.as_secs_f64(), cut(&step.input));
        let same = step.recorded == step.replayed;
        step.recorded.iter().for_each(|output| {
            let _ = writeln!(out, "  {} {}", if same { " " } else { "-" }, cut(output));
        });
        step.replayed.iter().filter(|_| !same).for_each(|output| {
            let _ = writeln!(out, "  + {}", cut(output));
        });
    }
    let peers = replayed.speaker.peers();
    let row = |peer: &PeerStatus| {
        vec![peer.peer.to_string(), format!("{:?}", peer.state), plain(&peer.cause.to_string())]
    };
    out.push_str("at the end:\n");
    out.push_str(&table(&["PEER", "STATE", "CAUSE"], &peers.iter().map(row).collect::<Vec<_>>()));
    let (inputs, outputs) = (replayed.inputs, replayed.outputs);
    let _ = writeln!(out, "{inputs} inputs, {outputs} outputs, {} prefixes", replayed.speaker.routes_count());
    out.push_str(match (replayed.is_complete, replayed.differences.len()) {
        (true, 0) => "every output is the same as recorded\n",
        (true, _) => "outputs differ: this is another version of the speaker, or the file was changed\n",
        (false, _) => "the recording began while the speaker ran: sessions of that time are not in it\n",
    });
    out
}

fn json(replayed: &Replayed, shown: &[Step]) -> Value {
    let step = |step: &Step| {
        json!({
            "line": step.line, "seconds": step.at.as_secs_f64(), "input": step.input,
            "recorded": step.recorded, "replayed": step.replayed,
        })
    };
    json!({
        "complete": replayed.is_complete,
        "inputs": replayed.inputs,
        "outputs": replayed.outputs,
        "differences": replayed.differences.len(),
        "prefixes": replayed.speaker.routes_count(),
        "steps": shown.iter().map(step).collect::<Vec<_>>(),
    })
}

fn cut(text: &str) -> String {
    let mut cut: String = plain(text).chars().take(SHOWN).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}
