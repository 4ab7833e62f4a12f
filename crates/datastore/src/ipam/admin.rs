//! What an operator changes about IPAM by hand: its settings, and pools that are cut into smaller ones.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use model::Cidr;
use serde_json::{Map, Value, json};

use crate::convert::{self, Problems};
use crate::crd;
use crate::{Datastore, Error, Result};

impl Datastore {
    /// Changes fields of the IPAMConfiguration `default`, making it if there is none; others stay as they are.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn configure_ipam(&self, fields: &Map<String, Value>) -> Result<()> {
        let api: Api<crd::IPAMConfiguration> = Api::all(self.client());
        let what = || "IPAM configuration default".to_owned();
        let patch = Patch::Merge(json!({ "spec": fields }));
        match self.bounded(what, api.patch("default", &PatchParams::default(), &patch)).await {
            Err(Error::NotFound { .. }) => {}
            written => return written.map(drop),
        }
        let object = json!({
            "apiVersion": crd::API_VERSION, "kind": "IPAMConfiguration",
            "metadata": { "name": "default" }, "spec": fields,
        });
        let object: crd::IPAMConfiguration = serde_json::from_value(object)
            .map_err(|error| Error::of(what, kube::Error::SerdeError(error)))?;
        self.bounded(what, api.create(&PostParams::default(), &object)).await.map(drop)
    }

    /// Replaces a pool by equal ones of these CIDRs, named `split-<name>-<number>`; returns their names.
    ///
    /// The new ones are there before the old one goes: no address is ever in no pool. Whoever died in between may
    /// ask again.
    ///
    /// # Errors
    /// When the pool does not exist, is no pool that IPAM understands, or the API server refuses.
    pub async fn replace_pool(&self, name: &str, parts: &[Cidr]) -> Result<Vec<String>> {
        let api: Api<crd::IPPool> = Api::all(self.client());
        let what = || format!("IP pool {name}");
        let old = self.bounded(what, api.get(name)).await?;
        let mut problems = Problems::default();
        if convert::pool(&old.metadata, &old.spec, &mut problems).is_none() {
            let reason = problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(Error::Refused { what: what(), reason });
        }
        let mut names = Vec::new();
        for (number, cidr) in parts.iter().enumerate() {
            let part = format!("split-{name}-{number}");
            let spec = crd::IPPoolSpec { cidr: cidr.to_string(), ..old.spec.clone() };
            let mut pool = crd::IPPool::new(&part, spec);
            *pool.labels_mut() = old.labels().clone();
            match self.bounded(|| format!("IP pool {part}"), api.create(&PostParams::default(), &pool)).await
            {
                Ok(_) | Err(Error::AlreadyExists { .. }) => names.push(part),
                Err(error) => return Err(error),
            }
        }
        self.bounded(what, api.delete(name, &DeleteParams::default())).await?;
        Ok(names)
    }
}
