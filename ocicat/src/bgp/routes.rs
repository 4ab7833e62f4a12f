//! Routes as a table and as JSON.

use proto::speaker::Route;
use serde_json::{Value, json};

use crate::table::{or_dash, plain, table};

/// For people.
pub(super) fn routes_table(routes: &[Route]) -> String {
    let rows: Vec<_> = routes.iter().map(route_row).collect();
    table(&["", "PREFIX", "NEXT HOP", "FROM", "LOCAL PREF", "MED", "AS PATH", "WHY"], &rows)
}

/// Only the best path of each prefix, with what made it so and how many others there are.
pub(super) fn best_table(routes: &[Route]) -> String {
    let rows = routes.iter().filter(|route| route.best).map(|best| {
        let others = routes.iter().filter(|r| r.prefix == best.prefix && !r.best);
        let (unused, beaten): (Vec<&Route>, Vec<&Route>) = others.partition(|r| !r.rejected.is_empty());
        vec![
            best.prefix.clone(),
            or_dash(&best.next_hop),
            best.source.clone(),
            or_dash(&best.reason),
            beaten.len().to_string(),
            unused.len().to_string(),
        ]
    });
    table(&["PREFIX", "NEXT HOP", "FROM", "BEST FOR", "BEATEN", "NOT USED"], &rows.collect::<Vec<_>>())
}

fn route_row(route: &Route) -> Vec<String> {
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
\x20  PREFIX        NEXT HOP   FROM       LOCAL PREF  MED  AS PATH  WHY
*  10.0.0.0/26   -          local      -           -    -        -
s  10.0.0.64/26  192.0.2.2  192.0.2.2  100         -    -        not used: next hop unreachable
";

        assert_eq!(routes_table(&routes), expected);
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
PREFIX       NEXT HOP  FROM       BEST FOR           BEATEN  NOT USED
10.0.0.0/26  -         192.0.2.1  higher LOCAL_PREF  1       1
";

        assert_eq!(best_table(&routes), expected);
    }
}
