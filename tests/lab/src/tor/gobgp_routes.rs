//! Carries GoBGP's best routes into the router's kernel, because GoBGP does so only through another daemon.
//! It follows `gobgp monitor`; routes stay when gobgpd goes away and are swept when it does not announce them again.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::gobgp::{API, worlds};
use crate::netlink::{Netlink, PROTO_BGP, Route};
use crate::netns;

/// How long after its return gobgpd may take to learn the routes again.
const RELEARN: Duration = Duration::from_secs(60);
const RECONNECT: Duration = Duration::from_millis(200);

/// Follows gobgpd for ever.
pub(super) async fn follow(namespace: PathBuf) {
    let mut table = Table { namespace, installed: BTreeMap::new() };
    loop {
        if let Err(e) = table.session().await {
            tracing::debug!(error = %e, "gobgpd not followed");
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

struct Table {
    namespace: PathBuf,
    /// Installed routes by destination, and whether this session of gobgpd announced them.
    installed: BTreeMap<(IpAddr, u8), (IpAddr, bool)>,
}

impl Table {
    /// Follows one run of gobgpd to its end.
    async fn session(&mut self) -> io::Result<()> {
        for (world, family) in worlds() {
            let mut announce = self.gobgp(&["global", "rib", "-a", family, "add", world]).await?;
            if !announce.wait().await?.success() {
                return Err(io::Error::other("gobgpd does not answer"));
            }
        }
        let mut child = self.gobgp(&["-j", "monitor", "global", "rib", "--current"]).await?;
        for (_, seen) in self.installed.values_mut() {
            *seen = false;
        }
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe from gobgp"))?;
        let mut lines = BufReader::new(stdout).lines();
        let sweep = Instant::now() + RELEARN;
        let mut swept = false;
        loop {
            tokio::select! {
                line = lines.next_line() => match line? {
                    Some(line) => self.take(&line).await,
                    None => return child.wait().await.map(|_| ()),
                },
                () = tokio::time::sleep_until(sweep), if !swept => {
                    swept = true;
                    self.sweep().await;
                }
            }
        }
    }

    async fn gobgp(&self, arguments: &[&str]) -> io::Result<Child> {
        let (host, port) = API.split_once(':').expect("the address has a port");
        let fixed = ["-u", host, "-p", port];
        let arguments: Vec<String> = fixed.iter().chain(arguments).map(|a| (*a).to_owned()).collect();
        let runtime = tokio::runtime::Handle::current();
        netns::enter(&self.namespace, move || {
            let _entered = runtime.enter();
            Command::new("gobgp")
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
        })
        .await
    }

    async fn take(&mut self, line: &str) {
        for change in parse(line) {
            let key = change.destination;
            match change.gateway {
                Some(gateway) => {
                    if self.installed.insert(key, (gateway, true)).is_none_or(|(old, _)| old != gateway) {
                        self.write(key, gateway, true).await;
                    }
                }
                None => {
                    if let Some((gateway, _)) = self.installed.remove(&key) {
                        self.write(key, gateway, false).await;
                    }
                }
            }
        }
    }

    async fn sweep(&mut self) {
        let stale: Vec<_> =
            self.installed.iter().filter(|(_, (_, seen))| !seen).map(|(k, (g, _))| (*k, *g)).collect();
        for (key, gateway) in stale {
            self.installed.remove(&key);
            self.write(key, gateway, false).await;
        }
    }

    async fn write(&self, destination: (IpAddr, u8), gateway: IpAddr, present: bool) {
        let route = Route { destination, gateway, protocol: PROTO_BGP };
        let written = netns::enter(&self.namespace, move || {
            let mut netlink = Netlink::open()?;
            if present { netlink.replace_route(&route) } else { netlink.delete_route(&route) }
        });
        if let Err(e) = written.await {
            tracing::warn!(?destination, %gateway, present, error = %e, "learned route not written");
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Change {
    destination: (IpAddr, u8),
    /// Absent when the route is withdrawn.
    gateway: Option<IpAddr>,
}

/// Reads one line of `gobgp -j monitor global rib`; what is not a learned unicast route is left out.
fn parse(line: &str) -> Vec<Change> {
    let Ok(Value::Array(paths)) = serde_json::from_str::<Value>(line) else { return Vec::new() };
    paths.iter().filter_map(parse_path).collect()
}

fn parse_path(path: &Value) -> Option<Change> {
    let (address, length) = path["nlri"]["prefix"].as_str()?.split_once('/')?;
    let destination = (address.parse().ok()?, length.parse().ok()?);
    if path["withdrawal"] == true {
        return Some(Change { destination, gateway: None });
    }
    let mut next_hops = path["attrs"].as_array()?.iter().filter_map(|a| a["nexthop"].as_str()?.parse().ok());
    let gateway = next_hops.rfind(|hop: &IpAddr| !hop.is_unspecified())?;
    Some(Change { destination, gateway: Some(gateway) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_and_withdrawals_are_read() {
        let learned = r#"[{"nlri":{"prefix":"10.65.1.0/26"},"attrs":[{"type":3,"nexthop":"172.20.0.11"}],"stale":false}]"#;
        let gone = r#"[{"nlri":{"prefix":"10.65.1.0/26"},"attrs":[],"withdrawal":true}]"#;
        let destination = ("10.65.1.0".parse().unwrap(), 26);
        assert_eq!(parse(learned), [Change { destination, gateway: Some("172.20.0.11".parse().unwrap()) }]);
        assert_eq!(parse(gone), [Change { destination, gateway: None }]);
    }

    #[test]
    fn own_routes_and_noise_are_left_out() {
        assert_eq!(parse("[]"), []);
        assert_eq!(parse("not json"), []);
        assert_eq!(
            parse(r#"[{"nlri":{"prefix":"198.51.100.0/24"},"attrs":[{"type":3,"nexthop":"0.0.0.0"}]}]"#),
            []
        );
    }
}
