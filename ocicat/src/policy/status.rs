//! `ocicat policy status`: which policies are in the kernel of each node.

use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use proto::felix::{GovernedInterface, PolicyStatus, ProgrammedPolicy};
use serde_json::{Value, json};

use crate::client::CallError;
use crate::felix::FelixTarget;
use crate::table::{or_dash, plain, table};
use crate::{Format, Report};

/// All is well when every policy that a node needs is in its kernel, and nothing else is otherwise than asked for.
pub(crate) fn run(target: &FelixTarget, format: Format) -> Result<Report, CallError> {
    let answers = target.ask_each(&Call::PolicyStatus(request::PolicyStatus {}), |answer| match answer {
        Answer::PolicyStatus(status) => Some((status.node.clone(), status)),
        _ => None,
    })?;
    let nodes = answers.given;
    let is_well = nodes.iter().flat_map(|node| &node.policies).all(|policy| policy.programmed)
        && nodes.iter().all(|node| node.problems.is_empty());
    let text = match format {
        Format::Json => format!("{:#}\n", Value::Array(nodes.iter().map(node_json).collect())),
        Format::Table => status_table(&nodes),
    };
    Ok(Report::new(text, is_well && answers.is_complete))
}

fn status_table(nodes: &[PolicyStatus]) -> String {
    let rows: Vec<_> =
        nodes.iter().flat_map(|node| node.policies.iter().map(|policy| row(&node.node, policy))).collect();
    let mut text = match rows.is_empty() {
        true => "no node that was asked needs a policy\n".to_owned(),
        false => table(&["NODE", "POLICY", "GENERATION", "UP TO DATE", "WHY NOT"], &rows),
    };
    let governed: Vec<_> =
        nodes.iter().flat_map(|node| node.host_endpoints.iter().map(|of| governed(node, of))).collect();
    if !governed.is_empty() {
        text.push_str(&format!("\n{}", table(&["NODE", "INTERFACE", "HOST ENDPOINT"], &governed)));
    }
    let problems = nodes.iter().flat_map(|node| node.problems.iter().map(|problem| (&node.node, problem)));
    let problems: Vec<_> = problems.map(|(node, problem)| format!("{node}: {}\n", plain(problem))).collect();
    if !problems.is_empty() {
        text.push_str(&format!("\nNot in force as somebody wants it:\n{}", problems.concat()));
    }
    text
}

fn governed(node: &PolicyStatus, governed: &GovernedInterface) -> Vec<String> {
    let interface = if governed.interface == "*" { "* (all others)" } else { &governed.interface };
    vec![node.node.clone(), plain(interface), plain(&governed.host_endpoint)]
}

fn row(node: &str, policy: &ProgrammedPolicy) -> Vec<String> {
    let generation = if policy.generation > 0 { policy.generation.to_string() } else { "-".to_owned() };
    vec![
        node.to_owned(),
        policy.policy.clone(),
        generation,
        if policy.programmed { "yes" } else { "no" }.to_owned(),
        or_dash(&plain(&policy.error)),
    ]
}

fn node_json(node: &PolicyStatus) -> Value {
    let policies = node.policies.iter().map(|policy| {
        json!({
            "policy": policy.policy,
            "generation": policy.generation,
            "programmed": policy.programmed,
            "error": policy.error,
        })
    });
    let governed = node.host_endpoints.iter();
    let governed = governed.map(|of| json!({ "interface": of.interface, "hostEndpoint": of.host_endpoint }));
    json!({
        "node": node.node,
        "policies": policies.collect::<Vec<_>>(),
        "hostEndpoints": governed.collect::<Vec<_>>(),
        "problems": node.problems,
    })
}
