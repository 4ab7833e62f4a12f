//! Text to expression tree.

use serde_json::Value;

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Literal(Value),
    Variable(String),
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Member(Box<Expr>, String),
    Index(Box<Expr>, Box<Expr>),
    /// Function, or method with its receiver as the first argument.
    Call(String, Vec<Expr>),
    Has(Box<Expr>, String),
    /// `list.macro(variable, body…)`.
    Macro(String, Box<Expr>, String, Vec<Expr>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary(&'static str, Box<Expr>, Box<Expr>),
    Choice(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// Functions that [`super::eval`] knows.
pub(super) const FUNCTIONS: &[&str] = &[
    "size",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "type",
    "isIP",
    "isCIDR",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "split",
    "lowerAscii",
    "upperAscii",
    "trim",
    "replace",
    "join",
    "indexOf",
    "substring",
    "isSorted",
    "sum",
    "min",
    "max",
    "find",
    "charAt",
];

const MACROS: &[&str] = &["all", "exists", "exists_one", "filter", "map"];
const MAX_DEPTH: usize = 64;

/// Parses a whole expression.
pub(super) fn parse(source: &str) -> Result<Expr, String> {
    let tokens = tokens(source)?;
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    let expression = parser.choice()?;
    match parser.tokens.get(parser.at) {
        None => Ok(expression),
        Some(token) => Err(format!("unexpected {token:?}")),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Value(Value),
    Name(String),
    Sign(&'static str),
}

const SIGNS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "?", ":", "+", "-", "*", "/", "%", "(", ")", "[", "]",
    "{", "}", ".", ",",
];

fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let raw = rest.strip_prefix('r').filter(|r| r.starts_with(['\'', '"']));
        if first == '\'' || first == '"' || raw.is_some() {
            let (text, after) = quoted(raw.unwrap_or(rest), raw.is_some())?;
            out.push(Token::Value(Value::String(text)));
            rest = after;
        } else if first.is_ascii_digit() {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
            let number =
                serde_json::from_str(&rest[..end]).map_err(|_| format!("number {:?}", &rest[..end]))?;
            out.push(Token::Value(number));
            rest = rest[end..].strip_prefix('u').unwrap_or(&rest[end..]);
        } else if first.is_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            out.push(match &rest[..end] {
                "true" => Token::Value(Value::Bool(true)),
                "false" => Token::Value(Value::Bool(false)),
                "null" => Token::Value(Value::Null),
                name => Token::Name(name.to_owned()),
            });
            rest = &rest[end..];
        } else {
            let sign = SIGNS
                .iter()
                .find(|s| rest.starts_with(**s))
                .ok_or_else(|| format!("unexpected {first:?}"))?;
            out.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        }
        rest = rest.trim_start();
    }
    Ok(out)
}

fn quoted(text: &str, raw: bool) -> Result<(String, &str), String> {
    let mut chars = text.char_indices();
    let Some((_, quote)) = chars.next() else { return Err("text without an end".into()) };
    let mut out = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((out, &text[at + c.len_utf8()..])),
            '\\' if !raw => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, c @ ('\\' | '\'' | '"' | '`' | '?'))) => out.push(c),
                other => return Err(format!("escape {other:?}")),
            },
            c => out.push(c),
        }
    }
    Err("text without an end".into())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn is(&self, sign: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Sign(s)) if *s == sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(format!("expected {sign:?}")) }
    }

    fn choice(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("nested too deeply".into());
        }
        let condition = self.binary(0)?;
        let expression = if self.take("?") {
            let yes = self.choice()?;
            self.expect(":")?;
            Expr::Choice(Box::new(condition), Box::new(yes), Box::new(self.choice()?))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expression)
    }

    /// Binary operators from the loosest to the tightest.
    fn binary(&mut self, level: usize) -> Result<Expr, String> {
        const LEVELS: &[&[&str]] =
            &[&["||"], &["&&"], &["==", "!=", "<=", ">=", "<", ">", "in"], &["+", "-"], &["*", "/", "%"]];
        let Some(signs) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        loop {
            let found = match self.tokens.get(self.at) {
                Some(Token::Sign(sign)) => signs.iter().find(|s| *s == sign),
                Some(Token::Name(name)) if name == "in" => signs.iter().find(|s| **s == "in"),
                _ => None,
            };
            let Some(sign) = found else { return Ok(left) };
            self.at += 1;
            left = Expr::Binary(sign, Box::new(left), Box::new(self.binary(level + 1)?));
        }
    }

    fn unary(&mut self) -> Result<Expr, String> {
        let mut signs = Vec::new();
        while self.is("!") || self.is("-") {
            signs.push(self.is("!"));
            self.at += 1;
        }
        let mut expression = self.postfix()?;
        for is_not in signs.into_iter().rev() {
            expression =
                if is_not { Expr::Not(Box::new(expression)) } else { Expr::Negate(Box::new(expression)) };
        }
        Ok(expression)
    }

    fn postfix(&mut self) -> Result<Expr, String> {
        let mut expression = self.primary()?;
        loop {
            if self.take(".") {
                let name = self.name()?;
                expression = if self.take("(") {
                    self.method(expression, name)?
                } else {
                    Expr::Member(Box::new(expression), unescape(&name))
                };
            } else if self.take("[") {
                let index = self.choice()?;
                self.expect("]")?;
                expression = Expr::Index(Box::new(expression), Box::new(index));
            } else {
                return Ok(expression);
            }
        }
    }

    fn method(&mut self, receiver: Expr, name: String) -> Result<Expr, String> {
        let mut arguments = self.list(")")?;
        if MACROS.contains(&name.as_str()) && arguments.len() >= 2 {
            let Expr::Variable(variable) = arguments.remove(0) else {
                return Err(format!("{name} needs a variable first"));
            };
            return Ok(Expr::Macro(name, Box::new(receiver), variable, arguments));
        }
        arguments.insert(0, receiver);
        call(name, arguments)
    }

    fn primary(&mut self) -> Result<Expr, String> {
        if self.take("(") {
            let inner = self.choice()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.take("[") {
            return Ok(Expr::List(self.list("]")?));
        }
        if self.take("{") {
            let mut pairs = Vec::new();
            while !self.take("}") {
                let key = self.choice()?;
                self.expect(":")?;
                pairs.push((key, self.choice()?));
                if !self.take(",") && !self.is("}") {
                    return Err("expected ',' or '}'".into());
                }
            }
            return Ok(Expr::Map(pairs));
        }
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        match token {
            Some(Token::Value(value)) => Ok(Expr::Literal(value)),
            Some(Token::Name(name)) if self.take("(") => {
                let mut arguments = self.list(")")?;
                match (name.as_str(), arguments.pop()) {
                    ("has", Some(Expr::Member(of, member))) if arguments.is_empty() => {
                        Ok(Expr::Has(of, member))
                    }
                    (_, last) => {
                        arguments.extend(last);
                        call(name, arguments)
                    }
                }
            }
            Some(Token::Name(name)) => Ok(Expr::Variable(name)),
            other => Err(format!("unexpected {other:?}")),
        }
    }

    fn list(&mut self, end: &str) -> Result<Vec<Expr>, String> {
        let mut items = Vec::new();
        while !self.take(end) {
            items.push(self.choice()?);
            if !self.take(",") && !self.is(end) {
                return Err(format!("expected ',' or {end:?}"));
            }
        }
        Ok(items)
    }

    fn name(&mut self) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some(Token::Name(name)) => {
                self.at += 1;
                Ok(name.clone())
            }
            other => Err(format!("expected a name, found {other:?}")),
        }
    }
}

fn call(name: String, arguments: Vec<Expr>) -> Result<Expr, String> {
    if FUNCTIONS.contains(&name.as_str()) && !arguments.is_empty() {
        Ok(Expr::Call(name, arguments))
    } else {
        Err(format!("function {name} is not known"))
    }
}

/// Members whose names are no CEL names are written with escapes.
fn unescape(name: &str) -> String {
    const KEYWORDS: &[&str] =
        &["__namespace__", "__in__", "__if__", "__as__", "__import__", "__package__", "__for__"];
    if KEYWORDS.contains(&name) {
        return name.trim_matches('_').to_owned();
    }
    name.replace("__dash__", "-")
        .replace("__dot__", ".")
        .replace("__slash__", "/")
        .replace("__underscores__", "__")
}
