//! How objects are printed. Pure.

use std::str::FromStr;

use serde_json::{Value, json};

use super::kinds::{Column, Kind, plain_value};
use crate::table::{plain, table};

/// `-o`, as calicoctl and kubectl have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Table,
    Wide,
    Yaml,
    Json,
    /// `Kind/name`, one a line.
    Name,
    /// Headers of the kind's table, or `HEADER:.path.to.a.field`.
    Columns(Vec<String>),
}

impl FromStr for Look {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ps" | "table" | "" => Ok(Self::Table),
            "wide" => Ok(Self::Wide),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            "name" => Ok(Self::Name),
            _ => match text.strip_prefix("custom-columns=") {
                Some(columns) if !columns.is_empty() => {
                    Ok(Self::Columns(columns.split(',').map(str::to_owned).collect()))
                }
                Some(_) => {
                    Err("custom-columns= wants columns: custom-columns=NAME,CIDR:.spec.cidr".to_owned())
                }
                None if text.starts_with("go-template") => {
                    Err("Go templates are not spoken here: take -o json and jq, or custom-columns="
                        .to_owned())
                }
                None => Err("one of ps, wide, yaml, json, name, custom-columns=".to_owned()),
            },
        }
    }
}

/// Prints objects of a kind; `single`: one was asked for by its name.
///
/// # Errors
/// In words: a column that does not exist.
pub(super) fn print(
    kind: &Kind,
    objects: &[Value],
    look: &Look,
    single: bool,
    all_namespaces: bool,
) -> Result<String, String> {
    match look {
        Look::Json => Ok(format!("{:#}\n", listed(kind, objects, single))),
        Look::Yaml => {
            serde_saphyr::to_string(&listed(kind, objects, single)).map_err(|error| error.to_string())
        }
        Look::Name => Ok(objects.iter().map(|o| format!("{}/{}\n", kind.kind, name(o))).collect()),
        Look::Table | Look::Wide => {
            let columns: Vec<&Column> =
                kind.columns.iter().filter(|column| column.is_shown(*look == Look::Wide)).collect();
            let header: Vec<&str> = columns.iter().map(|column| column.header).collect();
            Ok(rows(&header, objects, all_namespaces && kind.is_namespaced, |object, at| {
                columns.get(at).map(|column| column.text(object)).unwrap_or_default()
            }))
        }
        Look::Columns(wanted) => {
            let wanted: Vec<Wanted> =
                wanted.iter().map(|text| chosen(kind, text)).collect::<Result<_, _>>()?;
            let header: Vec<&str> = wanted.iter().map(|column| column.header.as_str()).collect();
            Ok(rows(&header, objects, false, |object, at| match wanted.get(at).map(|w| &w.from) {
                Some(From::Column(column)) => column.text(object),
                Some(From::Path(path)) => {
                    object.pointer(path).map_or_else(|| "<none>".to_owned(), plain_value)
                }
                None => String::new(),
            }))
        }
    }
}

fn rows(
    header: &[&str],
    objects: &[Value],
    with_namespace: bool,
    cell: impl Fn(&Value, usize) -> String,
) -> String {
    let mut header = header.to_vec();
    if with_namespace {
        header.insert(0, "NAMESPACE");
    }
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|object| {
            let own = header.len() - usize::from(with_namespace);
            let namespace = with_namespace.then(|| plain_value(&object["metadata"]["namespace"]));
            namespace
                .into_iter()
                .chain((0..own).map(|at| cell(object, at)))
                .map(|text| plain(&text))
                .collect()
        })
        .collect();
    table(&header, &rows)
}

/// One column that somebody asked for.
struct Wanted {
    header: String,
    from: From,
}

enum From {
    Column(&'static Column),
    /// JSON pointer.
    Path(String),
}

fn chosen(kind: &Kind, text: &str) -> Result<Wanted, String> {
    if let Some((header, path)) = text.split_once(':') {
        let path = path.trim_start_matches(['{', '$', '.']).trim_end_matches('}');
        let pointer =
            path.replace('~', "~0").replace('/', "~1").replace('[', ".").replace(']', "").replace('.', "/");
        return Ok(Wanted { header: header.to_owned(), from: From::Path(format!("/{pointer}")) });
    }
    let found = kind.columns.iter().find(|column| column.header.eq_ignore_ascii_case(text));
    match found {
        Some(column) => Ok(Wanted { header: column.header.to_owned(), from: From::Column(column) }),
        None => {
            let known: Vec<&str> = kind.columns.iter().map(|column| column.header).collect();
            Err(format!("{} has no column {text:?}: one of {}, or HEADER:.path", kind.kind, known.join(", ")))
        }
    }
}

fn listed(kind: &Kind, objects: &[Value], single: bool) -> Value {
    match objects {
        [only] if single => only.clone(),
        _ => json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": format!("{}List", kind.kind),
            "items": objects,
        }),
    }
}

pub(super) fn name(object: &Value) -> String {
    plain_value(&object["metadata"]["name"])
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{KINDS, find};
    use super::*;

    fn pool() -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {"cidr": "10.65.0.0/16", "natOutgoing": true, "ipipMode": "Never", "vxlanMode": "Never",
                "disabled": false, "disableBGPExport": false, "nodeSelector": "all()", "assignmentMode": "Automatic"},
        })
    }

    fn printed(name: &str, objects: &[Value], look: &str) -> String {
        print(find(name).unwrap(), objects, &look.parse().unwrap(), false, false).unwrap()
    }

    #[test]
    fn a_pool_has_calicoctls_columns() {
        assert_eq!(
            printed("pool", &[pool()], "ps"),
            "NAME  CIDR          SELECTOR\np     10.65.0.0/16  all()\n"
        );
        let wide = printed("IPPools", &[pool()], "wide");
        let header = "NAME  CIDR          NAT   IPIPMODE  VXLANMODE  DISABLED  DISABLEBGPEXPORT  SELECTOR  ASSIGNMENTMODE\n";
        assert!(wide.starts_with(header), "{wide}");
    }

    #[test]
    fn peers_say_whose_they_are() {
        let peers = [
            json!({"metadata": {"name": "a"}, "spec": {"peerIP": "192.0.2.1", "asNumber": 64513}}),
            json!({"metadata": {"name": "b"}, "spec": {"peerSelector": "rr == 'y'", "nodeSelector": "all()"}}),
        ];

        let expected =
            "NAME  PEERIP     NODE      ASN\na     192.0.2.1  (global)  64513\nb     rr == 'y'  all()\n";
        assert_eq!(printed("bgpp", &peers, "ps"), expected);
    }

    #[test]
    fn columns_are_chosen_by_header_or_by_path() {
        let text = printed("ipp", &[pool()], "custom-columns=name,WHERE:.spec.cidr,NO:.spec.x");

        assert_eq!(text, "NAME  WHERE         NO\np     10.65.0.0/16  <none>\n");
        let wrong = print(find("ipp").unwrap(), &[], &"custom-columns=ASN".parse().unwrap(), false, false);
        assert!(wrong.unwrap_err().contains("IPPool has no column"));
    }

    #[test]
    fn nonsense_is_no_look() {
        for text in ["xml", "custom-columns=", "go-template={{.}}", "WIDE"] {
            assert!(text.parse::<Look>().is_err(), "{text}");
        }
    }

    #[test]
    fn no_name_means_two_kinds() {
        let mut names: Vec<&str> = KINDS.iter().flat_map(|kind| kind.names.iter().copied()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
