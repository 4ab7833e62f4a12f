//! Takes secrets out of text. Pure, and rather too much than too little: what looks like a secret is one.

/// What stands in the place of a secret.
const HIDDEN: &str = "***";
/// A word that has one of these before `:`, `=` or a space and a value is taken for the name of a secret.
const NAMES: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "credential",
    "md5key",
    "private-key",
    "private_key",
    "apikey",
];
/// Words that are followed by a secret and nothing between.
const BEFORE: [&str; 2] = ["bearer", "basic"];

/// The text without secrets: values of names that say so, tokens, keys between armour lines.
pub(super) fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if begins && !in_key {
            out.push_str(HIDDEN);
            out.push('\n');
        }
        in_key |= begins;
        if !in_key {
            out.push_str(&scrub_line(line));
        }
        if line.contains("-----END") {
            in_key = false;
        }
    }
    out
}

fn scrub_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    // What the words before make of the next one.
    let mut expects = false;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| {
            c.is_alphanumeric()
                || matches!(
                    c,
                    '_' | '-' | '.' | '+' | '/' | '~' | '%' | '!' | '@' | '$' | '^' | '&' | '*' | '#' | '?'
                )
        };
        if !is_word(first) {
            // An object or a list is no value: what is in it is judged by its own names.
            expects &= !matches!(first, '{' | '[' | '}' | ']' | ',' | ';' | '\n');
            out.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            continue;
        }
        let end = rest.find(|c: char| !(is_word(c) || (c == '=' && is_padding(rest)))).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if expects || is_token(word) {
            out.push_str(HIDDEN);
            expects = false;
        } else {
            out.push_str(word);
            expects = names_a_secret(word, after);
        }
        rest = after;
    }
    out
}

/// An equals sign at the end of base64 belongs to it.
fn is_padding(text: &str) -> bool {
    let word: String =
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/')).collect();
    word.len() >= 32
}

/// Is the next word a secret?
fn names_a_secret(word: &str, after: &str) -> bool {
    let word = word.to_ascii_lowercase();
    if BEFORE.contains(&word.as_str()) {
        return after.starts_with(' ');
    }
    if !NAMES.iter().any(|name| word.contains(name)) || word.ends_with("ref") || word.ends_with("name") {
        return false;
    }
    let after = after.trim_start_matches(['"', '\'', '\\', ' ']);
    after.starts_with([':', '='])
}

/// A JSON Web Token, or the key of a bootstrap token.
fn is_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.len() > 30 && word.matches('.').count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4eHh4eHh4In0.c2lnbmF0dXJl";
        let cases = [
            ("password: opensesame\n", "password: ***\n"),
            ("{\"password\":\"open sesame\",\"name\":\"a\"}", "{\"password\":\"*** sesame\",\"name\":\"a\"}"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
            ("BGP_PASSWORD=hunter2 NODENAME=n1", "BGP_PASSWORD=*** NODENAME=n1"),
            ("    token: \"abc\"", "    token: \"***\""),
            ("md5keys:192.0.2.1/32=x", "md5keys:***=x"),
            ("secretKeyRef: {name: bgp, key: rack}", "secretKeyRef: {name: bgp, key: rack}"),
            ("password: {secretKeyRef: {name: bgp}}", "password: {secretKeyRef: {name: bgp}}"),
            (
                "the password is missing: Secret bgp has no key rack",
                "the password is missing: Secret bgp has no key rack",
            ),
            ("n1 10.0.0.1 established", "n1 10.0.0.1 established"),
        ];
        for (text, expected) in cases {
            assert_eq!(scrub(text), expected);
        }
        assert_eq!(scrub(&format!("got {jwt} from x")), "got *** from x");
        let key = "a\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\nb\n";
        assert_eq!(scrub(key), "a\n***\nb\n");
    }

    #[test]
    fn any_text_is_scrubbed_without_harm() {
        for text in
            ["", "token", "token:", "-----BEGIN PRIVATE KEY-----", "p\u{e4}ssword=\u{fc}", "=====", "Bearer "]
        {
            let once = scrub(text);
            assert_eq!(scrub(&once), once, "{text:?}");
        }
    }
}
