//! What a cluster gets once, at the first start of a node agent. Owns how these objects are made and read; what they
//! say is the caller's. Never changes what is there, but for ClusterInformation.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use model::Cidr;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::Datastore;
use crate::crd::{ClusterInformation, ClusterInformationSpec};
use crate::{Error, Result};

/// The one name that counts.
const DEFAULT: &str = "default";
/// Where kubeadm keeps what a cluster was made with.
const KUBEADM: (&str, &str) = ("kube-system", "kubeadm-config");

impl Datastore {
    /// ClusterInformation `default`; `None` in a cluster in which no node agent has ever started.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn cluster_information(&self) -> Result<Option<ClusterInformationSpec>> {
        let api: Api<ClusterInformation> = Api::all(self.client());
        let found = self.bounded(|| "ClusterInformation default".to_owned(), api.get_opt(DEFAULT)).await?;
        Ok(found.map(|object| object.spec))
    }

    /// Sets what is given of ClusterInformation `default`.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn describe_cluster(&self, cluster_type: &str, version: &str) -> Result<()> {
        let api: Api<ClusterInformation> = Api::all(self.client());
        let patch = json!({"spec": {"clusterType": cluster_type, "calicoVersion": version}});
        let what = || "ClusterInformation default".to_owned();
        self.bounded(what, api.patch(DEFAULT, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
    }

    /// Makes a cluster-wide object, without the fields that say nothing: the API server takes no `null` for them. Gives
    /// back false where there is one of its name, which stays as it is.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn create_if_missing<K>(&self, object: &K) -> Result<bool>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope> + Serialize,
    {
        let api: Api<DynamicObject> = Api::all_with(self.client(), &ApiResource::erase::<K>(&()));
        let what = || format!("{} {}", K::kind(&()), object.name_any());
        let object: DynamicObject = serde_json::to_value(object)
            .and_then(|value| serde_json::from_value(without_nulls(value)))
            .map_err(|error| Error::of(what, kube::Error::SerdeError(error)))?;
        match self.bounded(what, api.create(&PostParams::default(), &object)).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `networking.podSubnet` of kubeadm; nothing in a cluster that kubeadm has not made.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn kubeadm_pod_subnets(&self) -> Result<Vec<Cidr>> {
        let (namespace, name) = KUBEADM;
        let api: Api<ConfigMap> = Api::namespaced(self.client(), namespace);
        let found = self.bounded(|| format!("ConfigMap {namespace}/{name}"), api.get_opt(name)).await?;
        let data = found.and_then(|map| map.data).unwrap_or_default();
        Ok(data.get("ClusterConfiguration").map(|text| pod_subnets(text)).unwrap_or_default())
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(given.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        other => other,
    }
}

/// What is no range is left out.
fn pod_subnets(text: &str) -> Vec<Cidr> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Networking {
        pod_subnet: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Configuration {
        networking: Networking,
    }
    let read: Configuration = serde_saphyr::from_str(text).unwrap_or_default();
    let subnets = read.networking.pod_subnet;
    subnets.split(',').filter_map(|subnet| subnet.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeadm_says_a_range_of_each_family() {
        let text = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nnetworking:\n  dnsDomain: \
                    cluster.local\n  podSubnet: 10.244.0.0/16, fd00::/64,x\n  serviceSubnet: 10.96.0.0/12\n";

        let subnets: Vec<_> = pod_subnets(text).iter().map(ToString::to_string).collect();

        assert_eq!(subnets, ["10.244.0.0/16", "fd00::/64"]);
        assert_eq!(pod_subnets("networking: 3"), []);
        assert_eq!(pod_subnets("kind: X"), []);
    }
}
