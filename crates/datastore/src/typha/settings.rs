//! What says whether and how typha is used, by Felix's names of the parameters.

use std::path::PathBuf;
use std::time::Duration;

use super::tls::{Files, Identity};

/// How a program of a node uses typha.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub place: Place,
    /// `None`: without TLS.
    pub tls: Option<(Files, Identity)>,
    /// A typha that says nothing for so long is left.
    pub read_timeout: Duration,
    /// What is written must be taken within this.
    pub write_timeout: Duration,
    /// After so long without any typha, the API server is listened to. `None`: never.
    pub fallback: Option<Duration>,
}

/// Where typha is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `host:port`.
    Address(String),
    Service {
        namespace: String,
        name: String,
    },
}

/// A parameter that cannot be used; nothing is done without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongSetting(String);

impl Settings {
    /// Reads parameters by their names such as `TyphaAddr`; `None` when neither an address nor a Service is named.
    /// `fallback` is in seconds, 0 for never.
    ///
    /// # Errors
    /// When TLS is asked for by halves, or a number is none.
    pub fn from_parameters(
        parameter: impl Fn(&str) -> Option<String>,
        fallback: Option<&str>,
    ) -> Result<Option<Self>, WrongSetting> {
        let text =
            |name: &str| parameter(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let service = text("TyphaK8sServiceName").filter(|name| name != "none");
        let place = match (text("TyphaAddr"), service) {
            (Some(address), _) => Place::Address(address),
            (None, Some(name)) => {
                let namespace = text("TyphaK8sNamespace").unwrap_or_else(|| "kube-system".to_owned());
                Place::Service { namespace, name }
            }
            (None, None) => return Ok(None),
        };
        let file = |name: &str| text(name).map(PathBuf::from);
        let identity = Identity { common_name: text("TyphaCN"), uri_san: text("TyphaURISAN") };
        let tls = match (file("TyphaCAFile"), file("TyphaCertFile"), file("TyphaKeyFile")) {
            (None, None, None) if identity.is_any() => None,
            (Some(ca), Some(certificate), Some(key)) if !identity.is_any() => {
                Some((Files { ca, certificate, key }, identity))
            }
            _ => {
                let all = "TLS with typha needs TyphaCAFile, TyphaCertFile, TyphaKeyFile and TyphaCN or TyphaURISAN";
                return Err(WrongSetting(all.to_owned()));
            }
        };
        let seconds = |name: &str, text: Option<&str>, default: u64| match text.map(str::parse::<f64>) {
            None => Ok(Duration::from_secs(default)),
            Some(Ok(seconds)) if (0.0..1e9).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
            Some(_) => Err(WrongSetting(format!("{name} is no number of seconds"))),
        };
        let read_timeout = seconds("TyphaReadTimeout", text("TyphaReadTimeout").as_deref(), 30)?;
        let write_timeout = seconds("TyphaWriteTimeout", text("TyphaWriteTimeout").as_deref(), 10)?;
        let fallback = seconds("OCICAT_TYPHA_FALLBACK", fallback, 0)?;
        let fallback = Some(fallback).filter(|after| !after.is_zero());
        Ok(Some(Self { place, tls, read_timeout, write_timeout, fallback }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(given: &[(&str, &str)]) -> Result<Option<Settings>, WrongSetting> {
        let find = |name: &str| given.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        Settings::from_parameters(find, find("fallback").as_deref())
    }

    #[test]
    fn typha_is_used_when_it_is_named() {
        assert_eq!(settings(&[]), Ok(None));
        assert_eq!(settings(&[("TyphaK8sServiceName", "none")]), Ok(None));
        let by_name =
            settings(&[("TyphaK8sServiceName", "calico-typha"), ("fallback", "60")]).unwrap().unwrap();
        let name = "calico-typha".to_owned();
        assert_eq!(by_name.place, Place::Service { namespace: "kube-system".to_owned(), name });
        assert_eq!((by_name.read_timeout.as_secs(), by_name.fallback), (30, Some(Duration::from_secs(60))));
        let by_address = settings(&[("TyphaAddr", "192.0.2.1:5473"), ("TyphaK8sServiceName", "x")]);
        assert_eq!(by_address.unwrap().unwrap().place, Place::Address("192.0.2.1:5473".to_owned()));
    }

    #[test]
    fn tls_by_halves_is_refused() {
        let address = ("TyphaAddr", "192.0.2.1:5473");
        let files = [("TyphaCAFile", "ca"), ("TyphaCertFile", "cert"), ("TyphaKeyFile", "key")];
        let cn = ("TyphaCN", "typha-server");
        assert!(settings(&[address, files[0], files[1], files[2], cn]).unwrap().unwrap().tls.is_some());
        for half in [vec![address, files[0]], vec![address, cn], vec![address, files[0], files[1], files[2]]]
        {
            assert!(settings(&half).is_err(), "{half:?}");
        }
    }

    #[test]
    fn a_time_that_is_none_is_refused() {
        let address = ("TyphaAddr", "192.0.2.1:5473");
        for (name, value) in [("TyphaReadTimeout", "soon"), ("TyphaWriteTimeout", "-1"), ("fallback", "inf")]
        {
            assert!(settings(&[address, (name, value)]).is_err(), "{name}={value}");
        }
    }
}
