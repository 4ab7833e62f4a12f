//! Host endpoints that follow from nodes, and the settings that ask for them. Owns how they are read and written;
//! which there should be is the caller's.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Api, Resource};
use model::{AutoHostEndpoints, HostEndpoint, KubeControllersConfiguration};
use tokio::sync::mpsc;

use crate::client::Datastore;
use crate::convert::{self, Problems};
use crate::crd;
use crate::watch::{Followed, follow};
use crate::{Error, Result};

/// A host endpoint with the label of those that are made for nodes, as it is in the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoHostEndpoint {
    object: crd::HostEndpoint,
}

impl AutoHostEndpoint {
    /// Does it say what it should?
    pub fn says(&self, wanted: &HostEndpoint) -> bool {
        let labels = self.object.metadata.labels.as_ref();
        labels.is_some_and(|labels| *labels == wanted.labels)
            && self.object.spec == convert::host_endpoint_spec(wanted)
    }
}

impl Datastore {
    /// Watches the KubeControllersConfiguration named `default`; without it everything is at its default. Ends when
    /// the receiver is dropped.
    pub fn watch_kube_controllers_configuration(
        &self,
    ) -> mpsc::Receiver<Followed<KubeControllersConfiguration>> {
        let api: Api<crd::KubeControllersConfiguration> = Api::all(self.client());
        let only = watcher::Config::default().fields("metadata.name=default");
        follow(api, only, |object| {
            let mut problems = Problems::default();
            let settings = convert::kube_controllers_configuration(&object.spec, &mut problems);
            for problem in problems.0 {
                tracing::warn!(kind = "KubeControllersConfiguration", %problem, "not understood");
            }
            settings
        })
    }

    /// Writes which settings are in force into the status of the KubeControllersConfiguration named `default`; one
    /// that is not there has none. `decided`: variables of the environment that win over the object.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn write_running_config(
        &self,
        running: &KubeControllersConfiguration,
        decided: &BTreeMap<String, String>,
    ) -> Result<()> {
        let api: Api<crd::KubeControllersConfiguration> = Api::all(self.client());
        let status = convert::kube_controllers_status(running, decided);
        let what = || "status of KubeControllersConfiguration default".to_owned();
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        match self.bounded(what, api.patch_status("default", &PatchParams::default(), &patch)).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The KubeControllersConfiguration named `default`; without it everything is at its default.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn kube_controllers_configuration(&self) -> Result<KubeControllersConfiguration> {
        let api: Api<crd::KubeControllersConfiguration> = Api::all(self.client());
        let what = || "KubeControllersConfiguration default".to_owned();
        let found = match self.bounded(what, api.get_opt("default")).await {
            Err(Error::NotFound { .. }) => None,
            found => found?,
        };
        Ok(found.map_or_else(Default::default, |object| {
            convert::kube_controllers_configuration(&object.spec, &mut Problems::default())
        }))
    }

    /// Watches the host endpoints that were made for nodes. Ends when the receiver is dropped.
    pub fn watch_auto_host_endpoints(&self) -> mpsc::Receiver<Followed<AutoHostEndpoint>> {
        let (key, value) = AutoHostEndpoints::CREATED_BY;
        let api: Api<crd::HostEndpoint> = Api::all(self.client());
        let chosen = watcher::Config::default().labels(&format!("{key}={value}"));
        follow(api, chosen, |object| AutoHostEndpoint { object })
    }

    /// Makes a host endpoint, or makes `existing` say what it should.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses; [`Error::AlreadyExists`] and [`Error::Conflict`] when
    /// somebody else was faster, or has one of that name.
    pub async fn write_auto_host_endpoint(
        &self,
        wanted: &HostEndpoint,
        existing: Option<&AutoHostEndpoint>,
    ) -> Result<()> {
        let api: Api<crd::HostEndpoint> = Api::all(self.client());
        let mut object = crd::HostEndpoint::new(&wanted.name, convert::host_endpoint_spec(wanted));
        if let Some(existing) = existing {
            object.metadata = existing.object.metadata.clone();
            object.metadata.managed_fields = None;
        }
        object.metadata.labels = Some(wanted.labels.clone());
        let what = || format!("HostEndpoint {}", wanted.name);
        let parameters = PostParams::default();
        match existing {
            None => self.bounded(what, api.create(&parameters, &object)).await.map(drop),
            Some(_) => self.bounded(what, api.replace(&wanted.name, &parameters, &object)).await.map(drop),
        }
    }

    /// Deletes this very host endpoint; one that is gone counts as deleted.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn delete_auto_host_endpoint(&self, name: &str, existing: &AutoHostEndpoint) -> Result<()> {
        let api: Api<crd::HostEndpoint> = Api::all(self.client());
        let uid = existing.object.meta().uid.clone();
        let this = Preconditions { uid, resource_version: None };
        let parameters = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        match self.bounded(|| format!("HostEndpoint {name}"), api.delete(name, &parameters)).await {
            Ok(_) | Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
