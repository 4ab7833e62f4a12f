//! Against a real API server: who listens through typha hears what the API server says, exactly, whatever happens to
//! typha meanwhile.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{CLIENT, Cluster, Pki, SERVER, Typha, named, settings};
use datastore::Interest;
use model::{NodeName, Update};
use serde_json::json;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(120);

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn node() -> NodeName {
    "n1".into()
}

/// All updates until one for which `is_last` holds.
async fn until(updates: &mut Receiver<Update>, is_last: impl Fn(&Update) -> bool) -> Vec<Update> {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            seen.push(updates.recv().await.expect("the stream has no end"));
            if seen.last().is_some_and(&is_last) {
                return;
            }
        }
    };
    let in_time = timeout(DEADLINE, wait).await.is_ok();
    assert!(in_time, "not told in time; seen {seen:#?}");
    seen
}

fn is_policy(name: &str, is_there: bool) -> impl Fn(&Update) -> bool {
    move |update| matches!(update, Update::Policy(key, policy) if &*key.name == name && policy.is_some() == is_there)
}

/// In an order that does not depend on when which list came.
fn sorted(updates: Vec<Update>) -> Vec<String> {
    let mut texts: Vec<String> = updates.iter().map(|update| format!("{update:?}")).collect();
    texts.sort();
    texts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_through_typha_is_what_the_api_server_says() {
    let cluster = Cluster::start().await;
    cluster.namespace("blue", "[\"a\"]");
    cluster.policy("one");
    for n in 0..600 {
        let meta = json!({"name": format!("p{n}"), "labels": {"app": "web"}, "annotations": {"x": "y"}});
        let ports = json!([{"containerPort": 80, "name": "http"}]);
        let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": ports}]});
        cluster.create("v1", "Pod", "blue", json!({"metadata": meta, "spec": spec}));
    }
    let pki = Pki::new("same");
    let typha = Typha::start(cluster.datastore(), anywhere(), Some(pki.files(SERVER, None)));
    let tls = (pki.files(CLIENT, None), named(SERVER));
    let through = cluster.datastore().through_typha(typha.settings(Some(tls)), &node(), "felix");

    let mut updates = through.watch(Interest::felix(node()));
    let heard = until(&mut updates, |update| *update == Update::InSync).await;

    let mut direct = cluster.datastore().watch(Interest::felix(node()));
    let said = until(&mut direct, |update| *update == Update::InSync).await;
    assert!(said.len() > 600);
    assert_eq!(sorted(heard), sorted(said));

    let mut annotations = through.watch_namespace_annotations();
    let told = annotations.wait_for(|found| {
        found.as_ref().is_some_and(|found| found["blue"].contains_key("cni.projectcalico.org/ipv4pools"))
    });
    timeout(DEADLINE, told).await.unwrap().unwrap();
    cluster.policy("two");
    let heard = until(&mut updates, is_policy("two", true)).await;
    assert_eq!(heard.len(), 1, "a second listener makes nothing be told again: {heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_typha_that_is_killed_under_changes_loses_none() {
    let cluster = Cluster::start().await;
    for name in ["stays", "goes", "changes"] {
        cluster.policy(name);
    }
    let mut typha = Typha::start(cluster.datastore(), anywhere(), None);
    let through = cluster.datastore().through_typha(typha.settings(None), &node(), "felix");
    let mut updates = through.watch(Interest::felix(node()));
    until(&mut updates, |update| *update == Update::InSync).await;

    for round in 0..3 {
        let address = typha.kill();
        cluster.delete_policy("goes");
        cluster.policy(&format!("new-{round}"));
        typha = Typha::start(cluster.datastore(), address, None);
        // The one that goes comes last, with the end of the list.
        let heard = until(&mut updates, is_policy("goes", false)).await;

        assert_eq!(heard.len(), 2, "what vanished and what is new, and nothing else: {heard:?}");
        assert!(is_policy(&format!("new-{round}"), true)(&heard[0]));
        cluster.policy("goes");
        until(&mut updates, is_policy("goes", true)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_was_away_is_no_news_and_what_changed_is() {
    let mut cluster = Cluster::start().await;
    cluster.policy("stays");
    cluster.policy("goes");
    let typha = Typha::start(cluster.datastore(), anywhere(), None);
    let through = cluster.datastore().through_typha(typha.settings(None), &node(), "felix");
    let mut updates = through.watch(Interest::felix(node()));
    until(&mut updates, |update| *update == Update::InSync).await;

    let handle = cluster.handle.take().unwrap();
    let address = handle.addresses()[0];
    handle.stop().await;
    cluster.delete_policy("goes");
    let listener = loop {
        match std::net::TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    cluster.handle = Some(cluster.server.serve(vec![listener]).unwrap());

    let heard = until(&mut updates, is_policy("goes", false)).await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(typha.hub.look(fanout::Server::connections), 1, "the client has stayed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_named_may_listen() {
    let cluster = Cluster::start().await;
    let (pki, other) = (Pki::new("named"), Pki::new("other"));
    let typha =
        Typha::start(cluster.datastore(), anywhere(), Some(pki.files(SERVER, Some("spiffe://typha"))));
    let listen = |tls| {
        let through = cluster.datastore().through_typha(typha.settings(tls), &node(), "felix");
        through.watch(Interest { kinds: vec![datastore::Kind::Tier], ..Interest::felix(node()) })
    };
    let files = pki.files(CLIENT, None);
    let by_uri = datastore::typha::Identity { common_name: None, uri_san: Some("spiffe://typha".to_owned()) };
    let refused = [
        listen(None),
        listen(Some((pki.files("somebody", None), named(SERVER)))),
        listen(Some((other.files(CLIENT, None), named(SERVER)))),
        listen(Some((files.clone(), named("another-server")))),
    ];

    let mut by_name = listen(Some((files.clone(), named(SERVER))));
    until(&mut by_name, |update| *update == Update::InSync).await;
    let mut by_uri = listen(Some((files, by_uri)));
    until(&mut by_uri, |update| *update == Update::InSync).await;

    assert_eq!(typha.hub.look(|server| server.clients().count()), 2);
    for mut updates in refused {
        assert!(updates.try_recv().is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_count_without_a_restart() {
    let cluster = Cluster::start().await;
    let old = Pki::new("old");
    let files = old.files(SERVER, None);
    let typha = Typha::start(cluster.datastore(), anywhere(), Some(files.clone()));
    let tls = typha.tls.clone().unwrap();
    assert!(!tls.lock().reload().unwrap(), "nothing is new");

    let new = Pki::new("new");
    let fresh = new.files(SERVER, None);
    std::fs::copy(&fresh.certificate, &files.certificate).unwrap();
    assert!(tls.lock().reload().is_err(), "a key that does not fit its certificate is not used");
    std::fs::copy(&fresh.key, &files.key).unwrap();
    std::fs::copy(&fresh.ca, &files.ca).unwrap();
    assert!(tls.lock().reload().unwrap());

    assert!(new.directory().is_dir());
    let tls = Some((new.files(CLIENT, None), named(SERVER)));
    let through = cluster.datastore().through_typha(typha.settings(tls), &node(), "felix");
    let mut updates =
        through.watch(Interest { kinds: vec![datastore::Kind::Tier], ..Interest::felix(node()) });
    until(&mut updates, |update| *update == Update::InSync).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_typha_the_api_server_is_watched_if_asked_for_and_left_for_the_next_typha() {
    let cluster = Cluster::start().await;
    cluster.policy("one");
    let gone = Typha::start(cluster.datastore(), anywhere(), None).kill();
    let fallback = Some(Duration::from_millis(200));
    let settings = datastore::typha::Settings { fallback, ..settings(gone, None) };
    let through = cluster.datastore().through_typha(settings, &node(), "felix");
    let mut updates = through.watch(Interest::felix(node()));

    until(&mut updates, |update| *update == Update::InSync).await;
    cluster.policy("two");
    until(&mut updates, is_policy("two", true)).await;

    let typha = Typha::start(cluster.datastore(), gone, None);
    let connected = async {
        while typha.hub.look(|server| server.clients().count()) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, connected).await.unwrap();
    cluster.delete_policy("one");
    let heard = until(&mut updates, is_policy("one", false)).await;
    assert_eq!(heard.len(), 1, "{heard:?}");
}
