//! What an operator changes about IPAM by hand: its settings, and pools that are cut into smaller ones.

use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use model::{Cidr, IpPool};
use serde_json::{Map, Value, json};

use super::objects::pools;
use crate::crd;
use crate::{Datastore, Error, Result};

impl Datastore {
    /// Names of the IPPools that share addresses with the pool `object`, which need not be there yet.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn overlapping_pools(&self, object: &Value) -> Result<Vec<String>> {
        let Some(cidr) = object["spec"]["cidr"].as_str().and_then(|text| text.parse::<Cidr>().ok()) else {
            return Ok(Vec::new());
        };
        let is_other = |pool: &IpPool| object["metadata"]["name"] != pool.name.as_str();
        let others = pools(self).await?.into_iter().filter(is_other);
        Ok(others.filter(|pool| pool.cidr.overlaps(cidr)).map(|pool| pool.name).collect())
    }

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
        let object: DynamicObject = serde_json::from_value(object)
            .map_err(|error| Error::of(what, kube::Error::SerdeError(error)))?;
        let api = self.as_written::<crd::IPAMConfiguration>();
        self.bounded(what, api.create(&PostParams::default(), &object)).await.map(drop)
    }

    /// Replaces a pool by equal ones of these CIDRs, named `split-<name>-<number>`; returns their names.
    ///
    /// The new ones are there before the old one goes: no address is ever in no pool. Whoever died in between may
    /// ask again.
    ///
    /// # Errors
    /// When the pool does not exist, or the API server refuses.
    pub async fn replace_pool(&self, name: &str, parts: &[Cidr]) -> Result<Vec<String>> {
        let (api, kind) = (self.as_written::<crd::IPPool>(), ApiResource::erase::<crd::IPPool>(&()));
        let what = || format!("IP pool {name}");
        let old = self.bounded(what, api.get(name)).await?;
        let mut names = Vec::new();
        for (number, cidr) in parts.iter().enumerate() {
            let part = format!("split-{name}-{number}");
            let mut pool = DynamicObject { types: old.types.clone(), ..DynamicObject::new(&part, &kind) };
            pool.metadata.labels = old.metadata.labels.clone();
            pool.data = old.data.clone();
            pool.data["spec"]["cidr"] = cidr.to_string().into();
            let what = || format!("IP pool {part}");
            match self.bounded(what, api.create(&PostParams::default(), &pool)).await {
                Err(Error::AlreadyExists { .. }) => {
                    // Left by an attempt that died, unless it is something else of that name.
                    let found = self.bounded(what, api.get(&part)).await?;
                    if found.data["spec"]["cidr"] != pool.data["spec"]["cidr"] {
                        return Err(Error::AlreadyExists { what: what() });
                    }
                }
                created => drop(created?),
            }
            names.push(part);
        }
        self.bounded(what, api.delete(name, &DeleteParams::default())).await?;
        Ok(names)
    }

    /// Objects as they stand there: no field comes or goes that nobody named.
    fn as_written<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::all_with(self.client(), &ApiResource::erase::<K>(&()))
    }
}
