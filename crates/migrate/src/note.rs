//! What is to be said of an object or a setting.

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It goes over as it is.
    Maps,
    /// It is left out, and nothing changes by that, or what changes is said.
    Ignored,
    /// It works another way here.
    Differs,
    /// Moving would break something: nothing is written before it is settled.
    Blocks,
}

impl Effect {
    /// As tables and JSON have it.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Maps => "maps",
            Effect::Ignored => "ignored",
            Effect::Differs => "differs",
            Effect::Blocks => "blocks",
        }
    }
}

/// One thing to be said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    pub effect: Effect,
    /// Path of a field (`spec.vxlanMode`), or the name of a variable or key.
    pub field: String,
    /// Why, and what mends it.
    pub reason: String,
}

impl Note {
    pub fn new(effect: Effect, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { effect, field: field.into(), reason: reason.into() }
    }
}
