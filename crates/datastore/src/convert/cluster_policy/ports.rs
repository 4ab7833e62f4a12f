//! Protocols and ports of a rule.

use model::{PortMatch, PortRange, Protocol};

use super::super::product::Resolved;
use super::spec::{AdminPort, Port, ProtocolMatch, Range};

impl ProtocolMatch {
    /// Exactly one protocol, or the name of a port of any.
    pub(super) fn resolve(&self) -> Result<Resolved, String> {
        let numbered = [(&self.tcp, Protocol::TCP), (&self.udp, Protocol::UDP), (&self.sctp, Protocol::SCTP)];
        let mut given =
            numbered.into_iter().filter_map(|(ports, protocol)| Some((ports.as_ref()?, protocol)));
        match (given.next(), given.next(), &self.destination_named_port) {
            (Some((ports, protocol)), None, None) => {
                let port = ports.destination_port.as_ref().ok_or_else(|| unknown(protocol))?;
                Ok((Some(protocol), vec![port.resolve()?]))
            }
            (None, None, Some(name)) => Ok((None, vec![named(name)?])),
            _ => Err("a protocol says not exactly one of tcp, udp, sctp and destinationNamedPort".to_owned()),
        }
    }
}

/// The API has a field here that we do not know.
fn unknown(protocol: Protocol) -> String {
    format!("{protocol} says no destinationPort")
}

impl Port {
    fn resolve(&self) -> Result<PortMatch, String> {
        match (self.number.filter(|number| *number != 0), &self.range) {
            (Some(number), None) => range(number, number),
            (None, Some(Range { start, end })) => range(*start, *end),
            _ => Err("a port says not exactly one of number and range".to_owned()),
        }
    }
}

impl AdminPort {
    /// Exactly one port or range, or the name of a port of any protocol.
    pub(super) fn resolve(&self) -> Result<Resolved, String> {
        match (&self.port_number, &self.port_range, &self.named_port) {
            (Some(port), None, None) => {
                Ok((Some(protocol(port.protocol.as_deref())?), vec![range(port.port, port.port)?]))
            }
            (None, Some(ports), None) => {
                Ok((Some(protocol(ports.protocol.as_deref())?), vec![range(ports.start, ports.end)?]))
            }
            (None, None, Some(name)) => Ok((None, vec![named(name)?])),
            _ => Err("a port says not exactly one of portNumber, portRange and namedPort".to_owned()),
        }
    }
}

fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::TCP),
        "UDP" => Ok(Protocol::UDP),
        "SCTP" => Ok(Protocol::SCTP),
        other => Err(format!("protocol {other:?} is none of TCP, UDP and SCTP")),
    }
}

fn named(name: &str) -> Result<PortMatch, String> {
    match name.parse() {
        Ok(PortMatch::Named(name)) => Ok(PortMatch::Named(name)),
        _ => Err(format!("{name:?} is not the name of a port")),
    }
}

fn range(first: i32, last: i32) -> Result<PortMatch, String> {
    let port = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0).ok_or(format!("{n} is not a port"));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("the range {first} to {last} is upside down"));
    }
    Ok(PortMatch::Range(PortRange { first, last }))
}
