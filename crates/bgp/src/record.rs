//! A recording of all that a speaker is told and all that it wants done. Owns the form of the recording and its
//! replay; never writes a file. Passwords are not in it: each becomes a number that says only which are equal.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_packet::{PathAttributes, Prefix};
use serde::{Deserialize, Serialize};

use crate::{
    BfdFailure, BfdState, Closed, Config, ConnId, ConnectFailure, Origin, Output, Password, PeerChanges,
    PeerConfig, PeerKey, Speaker, Start,
};

/// Most octets of a recording that wait to be taken; what comes then is lost and said to be.
const MAX_WAITING: usize = 64 << 20;

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Nanoseconds since the recording began.
    at: u64,
    what: Entry,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// First of all; whether the speaker is new, so that a replay comes to the same outputs.
    Begin {
        config: Box<Config>,
        start: Start,
        is_new: bool,
    },
    Reconfigure(Box<Config>),
    ReconfigurePeers(Box<PeerChanges>),
    Originate {
        prefix: Prefix,
        attributes: Box<PathAttributes>,
        interface: Option<String>,
    },
    Withdraw(Prefix),
    Connected {
        conn: u64,
        local: SocketAddr,
    },
    ConnectFailed {
        conn: u64,
        failure: ConnectFailure,
    },
    Incoming {
        remote: SocketAddr,
        local: SocketAddr,
    },
    Data {
        conn: u64,
        hex: String,
    },
    Closed {
        conn: u64,
        closed: Closed,
    },
    Sent {
        conn: u64,
        bytes: usize,
    },
    Timeout,
    NextHop {
        next_hop: IpAddr,
        cost: Option<u32>,
    },
    Bfd {
        peer: PeerKey,
        state: BfdState,
        failure: Option<(BfdFailure, bool)>,
    },
    Reset {
        peer: PeerKey,
        text: String,
    },
    Disable {
        peer: PeerKey,
        text: String,
    },
    Enable {
        peer: PeerKey,
    },
    RefreshIn {
        peer: PeerKey,
    },
    RefreshOut {
        peer: PeerKey,
    },
    /// The speaker wanted this done.
    Output(String),
    /// It wanted nothing more.
    Drained,
    /// Nobody took the recording for too long: it ends here.
    Lost,
}

/// The recording while it runs.
#[derive(Debug)]
pub(crate) struct Tape {
    began: Instant,
    last: Instant,
    waiting: VecDeque<String>,
    octets: usize,
    lost: bool,
    drained: bool,
    passwords: Vec<Password>,
}

impl Speaker {
    /// Begins a recording; [`Self::poll_record`] gives its lines. Only one that begins right after
    /// [`Speaker::new`], at the same `now`, can be compared when it is replayed.
    pub fn start_recording(&mut self, now: Instant) {
        let mut tape = Tape {
            began: now,
            last: now,
            waiting: VecDeque::new(),
            octets: 0,
            lost: false,
            drained: false,
            passwords: Vec::new(),
        };
        let config = Box::new(tape.scrub(&self.config));
        tape.push(Entry::Begin { config, start: self.start, is_new: !self.touched });
        self.tape = Some(Box::new(tape));
    }

    /// Ends the recording; lines that were not taken are gone.
    pub fn stop_recording(&mut self) {
        self.tape = None;
    }

    /// The next line of the recording.
    pub fn poll_record(&mut self) -> Option<String> {
        let tape = self.tape.as_mut()?;
        let line = tape.waiting.pop_front()?;
        tape.octets -= line.len();
        Some(line)
    }

    /// Notes an input.
    pub(crate) fn note(&mut self, now: Option<Instant>, entry: impl FnOnce(&mut Tape) -> Entry) {
        self.touched = true;
        let Some(tape) = &mut self.tape else { return };
        tape.last = now.unwrap_or(tape.last).max(tape.last);
        tape.drained = false;
        let entry = entry(tape);
        tape.push(entry);
    }

    /// Notes what is to be done.
    pub(crate) fn note_output(&mut self, output: Option<&Output>) {
        let Some(tape) = &mut self.tape else { return };
        match output {
            Some(output) => tape.push(Entry::Output(render(output))),
            None if !tape.drained => tape.push(Entry::Drained),
            None => {}
        }
        tape.drained = output.is_none();
    }
}

impl Tape {
    fn push(&mut self, what: Entry) {
        if self.lost {
            return;
        }
        self.lost = self.octets > MAX_WAITING;
        let what = if self.lost { Entry::Lost } else { what };
        let at =
            u64::try_from(self.last.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        let line = serde_json::to_string(&Record { at, what }).expect("every entry has a JSON form");
        self.octets += line.len();
        self.waiting.push_back(line);
    }

    /// A configuration whose passwords are numbers.
    pub(crate) fn scrub(&mut self, config: &Config) -> Config {
        let mut config = config.clone();
        let peers = config.peers.values_mut();
        peers.chain(config.dynamic.iter_mut().map(|range| &mut range.template)).for_each(|p| self.hide(p));
        config
    }

    pub(crate) fn scrub_changes(&mut self, changes: &PeerChanges) -> PeerChanges {
        let mut changes = changes.clone();
        changes.peers.values_mut().flatten().for_each(|peer| self.hide(peer));
        changes
    }

    fn hide(&mut self, peer: &mut PeerConfig) {
        let Some(password) = &mut peer.password else { return };
        let known = self.passwords.iter().position(|seen| seen == password);
        let number = known.unwrap_or_else(|| {
            self.passwords.push(password.clone());
            self.passwords.len() - 1
        });
        *password = Password::new(format!("recorded {number}"));
    }
}

/// The form in which outputs are compared. A password shows as `***`.
fn render(output: &Output) -> String {
    match output {
        Output::Send { conn, bytes } => format!("Send {} {}", conn.0, hex(bytes)),
        other => format!("{other:?}"),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A String takes whatever is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is none of a recording.
    #[error("line {0} is not of a recording: {1}")]
    Line(usize, serde_json::Error),
    /// Octets are written wrongly.
    #[error("line {0}: octets must be pairs of hexadecimal digits")]
    Hex(usize),
    /// The beginning is missing, or is not at the beginning.
    #[error("line {0}: a recording begins with Begin, and only begins so")]
    Begin(usize),
}

/// A step of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Line of the recording, from 1.
    pub line: usize,
    /// Since the recording began.
    pub at: Duration,
    /// The input, as it stands in the recording.
    pub input: String,
    /// What the speaker wanted done since the step before, as recorded.
    pub recorded: Vec<String>,
    /// The same as the replay has it.
    pub replayed: Vec<String>,
}

/// What came of a replay.
#[derive(Debug)]
pub struct Replayed {
    /// The speaker as it is at the end.
    pub speaker: Speaker,
    /// The recording began with a new speaker: outputs can be compared.
    pub is_complete: bool,
    /// Inputs.
    pub inputs: usize,
    /// Outputs of the recording.
    pub outputs: usize,
    /// Where the outputs differ.
    pub differences: Vec<Step>,
}

/// Plays the lines of a recording to a new speaker; `step` sees each point at which it wanted nothing more.
/// `epoch` stands for the time at which the recording began.
///
/// # Errors
/// When a line is none of a recording.
pub fn replay<'a>(
    lines: impl Iterator<Item = &'a str>,
    epoch: Instant,
    mut step: impl FnMut(&Step),
) -> Result<Replayed, ReplayError> {
    let mut replayed: Option<Replayed> = None;
    let (mut recorded, mut input) = (Vec::new(), String::new());
    for (index, line) in lines.enumerate().map(|(index, line)| (index + 1, line)) {
        let record: Record = serde_json::from_str(line).map_err(|error| ReplayError::Line(index, error))?;
        let at = Duration::from_nanos(record.at);
        let now = epoch + at;
        let Some(run) = &mut replayed else {
            let Entry::Begin { config, start, is_new } = record.what else {
                return Err(ReplayError::Begin(index));
            };
            let speaker = Speaker::new(*config, start, now);
            replayed = Some(Replayed {
                speaker,
                is_complete: is_new,
                inputs: 0,
                outputs: 0,
                differences: Vec::new(),
            });
            continue;
        };
        match record.what {
            Entry::Begin { .. } => return Err(ReplayError::Begin(index)),
            Entry::Lost => break,
            Entry::Output(text) => {
                run.outputs += 1;
                recorded.push(text);
            }
            Entry::Drained => {
                let outputs = std::iter::from_fn(|| run.speaker.poll_output());
                let played: Vec<String> = outputs.map(|output| render(&output)).collect();
                while run.speaker.poll_route().is_some() {}
                while run.speaker.poll_event().is_some() {}
                while run.speaker.poll_next_hop().is_some() {}
                let recorded = std::mem::take(&mut recorded);
                let done =
                    Step { line: index, at, input: std::mem::take(&mut input), recorded, replayed: played };
                step(&done);
                if sorted(&done.recorded) != sorted(&done.replayed) {
                    run.differences.push(done);
                }
            }
            what => {
                run.inputs += 1;
                input = line.to_owned();
                apply(&mut run.speaker, what, now).ok_or(ReplayError::Hex(index))?;
            }
        }
    }
    replayed.ok_or(ReplayError::Begin(1))
}

/// Peers may be served in another order; each gets the same.
fn sorted(outputs: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = outputs.iter().collect();
    sorted.sort();
    sorted
}

fn apply(speaker: &mut Speaker, entry: Entry, now: Instant) -> Option<()> {
    match entry {
        Entry::Reconfigure(config) => drop(speaker.reconfigure(*config, now)),
        Entry::ReconfigurePeers(changes) => drop(speaker.reconfigure_peers(*changes, now)),
        Entry::Originate { prefix, attributes, interface } => {
            let interface = interface.map(Arc::from);
            speaker.originate(prefix, Origin { attributes: *attributes, interface });
        }
        Entry::Withdraw(prefix) => speaker.withdraw(prefix),
        Entry::Connected { conn, local } => speaker.handle_connected(ConnId(conn), local, now),
        Entry::ConnectFailed { conn, failure } => speaker.handle_connect_failed(ConnId(conn), failure, now),
        Entry::Incoming { remote, local } => drop(speaker.handle_incoming(remote, local, now)),
        Entry::Data { conn, hex } => {
            speaker.handle_data(ConnId(conn), &unhex(&hex)?, now);
        }
        Entry::Closed { conn, closed } => speaker.handle_closed(ConnId(conn), closed, now),
        Entry::Sent { conn, bytes } => speaker.handle_sent(ConnId(conn), bytes),
        Entry::Timeout => speaker.handle_timeout(now),
        Entry::NextHop { next_hop, cost } => speaker.handle_next_hop(next_hop, cost),
        Entry::Bfd { peer, state, failure } => speaker.handle_bfd(peer, state, failure, now),
        Entry::Reset { peer, text } => speaker.reset(peer, &text, now),
        Entry::Disable { peer, text } => speaker.disable(peer, &text, now),
        Entry::Enable { peer } => speaker.enable(peer, now),
        Entry::RefreshIn { peer } => drop(speaker.refresh_in(peer)),
        Entry::RefreshOut { peer } => speaker.refresh_out(peer),
        Entry::Begin { .. } | Entry::Output(_) | Entry::Drained | Entry::Lost => {}
    }
    Some(())
}

/// What is shared in memory is written out in a recording.
pub(crate) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(shared: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        shared.as_ref().serialize(to)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Arc<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        T::deserialize(from).map(Arc::new)
    }
}

/// The same for text that may be missing.
pub(crate) mod text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(text: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Arc::from))
    }
}
