//! What an operator does to IPAM by hand.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use datastore::{Datastore, IpamClient};
use ipam::gc::{Allocation, Leak, audit};
use model::{Cidr, NodeName, Update};
use serde_json::{Map, Value, json};

use super::check::why_unused;
use super::show::user;
use super::{ConfigureOptions, ReleaseOptions, SplitOptions, all, away, connect, failed, read, read_all};
use crate::Report;
use crate::client::CallError;
use crate::table::plain;

/// Takes addresses back, with all others of their handles.
pub(super) async fn release(options: &ReleaseOptions, datastore: &Datastore) -> Result<Report, CallError> {
    let (inventory, configuration) = read_all(datastore).await?;
    let given = all(&inventory);
    let unused: BTreeSet<IpAddr> = audit(&inventory)
        .iter()
        .filter(|finding| why_unused(finding).is_some())
        .filter_map(|finding| finding.address)
        .collect();
    let leaks = match (&options.from_report, options.ip) {
        (Some(path), _) => {
            reported(path)?.into_iter().filter(|leak| unused.contains(&leak.address)).collect()
        }
        (None, Some(address)) => {
            let found = given.iter().find(|a| a.address == address && !a.is_cooling);
            let Some(found) = found else {
                return Ok(Report::new(format!("IP {address} is not assigned\n"), true));
            };
            if !options.force && !unused.contains(&address) {
                let (kind, whom) = user(found);
                let reason = format!("{address} is in use: {kind} {}; --force takes it anyway", plain(&whom));
                return Err(CallError::Question { reason });
            }
            of_handle(&given, found)
        }
        (None, None) => Vec::new(),
    };
    let nobody = NodeName::from("");
    let client = IpamClient::new(datastore, nobody.clone());
    client.observe(&Update::IpamConfiguration(Some(configuration)), &nobody);
    client.observe(&Update::InSync, &nobody);
    let freed = client.take_back(&leaks, 0).await.map_err(failed)?;
    Ok(Report::new(format!("{freed} addresses released\n"), true))
}

/// What shares a handle goes together.
fn of_handle(given: &[Allocation], found: &Allocation) -> Vec<Leak> {
    let is_same = |a: &&Allocation| match &found.handle {
        Some(handle) => a.handle.as_ref() == Some(handle) && !a.is_cooling,
        None => a.address == found.address,
    };
    given.iter().filter(is_same).map(Leak::of).collect()
}

/// What a report of `check -o json` calls not in use.
fn reported(path: &Path) -> Result<Vec<Leak>, CallError> {
    let refused = |reason: String| CallError::File { path: path.to_owned(), reason };
    let text = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let report: Value = serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    let Some(findings) = report["findings"].as_array().filter(|_| report["version"] == 1) else {
        return Err(refused("is no report of `ocicat ipam check -o json`".to_owned()));
    };
    let unused = findings.iter().filter(|finding| finding["problem"] == "not-in-use");
    let leak = |finding: &Value| {
        Some(Leak {
            address: finding["ip"].as_str()?.parse().ok()?,
            block: finding["block"].as_str()?.parse().ok()?,
            handle: finding["handle"].as_str().map(str::to_owned),
            sequence_number: finding["sequenceNumber"].as_u64(),
        })
    };
    unused.map(|finding| leak(finding).ok_or_else(|| refused(format!("no address in {finding}")))).collect()
}

/// Replaces a pool by equal parts.
pub(super) async fn split(options: &SplitOptions, datastore: &Datastore) -> Result<Report, CallError> {
    let (inventory, _) = read(datastore).await?;
    let is_meant = |pool: &&model::IpPool| pool.name == options.pool || pool.cidr.to_string() == options.pool;
    let Some(pool) = inventory.pools.iter().find(is_meant) else {
        return Err(CallError::Question { reason: format!("there is no IPPool {}", plain(&options.pool)) });
    };
    let parts =
        parts(pool.cidr, options.parts, pool.block_size).map_err(|reason| CallError::Usage { reason })?;
    let names = datastore.replace_pool(&pool.name, &parts).await.map_err(away)?;
    let lines: Vec<String> =
        names.iter().zip(&parts).map(|(name, cidr)| format!("IPPool {name} {cidr} created\n")).collect();
    Ok(Report::new(format!("{}IPPool {} deleted\n", lines.concat(), pool.name), true))
}

/// Equal parts of a pool, none smaller than a block.
fn parts(cidr: Cidr, count: u32, block_size: u8) -> Result<Vec<Cidr>, String> {
    if !count.is_power_of_two() || count < 2 {
        return Err(format!("{count} is no power of two above 1"));
    }
    let length = u32::from(cidr.length()) + count.trailing_zeros();
    let Some(length) = u8::try_from(length).ok().filter(|length| *length <= block_size) else {
        return Err(format!("{count} parts of {cidr} would be smaller than its blocks (/{block_size})"));
    };
    let size = 1_u128.checked_shl(u32::from(cidr.family().bits() - length)).unwrap_or(0);
    let part = |number: u32| Cidr::truncated(cidr.nth(u128::from(number) * size)?, length);
    let parts: Vec<Cidr> = (0..count).filter_map(part).collect();
    if parts.len() == count as usize { Ok(parts) } else { Err(format!("{cidr} cannot be cut into {count}")) }
}

/// Changes settings.
pub(super) async fn configure(options: &ConfigureOptions) -> Result<Report, CallError> {
    let mut fields = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(key.to_owned(), value);
        }
    };
    set("strictAffinity", options.settings.strict_affinity.map(|value| json!(value)));
    set("maxBlocksPerHost", options.settings.max_blocks_per_host.map(|value| json!(value)));
    set("ipCooldownSeconds", options.settings.cooldown.map(|value| json!(value)));
    let datastore = connect(&options.cluster).await?;
    datastore.configure_ipam(&fields).await.map_err(away)?;
    let lines = fields.iter().map(|(key, value)| format!("{key} is {value} now\n"));
    Ok(Report::new(lines.collect(), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(parts: &[Cidr]) -> Vec<String> {
        parts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pool_is_cut_into_equal_parts() {
        let cidr = "10.0.0.0/16".parse().unwrap();

        assert_eq!(texts(&parts(cidr, 2, 26).unwrap()), ["10.0.0.0/17", "10.0.128.0/17"]);
        assert_eq!(parts(cidr, 1024, 26).unwrap().len(), 1024);
        assert_eq!(
            parts(cidr, 2048, 26).unwrap_err(),
            "2048 parts of 10.0.0.0/16 would be smaller than its blocks (/26)"
        );
        for count in [0, 1, 3, 12] {
            assert!(parts(cidr, count, 26).is_err(), "{count}");
        }
        let ipv6 = "fd00::/48".parse().unwrap();
        assert_eq!(texts(&parts(ipv6, 2, 122).unwrap()), ["fd00::/49", "fd00:0:0:8000::/49"]);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let path = std::env::temp_dir().join(format!("ocicat-ipam-report-{}", std::process::id()));
        for text in [
            "",
            "{}",
            "{\"version\": 2, \"findings\": []}",
            "{\"version\": 1, \"findings\": [{\"problem\": \"not-in-use\"}]}",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(reported(&path).is_err(), "{text}");
        }
        std::fs::write(&path, "{\"version\": 1, \"findings\": [{\"problem\": \"handle-empty\"}]}").unwrap();
        assert_eq!(reported(&path).unwrap(), []);
        std::fs::remove_file(&path).unwrap();
    }
}
