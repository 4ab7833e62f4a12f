//! What a foreign speaker is asked to do, whoever it is.

use crate::common::Lab;

/// What a session is to have beside the ordinary. What a daemon cannot do it leaves out; tests ask only those
/// that can.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Both sides are in AS 64512.
    pub internal: bool,
    pub password: Option<&'static str>,
    pub ttl_security: bool,
    pub hold_time: Option<u16>,
    /// The daemon does without four-octet AS numbers.
    pub two_octets: bool,
    /// Their routes carry communities of all three kinds.
    pub communities: bool,
    /// Several paths for a prefix, both ways.
    pub add_path: bool,
    /// It announces its IPv4 route twice, once with the community 64513:2.
    pub two_paths: bool,
    pub extended_messages: bool,
    pub extended_next_hop: bool,
    pub long_lived: bool,
    /// The daemon is our provider.
    pub role: bool,
    /// How many routes of a family the daemon takes.
    pub limit: Option<u32>,
    /// It comes back from a restart and kept forwarding.
    pub restarted: bool,
}

/// A foreign speaker. Its AS is 64513 unless the wish says otherwise, ours is 64512; it announces
/// [`THEIRS`](crate::THEIRS).
pub trait Daemon: Sync {
    /// How tests name it.
    fn name(&self) -> &'static str;
    /// The program, and the package that has it.
    fn program(&self) -> (&'static str, &'static str);
    /// Starts it in their namespace; gives back its processes.
    fn start(&self, lab: &mut Lab, wish: Wish) -> Vec<usize>;
    /// The routes that it announces.
    fn announces(&self) -> &'static [&'static str] {
        &crate::THEIRS
    }
    /// All that it says of a route; empty when it has none of ours.
    fn route(&self, lab: &Lab, prefix: &str) -> String;
    /// All that it says of the session.
    fn session(&self, lab: &Lab) -> String;
    /// What [`Self::session`] says while the session is up.
    fn up(&self) -> &'static str;
    /// What [`Self::route`] says of a route that a long-lived graceful restart marked (`LLGR_STALE`, 65535:6).
    fn stale(&self) -> &'static str {
        "(65535,6)"
    }
    /// Takes back what it announces.
    fn withdraw_own(&self, lab: &Lab);
    /// Asks us to send all again.
    fn refresh(&self, lab: &Lab);
    /// Ends the session with a text.
    fn shut_down(&self, lab: &Lab, text: &str);

    /// Whether it has a route of ours.
    fn has(&self, lab: &Lab, prefix: &str) -> bool {
        !self.route(lab, prefix).is_empty()
    }
}

/// Whether a test against this daemon is to run: it is installed, and `INTEROP_PEER` is not set or names it.
/// Those that `scripts/setup` installs must be there.
pub fn is_wanted(daemon: &dyn Daemon, required: bool) -> bool {
    let (program, package) = daemon.program();
    let chosen = std::env::var("INTEROP_PEER").unwrap_or_default();
    if !chosen.is_empty() && !chosen.split(',').any(|name| name == daemon.name()) {
        eprintln!("skipped: INTEROP_PEER asks for {chosen}");
        return false;
    }
    let installed = std::path::Path::new(program).exists();
    assert!(installed || !required, "{program} is missing: apt-get install {package}");
    if !installed {
        eprintln!("skipped: {program} is missing (apt-get install {package})");
    }
    installed
}
