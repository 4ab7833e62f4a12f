//! What names, label keys and label values may look like (RFC 1123 and the API conventions), as pure checks that
//! return the words of the refusal.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
     and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
     and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
     '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                         with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used \
                         for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                     and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
                     '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Which rule the name of an object follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// RFC 1123 label, at most 63 characters.
    Label,
    /// RFC 1123 subdomain, at most 253 characters.
    Subdomain,
    /// RFC 1035 label, for services.
    Label1035,
    /// Anything that fits a path segment, for RBAC.
    PathSegment,
}

impl NameRule {
    /// Why a name breaks the rule.
    pub(crate) fn error(self, name: &str) -> Option<String> {
        match self {
            Self::Label => dns_label_error(name),
            Self::Subdomain => dns_subdomain_error(name),
            Self::Label1035 => {
                let first = name.as_bytes().first();
                let fits = first.is_some_and(u8::is_ascii_lowercase) && is_label(name);
                if fits { too_long(name, 63) } else { Some(LABEL_1035.into()) }
            }
            Self::PathSegment => match name {
                "." | ".." => Some(format!("may not be '{name}'")),
                n if n.contains('/') => Some("may not contain '/'".into()),
                n if n.contains('%') => Some("may not contain '%'".into()),
                _ => None,
            },
        }
    }
}

/// Why it is no RFC 1123 label.
pub(crate) fn dns_label_error(name: &str) -> Option<String> {
    if is_label(name) { too_long(name, 63) } else { Some(LABEL.into()) }
}

/// Why it is no RFC 1123 subdomain.
pub(crate) fn dns_subdomain_error(name: &str) -> Option<String> {
    if name.split('.').all(is_label) { too_long(name, 253) } else { Some(SUBDOMAIN.into()) }
}

/// Why it is no label or annotation key (`[prefix/]name`).
pub(crate) fn label_key_error(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if name.contains('/') {
        return Some(format!("a qualified name {QUALIFIED}"));
    }
    match prefix {
        Some("") => return Some("prefix part must be non-empty".into()),
        Some(p) => {
            if let Some(why) = dns_subdomain_error(p) {
                return Some(format!("prefix part {why}"));
            }
        }
        None => {}
    }
    if name.is_empty() {
        return Some("name part must be non-empty".into());
    }
    if is_label_text(name) {
        too_long(name, 63).map(|w| format!("name part {w}"))
    } else {
        Some(QUALIFIED.into())
    }
}

/// Why it is no label value.
pub(crate) fn label_value_error(value: &str) -> Option<String> {
    if value.is_empty() || is_label_text(value) { too_long(value, 63) } else { Some(VALUE.into()) }
}

/// Why it is no port name (RFC 6335).
pub(crate) fn port_name_error(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > 15 {
        return Some("must be no more than 15 characters".into());
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        return Some("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        return Some("must not contain consecutive hyphens".into());
    }
    (name.starts_with('-') || name.ends_with('-')).then(|| "must not begin or end with a hyphen".into())
}

fn too_long(name: &str, most: usize) -> Option<String> {
    (name.len() > most).then(|| format!("must be no more than {most} characters"))
}

fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_accept_and_refuse() {
        for (rule, name, ok) in [
            (NameRule::Label, "a-1", true),
            (NameRule::Label, "Bad_Name", false),
            (NameRule::Label, "a.b", false),
            (NameRule::Label, "-a", false),
            (NameRule::Subdomain, "a.b-c.d", true),
            (NameRule::Subdomain, "a..b", false),
            (NameRule::Label1035, "1a", false),
            (NameRule::Label1035, "a1", true),
            (NameRule::PathSegment, "system:node", true),
            (NameRule::PathSegment, "a/b", false),
        ] {
            assert_eq!(rule.error(name).is_none(), ok, "{rule:?} {name}");
        }
        assert!(dns_label_error(&"a".repeat(64)).is_some());
    }

    #[test]
    fn label_keys_and_values() {
        for (key, ok) in [
            ("a", true),
            ("example.org/Name_1.x", true),
            ("/a", false),
            ("a/", false),
            ("a b", false),
            ("a/b/c", false),
        ] {
            assert_eq!(label_key_error(key).is_none(), ok, "{key}");
        }
        assert!(label_value_error("").is_none());
        assert!(label_value_error("-x").is_some());
        assert!(port_name_error("http-1").is_none());
        assert!(port_name_error("8080").is_some());
    }
}
