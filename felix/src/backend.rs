//! Which backend of iptables carries our rules: the one that others on the node use, unless a setting forces one.
//!
//! Decides; the dataplane writes to the new one first and then sweeps the old one.

use std::io;

use kernel_linux::Backend;
use model::{Family, IptablesBackend};

/// Opens the programs of one backend and family.
pub type Open<D> = Box<dyn FnMut(Backend, Family) -> io::Result<D> + Send>;

pub struct Backends<D> {
    /// What carries our rules now.
    present: Backend,
    /// What was found at the start.
    detected: Backend,
    /// What the kubelet's or kube-proxy's marks say since.
    hinted: Option<Backend>,
    setting: IptablesBackend,
    families: Vec<Family>,
    open: Open<D>,
    /// Why the last change was not made.
    failed: Option<String>,
}

impl<D> Backends<D> {
    /// `present` was detected and is in use for `families`.
    pub fn new(present: Backend, families: Vec<Family>, open: Open<D>) -> Self {
        let setting = IptablesBackend::Auto;
        Self { present, detected: present, hinted: None, setting, families, open, failed: None }
    }

    pub fn set(&mut self, setting: IptablesBackend) {
        self.setting = setting;
    }

    /// Marks that are gone change nothing: who uses the other backend says so.
    pub fn hint(&mut self, hinted: Option<Backend>) {
        if hinted.is_some() {
            self.hinted = hinted;
        }
    }

    /// The drivers through which rules are to be written from now on; none when nothing changes. What cannot be
    /// opened changes nothing and is tried again at the next call.
    pub fn change(&mut self) -> Vec<(Family, D)> {
        let wanted = match self.setting {
            IptablesBackend::Legacy => Backend::Legacy,
            IptablesBackend::Nft => Backend::Nft,
            IptablesBackend::Auto => self.hinted.unwrap_or(self.detected),
        };
        if wanted == self.present {
            self.failed = None;
            return Vec::new();
        }
        let open = |family: &Family| Ok((*family, (self.open)(wanted, *family)?));
        match self.families.iter().map(open).collect::<io::Result<Vec<_>>>() {
            Ok(drivers) => {
                tracing::info!(from = %self.present, to = %wanted, "rules move to another iptables backend");
                (self.present, self.failed) = (wanted, None);
                drivers
            }
            Err(error) => {
                let error = error.to_string();
                if self.failed.as_ref() != Some(&error) {
                    tracing::warn!(backend = %wanted, error, "rules stay in the present iptables backend");
                    self.failed = Some(error);
                }
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends() -> Backends<Backend> {
        Backends::new(Backend::Nft, vec![Family::V4], Box::new(|backend, _| Ok(backend)))
    }

    #[test]
    fn a_setting_forces_and_marks_move() {
        let mut backends = backends();
        assert_eq!(backends.change(), []);

        backends.set(IptablesBackend::Legacy);
        assert_eq!(backends.change(), [(Family::V4, Backend::Legacy)]);
        backends.hint(Some(Backend::Nft));
        assert_eq!(backends.change(), []);

        backends.set(IptablesBackend::Auto);
        assert_eq!(backends.change(), [(Family::V4, Backend::Nft)]);
        backends.hint(Some(Backend::Legacy));
        assert_eq!(backends.change(), [(Family::V4, Backend::Legacy)]);
        backends.hint(None);
        assert_eq!(backends.change(), []);
    }

    #[test]
    fn what_cannot_be_opened_stays_and_is_tried_again() {
        let mut tries = 0;
        let open = move |backend, _| {
            tries += 1;
            if tries == 1 { Err(io::Error::other("no program")) } else { Ok(backend) }
        };
        let mut backends = Backends::new(Backend::Nft, vec![Family::V4], Box::new(open));
        backends.hint(Some(Backend::Legacy));

        assert_eq!(backends.change(), []);
        assert_eq!(backends.change(), [(Family::V4, Backend::Legacy)]);
    }
}
