//! As much of Helm's template language as the chart uses: values, `quote`, `if` with `else`. Whatever else stands
//! between braces is an error, so that the chart cannot outgrow what is tested.

use serde_json::Value;

/// Renders a template for a release in `namespace`.
///
/// # Errors
/// Something that this module does not know, or a value that is not there.
pub fn render(template: &str, values: &Value, namespace: &str) -> Result<String, String> {
    let mut out = String::new();
    // Whether each `if` that is open writes.
    let mut open: Vec<bool> = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or("an action does not end")?;
        let (action, before) = match action.strip_prefix('-') {
            Some(action) => (action, before.trim_end()),
            None => (action, before),
        };
        if open.iter().all(|writes| *writes) {
            out.push_str(before);
        }
        rest = after;
        let words: Vec<&str> = action.split_whitespace().collect();
        let lookup = |path: &str| lookup(values, path);
        let text = match words.as_slice() {
            ["if", path] => {
                open.push(is_true(&lookup(path)?));
                continue;
            }
            ["else"] => {
                let last = open.last_mut().ok_or("else without if")?;
                *last = !*last;
                continue;
            }
            ["end"] => {
                open.pop().ok_or("end without if")?;
                continue;
            }
            [".Release.Namespace"] => namespace.to_owned(),
            [path] => plain(&lookup(path)?),
            [path, "|", "quote"] => Value::from(plain(&lookup(path)?)).to_string(),
            _ => return Err(format!("unknown action {action:?}")),
        };
        if open.iter().all(|writes| *writes) {
            out.push_str(&text);
        }
    }
    if !open.is_empty() {
        return Err("an if does not end".to_owned());
    }
    out.push_str(rest);
    Ok(out)
}

fn lookup(values: &Value, path: &str) -> Result<Value, String> {
    let names = path.strip_prefix(".Values.").ok_or_else(|| format!("{path} is no value"))?;
    let found = names.split('.').try_fold(values, |at, name| at.get(name));
    found.cloned().ok_or_else(|| format!("there is no value {names}"))
}

fn is_true(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Values of `over` in the place of those of `under`.
pub fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name.as_str()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_conditions_and_errors() {
        let values = json!({"a": {"b": "x\"y", "n": 2, "on": true, "off": false}});
        let rendered = |text: &str| render(text, &values, "here");

        assert_eq!(rendered("k: {{ .Values.a.b | quote }}").unwrap(), r#"k: "x\"y""#);
        assert_eq!(rendered("k: {{ .Values.a.n }} {{ .Release.Namespace }}").unwrap(), "k: 2 here");
        assert_eq!(rendered("{{ if .Values.a.off }}1{{ else }}2{{ end }}").unwrap(), "2");
        assert_eq!(
            rendered("x\n{{- if .Values.a.on }}\n{{- if .Values.a.off }}\ny\n{{- end }}\nz\n{{- end }}")
                .unwrap(),
            "x\nz"
        );
        for bad in ["{{ .Values.a.c }}", "{{ range .x }}", "{{ if .Values.a.on }}", "{{ end }}", "{{"] {
            assert!(rendered(bad).is_err(), "{bad}");
        }
    }
}
