//! What an operator changes about IPAM by hand: its settings, and pools that are cut into smaller ones.

use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use model::{Cidr, Family, IpPool};
use serde_json::{Map, Value, json};

use super::objects::pools;
use crate::crd;
use crate::{Datastore, Error, Result};

/// Annotation of a pool that is a part of another, which it replaces: the name of that one.
const REPLACES: &str = "projectcalico.org/replaces-ippool";

impl Datastore {
    /// What is in the way of a pool `object` that is to be made, by its fields: other pools that share addresses with
    /// it, and blocks of another size that are left of an earlier one.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn pool_conflicts(&self, object: &Value) -> Result<Vec<String>> {
        let Some(cidr) = object["spec"]["cidr"].as_str().and_then(|text| text.parse::<Cidr>().ok()) else {
            return Ok(Vec::new());
        };
        let replaced = &object["metadata"]["annotations"][REPLACES];
        let is_other = |pool: &&IpPool| object["metadata"]["name"] != pool.name.as_str();
        // A part of the pool that it is to replace, which goes as soon as all its parts are there.
        let is_replaced = |pool: &&IpPool| *replaced == pool.name.as_str() && pool.cidr.covers(cidr);
        let pools = pools(self).await?;
        let overlapping = |pool: &&IpPool| is_other(pool) && !is_replaced(pool) && pool.cidr.overlaps(cidr);
        let mut conflicts: Vec<String> = (pools.iter().filter(overlapping))
            .map(|pool| format!("spec.cidr: overlaps IPPool {} ({})", pool.name, pool.cidr))
            .collect();
        let default = if cidr.family() == Family::V4 { 26 } else { 122 };
        let size = object["spec"]["blockSize"].as_u64().unwrap_or(default);
        if let Some(block) = self.block_of_other_size(cidr, size).await? {
            conflicts.push(format!(
                "spec.blockSize: {size}, but block {block} of another size is there: use {}, or wait until it is gone",
                block.length()
            ));
        }
        Ok(conflicts)
    }

    /// A block within `range` whose prefix length is not `size`.
    async fn block_of_other_size(&self, range: Cidr, size: u64) -> Result<Option<Cidr>> {
        let api: Api<crd::IPAMBlock> = Api::all(self.client());
        // Names say it all: no block is transferred.
        let mut params = ListParams::default().limit(500);
        loop {
            let page = self.bounded(|| "IPAM blocks".to_owned(), api.list_metadata(&params)).await?;
            let names = page.items.iter().filter_map(|object| object.metadata.name.as_deref());
            let is_odd = |block: &Cidr| range.overlaps(*block) && u64::from(block.length()) != size;
            if let Some(block) = names.filter_map(Cidr::of_object_name).find(is_odd) {
                return Ok(Some(block));
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(None),
            }
        }
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
            pool.metadata.annotations = Some([(REPLACES.to_owned(), name.to_owned())].into());
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
