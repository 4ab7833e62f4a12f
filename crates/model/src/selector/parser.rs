//! Text to tree, by recursive descent with bounded depth.

use std::sync::Arc;

use super::InvalidSelector;
use super::expression::{Expression, Values};

/// Deepest nesting of parentheses; the tree is walked and dropped by recursion.
const MAX_DEPTH: usize = 100;
/// Longest key of a label, in bytes.
const MAX_LABEL: usize = 512;

pub(super) fn parse(text: &str) -> Result<Expression, InvalidSelector> {
    let mut parser = Parser { text, position: 0, depth: 0 };
    parser.skip_blanks();
    if parser.rest().is_empty() {
        return Ok(Expression::All);
    }
    let expression = parser.disjunction()?;
    match parser.rest().is_empty() {
        true => Ok(expression),
        false => Err(parser.expected("&&, || or the end")),
    }
}

/// Takes a key that does not come out of a selector's text.
pub(super) fn check_label(key: &str) -> Result<Arc<str>, InvalidSelector> {
    let mut parser = Parser { text: key, position: 0, depth: 0 };
    let label = parser.label()?;
    match parser.rest().is_empty() {
        true => Ok(label),
        false => Err(parser.error("the key of a label has only letters, digits and _ . / -")),
    }
}

struct Parser<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn disjunction(&mut self) -> Result<Expression, InvalidSelector> {
        let mut terms = vec![self.conjunction()?];
        while self.take("||") {
            terms.push(self.conjunction()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Expression::Or(terms) })
    }

    fn conjunction(&mut self) -> Result<Expression, InvalidSelector> {
        let mut terms = vec![self.unary()?];
        while self.take("&&") {
            terms.push(self.unary()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Expression::And(terms) })
    }

    fn unary(&mut self) -> Result<Expression, InvalidSelector> {
        self.skip_blanks();
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let inner = if self.rest().starts_with('(') { self.parenthesis()? } else { self.operation()? };
        self.skip_blanks();
        Ok(if negated { Expression::Not(Box::new(inner)) } else { inner })
    }

    fn parenthesis(&mut self) -> Result<Expression, InvalidSelector> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(&format!("parentheses nest deeper than {MAX_DEPTH}")));
        }
        self.take("(");
        self.depth += 1;
        let inner = self.disjunction()?;
        self.depth -= 1;
        match self.take(")") {
            true => Ok(inner),
            false => Err(self.expected("&&, || or a closing parenthesis")),
        }
    }

    fn operation(&mut self) -> Result<Expression, InvalidSelector> {
        // A function's parenthesis follows its name at once: otherwise the word is a label.
        for (name, expression) in [("all(", Expression::All), ("global(", Expression::Global)] {
            if self.take(name) {
                return self.close(expression);
            }
        }
        if self.take("has(") {
            let label = self.label()?;
            self.skip_blanks();
            return self.close(Expression::Has(label));
        }
        let label = self.label()?;
        self.skip_blanks();
        self.comparison(label)
    }

    fn comparison(&mut self, label: Arc<str>) -> Result<Expression, InvalidSelector> {
        type Binary = fn(Arc<str>, Arc<str>) -> Expression;
        let binaries: [(&[&str], Binary); 5] = [
            (&["=="], Expression::Equals),
            (&["!="], Expression::NotEquals),
            (&["contains"], Expression::Contains),
            (&["starts", "with"], Expression::StartsWith),
            (&["ends", "with"], Expression::EndsWith),
        ];
        for (words, make) in binaries {
            if self.take_words(words) {
                return Ok(make(label, self.string()?));
            }
        }
        if self.take_words(&["not", "in"]) {
            return Ok(Expression::NotIn(label, self.set()?));
        }
        if self.take("in") {
            return Ok(Expression::In(label, self.set()?));
        }
        Err(self.expected("==, !=, in, not in, contains, starts with or ends with"))
    }

    fn set(&mut self) -> Result<Values, InvalidSelector> {
        let mut values = Values::new();
        if !self.take("{") {
            return Err(self.expected("{"));
        }
        loop {
            if self.take("}") {
                return Ok(values);
            }
            values.insert(self.string()?);
            self.skip_blanks();
            if !self.take(",") && !self.rest().starts_with('}') {
                return Err(self.expected(", or }"));
            }
        }
    }

    fn string(&mut self) -> Result<Arc<str>, InvalidSelector> {
        let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Err(self.expected("a value in quotes"));
        };
        let inside = &self.rest()[1..];
        let Some(length) = inside.find(quote) else {
            return Err(self.error("the quote is not closed"));
        };
        let value = inside[..length].into();
        self.position += length + 2;
        Ok(value)
    }

    fn label(&mut self) -> Result<Arc<str>, InvalidSelector> {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.expected("the key of a label, all(), has(), ! or a parenthesis"));
        }
        if length > MAX_LABEL {
            return Err(self.error(&format!("the key of a label is longer than {MAX_LABEL} bytes")));
        }
        self.position += length;
        Ok(rest[..length].into())
    }

    fn close(&mut self, expression: Expression) -> Result<Expression, InvalidSelector> {
        match self.take(")") {
            true => Ok(expression),
            false => Err(self.expected("a closing parenthesis")),
        }
    }

    /// Takes `token` and the blanks behind it.
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.position += token.len();
            self.skip_blanks();
        }
        found
    }

    /// Takes all of `words`, or none.
    fn take_words(&mut self, words: &[&str]) -> bool {
        let start = self.position;
        let found = words.iter().all(|word| self.take(word));
        if !found {
            self.position = start;
        }
        found
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }

    fn expected(&self, what: &str) -> InvalidSelector {
        match self.rest().chars().next() {
            Some(found) => self.error(&format!("expected {what}, found {found:?}")),
            None => self.error(&format!("expected {what}, found the end")),
        }
    }

    fn error(&self, reason: &str) -> InvalidSelector {
        let (selector, position) = (self.text.to_owned(), self.position);
        InvalidSelector { selector, position, reason: reason.to_owned() }
    }
}
