//! Services that want addresses from outside, and their status. Owns how both are read and written; which address
//! goes where is the caller's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use model::{LoadBalancerService, ObjectKey};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::Datastore;
use crate::convert;
use crate::objects::ServiceObject;
use crate::watch::{Followed, follow};
use crate::{NodeEvent, Result};

impl Datastore {
    /// Watches every Service, by `namespace/name`. Ends when the receiver is dropped.
    pub fn watch_load_balancers(&self) -> mpsc::Receiver<Followed<Option<LoadBalancerService>>> {
        let api: Api<ServiceObject> = Api::all(self.client());
        follow(api, watcher::Config::default(), |object| convert::load_balancer_service(&object))
    }

    /// One Service; `None` when there is none.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn load_balancer(&self, key: &ObjectKey) -> Result<Option<LoadBalancerService>> {
        let api: Api<ServiceObject> = Api::namespaced(self.client(), &key.namespace);
        let found = self.bounded(|| format!("Service {key}"), api.get_opt(&key.name)).await?;
        Ok(found.as_ref().and_then(convert::load_balancer_service))
    }

    /// Handles under which Services may hold addresses.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn load_balancer_handles(&self) -> Result<BTreeSet<String>> {
        let mut handles = BTreeSet::new();
        self.pages("Services", ListParams::default(), |object: ServiceObject| {
            handles.extend(convert::load_balancer_service(&object).map(|service| service.handle));
        })
        .await?;
        Ok(handles)
    }

    /// Makes `status.loadBalancer.ingress` of this very Service these addresses and nothing else.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn write_ingress(&self, service: &LoadBalancerService, addresses: &[IpAddr]) -> Result<()> {
        let api: Api<ServiceObject> = Api::namespaced(self.client(), &service.key.namespace);
        let ingress = match addresses {
            [] => Value::Null,
            some => some.iter().map(|address| json!({ "ip": address })).collect(),
        };
        let patch =
            json!({"metadata": {"uid": service.uid}, "status": {"loadBalancer": {"ingress": ingress}}});
        let what = || format!("status of Service {}", service.key);
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
        self.bounded(what, api.patch_status(&service.key.name, &parameters, &patch)).await.map(drop)
    }

    /// Makes an Event about a Service. `now` is an RFC 3339 time.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn publish_about_service(&self, key: &ObjectKey, event: &NodeEvent, now: &str) -> Result<()> {
        let about =
            json!({"apiVersion": "v1", "kind": "Service", "name": &*key.name, "namespace": &*key.namespace});
        self.publish_about(&key.namespace, about, event, now).await
    }
}
