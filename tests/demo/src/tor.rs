//! The top-of-rack router, a plain BIRD, learns the pods' blocks.

use std::time::Duration;

use crate::cluster::{Cluster, NAMESPACE, PORT};
use crate::command::{run, until};
use crate::stage::Stage;

pub fn learns_the_blocks(stage: &mut Stage, cluster: &Cluster) {
    stage.say("The router knows nothing of Kubernetes; what it knows of pods it learned by BGP.");
    let show = ["exec", "tor", "--", "ip", "-4", "route", "show", "proto", "bird"];
    stage.typed(format!("lab {}", show.join(" ")));
    let (_, outcome) = stage.progress("the router's routes", || {
        until(Duration::from_secs(20), || {
            let outcome = run(&mut cluster.lab(&show));
            (outcome.as_ref().is_ok_and(|routes| blocks(routes) >= 3), outcome)
        })
    });
    if let Some(routes) = stage.attempt("the router shows its routes", outcome) {
        stage.show(&routes);
        let count = blocks(&routes);
        stage.check("the router has learned a block of each node", count >= 3, format!("{count} blocks"));
    }
    let probe =
        ["probe", "--from", "tor", "--to", &format!("{NAMESPACE}/web-3"), "--port", PORT, "-o", "json"];
    stage.typed(format!("lab {}", probe[..probe.len() - 2].join(" ")));
    let outcome = run(&mut cluster.lab(&probe));
    if let Some(answer) = stage.attempt("the router reaches a pod", outcome) {
        stage.check("the router reaches a pod", answer.contains("\"allowed\""), answer.trim());
    }
}

fn blocks(routes: &str) -> usize {
    routes.lines().filter(|route| route.starts_with("10.65.")).count()
}
