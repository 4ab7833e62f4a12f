//! The kernel's side of the speaker. Owns the copy of the node's own routes, and when these and the table of
//! `proto bird` routes are read and written.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use bgp_packet::Prefix;
use bird_lite::cluster::Cluster;
use bird_lite::fib::Fib;
use bird_lite::kernel_routes::{Context, TUNNEL};
use bird_lite::route_table::RouteTable;
use kernel::PROTO_BIRD;
use kernel_linux::{RouteDriver, RouteOwner, Rtnl};

use crate::monitor::Disturbance;

/// Disturbances that come together are looked at once.
const SETTLE: Duration = Duration::from_millis(50);

/// Kernel routes of this speaker.
pub(crate) struct Dataplane {
    table: RouteTable<RouteDriver>,
    rtnl: Rtnl,
    fib: Fib,
    tunnel_up: bool,
    /// What the kernel may be asked again, and when.
    resync_at: Option<Instant>,
    survey_at: Option<Instant>,
    /// Unwanted routes may go.
    sweep: bool,
    synced: bool,
}

impl Dataplane {
    /// Reads what an earlier run left behind; nothing is written yet.
    pub(crate) fn open() -> io::Result<Self> {
        let driver = RouteDriver::new(vec![RouteOwner::Protocol(PROTO_BIRD)])?;
        let mut dataplane = Self {
            table: RouteTable::adopt(driver)?,
            rtnl: Rtnl::open()?,
            fib: Fib::default(),
            tunnel_up: false,
            resync_at: None,
            survey_at: None,
            sweep: false,
            synced: false,
        };
        dataplane.survey()?;
        Ok(dataplane)
    }

    /// Whether routes of an earlier run are still there: forwarding was kept.
    pub(crate) fn has_adopted(&self) -> bool {
        self.table.count() > 0
    }

    /// Reads the node's own routes and the state of the tunnel. Gives back whether something changed.
    fn survey(&mut self) -> io::Result<bool> {
        let fib = Fib::new(self.rtnl.all_routes()?);
        let tunnel_up = self.rtnl.link_by_name(TUNNEL)?.is_some_and(|link| link.up);
        let changed = fib != self.fib || tunnel_up != self.tunnel_up;
        self.fib = fib;
        self.tunnel_up = tunnel_up;
        Ok(changed)
    }

    /// Notes that the kernel has changed.
    pub(crate) fn disturb(&mut self, disturbance: Disturbance, now: Instant) {
        if disturbance != Disturbance::Surroundings {
            self.resync_at.get_or_insert(now + SETTLE);
        }
        if disturbance != Disturbance::OwnRoutes {
            self.survey_at.get_or_insert(now + SETTLE);
        }
    }

    /// Takes over a change of the Loc-RIB.
    pub(crate) fn learn(&mut self, cluster: &Cluster, prefix: Prefix, route: Option<bgp::Route>) {
        let context = Context { cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.learn(context, prefix, route);
    }

    /// Decides about every route anew: pools, nodes or the node's own routes have changed.
    pub(crate) fn decide_all(&mut self, cluster: &Cluster) {
        let context = Context { cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.decide_all(context);
    }

    /// Decides about some routes anew: what this node holds of them has changed.
    pub(crate) fn decide_some(&mut self, cluster: &Cluster, prefixes: &BTreeSet<Prefix>) {
        let context = Context { cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.decide_some(context, prefixes);
    }

    /// From now on unwanted routes go: the peers have said what they have.
    pub(crate) fn allow_sweep(&mut self) {
        self.sweep = true;
    }

    /// When `work` is due next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.resync_at, self.survey_at, self.table.poll_timeout()].into_iter().flatten().min()
    }

    /// Looks at what was disturbed, and writes what differs.
    pub(crate) fn work(&mut self, cluster: &Cluster, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.survey_at) {
            self.survey_at = None;
            match self.survey() {
                Ok(true) => {
                    self.table.retry_now(now);
                    self.decide_all(cluster);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot read the node's routes");
                    self.survey_at = Some(now + Duration::from_secs(1));
                }
            }
        }
        if due(self.resync_at) {
            self.resync_at = None;
            if let Err(error) = self.table.resync() {
                tracing::warn!(%error, "cannot read our routes");
                self.resync_at = Some(now + Duration::from_secs(1));
            }
        }
        let applied = self.table.apply(self.sweep, now);
        self.synced = true;
        if applied.written + applied.deleted > 0 {
            tracing::info!(written = applied.written, deleted = applied.deleted, "kernel routes");
        }
        for (key, error) in applied.failed {
            tracing::warn!(destination = %key.destination, %error, "cannot write route");
        }
    }

    /// What is wanted has been written once.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// How many routes of ours the kernel has.
    pub(crate) fn count(&self) -> usize {
        self.table.count()
    }

    /// Routes that ought to be in the kernel and are not, with the reason.
    pub(crate) fn pending(&self) -> Vec<(String, String)> {
        self.table.pending()
    }
}
