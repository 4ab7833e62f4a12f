//! Every key and value of a label once, under a number.

use std::collections::HashMap;
use std::sync::Arc;

use crate::slab::Slab;

/// Stands for a text while somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Symbol(u32);

/// Texts with how often each is held; what nobody holds goes.
#[derive(Default)]
pub(crate) struct Symbols {
    ids: HashMap<Arc<str>, Symbol>,
    entries: Slab<(Arc<str>, u32)>,
}

impl Symbols {
    /// Holds the text (once more).
    pub(crate) fn hold(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.ids.get(text) {
            self.entries.get_mut(symbol.0).1 += 1;
            return *symbol;
        }
        let text: Arc<str> = text.into();
        let symbol = Symbol(self.entries.insert((text.clone(), 1)));
        self.ids.insert(text, symbol);
        symbol
    }

    /// Lets go what was held once.
    pub(crate) fn release(&mut self, symbol: Symbol) {
        let (_, holders) = self.entries.get_mut(symbol.0);
        *holders -= 1;
        if *holders == 0 {
            let (text, _) = self.entries.remove(symbol.0);
            self.ids.remove(&text);
        }
    }

    /// The symbol of a text that somebody holds.
    pub(crate) fn find(&self, text: &str) -> Option<Symbol> {
        self.ids.get(text).copied()
    }

    pub(crate) fn text(&self, symbol: Symbol) -> &str {
        &self.entries.get(symbol.0).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_nobody_holds_is_gone() {
        let mut symbols = Symbols::default();
        let (one, two) = (symbols.hold("app"), symbols.hold("app"));

        assert_eq!(one, two);
        symbols.release(one);
        assert_eq!(symbols.find("app"), Some(one));
        symbols.release(two);
        assert_eq!(symbols.find("app"), None);
    }
}
