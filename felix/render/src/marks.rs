//! The bits of a packet's mark that policy works with (`spec/felix.md` §1.1).

use kernel::{Match, RuleAction};

/// Which bits are ours, each for its use; handed out from the lowest bit of the mask on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Policy said allow; or the packet was forwarded past all of FORWARD.
    pub(crate) accept: u32,
    /// Policy said Pass: the rest of the tier is skipped.
    pub(crate) pass: u32,
    /// A rule denies it: it is logged, and then dropped. Never survives the chain that sets it.
    pub(crate) drop: u32,
    /// In raw: from a pod. In policy chains: every match block so far passes.
    pub(crate) scratch0: u32,
    /// In policy chains: the present match block passes.
    pub(crate) scratch1: u32,
}

/// A mark mask that leaves too few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mark mask {mask:#x} has {} bits, but policy needs {} of them", mask.count_ones(), Marks::COUNT)]
pub struct MarkMaskTooSmall {
    pub mask: u32,
}

/// Can policy work with the bits of this mask (`iptablesMarkMask`)?
pub fn check_mark_mask(mask: u32) -> Result<(), MarkMaskTooSmall> {
    Marks::new(mask).map(|_| ())
}

impl Marks {
    const COUNT: u32 = 5;

    pub(crate) fn new(mask: u32) -> Result<Self, MarkMaskTooSmall> {
        if mask.count_ones() < Self::COUNT {
            return Err(MarkMaskTooSmall { mask });
        }
        let mut rest = mask;
        let mut next = || {
            let bit = rest & rest.wrapping_neg();
            rest &= !bit;
            bit
        };
        Ok(Self { accept: next(), pass: next(), drop: next(), scratch0: next(), scratch1: next() })
    }

    /// Every bit that is cleared where a packet enters.
    pub(crate) fn all(self) -> u32 {
        self.accept | self.pass | self.scratch0 | self.scratch1
    }

    /// Every bit that policy uses.
    pub(crate) fn all_and_drop(self) -> u32 {
        self.all() | self.drop
    }
}

/// The bit is set.
pub(crate) fn mark_set(bit: u32) -> Match {
    Match::Mark { value: bit, mask: bit, negated: false }
}

/// None of `bits` is set.
pub(crate) fn mark_clear(bits: u32) -> Match {
    Match::Mark { value: 0, mask: bits, negated: false }
}

/// Some of `bits` is set.
pub(crate) fn mark_not_clear(bits: u32) -> Match {
    Match::Mark { value: 0, mask: bits, negated: true }
}

pub(crate) fn set_mark(bits: u32) -> RuleAction {
    RuleAction::SetMark { value: bits, mask: bits }
}

pub(crate) fn clear_mark(bits: u32) -> RuleAction {
    RuleAction::SetMark { value: 0, mask: bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_calicos_and_shift_with_the_mask() {
        let default = Marks::new(0xffff_0000).unwrap();
        assert_eq!(
            [default.accept, default.pass, default.drop, default.scratch0, default.scratch1],
            [0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000]
        );
        assert_eq!(default.all(), 0x1b_0000);

        let moved = Marks::new(0b1011_0110_0000).unwrap();
        assert_eq!(
            [moved.accept, moved.pass, moved.drop, moved.scratch0, moved.scratch1],
            [0x20, 0x40, 0x100, 0x200, 0x800]
        );
    }

    #[test]
    fn a_mask_with_too_few_bits_is_refused() {
        let error = check_mark_mask(0xf000).unwrap_err();

        assert_eq!(error.to_string(), "mark mask 0xf000 has 4 bits, but policy needs 5 of them");
    }
}
