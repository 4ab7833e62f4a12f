//! An API server, and typhas in front of it that can be killed.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Handle, WriteOptions};
use datastore::Datastore;
use datastore::typha::{Files, Identity, Place, ServerTls, Settings};
use fanout::Limits;
use kube::config::{KubeConfigOptions, Kubeconfig};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use typha::hub::Hub;
use typha::listener::Listener;
use typha::watches;

pub struct Cluster {
    pub server: ApiServer,
    pub handle: Option<Handle>,
    pub client: kube::Client,
}

impl Cluster {
    pub async fn start() -> Self {
        let server = ApiServer::builder().build().unwrap();
        let handle = server.serve(vec![TcpListener::bind("127.0.0.1:0").unwrap()]).unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(&handle.url())).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let cluster = Self { server, handle: Some(handle), client };
        for mut definition in datastore::crd::definitions() {
            definition["apiVersion"] = json!("apiextensions.k8s.io/v1");
            definition["kind"] = json!("CustomResourceDefinition");
            cluster.create("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", definition);
        }
        cluster
    }

    pub fn datastore(&self) -> Datastore {
        Datastore::from_client(self.client.clone())
    }

    pub fn create(&self, version: &str, kind: &str, namespace: &str, mut object: Value) {
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        let resource = self.server.api().resource(version, kind).unwrap();
        self.server.api().create(&resource, namespace, object, &WriteOptions::by("test")).unwrap();
    }

    pub fn policy(&self, name: &str) {
        let spec = json!({"selector": format!("app == '{name}'"), "ingress": [{"action": "Allow"}]});
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.create("projectcalico.org/v3", "GlobalNetworkPolicy", "", object);
    }

    pub fn namespace(&self, name: &str, annotation: &str) {
        let annotations = json!({"cni.projectcalico.org/ipv4pools": annotation});
        self.create("v1", "Namespace", "", json!({"metadata": {"name": name, "annotations": annotations}}));
    }

    pub fn delete(&self, version: &str, kind: &str, namespace: &str, name: &str) {
        let resource = self.server.api().resource(version, kind).unwrap();
        let options = apiserver::DeleteOptions::default();
        self.server.api().delete(&resource, namespace, name, &options).unwrap();
    }

    pub fn delete_policy(&self, name: &str) {
        self.delete("projectcalico.org/v3", "GlobalNetworkPolicy", "", name);
    }
}

/// Certificates in a directory that goes with it.
pub struct Pki {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("typha-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "ca");
        let ca = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
        Self { directory, issuer: Issuer::new(parameters, key) }
    }

    /// A certificate for a common name, and for a URI.
    pub fn files(&self, common_name: &str, uri: Option<&str>) -> Files {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let at = |suffix: &str| self.directory.join(format!("{common_name}{suffix}"));
        std::fs::write(at(".pem"), certificate.pem()).unwrap();
        std::fs::write(at(".key"), key.serialize_pem()).unwrap();
        Files { ca: self.directory.join("ca.pem"), certificate: at(".pem"), key: at(".key") }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub const SERVER: &str = "typha-server";
pub const CLIENT: &str = "typha-client";

pub fn named(name: &str) -> Identity {
    Identity { common_name: Some(name.to_owned()), uri_san: None }
}

/// One typha with a runtime of its own, so that it can be killed.
pub struct Typha {
    pub hub: Arc<Hub>,
    pub address: SocketAddr,
    runtime: Option<Runtime>,
    pub tls: Option<Arc<Mutex<ServerTls>>>,
}

impl Typha {
    pub fn start(datastore: Datastore, address: SocketAddr, tls: Option<Files>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let hub = Hub::new(Limits::default());
        let listener = loop {
            // The port of one that was just killed.
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let tls = tls.map(|files| Arc::new(Mutex::new(ServerTls::load(files).unwrap())));
        let clients = if tls.is_some() { named(CLIENT) } else { Identity::default() };
        let server = Listener {
            hub: hub.clone(),
            tls: tls.clone(),
            clients,
            most: 100,
            handshake: Duration::from_secs(20),
            write: Duration::from_secs(60),
        };
        let time = hub.clone();
        runtime.spawn(async move { time.keep_time().await });
        runtime.spawn(watches::run(datastore, hub.clone()));
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(async move {
            let _stop = stop;
            Arc::new(server).run(tokio::net::TcpListener::from_std(listener).unwrap(), stopped).await;
        });
        Self { hub, address, runtime: Some(runtime), tls }
    }

    pub fn settings(&self, tls: Option<(Files, Identity)>) -> Settings {
        settings(self.address, tls)
    }

    /// All at once: no goodbye, no flush.
    pub fn kill(mut self) -> SocketAddr {
        if let Some(runtime) = self.runtime.take() {
            // Nothing of it may still hear of what comes next. A thread that runs tasks may not wait itself.
            let end = move || runtime.shutdown_timeout(Duration::from_secs(60));
            std::thread::spawn(end).join().unwrap();
        }
        self.address
    }
}

impl Drop for Typha {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn settings(address: SocketAddr, tls: Option<(Files, Identity)>) -> Settings {
    Settings {
        place: Place::Address(address.to_string()),
        tls,
        read_timeout: Duration::from_secs(30),
        write_timeout: Duration::from_secs(10),
        fallback: None,
    }
}
