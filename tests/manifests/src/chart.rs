//! The Helm chart, made from the manifests by the marks in their comments:
//!
//! | mark | in the chart |
//! |---|---|
//! | `#? a.b: words` on the first line | the whole file only where the value `a.b` is true; it is false unless given |
//! | `key: X #= a.b: words` | `X` is the default of the value `a.b` |
//! | `key: X #= a.b ? Y : Z` | `Y` where `a.b` is true, else `Z` |
//! | `#if a.b: words` … `#end` | the lines between, without their `#`, where `a.b` is true; it is false unless given |
//!
//! The words are comments in `values.yaml`.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::documents;

/// Defaults and what they are, by dotted names.
#[derive(Debug, Default)]
pub struct Values {
    known: BTreeMap<String, (Value, String)>,
}

impl Values {
    fn note(&mut self, mark: &str, default: Value) -> String {
        let (name, words) = mark.split_once(": ").unwrap_or((mark, ""));
        let entry = self.known.entry(name.trim().to_owned()).or_insert((default, String::new()));
        if entry.1.is_empty() {
            words.trim().clone_into(&mut entry.1);
        }
        name.trim().to_owned()
    }

    /// `values.yaml`.
    pub fn text(&self) -> String {
        let mut out = String::from("# Written by: UPDATE=1 cargo test -p manifests\n");
        let mut open = "";
        for (name, (default, words)) in &self.known {
            let (group, leaf) = name.split_once('.').unwrap_or(("", name));
            let indent = if group.is_empty() { "" } else { "  " };
            if group != open && !group.is_empty() {
                let _ = writeln!(out, "{group}:");
            }
            open = group;
            if !words.is_empty() {
                let _ = writeln!(out, "{indent}# {words}");
            }
            let _ = writeln!(out, "{indent}{leaf}: {default}");
        }
        out
    }
}

/// The template of one manifest. Its values are noted.
pub fn template(manifest: &str, values: &mut Values) -> String {
    let manifest = manifest.replace("namespace: kube-system", "namespace: {{ .Release.Namespace }}");
    let mut out = String::new();
    let mut is_whole_conditional = false;
    let mut inside = false;
    for line in manifest.lines() {
        let trimmed = line.trim_start();
        if let Some(mark) = trimmed.strip_prefix("#? ") {
            is_whole_conditional = true;
            let _ = writeln!(out, "{{{{- if .Values.{} }}}}", values.note(mark, Value::Bool(false)));
        } else if let Some(mark) = trimmed.strip_prefix("#if ") {
            inside = true;
            let _ = writeln!(out, "{{{{- if .Values.{} }}}}", values.note(mark, Value::Bool(false)));
        } else if trimmed == "#end" {
            inside = false;
            out.push_str("{{- end }}\n");
        } else if inside {
            let _ = writeln!(out, "{}", line.replacen('#', "", 1));
        } else if let Some((text, mark)) = line.split_once(" #= ") {
            let _ = writeln!(out, "{}", marked(text, mark, values));
        } else {
            let _ = writeln!(out, "{line}");
        }
    }
    if is_whole_conditional {
        out.push_str("{{- end }}\n");
    }
    out
}

fn marked(text: &str, mark: &str, values: &mut Values) -> String {
    let (key, value) = text.split_once(": ").unwrap_or((text, ""));
    if let Some((name, choice)) = mark.split_once(" ? ") {
        let (yes, no) = choice.split_once(" : ").unwrap_or((choice, ""));
        let name = values.note(name, Value::Bool(false));
        return format!("{key}: {{{{ if .Values.{name} }}}}{yes}{{{{ else }}}}{no}{{{{ end }}}}");
    }
    let default = documents::parse(value).ok().and_then(|mut all| all.pop()).unwrap_or_default();
    let quote = if default.is_string() { " | quote" } else { "" };
    format!("{key}: {{{{ .Values.{}{quote} }}}}", values.note(mark, default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_values() {
        let manifest = "#? x.on: All of it\nkind: X\nmetadata:\n  namespace: kube-system\nspec:\n  replicas: 2 #= x.count: How many\n  \
                        mode: fast #= x.quick ? fast : slow\n  #if x.more: More\n  #- {name: m}\n  #end\n";
        let mut values = Values::default();

        let text = template(manifest, &mut values);

        assert_eq!(
            text,
            "{{- if .Values.x.on }}\nkind: X\nmetadata:\n  namespace: {{ .Release.Namespace }}\nspec:\n  replicas: {{ .Values.x.count }}\n  \
             mode: {{ if .Values.x.quick }}fast{{ else }}slow{{ end }}\n{{- if .Values.x.more }}\n  - {name: m}\n{{- end }}\n{{- end }}\n"
        );
        assert_eq!(
            values.text(),
            "# Written by: UPDATE=1 cargo test -p manifests\nx:\n  # How many\n  count: 2\n  # More\n  more: false\n  # All of it\n  on: false\n  quick: false\n"
        );
    }
}
