//! `ocicat ipam check`: what disagrees, and with `--fix` what can be mended from here without a risk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use datastore::{Datastore, IpamClient};
use ipam::gc::{self, Finding, GoneNodes, Inventory, Problem, Turn, Why, audit, holders};
use model::{Cidr, IpamConfiguration, NodeName, Update};
use serde_json::{Value, json};

use super::ages::Ages;
use super::{CheckOptions, all, away, failed, read_all};
use crate::client::CallError;
use crate::table::{or_dash, plain, table};
use crate::{Format, Report};

pub(super) async fn run(options: &CheckOptions, datastore: &Datastore) -> Result<Report, CallError> {
    let (mut inventory, configuration) = read_all(datastore).await?;
    let mut findings = audit(&inventory);
    let mut done = Vec::new();
    if options.fix && !findings.is_empty() {
        if !datastore.is_ready().await.map_err(away)? {
            let reason = "the datastore is not ready (datastoreReady: false): nothing is changed".to_owned();
            return Err(CallError::Question { reason });
        }
        done = fix(datastore, &inventory, &configuration, &findings, options.wait).await?;
        inventory = read_all(datastore).await?.0;
        findings = audit(&inventory);
    }
    let ages = match options.ages {
        true => Some(Ages::ask(&options.reach, &nodes_to_ask(&inventory, &findings))?),
        false => None,
    };
    let text = match options.output.output {
        Format::Json => format!("{:#}\n", report(&inventory, &findings, &done, ages.as_ref())),
        Format::Table => {
            let lists = options.show_problem_ips || options.ages;
            text(&inventory, &findings, &done, lists, ages.as_ref())
        }
    };
    let is_complete = ages.is_none_or(|ages| ages.is_complete);
    Ok(Report::new(text, findings.is_empty() && is_complete))
}

/// For people.
fn text(
    inventory: &Inventory,
    findings: &[Finding],
    done: &[String],
    lists: bool,
    ages: Option<&Ages>,
) -> String {
    let mut text = format!(
        "{} pools, {} blocks, {} addresses given out, {} handles, {} nodes, {} pods\n",
        inventory.pools.len(),
        inventory.blocks.len(),
        all(inventory).iter().filter(|allocation| !allocation.is_cooling).count(),
        inventory.handles.len(),
        inventory.nodes.len(),
        inventory.pods.len(),
    );
    for line in done {
        text.push_str(&format!("mended: {}\n", plain(line)));
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry(kind(&finding.problem)).or_default() += 1;
    }
    for (kind, count) in &counts {
        text.push_str(&format!("{count:>7}  {kind}\n"));
    }
    if lists && !findings.is_empty() {
        let mut rows: Vec<_> = findings.iter().map(row).collect();
        let mut columns = vec!["PROBLEM", "IP", "BLOCK", "NODE", "POD", "HANDLE"];
        if let Some(ages) = ages {
            columns.push("UNUSED FOR");
            rows.iter_mut().zip(findings).for_each(|(row, finding)| row.push(or_dash(&ages.text(finding))));
        }
        text.push('\n');
        text.push_str(&table(&columns, &rows));
        text.push('\n');
    }
    match findings.len() {
        0 => text.push_str("Check complete; nothing is wrong.\n"),
        count => {
            text.push_str(&format!("Check complete; found {count} problems."));
            text.push_str(if lists { "\n" } else { " --show-problem-ips lists them.\n" });
        }
    }
    if findings.iter().any(|finding| is_for_its_node(finding, inventory)) {
        text.push_str(
            "Addresses that are not in use on nodes that live are taken back by these nodes after their grace \
             period.\n",
        );
    }
    text
}

/// Nodes that live and have something to take back.
fn nodes_to_ask(inventory: &Inventory, findings: &[Finding]) -> BTreeSet<String> {
    let theirs = findings.iter().filter(|finding| is_for_its_node(finding, inventory));
    theirs.filter_map(|finding| Some(finding.node.as_ref()?.to_string())).collect()
}

fn is_for_its_node(finding: &Finding, inventory: &Inventory) -> bool {
    matches!(finding.problem, Problem::NotInUse(_))
        && finding.node.as_ref().is_some_and(|node| inventory.nodes.contains_key(node))
}

/// Without the numbers that differ from one to the next.
fn kind(problem: &Problem) -> String {
    match problem {
        Problem::HandleCount { .. } => "handle and block count different numbers".to_owned(),
        problem => problem.to_string(),
    }
}

fn row(finding: &Finding) -> Vec<String> {
    let text = |value: Option<String>| or_dash(&plain(&value.unwrap_or_default()));
    vec![
        finding.problem.to_string(),
        text(finding.address.map(|address| address.to_string())),
        text(finding.block.map(|block| block.to_string())),
        text(finding.node.as_ref().map(ToString::to_string)),
        text(finding.pod.as_ref().map(ToString::to_string)),
        text(finding.handle.clone()),
    ]
}

/// For programs, and for `release --from-report`.
fn report(inventory: &Inventory, findings: &[Finding], done: &[String], ages: Option<&Ages>) -> Value {
    let one = |finding: &Finding| {
        let mut one = json!({
            "problem": finding.problem.name(),
            "text": finding.problem.to_string(),
            "ip": finding.address,
            "block": finding.block.map(|block| block.to_string()),
            "handle": finding.handle,
            "sequenceNumber": finding.sequence_number,
            "node": finding.node.as_ref().map(ToString::to_string),
            "pod": finding.pod.as_ref().map(ToString::to_string),
        });
        if let Some(age) = ages.and_then(|ages| ages.of(finding)) {
            one["unusedSeconds"] = json!(age.seconds);
            one["graceSeconds"] = json!(age.grace);
        }
        one
    };
    json!({
        "version": 1,
        "blocks": inventory.blocks.len(),
        "allocations": all(inventory).iter().filter(|allocation| !allocation.is_cooling).count(),
        "handles": inventory.handles.len(),
        "mended": done,
        "findings": findings.iter().map(one).collect::<Vec<_>>(),
    })
}

/// Acts on what is wrong now and still is after the wait, by the rules that the controllers go by.
async fn fix(
    datastore: &Datastore,
    before: &Inventory,
    configuration: &IpamConfiguration,
    findings: &[Finding],
    wait: u64,
) -> Result<Vec<String>, CallError> {
    let wait = Duration::from_secs(wait);
    let mut gone = GoneNodes::new(wait);
    let turns = look(&mut gone, before);
    for turn in turns {
        if let Turn::Ask(node) = turn {
            let version = client(datastore, &node, configuration).ask().await.map_err(failed)?;
            gone.asked(&node, version, Instant::now());
        }
    }
    eprintln!("ocicat: waits {} s, in which a node that lives says so", wait.as_secs());
    tokio::time::sleep(wait).await;
    let (after, _) = read_all(datastore).await?;
    let mut done = Vec::new();
    for turn in look(&mut gone, &after) {
        match turn {
            Turn::Release(node, version) => {
                done.push(release(datastore, &after, configuration, &node, &version).await?);
            }
            Turn::Withdraw(node) => client(datastore, &node, configuration).answer().await.map_err(failed)?,
            Turn::Ask(_) => {}
        }
    }
    let still: Vec<Finding> =
        audit(&after).into_iter().filter(|finding| findings.contains(finding)).collect();
    let nobody = client(datastore, &NodeName::from(""), configuration);
    let mut handles: BTreeSet<String> = BTreeSet::new();
    for finding in &still {
        if matches!(finding.problem, Problem::HandleEmpty | Problem::HandleCount { .. }) {
            handles.extend(finding.handle.clone());
        }
    }
    for handle in handles {
        nobody.settle_handle(&handle).await.map_err(failed)?;
        done.push(format!("handle {handle} counts what the blocks say"));
    }
    for (handle, blocks) in missing(&still) {
        nobody.restore_handle(&handle, &blocks).await.map_err(failed)?;
        done.push(format!("handle {handle} was missing, and counts what the blocks say"));
    }
    let unowned = |inventory: &Inventory| {
        gc::unowned_blocks(&inventory.blocks, ipam::is_empty).into_iter().collect::<BTreeSet<_>>()
    };
    for spare in unowned(before).intersection(&unowned(&after)) {
        nobody.drop_unowned(spare.cidr).await.map_err(failed)?;
        done.push(format!("block {} was empty and nobody's, and is deleted", spare.cidr));
    }
    Ok(done)
}

/// Handles that do not exist, with the blocks that name them.
fn missing(findings: &[Finding]) -> BTreeMap<String, BTreeSet<Cidr>> {
    let mut missing: BTreeMap<String, BTreeSet<Cidr>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.problem == Problem::HandleMissing) {
        if let (Some(handle), Some(block)) = (&finding.handle, finding.block) {
            missing.entry(handle.clone()).or_default().insert(block);
        }
    }
    missing
}

fn look(gone: &mut GoneNodes, inventory: &Inventory) -> Vec<Turn> {
    let nodes: BTreeSet<NodeName> = inventory.nodes.keys().cloned().collect();
    gone.look(Instant::now(), &nodes, &holders(&inventory.blocks, &inventory.affinities))
}

/// Acts for a node that cannot.
fn client(datastore: &Datastore, node: &NodeName, configuration: &IpamConfiguration) -> IpamClient {
    let client = IpamClient::new(datastore, node.clone());
    client.observe(&Update::IpamConfiguration(Some(configuration.clone())), node);
    client.observe(&Update::InSync, node);
    client
}

async fn release(
    datastore: &Datastore,
    inventory: &Inventory,
    configuration: &IpamConfiguration,
    node: &NodeName,
    version: &ipam::Version,
) -> Result<String, CallError> {
    let client = client(datastore, node, configuration);
    if client.is_unanswered(version).await.map_err(failed)?.is_none() {
        return Ok(format!(
            "nothing of node {node}: it has no Node object, but its agent says that it lives"
        ));
    }
    if datastore.has_node(node).await.map_err(away)? {
        client.answer().await.map_err(failed)?;
        return Ok(format!("nothing of node {node}: it is there again"));
    }
    let pods = datastore.pod_answers(Some(node)).await.map_err(away)?;
    let plan = gc::plan(node, &inventory.blocks, &inventory.affinities, &pods);
    let freed = client.clean_up(&plan).await.map_err(failed)?;
    if plan.is_whole() {
        client.answer().await.map_err(failed)?;
    }
    Ok(format!("node {node} is gone: {freed} addresses and {} blocks freed", plan.claims.len()))
}

/// Of a finding that says so: it is not in use, and why.
pub(super) fn why_unused(finding: &Finding) -> Option<Why> {
    match finding.problem {
        Problem::NotInUse(why) => Some(why),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ipam::{allocate, new_block};
    use model::AllocationAttributes;

    use super::*;

    fn inventory() -> Inventory {
        let secondary = [("node", "n1"), ("namespace", "default"), ("pod", "gone\u{1b}")];
        let secondary = secondary.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let handle = Some("net.c1".to_owned());
        let attributes = AllocationAttributes { handle, secondary, released_at: None };
        let block = new_block("10.0.0.0/30".parse().unwrap(), "n1".into(), 1);
        Inventory {
            blocks: vec![allocate(&block, 1, &attributes, &ipam::Settings::default())],
            nodes: BTreeMap::from([("n1".into(), Default::default())]),
            ..Inventory::default()
        }
    }

    #[test]
    fn what_is_wrong_is_counted_and_listed() {
        let inventory = inventory();

        let text = text(&inventory, &audit(&inventory), &[], true, None);

        let expected = "\
0 pools, 1 blocks, 1 addresses given out, 0 handles, 1 nodes, 0 pods
      1  allocated to a handle that does not exist
      1  allocated, in no IPPool
      1  allocated, not in use: the Pod is gone
      1  block of a node that has no affinity for it

PROBLEM                                      IP        BLOCK        NODE  POD            HANDLE
allocated, not in use: the Pod is gone       10.0.0.0  10.0.0.0/30  n1    default/gone   net.c1
allocated, in no IPPool                      10.0.0.0  10.0.0.0/30  n1    default/gone   net.c1
allocated to a handle that does not exist    10.0.0.0  10.0.0.0/30  n1    default/gone   net.c1
block of a node that has no affinity for it  -         10.0.0.0/30  n1    -              -

Check complete; found 4 problems.
Addresses that are not in use on nodes that live are taken back by these nodes after their grace period.
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_report_has_what_a_release_needs() {
        let inventory = inventory();

        let report = report(&inventory, &audit(&inventory), &[], None);

        let finding = &report["findings"][0];
        assert_eq!(finding["problem"], "not-in-use");
        assert_eq!((&finding["ip"], &finding["handle"]), (&json!("10.0.0.0"), &json!("net.c1")));
        assert_eq!(finding["sequenceNumber"], 2);
    }

    #[test]
    fn what_its_node_suspects_has_an_age() {
        let inventory = inventory();
        let findings = audit(&inventory);
        let (address, handle) = ("10.0.0.0".to_owned(), "net.c1".to_owned());
        let suspect = proto::felix::Suspect { address, handle, seconds: 40 };
        let told =
            proto::felix::Suspects { node: "n1".to_owned(), grace_seconds: 300, addresses: vec![suspect] };
        let ages = Ages::told(vec![told], true);

        let text = text(&inventory, &findings, &[], true, Some(&ages));

        assert!(text.contains("net.c1  40s of 5m00s\n"), "{text}");
        assert_eq!(nodes_to_ask(&inventory, &findings), ["n1".to_owned()].into());
        let report = report(&inventory, &findings, &[], Some(&ages));
        assert_eq!(report["findings"][0]["unusedSeconds"], 40);
        assert_eq!(report["findings"][0]["graceSeconds"], 300);
        let others = report["findings"].as_array().unwrap();
        assert!(others[1..].iter().all(|finding| finding["unusedSeconds"].is_null()), "{report:#}");
    }
}
