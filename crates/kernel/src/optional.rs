//! A way into the kernel that a node may do without: no programs of iptables, no IP sets.

use std::collections::BTreeSet;
use std::io;

use crate::ipset::{IpSet, IpSetName};
use crate::ipset_table::{IpSetPort, IpSetProbe, IpSetWrite};
use crate::iptables_tables::{IptablesDriver, RestoreSection, RestoreTimes};

/// Opens the driver.
type Open<D> = Box<dyn FnMut() -> io::Result<D> + Send>;

/// A driver, or what would open one. While there is none, the kernel looks empty through it and takes nothing, with
/// the reason; each use tries to open it again.
pub struct Optional<D> {
    driver: Option<D>,
    open: Open<D>,
}

impl<D> Optional<D> {
    /// Tries to open the driver; says why that failed.
    pub fn new(mut open: impl FnMut() -> io::Result<D> + Send + 'static) -> (Self, Option<io::Error>) {
        let (driver, error) = match open() {
            Ok(driver) => (Some(driver), None),
            Err(error) => (None, Some(error)),
        };
        (Self { driver, open: Box::new(open) }, error)
    }

    /// One that is there.
    pub fn present(driver: D) -> Self {
        let open = || Err(io::Error::other("it is there already"));
        Self { driver: Some(driver), open: Box::new(open) }
    }

    fn get(&mut self) -> io::Result<&mut D> {
        if self.driver.is_none() {
            self.driver = Some((self.open)()?);
        }
        Ok(self.driver.as_mut().expect("it was just put there"))
    }

    /// The same refusal for each of so many.
    fn refuse(error: &io::Error, count: usize) -> impl Iterator<Item = (usize, io::Error)> {
        let (kind, text) = (error.kind(), error.to_string());
        (0..count).map(move |index| (index, io::Error::new(kind, text.clone())))
    }
}

impl<D: IptablesDriver> IptablesDriver for Optional<D> {
    fn save(&mut self) -> io::Result<String> {
        self.get().map_or_else(|_| Ok(String::new()), IptablesDriver::save)
    }

    fn restore(&mut self, sections: &[RestoreSection]) -> Vec<(usize, io::Error)> {
        match self.get() {
            Ok(driver) => driver.restore(sections),
            Err(error) => Self::refuse(&error, sections.len()).collect(),
        }
    }

    fn fingerprint(&mut self) -> Option<u64> {
        self.driver.as_mut()?.fingerprint()
    }

    fn has_written(&self, writer: u32) -> bool {
        self.driver.as_ref().is_some_and(|driver| driver.has_written(writer))
    }

    fn take_times(&mut self) -> Option<RestoreTimes> {
        self.driver.as_mut()?.take_times()
    }
}

impl<D: IpSetPort> IpSetPort for Optional<D> {
    fn names(&mut self) -> io::Result<BTreeSet<IpSetName>> {
        self.get().map_or_else(|_| Ok(BTreeSet::new()), IpSetPort::names)
    }

    fn absent(&mut self, members: &[IpSetProbe<'_>]) -> io::Result<Vec<usize>> {
        match self.get() {
            Ok(driver) => driver.absent(members),
            Err(_) => Ok((0..members.len()).collect()),
        }
    }

    fn read(&mut self, name: &IpSetName) -> io::Result<Option<IpSet>> {
        self.get().map_or(Ok(None), |driver| driver.read(name))
    }

    fn write(&mut self, writes: &[IpSetWrite<'_>]) -> Vec<(usize, io::Error)> {
        match self.get() {
            Ok(driver) => driver.write(writes),
            Err(error) => Self::refuse(&error, writes.len()).collect(),
        }
    }

    fn destroy(&mut self, names: &[IpSetName]) -> Vec<(IpSetName, io::Error)> {
        self.get().map_or_else(|_| Vec::new(), |driver| driver.destroy(names))
    }

    fn set_max_size(&mut self, members: u32) {
        self.driver.iter_mut().for_each(|driver| driver.set_max_size(members));
    }
}
