//! Freeing the name of a link at once, when the link itself may take its time to go.

use std::io;

use kernel::Link;

use crate::link::RETIRED_GROUP;
use crate::nl::{Batch, errno, named};
use crate::rtnl::*;

impl Rtnl {
    /// Retires a link and gives it another name, so that its own is free. `false`: it was gone already.
    pub fn move_aside(&mut self, link: &Link) -> io::Result<bool> {
        let name = format!("reap-{:x}", link.index);
        let mut batch = Batch::new();
        // Down first and apart: kernels before 6.2 rename no link that is up.
        batch.push(libc::RTM_SETLINK, 0, |w| {
            w.bytes(&ifinfo(link.index, 0, IFF_UP));
            w.u32(IFLA_GROUP, RETIRED_GROUP);
        });
        batch.push(libc::RTM_SETLINK, 0, |w| {
            w.bytes(&ifinfo(link.index, 0, 0));
            w.string(IFLA_IFNAME, &name);
        });
        let labels = [format!("retire link {}", link.name), format!("rename link {} to {name}", link.name)];
        match self.all(&mut batch, &labels) {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(named("move aside", error)),
        }
    }
}
