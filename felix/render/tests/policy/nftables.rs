//! The same node with nftables: what its renderer says goes into a fake kernel's tables, spelled as expressions, and
//! every packet is walked over these, too.

use std::cell::RefCell;
use std::time::Instant;

use felix_render::{IpSetChange, Output, RenderSettings, Renderer};
use kernel::fake::{FakeKernel, FakeNft};
use kernel::interpret::{Outcome, Packet, SourceNat, walk};
use kernel::nft::{Nftables, machine};

use crate::dataplane::Dataplane;

/// A renderer for nftables, and what became of its rules: as they are meant, and as they are spelled.
pub struct Node {
    pub renderer: Renderer,
    pub dataplane: Dataplane,
    kernel: FakeKernel,
    tables: RefCell<Nftables<FakeNft>>,
    start: Instant,
}

impl Drop for Node {
    /// What the tables believe to be there must be there.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.tables.get_mut().resync().expect("a fake kernel can be read"), 0);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is where the clock may be read")]
fn now() -> Instant {
    Instant::now()
}

impl Node {
    pub fn new(settings: RenderSettings) -> Self {
        let kernel = FakeKernel::new();
        let tables = RefCell::new(Nftables::new(kernel.nft()));
        let dataplane = Dataplane::default();
        Self { renderer: Renderer::new(settings), dataplane, kernel, tables, start: now() }
    }

    pub fn flush(&mut self) {
        let output = self.renderer.flush();
        let tables = self.tables.get_mut();
        want(tables, &output);
        let applied = tables.apply(self.start).expect("a fake kernel takes everything");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert_eq!(tables.pending(), 0);
        self.dataplane.apply(output);
    }

    /// Walks a packet over the rules as they are meant and as they are spelled; both must say the same.
    pub fn walk(&self, packet: &Packet) -> Outcome {
        let meant = walk(&self.dataplane, packet);
        let state = self.kernel.state();
        let table = &state.nft[&packet.family()];
        let spelled = machine::walk(table, packet, &|_, _| false);
        let source_nat = meant.source_nat.map(|nat| match nat {
            SourceNat::Masquerade => None,
            SourceNat::To(address) => Some(address),
        });
        let logged: Vec<_> = meant.logged.iter().map(|l| (l.group, l.prefix.clone())).collect();
        assert_eq!(spelled.verdict, meant.verdict, "{packet:?}: {:#?}", meant.steps);
        assert_eq!(spelled.mark, meant.packet.mark, "{packet:?}: {:#?}", meant.steps);
        assert_eq!((spelled.source_nat, spelled.dscp), (source_nat, meant.dscp), "{packet:?}");
        if !meant.verdict.is_stopped() {
            assert_eq!(spelled.destination, meant.packet.destination, "{packet:?}");
        }
        assert_eq!(spelled.logged, logged, "{packet:?}");
        meant
    }
}

fn want(tables: &mut Nftables<FakeNft>, output: &Output) {
    for (name, change) in &output.ip_sets {
        match change {
            IpSetChange::Full(set) => tables.want_set(name, Some(set.clone())),
            IpSetChange::Delta { added, removed } => tables.want_members(name, added, removed),
            IpSetChange::Gone => tables.want_set(name, None),
        }
    }
    for ((family, table, name), chain) in &output.chains {
        tables.want_chain(*family, *table, name, chain.as_ref());
    }
    for ((family, table, name), hook) in &output.hooks {
        tables.want_hook(*family, *table, name, hook);
    }
}
