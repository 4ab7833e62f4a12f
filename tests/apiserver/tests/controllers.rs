//! The server as controllers built on kube-rs meet it: watchers, revisions, restarts.
#![allow(clippy::unwrap_used)]

mod common;

use std::pin::pin;
use std::time::Duration;

use apiserver::{ApiServer, Handle, ListOptions, WriteOptions};
use common::{DEADLINE, TempDir, client, listen};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use serde_json::json;

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        data: Some([("k".to_owned(), value.to_owned())].into()),
        ..ConfigMap::default()
    }
}

/// The next event; errors of the stream are passed over, as a controller with backoff does.
async fn next<S>(stream: &mut S) -> String
where
    S: Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Unpin,
{
    let event = tokio::time::timeout(DEADLINE, async {
        loop {
            match stream.next().await.expect("a watcher never ends") {
                Ok(event) => return event,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let show = |c: ConfigMap| {
        format!(
            "{}={}",
            c.metadata.name.unwrap_or_default(),
            c.data.and_then(|d| d.get("k").cloned()).unwrap_or_default()
        )
    };
    match event.await.expect("an event in time") {
        Event::Init => "init".into(),
        Event::InitApply(c) => format!("init {}", show(c)),
        Event::InitDone => "done".into(),
        Event::Apply(c) => format!("apply {}", show(c)),
        Event::Delete(c) => format!("delete {}", show(c)),
    }
}

async fn follow_everything(configuration: watcher::Config) {
    let server = ApiServer::builder().build().unwrap();
    let handle = server.serve(vec![listen()]).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client(&server, &handle).await, "default");
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let mut events = pin!(watcher::watcher(api.clone(), configuration));

    let mut initial = vec![next(&mut events).await];
    while initial.last().is_some_and(|l| l != "done") {
        initial.push(next(&mut events).await);
    }
    assert_eq!(initial, ["init", "init a=1", "done"]);

    api.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
    assert_eq!(next(&mut events).await, "apply b=1");
    api.patch("b", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "2"}}))).await.unwrap();
    assert_eq!(next(&mut events).await, "apply b=2");
    api.delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut events).await, "delete b=2");
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn list_then_watch_follows_everything() {
    follow_everything(watcher::Config::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_list_follows_everything() {
    follow_everything(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selector_makes_events_of_transitions() {
    let server = ApiServer::builder().build().unwrap();
    let handle = server.serve(vec![listen()]).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client(&server, &handle).await, "default");
    let mut events = pin!(watcher::watcher(api.clone(), watcher::Config::default().labels("x=1")));
    assert_eq!([next(&mut events).await, next(&mut events).await], ["init", "done"]);

    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let label = |value: Option<&str>| Patch::Merge(json!({"metadata": {"labels": {"x": value}}}));
    api.patch("a", &PatchParams::default(), &label(Some("1"))).await.unwrap();
    assert_eq!(next(&mut events).await, "apply a=1");
    api.patch("a", &PatchParams::default(), &label(None)).await.unwrap();
    assert_eq!(next(&mut events).await, "delete a=1");
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_survives_a_stop_and_a_start() {
    let server = ApiServer::builder().build().unwrap();
    let handle = server.serve(vec![listen()]).unwrap();
    let address = handle.addresses()[0];
    let api: Api<ConfigMap> = Api::namespaced(client(&server, &handle).await, "default");
    let mut events = pin!(watcher::watcher(api.clone(), watcher::Config::default()));
    assert_eq!([next(&mut events).await, next(&mut events).await], ["init", "done"]);

    handle.stop().await;
    assert!(api.list(&ListParams::default()).await.is_err());
    let resource = server.api().resource("v1", "ConfigMap").unwrap();
    let value = serde_json::to_value(config_map("meanwhile", "1")).unwrap();
    server.api().create(&resource, "default", value, &WriteOptions::by("test")).unwrap();
    let handle = server.serve(vec![rebind(address).await]).unwrap();

    assert_eq!(next(&mut events).await, "apply meanwhile=1");
    handle.stop().await;
}

/// The port is free once the old listener is closed; connections may keep it for a moment.
async fn rebind(address: std::net::SocketAddr) -> std::net::TcpListener {
    tokio::time::timeout(DEADLINE, async {
        loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
    .expect("the port becomes free")
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_that_missed_too_much_starts_anew() {
    let server = ApiServer::builder().watch_log(3).build().unwrap();
    let handle = server.serve(vec![listen()]).unwrap();
    let address = handle.addresses()[0];
    let api: Api<ConfigMap> = Api::namespaced(client(&server, &handle).await, "default");
    let mut events = pin!(watcher::watcher(api.clone(), watcher::Config::default()));
    assert_eq!([next(&mut events).await, next(&mut events).await], ["init", "done"]);
    handle.stop().await;
    let resource = server.api().resource("v1", "ConfigMap").unwrap();
    for n in 0..9 {
        let value = serde_json::to_value(config_map(&format!("c{n}"), "1")).unwrap();
        server.api().create(&resource, "default", value, &WriteOptions::by("test")).unwrap();
    }
    let handle = server.serve(vec![rebind(address).await]).unwrap();

    let mut seen = Vec::new();
    while seen.last().is_none_or(|l| l != "done") {
        seen.push(next(&mut events).await);
    }

    assert_eq!(seen.len(), 11, "{seen:?}");
    assert_eq!(seen[0], "init");
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bookmarks_carry_the_present_revision() {
    let server = ApiServer::builder().bookmark_interval(Duration::from_millis(50)).build().unwrap();
    let handle = server.serve(vec![listen()]).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client(&server, &handle).await, "default");
    let start = server.api().revision();
    let parameters = kube::api::WatchParams::default();
    let mut events = pin!(api.watch(&parameters, &start.to_string()).await.unwrap());
    let pods: Api<Pod> = Api::namespaced(client(&server, &handle).await, "default");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();

    let found = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(Ok(kube::api::WatchEvent::Bookmark(bookmark))) = events.next().await
                && bookmark.metadata.resource_version == (start + 1).to_string()
            {
                return;
            }
        }
    });

    found.await.expect("a bookmark with the revision of the pod");
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_the_end_of_the_process() {
    let directory = TempDir::new();
    let open = || ApiServer::builder().data_dir(Some(directory.path().to_owned())).build().unwrap();
    let first = open();
    let handle: Handle = first.serve(vec![listen()]).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client(&first, &handle).await, "default");
    api.create(&PostParams::default(), &config_map("kept", "1")).await.unwrap();
    let deleted = api.create(&PostParams::default(), &config_map("gone", "1")).await.unwrap();
    api.delete("gone", &DeleteParams::default()).await.unwrap();
    let (token, ca, revision) = (first.token().to_owned(), first.ca_pem().to_owned(), first.api().revision());
    handle.stop().await;
    drop(api);
    drop(first);

    let second = open();

    assert_eq!(
        (second.token(), second.ca_pem(), second.api().revision()),
        (token.as_str(), ca.as_str(), revision)
    );
    let resource = second.api().resource("v1", "ConfigMap").unwrap();
    let listing = second.api().list(&resource, &ListOptions::default()).unwrap();
    assert_eq!(listing.objects.iter().map(|o| o.key.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    let before: u64 = deleted.metadata.resource_version.unwrap().parse().unwrap();
    assert_eq!(second.api().watch(&resource, before).unwrap_err().code, 410);
    assert!(second.api().watch(&resource, revision).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_listeners_share_one_store() {
    let server = ApiServer::builder().build().unwrap();
    let handle = server.serve(vec![listen(), listen()]).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client(&server, &handle).await, "default");
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();

    let url = format!("https://{}", handle.addresses()[1]);
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig(&url)).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let second: Api<ConfigMap> = Api::namespaced(kube::Client::try_from(config).unwrap(), "default");

    assert_eq!(second.get("a").await.unwrap().metadata.name.as_deref(), Some("a"));
    handle.stop().await;
}
