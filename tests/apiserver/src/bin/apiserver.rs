//! The API server alone: `apiserver --listen 127.0.0.1:0 --dir DIR [--crds FILE]` prints the path of a kubeconfig.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use serde_json::Value;

use apiserver::{Api, ApiServer, Part, PatchKind, WriteOptions};

#[derive(Parser)]
#[command(about = "A Kubernetes-compatible API server for tests and small installations")]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Directory for the store and the kubeconfig.
    #[arg(long)]
    dir: PathBuf,
    /// File of CustomResourceDefinitions (YAML, several documents) to apply at the start.
    #[arg(long)]
    crds: Option<PathBuf>,
    /// One more name or address for the serving certificate.
    #[arg(long)]
    san: Vec<String>,
    /// Put each write on the disk before it is acknowledged.
    #[arg(long)]
    sync: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut builder = ApiServer::builder().data_dir(Some(arguments.dir.clone())).sync(arguments.sync);
    for name in &arguments.san {
        builder = builder.san(name);
    }
    let server = builder.build()?;
    if let Some(file) = &arguments.crds {
        apply_all(server.api(), file).with_context(|| format!("apply {}", file.display()))?;
    }
    let listener =
        TcpListener::bind(arguments.listen).with_context(|| format!("listen on {}", arguments.listen))?;
    let handle = server.serve(vec![listener])?;
    let path = arguments.dir.join("kubeconfig");
    std::fs::write(&path, server.kubeconfig(&handle.url())).context("write the kubeconfig")?;
    println!("{}", path.display());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    handle.stop().await;
    Ok(())
}

/// Applies every document of a YAML file, as `kubectl apply --server-side --force-conflicts` would.
fn apply_all(api: &Api, file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let options = WriteOptions { force: true, ..WriteOptions::by("apiserver") };
    for document in documents.iter().filter(|d| !d.is_null()) {
        let field = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let resource = api
            .resource(field("/apiVersion"), field("/kind"))
            .with_context(|| format!("nothing serves {} {}", field("/apiVersion"), field("/kind")))?;
        let at = (field("/metadata/namespace"), field("/metadata/name"));
        api.patch(&resource, at, Part::Main, (PatchKind::Apply, document), &options)?;
    }
    Ok(())
}
