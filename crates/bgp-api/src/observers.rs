//! Those who look on while a speaker runs. Owns that they are told after each turn; what is told is theirs.

use bgp::Speaker;

use crate::Recording;
use crate::watchers::Watchers;

/// Who looks on, shared by calls that begin and end it and the loop that owns the speaker.
#[derive(Clone, Debug, Default)]
pub struct Observers {
    pub(crate) recording: Recording,
    pub(crate) watchers: Watchers,
}

impl Observers {
    /// The recording, which calls may switch on and off.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Tells them what happened meanwhile; to be called after each turn.
    pub fn look(&self, speaker: &mut Speaker) {
        self.watchers.take(speaker);
        self.recording.take(speaker);
    }
}
