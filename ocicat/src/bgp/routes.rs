//! Routes as a table and as JSON.

use std::collections::BTreeMap;

use proto::speaker::Route;
use serde_json::{Value, json};

use crate::table::{or_dash, plain, table};

/// For people: nodes with their routes.
pub(super) fn routes_table(nodes: &[(String, Vec<Route>)]) -> String {
    let rows = nodes.iter().flat_map(|(node, routes)| routes.iter().map(|route| route_row(node, route)));
    let header = ["NODE", "", "PREFIX", "NEXT HOP", "FROM", "LOCAL PREF", "MED", "AS PATH", "WHY"];
    table(&header, &rows.collect::<Vec<_>>())
}

/// Only the best path of each prefix, with what made it so and how many others there are.
pub(super) fn best_table(nodes: &[(String, Vec<Route>)]) -> String {
    let rows = nodes.iter().flat_map(|(node, routes)| best_rows(node, routes));
    let header = ["NODE", "PREFIX", "NEXT HOP", "FROM", "BEST FOR", "BEATEN", "NOT USED"];
    table(&header, &rows.collect::<Vec<_>>())
}

fn best_rows(node: &str, routes: &[Route]) -> Vec<Vec<String>> {
    // How many paths of a prefix were beaten, and how many are not used.
    let mut others: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for route in routes.iter().filter(|route| !route.best) {
        let (beaten, unused) = others.entry(&route.prefix).or_default();
        *(if route.rejected.is_empty() { beaten } else { unused }) += 1;
    }
    let row = |best: &Route| {
        let (beaten, unused) = others.get(best.prefix.as_str()).copied().unwrap_or_default();
        vec![
            or_dash(node),
            best.prefix.clone(),
            or_dash(&best.next_hop),
            best.source.clone(),
            or_dash(&best.reason),
            beaten.to_string(),
            unused.to_string(),
        ]
    };
    routes.iter().filter(|route| route.best).map(row).collect()
}

fn route_row(node: &str, route: &Route) -> Vec<String> {
    let mark = match (route.best, route.stale) {
        (true, true) => "*s",
        (true, false) => "*",
        (false, true) => "s",
        (false, false) => "",
    };
    let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let why = if route.rejected.is_empty() {
        or_dash(&route.reason)
    } else {
        format!("not used: {}", plain(&route.rejected))
    };
    vec![
        or_dash(node),
        mark.to_owned(),
        route.prefix.clone(),
        or_dash(&route.next_hop),
        route.source.clone(),
        number(route.local_pref),
        number(route.med),
        or_dash(&route.as_path),
        why,
    ]
}

/// For programs.
pub(super) fn route_json(route: &Route) -> Value {
    json!({
        "prefix": route.prefix,
        "nextHop": route.next_hop,
        "source": route.source,
        "asPath": route.as_path,
        "localPref": route.local_pref,
        "med": route.med,
        "best": route.best,
        "reason": route.reason,
        "rejected": route.rejected,
        "stale": route.stale,
        "communities": route.communities,
        "pathId": route.path_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_says_why_it_is_not_used() {
        let routes = [
            Route { prefix: "10.0.0.0/26".into(), source: "local".into(), best: true, ..Route::default() },
            Route {
                prefix: "10.0.0.64/26".into(),
                source: "192.0.2.2".into(),
                next_hop: "192.0.2.2".into(),
                local_pref: Some(100),
                rejected: "next hop unreachable".into(),
                stale: true,
                ..Route::default()
            },
        ];
        let expected = "\
NODE     PREFIX        NEXT HOP   FROM       LOCAL PREF  MED  AS PATH  WHY
n1    *  10.0.0.0/26   -          local      -           -    -        -
n1    s  10.0.0.64/26  192.0.2.2  192.0.2.2  100         -    -        not used: next hop unreachable
";

        assert_eq!(routes_table(&[("n1".into(), routes.to_vec())]), expected);
    }

    #[test]
    fn the_best_path_says_for_what_it_is_the_best() {
        let path = |source: &str, best: bool, rejected: &str| Route {
            prefix: "10.0.0.0/26".into(),
            source: source.into(),
            best,
            reason: if best { "higher LOCAL_PREF".into() } else { String::new() },
            rejected: rejected.into(),
            ..Route::default()
        };
        let routes =
            [path("192.0.2.1", true, ""), path("192.0.2.2", false, ""), path("192.0.2.3", false, "loop")];
        let expected = "\
NODE  PREFIX       NEXT HOP  FROM       BEST FOR           BEATEN  NOT USED
n1    10.0.0.0/26  -         192.0.2.1  higher LOCAL_PREF  1       1
-     10.0.0.0/26  -         192.0.2.1  higher LOCAL_PREF  1       1
";

        let reflector = (String::new(), routes.to_vec());
        assert_eq!(best_table(&[("n1".into(), routes.to_vec()), reflector]), expected);
    }
}
