//! Measures what the lab relies on: the time of a list of 10 000 pods, and the time from a write until 100 watchers
//! have seen it, both over TLS on loopback. Run it optimised: `cargo run --release -p apiserver --example
//! apiserver-bench`.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use apiserver::{ApiServer, Part, PatchKind, WriteOptions};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

const PODS: usize = 10_000;
const WATCHERS: usize = 100;
const LISTS: usize = 15;
const WRITES: usize = 50;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = ApiServer::builder().build()?;
    let handle = server.serve(vec![std::net::TcpListener::bind("127.0.0.1:0")?])?;
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(&handle.url()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let pods = server.api().resource("v1", "Pod").context("pods are served")?;
    let options = WriteOptions::by("bench");

    let started = Instant::now();
    for n in 0..PODS {
        server.api().create(&pods, "default", pod(n), &options)?;
    }
    let creation = started.elapsed() / u32::try_from(PODS)?;
    println!("create a pod in process: {creation:?} each");

    let client = kube::Client::try_from(config.clone())?;
    for (what, accept) in
        [("JSON", "application/json"), ("Table", "application/json;as=Table;v=v1;g=meta.k8s.io")]
    {
        let mut times = Vec::new();
        let mut size = 0;
        for _ in 0..LISTS {
            let request = http::Request::get("/api/v1/pods").header("accept", accept).body(Vec::new())?;
            let started = Instant::now();
            size = client.request_text(request).await?.len();
            times.push(started.elapsed());
        }
        println!("list of {PODS} pods as {what} ({} MB): median {:?}", size >> 20, median(&mut times));
    }

    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..WATCHERS {
        let api: Api<Pod> = Api::all(kube::Client::try_from(config.clone())?);
        let sender = sender.clone();
        let start = server.api().revision().to_string();
        tokio::spawn(async move {
            let Ok(stream) = api.watch(&WatchParams::default(), &start).await else { return };
            let mut stream = std::pin::pin!(stream);
            while let Some(Ok(event)) = stream.next().await {
                if matches!(event, WatchEvent::Modified(_)) && sender.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut times = Vec::new();
    for n in 0..WRITES {
        let patch = json!({"metadata": {"labels": {"write": n.to_string()}}});
        let started = Instant::now();
        let at = ("default", "pod-00000");
        server.api().patch(&pods, at, Part::Main, (PatchKind::Merge, &patch), &options)?;
        for _ in 0..WATCHERS {
            let at = tokio::time::timeout(Duration::from_secs(10), seen.recv()).await?;
            times.push(at.context("watchers run")?.duration_since(started));
        }
    }
    ensure!(times.len() == WATCHERS * WRITES, "some watcher missed a write");
    println!(
        "write until seen by each of {WATCHERS} watchers: median {:?}, worst {:?}",
        median(&mut times),
        times.last()
    );
    handle.stop().await;
    Ok(())
}

fn pod(n: usize) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{n:05}"), "labels": {"app": format!("app-{}", n % 100), "tier": "front"}},
        "spec": {"nodeName": format!("node-{}", n % 50), "containers": [
            {"name": "main", "image": "registry.example.org/app:1", "ports": [{"containerPort": 8080, "name": "http"}]}]},
    })
}

/// The middle one; sorts the times.
fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
