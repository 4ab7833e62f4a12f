//! What decides who is in an IP set, and the ID that follows from it (`spec/felix.md` §2.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kernel::IpSetKind;
use model::{ObjectKey, Protocol, Selector};
use sha2::{Digest, Sha224};

use crate::SetId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetDefinition {
    /// The addresses of what matches.
    Selector(Selector),
    /// Address and port of what matches and declares a port of this name; of every protocol when `None`.
    NamedPort { selector: Selector, protocol: Option<Protocol>, name: String },
    /// Addresses of a Service's endpoints, with their ports or without.
    Service { service: ObjectKey, ports: bool },
}

impl SetDefinition {
    pub(crate) fn id(&self) -> SetId {
        match self {
            Self::Selector(selector) => SetId::new(selector.set_id()),
            Self::NamedPort { selector, protocol, name } => {
                let protocol = protocol.map_or("any".to_owned(), |p| p.to_string().to_lowercase());
                hashed("n", &format!("{},{protocol},{name}", selector.set_id()))
            }
            Self::Service { service, ports: true } => hashed("svc", &service.to_string()),
            Self::Service { service, ports: false } => hashed("svcnoport", &service.to_string()),
        }
    }

    pub(crate) fn kind(&self) -> IpSetKind {
        match self {
            Self::Selector(_) | Self::Service { ports: false, .. } => IpSetKind::Net,
            Self::NamedPort { .. } | Self::Service { ports: true, .. } => IpSetKind::IpPort,
        }
    }
}

fn hashed(prefix: &str, text: &str) -> SetId {
    let hash = Sha224::new().chain_update(prefix).chain_update(":").chain_update(text).finalize();
    SetId::new(format!("{prefix}:{}", URL_SAFE_NO_PAD.encode(hash)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_calicos() {
        let id = |text: &str| SetDefinition::Selector(text.parse().unwrap()).id().as_str().to_owned();

        assert_eq!(id("all()"), "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug");
        assert_eq!(id("!(has(b) || !has(a))"), "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q");
        assert_eq!(id("!(a == 'b' && !c != 'd')"), "s:lh3haoY1ikTRkd4UZu0nWSaIBknYLPJLX16d-w");
    }

    #[test]
    fn ids_tell_named_ports_and_services_apart() {
        let port = |protocol, name: &str| {
            let name = name.to_owned();
            SetDefinition::NamedPort { selector: Selector::all(), protocol, name }.id()
        };
        let service =
            |ports| SetDefinition::Service { service: ObjectKey::new("default", "web"), ports }.id();

        // printf 'n:s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug,tcp,http' | sha224sum, in base64
        assert_eq!(port(Some(Protocol::TCP), "http").as_str(), "n:cl9_Kgeu4H0OGLbhovVR3NBLUOZscKeMK1Mu4A");
        assert_eq!(port(None, "http").as_str(), "n:FvKMFOOSYvkZZJ0ch1bwT7bt3AAgySwlMLqMDA");
        // printf svc:default/web | sha224sum, in base64
        assert_eq!(service(true).as_str(), "svc:-B0RxVUwdW1aFEcXPP4q2GF3e68JsTwIe-pf7w");
        assert_eq!(service(false).as_str(), "svcnoport:b_Odath8L_-pMWpLC_tua_hO2jguw5ajClao3w");
    }
}
