//! Bandwidth of pods: a token bucket on the node's side of the veth for what a pod receives, and one on a link of kind
//! `ifb`, through which what it sends is led, for the other direction. A pod can change neither.

use std::io;

use kernel::{Bandwidth, Link, Shaping};

use crate::nl::{Batch, Writer, errno, named};
use crate::rtnl::*;

/// Names of our `ifb` links begin so; the name of the pod's interface is their alias.
pub const SHAPER_PREFIX: &str = "bwcali";
/// How long a packet may wait in a bucket, milliseconds; later ones are dropped.
const LATENCY_MS: u64 = 25;

impl Rtnl {
    /// Limits what goes through a pod's interface, live; a direction without a limit is freed. Returns the index of
    /// the interface, `None` when there is none: then what stood for it is taken away.
    ///
    /// # Errors
    /// When the kernel refuses a part, such as one without `ifb`, `sch_tbf`, `cls_u32` or `act_mirred`.
    pub fn shape(&mut self, interface: &str, shaping: &Shaping) -> io::Result<Option<u32>> {
        let helper = shaper_name(interface);
        let Some(link) = self.link_by_name(interface)? else {
            self.retire_link(&helper)?;
            return Ok(None);
        };
        let is_new = self.link_by_name(&helper)?.is_none_or(|helper| !helper.up);
        if shaping.yields && is_new && self.is_limited_by_others(link.index)? {
            return Ok(Some(link.index));
        }
        match &shaping.ingress {
            Some(bandwidth) => self.put_bucket(&link, bandwidth)?,
            None => self.delete_qdisc(link.index, TC_H_ROOT)?,
        }
        match &shaping.egress {
            Some(bandwidth) => {
                let helper = self.ensure_helper(&helper, &link)?;
                self.put_bucket(&helper, bandwidth)?;
                self.redirect(&link, helper.index)?;
            }
            None => {
                self.delete_qdisc(link.index, TC_H_INGRESS)?;
                self.retire_link(&helper)?;
            }
        }
        Ok(Some(link.index))
    }

    /// The interfaces for which something of ours stands.
    ///
    /// # Errors
    /// When the links cannot be listed.
    pub fn shaped(&mut self) -> io::Result<Vec<String>> {
        let links = self.bare_links()?.into_values();
        Ok(links.filter(|link| link.name.starts_with(SHAPER_PREFIX)).filter_map(|link| link.alias).collect())
    }

    /// Has somebody else put a queue of the kind that limits, or one for what the pod sends, on a link?
    fn is_limited_by_others(&mut self, index: u32) -> io::Result<bool> {
        let word = |body: &[u8], at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let found = self.socket.dump(
            libc::RTM_GETQDISC,
            |w| w.bytes(&tcmsg(index, 0, 0, 0)),
            |found: &mut Vec<(u32, String)>, message| {
                let handle = word(message.body, 8).filter(|_| word(message.body, 4) == Some(index));
                let kind = message.attributes(TCMSG).find(|attribute| attribute.kind == TCA_KIND);
                found.extend(handle.zip(kind.map(|kind| kind.string())));
            },
        );
        let found = found.map_err(|e| named("list qdiscs", e))?;
        let is_ours = found.iter().any(|(handle, kind)| *handle == BUCKET && kind == "tbf");
        Ok(!is_ours && found.iter().any(|(_, kind)| matches!(kind.as_str(), "tbf" | "ingress" | "clsact")))
    }

    /// Also takes one back that waits for its deletion.
    fn ensure_helper(&mut self, name: &str, of: &Link) -> io::Result<Link> {
        let mut batch = Batch::new();
        batch.push(libc::RTM_NEWLINK, libc::NLM_F_CREATE as u16, |w| {
            w.bytes(&ifinfo(0, 0, 0));
            w.string(IFLA_IFNAME, name);
            w.u32(IFLA_MTU, of.mtu);
            w.u32(IFLA_GROUP, 0);
            w.group(IFLA_LINKINFO, |w| w.string(IFLA_INFO_KIND, "ifb"));
        });
        batch.push(libc::RTM_SETLINK, 0, |w| {
            w.bytes(&ifinfo(0, IFF_UP, IFF_UP));
            w.string(IFLA_IFNAME, name);
            w.attribute(IFLA_IFALIAS, of.name.as_bytes());
        });
        self.all(&mut batch, &[format!("create link {name} of kind ifb"), format!("set {name} up")])?;
        let made = self.link_by_name(name)?;
        made.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name} vanished after creation")))
    }

    fn put_bucket(&mut self, link: &Link, bandwidth: &Bandwidth) -> io::Result<()> {
        self.one(libc::RTM_NEWQDISC, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, |w| {
            w.bytes(&tcmsg(link.index, BUCKET, TC_H_ROOT, 0));
            w.string(TCA_KIND, "tbf");
            w.group(TCA_OPTIONS, |w| write_bucket(w, bandwidth, link.mtu));
        })
        .map_err(|e| named(format!("limit {} to {} bits a second", link.name, bandwidth.rate), e))
    }

    /// Anew each time: what is there may lead to a link that is gone.
    fn redirect(&mut self, from: &Link, to: u32) -> io::Result<()> {
        self.delete_qdisc(from.index, TC_H_INGRESS)?;
        let mut batch = Batch::new();
        let create = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        batch.push(libc::RTM_NEWQDISC, create, |w| {
            w.bytes(&tcmsg(from.index, INGRESS, TC_H_INGRESS, 0));
            w.string(TCA_KIND, "ingress");
        });
        batch.push(libc::RTM_NEWTFILTER, create, |w| {
            let all = u32::from((libc::ETH_P_ALL as u16).to_be());
            w.bytes(&tcmsg(from.index, 0, INGRESS, (1 << 16) | all));
            w.string(TCA_KIND, "u32");
            w.group(TCA_OPTIONS, |w| write_redirect(w, to));
        });
        let labels =
            ["add ingress qdisc to", "redirect packets of"].map(|what| format!("{what} {}", from.name));
        self.all(&mut batch, &labels)
    }

    /// One that is not there counts as deleted.
    fn delete_qdisc(&mut self, index: u32, parent: u32) -> io::Result<()> {
        let result = self.one(libc::RTM_DELQDISC, 0, |w| w.bytes(&tcmsg(index, 0, parent, 0)));
        match result {
            Err(error) if !matches!(errno(&error), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => {
                Err(named(format!("delete qdisc of link {index}"), error))
            }
            _ => Ok(()),
        }
    }
}

/// `bwcali` and the end of the interface's name, which is a hash.
fn shaper_name(interface: &str) -> String {
    let tail = interface.char_indices().rev().nth(8).map_or(interface, |(at, _)| &interface[at..]);
    format!("{SHAPER_PREFIX}{tail}")
}

fn write_bucket(w: &mut Writer<'_>, bandwidth: &Bandwidth, mtu: u32) {
    let rate = bandwidth.rate / 8;
    let burst = clamp(bandwidth.burst / 8).max(mtu);
    let limit = clamp(rate.saturating_mul(LATENCY_MS) / 1000).saturating_add(burst);
    let peak = bandwidth.peak.map_or(0, |peak| peak / 8);
    // struct tc_tbf_qopt: two of struct tc_ratespec, limit, buffer, mtu; the last two are said in bytes below.
    let mut options = [0; 36];
    for (at, rate) in [(0, rate), (12, peak)] {
        options[at + 1] = TC_LINKLAYER_ETHERNET;
        options[at + 8..at + 12].copy_from_slice(&clamp(rate).to_ne_bytes());
    }
    options[24..28].copy_from_slice(&limit.to_ne_bytes());
    w.attribute(TCA_TBF_PARMS, &options);
    w.attribute(TCA_TBF_RATE64, &rate.to_ne_bytes());
    w.u32(TCA_TBF_BURST, burst);
    if peak > 0 {
        w.attribute(TCA_TBF_PRATE64, &peak.to_ne_bytes());
        let frame = mtu.saturating_add(ETHERNET_HEADER);
        w.u32(TCA_TBF_PBURST, bandwidth.min_burst.map_or(frame, clamp).max(frame));
    }
}

/// A key that every packet matches, and an action that leads it to another link.
fn write_redirect(w: &mut Writer<'_>, to: u32) {
    // struct tc_u32_sel with one struct tc_u32_key, whose mask is empty.
    let mut selector = [0; 32];
    selector[0] = TC_U32_TERMINAL;
    selector[2] = 1;
    w.attribute(TCA_U32_SEL, &selector);
    w.group(TCA_U32_ACT, |w| {
        w.group(1, |w| {
            w.string(TCA_ACT_KIND, "mirred");
            w.group(TCA_ACT_OPTIONS, |w| {
                // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
                let mut parameters = [0; 28];
                parameters[8..12].copy_from_slice(&TC_ACT_STOLEN.to_ne_bytes());
                parameters[20..24].copy_from_slice(&TCA_EGRESS_REDIR.to_ne_bytes());
                parameters[24..28].copy_from_slice(&to.to_ne_bytes());
                w.attribute(TCA_MIRRED_PARMS, &parameters);
            });
        });
    });
}

fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// `struct tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut header = [0; TCMSG];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

const TCMSG: usize = 20;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
/// Not 1:, which others take.
const BUCKET: u32 = 0xca11_0000;
const INGRESS: u32 = 0xffff_0000;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_PRATE64: u16 = 5;
const TCA_TBF_BURST: u16 = 6;
const TCA_TBF_PBURST: u16 = 7;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_LINKLAYER_ETHERNET: u8 = 1;
const TC_U32_TERMINAL: u8 = 1;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
const ETHERNET_HEADER: u32 = 14;
