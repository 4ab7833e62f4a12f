//! `ocicat drops`: which packets were dropped, and by what.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc;

use clap::Args;
use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use proto::felix::{Drop as Record, Drops};
use serde_json::{Value, json};

use crate::client::CallError;
use crate::felix::{FelixTarget, ask_many};
use crate::reach::Agent;
use crate::table::{or_dash, plain, table, utc_time};
use crate::{Format, OutputOptions, Report};

#[derive(Args)]
pub(crate) struct DropsOptions {
    /// Go on with those that come, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only packets from, to or at this pod, as NAMESPACE/NAME
    #[arg(long, value_name = "NS/POD", value_parser = pod_name)]
    pod: Option<String>,
    /// Only packets that this policy dropped: its ID such as knp/default/deny, or its name
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    #[command(flatten)]
    target: FelixTarget,
    #[command(flatten)]
    output: OutputOptions,
}

fn pod_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("a pod is NAMESPACE/NAME".to_owned()),
    }
}

/// Asks every agent, and puts what they say in order of time.
pub(crate) fn run(options: &DropsOptions) -> Result<Report, CallError> {
    let wanted = request::Drops {
        follow: options.follow,
        pod: options.pod.clone().unwrap_or_default(),
        policy: options.policy.clone().unwrap_or_default(),
    };
    if options.follow {
        return follow(options.target.agents()?, &wanted, options.output.output);
    }
    let answers = options.target.ask_each(&Call::Drops(wanted), |answer| match answer {
        Answer::Drops(drops) => Some((drops.node.clone(), drops)),
        _ => None,
    })?;
    let pages = answers.given;
    let mut records: Vec<_> = pages.iter().flat_map(|page| page.records.clone()).collect();
    records.sort_by_key(|record| record.time_ms);
    let text = match options.output.output {
        Format::Json => {
            let nodes = pages
                .iter()
                .map(|page| json!({ "node": page.node, "lost": page.lost, "problem": page.problem }));
            let records = records.iter().map(record_json);
            format!(
                "{:#}\n",
                json!({ "drops": records.collect::<Vec<_>>(), "nodes": nodes.collect::<Vec<_>>() })
            )
        }
        Format::Table => records_table(&records) + &remarks(&pages),
    };
    Ok(Report::new(text, answers.is_complete && pages.iter().all(|page| page.problem.is_empty())))
}

/// Prints as it comes, one line a record, until every agent has gone or nobody reads any more.
fn follow(agents: Vec<Agent>, wanted: &request::Drops, format: Format) -> Result<Report, CallError> {
    if agents.len() > MOST_FOLLOWED {
        let reason = format!("{} nodes are too many to follow: choose one by --node", agents.len());
        return Err(CallError::Question { reason });
    }
    let (sender, receiver) = mpsc::sync_channel(64);
    for agent in agents {
        let (sender, wanted) = (sender.clone(), wanted.clone());
        std::thread::spawn(move || {
            let result = ask_many(&agent, Call::Drops(wanted), |answer| match answer {
                Answer::Drops(drops) => sender.send(Ok(drops)).is_ok(),
                _ => false,
            });
            // An agent that ends is told; whoever reads may be gone.
            let _ = sender.send(Err(result.err().unwrap_or_else(|| CallError::other_version(&agent))));
        });
    }
    drop(sender);
    let (mut told, mut last) = (BTreeMap::new(), None);
    for message in receiver {
        let page = match message {
            Ok(page) => page,
            Err(error) => {
                if let Some(error) = last.replace(error) {
                    let _ = writeln!(io::stderr(), "ocicat: {error}");
                }
                continue;
            }
        };
        let problem: &mut String = told.entry(page.node.clone()).or_default();
        if page.problem != *problem {
            problem.clone_from(&page.problem);
            let _ = writeln!(io::stderr(), "ocicat: {}: {}", page.node, plain(&page.problem));
        }
        for record in &page.records {
            let line = match format {
                Format::Json => record_json(record).to_string(),
                Format::Table => line(record),
            };
            if writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush()).is_err() {
                return Ok(Report::new(String::new(), true));
            }
        }
    }
    last.map_or_else(|| Ok(Report::new(String::new(), true)), Err)
}

/// Nodes that are followed at a time: each may be a `kubectl` that runs on.
const MOST_FOLLOWED: usize = 100;

/// What dropped it, in words.
pub(crate) fn by(record: &Record) -> String {
    let rule = record.rule.map(|rule| format!(" rule {rule}")).unwrap_or_default();
    match record.cause.as_str() {
        "policy" => format!("{}{rule}", record.policy),
        "end of tier" if record.policies.is_empty() => format!("end of tier {}", record.tier),
        "end of tier" => format!("end of tier {} ({})", record.tier, record.policies.join(", ")),
        cause => plain(cause),
    }
}

fn end(address: &str, name: &str, port: Option<u32>) -> String {
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let address =
        if address.contains(':') && !port.is_empty() { format!("[{address}]") } else { or_dash(address) };
    if name.is_empty() { format!("{address}{port}") } else { format!("{name} ({address}{port})") }
}

fn protocol(record: &Record) -> String {
    if record.icmp.is_empty() {
        or_dash(&record.protocol)
    } else {
        format!("{} {}", record.protocol, record.icmp)
    }
}

fn line(record: &Record) -> String {
    let who = if record.pod.is_empty() { &record.interface } else { &record.pod };
    format!(
        "{} {} {} {} {} -> {} {} by {} x{}",
        utc_time(record.time_ms),
        or_dash(&record.node),
        record.direction,
        or_dash(who),
        end(&record.source, &record.source_pod, None),
        end(&record.destination, &record.destination_pod, record.port),
        protocol(record),
        by(record),
        record.count
    )
}

fn records_table(records: &[Record]) -> String {
    if records.is_empty() {
        return "no dropped packets are on record\n".to_owned();
    }
    let rows: Vec<_> = records
        .iter()
        .map(|record| {
            vec![
                utc_time(record.time_ms),
                or_dash(&record.node),
                or_dash(if record.pod.is_empty() { &record.interface } else { &record.pod }),
                record.direction.clone(),
                by(record),
                end(&record.source, &record.source_pod, None),
                end(&record.destination, &record.destination_pod, record.port),
                protocol(record),
                record.count.to_string(),
            ]
        })
        .collect();
    table(&["TIME", "NODE", "POD", "DIRECTION", "DROPPED BY", "FROM", "TO", "PROTOCOL", "COUNT"], &rows)
}

fn remarks(pages: &[Drops]) -> String {
    let mut text = String::new();
    for page in pages {
        if page.lost > 0 {
            text.push_str(&format!("{}: {} more packets came too fast for a record\n", page.node, page.lost));
        }
        if !page.problem.is_empty() {
            text.push_str(&format!("{}: {}\n", page.node, plain(&page.problem)));
        }
    }
    text
}

/// A record for programs.
pub(crate) fn record_json(record: &Record) -> Value {
    json!({
        "timeMs": record.time_ms,
        "time": utc_time(record.time_ms),
        "count": record.count,
        "node": record.node,
        "direction": record.direction,
        "pod": record.pod,
        "interface": record.interface,
        "cause": record.cause,
        "policy": record.policy,
        "tier": record.tier,
        "rule": record.rule,
        "policies": record.policies,
        "source": record.source,
        "sourcePod": record.source_pod,
        "sourcePort": record.source_port,
        "destination": record.destination,
        "destinationPod": record.destination_pod,
        "protocol": record.protocol,
        "port": record.port,
        "icmp": record.icmp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_who_by_what_and_how_often() {
        let record = Record {
            time_ms: 1_700_000_000_000,
            count: 3,
            node: "n1".into(),
            direction: "ingress".into(),
            pod: "default/web".into(),
            cause: "policy".into(),
            policy: "knp/default/deny".into(),
            rule: Some(0),
            source: "10.65.0.1".into(),
            source_pod: "default/client".into(),
            destination: "10.65.0.2".into(),
            destination_pod: "default/web".into(),
            protocol: "TCP".into(),
            port: Some(80),
            ..Record::default()
        };

        assert_eq!(
            line(&record),
            "2023-11-14T22:13:20Z n1 ingress default/web default/client (10.65.0.1) -> default/web (10.65.0.2:80) \
             TCP by knp/default/deny rule 0 x3"
        );
        assert_eq!(
            by(&Record { cause: "end of tier".into(), tier: "default".into(), ..record }),
            "end of tier default"
        );
    }

    #[test]
    fn a_pod_has_a_namespace() {
        assert!(pod_name("default/web").is_ok());
        for text in ["web", "/web", "default/", "a/b/c", ""] {
            assert!(pod_name(text).is_err(), "{text:?} was accepted");
        }
    }
}
