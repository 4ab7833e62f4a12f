//! `ocicat ipam show`.

use std::net::IpAddr;

use datastore::Datastore;
use ipam::gc::{Allocation, Inventory, PoolUsage, Usage, User, usage, withhold};
use ipam::holder;
use model::{Cidr, IpamConfiguration};
use serde_json::{Value, json};

use super::{ShowOptions, all, read};
use crate::client::CallError;
use crate::table::{or_dash, plain, table};
use crate::{Format, Report};

pub(super) async fn run(options: &ShowOptions, datastore: &Datastore) -> Result<Report, CallError> {
    let (inventory, configuration) = read(datastore).await?;
    let is_json = options.output.output == Format::Json;
    let text = match options.ip {
        Some(address) if is_json => format!("{:#}\n", address_json(&inventory, address)),
        Some(address) => address_text(&inventory, address),
        None if options.show_borrowed => {
            let borrowed: Vec<Allocation> =
                all(&inventory).into_iter().filter(|a| a.is_borrowed() && !a.is_cooling).collect();
            if is_json { borrowed_json(&borrowed) } else { borrowed_table(&borrowed) }
        }
        None if options.show_configuration => configuration_text(&configuration, is_json),
        None => {
            let mut pools = usage(&inventory.pools, &inventory.blocks);
            withhold(&mut pools, &inventory.reservations, &inventory.blocks);
            if is_json { usage_json(&pools) } else { usage_table(&pools, options.show_blocks) }
        }
    };
    Ok(Report::new(text, true))
}

/// Pools, and with `with_blocks` the blocks of each; blocks without a pool always.
pub(super) fn usage_table(pools: &[PoolUsage], with_blocks: bool) -> String {
    let mut rows = Vec::new();
    for pool in pools {
        if let Some((_, cidr)) = &pool.pool {
            rows.push(usage_row("IP Pool", *cidr, &pool.usage));
        }
        if with_blocks || pool.pool.is_none() {
            let name = if pool.pool.is_some() { "Block" } else { "Block (no pool)" };
            rows.extend(pool.blocks.iter().map(|(cidr, usage)| usage_row(name, *cidr, usage)));
        }
    }
    if rows.is_empty() {
        return "there is no IPPool\n".to_owned();
    }
    let header = [
        "GROUPING",
        "CIDR",
        "IPS TOTAL",
        "IPS IN USE",
        "IPS KEPT READY",
        "IPS RESTING",
        "IPS RESERVED",
        "IPS FREE",
    ];
    table(&header, &rows)
}

fn usage_row(name: &str, cidr: Cidr, usage: &Usage) -> Vec<String> {
    let part = |count: u128| {
        // Shown without decimals; nothing is decided by them.
        let percent = if usage.total == 0 { 0.0 } else { count as f64 * 100.0 / usage.total as f64 };
        format!("{} ({percent:.0}%)", number(count))
    };
    vec![
        name.to_owned(),
        cidr.to_string(),
        number(usage.total),
        part(usage.in_use),
        part(usage.reserved),
        part(usage.resting),
        part(usage.withheld),
        part(usage.free()),
    ]
}

/// Five digits of what is larger, as IPv6 pools are.
pub(crate) fn number(count: u128) -> String {
    if count < 1_000_000 { count.to_string() } else { format!("{:.4e}", count as f64) }
}

fn usage_json(pools: &[PoolUsage]) -> String {
    let one = |cidr: Option<Cidr>, usage: &Usage| {
        json!({
            "cidr": cidr.map(|cidr| cidr.to_string()),
            "total": decimal(usage.total), "inUse": decimal(usage.in_use),
            "keptReady": decimal(usage.reserved), "resting": decimal(usage.resting),
            "reserved": decimal(usage.withheld), "free": decimal(usage.free()), "borrowed": decimal(usage.borrowed),
        })
    };
    let pools = pools.iter().map(|pool| {
        let mut value = one(pool.pool.as_ref().map(|(_, cidr)| *cidr), &pool.usage);
        value["pool"] = json!(pool.pool.as_ref().map(|(name, _)| name));
        value["blocks"] = pool.blocks.iter().map(|(cidr, usage)| one(Some(*cidr), usage)).collect();
        value
    });
    format!("{:#}\n", Value::Array(pools.collect()))
}

/// A number, or a text where JSON has none so large.
fn decimal(count: u128) -> Value {
    u64::try_from(count).map_or_else(|_| Value::String(count.to_string()), Value::from)
}

fn address_text(inventory: &Inventory, address: IpAddr) -> String {
    let found = inventory.blocks.iter().find_map(|block| Some((block, holder(block, address)?)));
    let Some((block, attributes)) = found else { return format!("IP {address} is not assigned\n") };
    let state = if attributes.released_at.is_some() { "was released and rests" } else { "is in use" };
    let mut text = format!("IP {address} {state}\n");
    text.push_str(&format!("Block: {}", block.cidr));
    let owner = block.affinity.as_ref().map_or("of nobody".to_owned(), |owner| format!("of node {owner}"));
    text.push_str(&format!(" {owner}\nHandle ID: {}\n", plain(attributes.handle.as_deref().unwrap_or("-"))));
    text.push_str("Active Owner Attributes:\n");
    for (key, value) in &attributes.secondary {
        text.push_str(&format!("  {}: {}\n", plain(key), plain(value)));
    }
    text
}

fn address_json(inventory: &Inventory, address: IpAddr) -> Value {
    let found = inventory.blocks.iter().find_map(|block| Some((block, holder(block, address)?)));
    let Some((block, attributes)) = found else { return json!({ "ip": address, "inUse": false }) };
    json!({
        "ip": address,
        "inUse": attributes.released_at.is_none(),
        "resting": attributes.released_at.is_some(),
        "block": block.cidr.to_string(),
        "blockOwner": block.affinity.as_ref().map(ToString::to_string),
        "handle": attributes.handle,
        "attributes": attributes.secondary,
    })
}

/// What an allocation is for, and whom.
pub(super) fn user(allocation: &Allocation) -> (&str, String) {
    match &allocation.user {
        User::Pod { key, .. } => ("pod", key.to_string()),
        User::Container => ("container", allocation.handle.clone().unwrap_or_default()),
        User::Tunnel(kind) => (kind, String::new()),
        User::Reserved => ("kept ready", String::new()),
        User::Service(key) => ("service", key.to_string()),
        User::Other(kind) => (kind, allocation.handle.clone().unwrap_or_default()),
        User::Unknown => ("unknown", allocation.handle.clone().unwrap_or_default()),
    }
}

fn borrowed_table(borrowed: &[Allocation]) -> String {
    let name = |node: &Option<model::NodeName>| node.as_ref().map_or("-".to_owned(), ToString::to_string);
    let rows: Vec<_> = borrowed
        .iter()
        .map(|allocation| {
            let (kind, whom) = user(allocation);
            let block = allocation.block.to_string();
            let (node, owner) = (name(&allocation.node), name(&allocation.block_owner));
            vec![allocation.address.to_string(), node, block, owner, plain(kind), or_dash(&plain(&whom))]
        })
        .collect();
    if rows.is_empty() {
        return "no address is borrowed\n".to_owned();
    }
    table(&["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"], &rows)
}

fn borrowed_json(borrowed: &[Allocation]) -> String {
    let one = |allocation: &Allocation| {
        let (kind, whom) = user(allocation);
        json!({
            "ip": allocation.address, "node": allocation.node.as_ref().map(ToString::to_string),
            "block": allocation.block.to_string(),
            "blockOwner": allocation.block_owner.as_ref().map(ToString::to_string),
            "type": kind, "allocatedTo": whom, "handle": allocation.handle,
        })
    };
    format!("{:#}\n", Value::Array(borrowed.iter().map(one).collect()))
}

fn configuration_text(configuration: &IpamConfiguration, is_json: bool) -> String {
    let values = [
        ("strictAffinity", json!(configuration.strict_affinity)),
        ("autoAllocateBlocks", json!(configuration.auto_allocate_blocks)),
        ("maxBlocksPerHost", json!(configuration.max_blocks_per_host)),
        ("ipCooldownSeconds", json!(configuration.cooldown)),
    ];
    if is_json {
        return format!("{:#}\n", values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>());
    }
    let rows: Vec<_> = values.iter().map(|(key, value)| vec![(*key).to_owned(), value.to_string()]).collect();
    table(&["PROPERTY", "VALUE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_blocks_and_orphans_have_their_lines() {
        let usage = |total, in_use| Usage { total, in_use, reserved: 2, resting: 1, ..Usage::default() };
        let block = |text: &str| text.parse::<Cidr>().unwrap();
        let pools = [
            PoolUsage {
                pool: Some(("a".to_owned(), block("10.0.0.0/16"))),
                usage: Usage { withheld: 256, ..usage(65536, 5) },
                blocks: vec![(block("10.0.1.0/26"), usage(64, 5))],
            },
            PoolUsage { pool: None, usage: usage(64, 3), blocks: vec![(block("10.9.0.0/26"), usage(64, 3))] },
        ];

        let expected = "\
GROUPING         CIDR         IPS TOTAL  IPS IN USE  IPS KEPT READY  IPS RESTING  IPS RESERVED  IPS FREE
IP Pool          10.0.0.0/16  65536      5 (0%)      2 (0%)          1 (0%)       256 (0%)      65272 (100%)
Block            10.0.1.0/26  64         5 (8%)      2 (3%)          1 (2%)       0 (0%)        56 (88%)
Block (no pool)  10.9.0.0/26  64         3 (5%)      2 (3%)          1 (2%)       0 (0%)        58 (91%)
";
        assert_eq!(usage_table(&pools, true), expected);
        assert_eq!(usage_table(&pools, false).lines().count(), 3);
        assert_eq!(usage_table(&[], false), "there is no IPPool\n");
        assert_eq!(number(1 << 64), "1.8447e19");
    }
}
