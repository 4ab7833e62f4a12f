//! Which type each kind has and what its objects mean: the one place where kinds become types, for who watches them
//! and for who reads what typha has watched.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use model::{NodeName, Policy, Update};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Kind;
use super::tracker::Item;
use crate::convert::{self, Problems};
use crate::crd;
use crate::objects::{
    AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy, ClusterPolicyObject, Custom,
    EndpointSliceObject, NamespaceObject, NetworkPolicyObject, NodeObject, PodObject, ServiceAccountObject,
    ServiceObject,
};

/// What is done with the type of a kind.
pub(crate) trait Visitor {
    type Output;

    /// `convert` says what an object means.
    fn visit<K: Watched>(
        self,
        kind: Kind,
        config: watcher::Config,
        convert: impl Fn(&K, &mut Problems) -> Option<Item> + Send + 'static,
    ) -> Self::Output;
}

/// Brings `visitor` and the type of `kind` together, for who lives on `node`.
pub(crate) fn visit<V: Visitor>(visitor: V, kind: Kind, node: &NodeName) -> V::Output {
    match kind {
        Kind::LocalPod => {
            let here = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
            visitor.visit(kind, here, |object: &PodObject, problems| pod(object, problems).map(Item::Update))
        }
        Kind::Node => built_in(visitor, kind, |object: &NodeObject, problems| {
            convert::node(object, problems).map(|node| Update::Node(node.name.clone(), Some(node)))
        }),
        Kind::NodeName => built_in(visitor, kind, |object: &PartialObjectMeta<NodeObject>, problems| {
            let object = NodeObject { metadata: object.metadata.clone(), ..NodeObject::default() };
            convert::node(&object, problems).map(|node| Update::Node(node.name.clone(), Some(node)))
        }),
        Kind::Pod => built_in(visitor, kind, pod),
        Kind::Namespace => built_in(visitor, kind, |object: &NamespaceObject, _| {
            let labels = object.metadata.labels.clone().unwrap_or_default();
            Some(Update::Namespace(object.metadata.name.clone()?, Some(labels)))
        }),
        Kind::ServiceAccount => built_in(visitor, kind, |object: &ServiceAccountObject, _| {
            let meta = &object.metadata;
            let labels = meta.labels.clone().unwrap_or_default();
            Some(Update::ServiceAccount(meta.namespace.clone()?, meta.name.clone()?, Some(labels)))
        }),
        _ => policies(visitor, kind),
    }
}

/// Kinds of policies.
fn policies<V: Visitor>(visitor: V, kind: Kind) -> V::Output {
    match kind {
        Kind::KubernetesNetworkPolicy => built_in(visitor, kind, |object: &NetworkPolicyObject, problems| {
            convert::kubernetes_policy(object, problems).map(policy)
        }),
        Kind::NetworkPolicy => custom::<crd::NetworkPolicy, _, _>(visitor, kind, |meta, spec, problems| {
            convert::network_policy(meta, &spec, problems).map(policy).map(Item::Update)
        }),
        Kind::GlobalNetworkPolicy => {
            custom::<crd::GlobalNetworkPolicy, _, _>(visitor, kind, |meta, spec, problems| {
                convert::global_network_policy(meta, &spec, problems).map(policy).map(Item::Update)
            })
        }
        Kind::StagedNetworkPolicy => {
            custom::<crd::StagedNetworkPolicy, _, _>(visitor, kind, |meta, spec, problems| {
                convert::staged_network_policy(meta, &spec, problems).map(policy).map(Item::Update)
            })
        }
        Kind::StagedGlobalNetworkPolicy => {
            custom::<crd::StagedGlobalNetworkPolicy, _, _>(visitor, kind, |meta, spec, problems| {
                convert::staged_global_network_policy(meta, &spec, problems).map(policy).map(Item::Update)
            })
        }
        Kind::StagedKubernetesNetworkPolicy => {
            custom::<crd::StagedKubernetesNetworkPolicy, _, _>(visitor, kind, |meta, spec, problems| {
                convert::staged_kubernetes_policy(meta, &spec, problems).map(policy).map(Item::Update)
            })
        }
        Kind::ClusterNetworkPolicy => {
            built_in(visitor, kind, |object: &ClusterPolicyObject<ClusterNetworkPolicy>, problems| {
                convert::cluster_network_policy(&object.metadata, &object.spec, problems).map(policy)
            })
        }
        Kind::AdminNetworkPolicy => {
            built_in(visitor, kind, |object: &ClusterPolicyObject<AdminNetworkPolicy>, problems| {
                convert::admin_network_policy(&object.metadata, &object.spec, problems).map(policy)
            })
        }
        Kind::BaselineAdminNetworkPolicy => {
            built_in(visitor, kind, |object: &ClusterPolicyObject<BaselineAdminNetworkPolicy>, problems| {
                convert::baseline_admin_network_policy(&object.metadata, &object.spec, problems).map(policy)
            })
        }
        _ => beside_policies(visitor, kind),
    }
}

fn policy(policy: Policy) -> Update {
    Update::Policy(policy.key.clone(), Some(Box::new(policy)))
}

/// Kinds that policies refer to.
fn beside_policies<V: Visitor>(visitor: V, kind: Kind) -> V::Output {
    match kind {
        Kind::Tier => custom::<crd::Tier, _, _>(visitor, kind, |meta, spec, problems| {
            let name = meta.name.clone()?;
            let tier = convert::tier(&name, &spec, problems);
            Some(Item::Update(Update::Tier(name, Some(tier))))
        }),
        Kind::NetworkSet => custom::<crd::NetworkSet, _, _>(visitor, kind, |meta, spec, problems| {
            let (key, set) = convert::network_set(meta, &spec, problems)?;
            Some(Item::Update(Update::NetworkSet(key, Some(set))))
        }),
        Kind::GlobalNetworkSet => {
            custom::<crd::GlobalNetworkSet, _, _>(visitor, kind, |meta, spec, problems| {
                let (key, set) = convert::global_network_set(meta, &spec, problems)?;
                Some(Item::Update(Update::NetworkSet(key, Some(set))))
            })
        }
        Kind::HostEndpoint => custom::<crd::HostEndpoint, _, _>(visitor, kind, |meta, spec, problems| {
            let endpoint = convert::host_endpoint(meta, &spec, problems)?;
            Some(Item::Update(Update::HostEndpoint(endpoint.name.clone(), Some(Box::new(endpoint)))))
        }),
        Kind::Profile => custom::<crd::Profile, _, _>(visitor, kind, |meta, spec, problems| {
            let profile = convert::profile(meta, &spec, problems)?;
            Some(Item::Update(Update::Profile(profile.name.clone(), Some(Box::new(profile)))))
        }),
        _ => network(visitor, kind),
    }
}

/// Kinds about addresses, routes and settings.
fn network<V: Visitor>(visitor: V, kind: Kind) -> V::Output {
    match kind {
        Kind::IpamBlock => custom::<crd::IPAMBlock, _, _>(visitor, kind, |_, spec, problems| {
            let block = convert::block(&spec, problems).filter(|block| !block.deleted)?;
            Some(Item::Update(Update::Block(block.cidr, Some(Box::new(block)))))
        }),
        Kind::BlockAffinity => custom::<crd::BlockAffinity, _, _>(visitor, kind, |_, spec, problems| {
            let affinity = convert::affinity(&spec, problems).filter(|affinity| !affinity.deleted)?;
            Some(Item::Update(Update::BlockAffinity(affinity.node.clone(), affinity.cidr, Some(affinity))))
        }),
        Kind::IpamConfiguration => {
            custom::<crd::IPAMConfiguration, _, _>(visitor, kind, |meta, spec, problems| {
                let settings = convert::ipam_configuration(&spec, problems);
                (meta.name.as_deref() == Some("default"))
                    .then_some(Item::Update(Update::IpamConfiguration(Some(settings))))
            })
        }
        Kind::IpReservation => custom::<crd::IPReservation, _, _>(visitor, kind, |meta, spec, problems| {
            let ranges = convert::ip_reservation(&spec, problems);
            Some(Item::Update(Update::IpReservation(meta.name.clone()?, Some(ranges))))
        }),
        Kind::BgpConfiguration => {
            custom::<crd::BGPConfiguration, _, _>(visitor, kind, |_, spec, _| Some(Item::Bgp(Box::new(spec))))
        }
        Kind::BgpPeer => custom::<crd::BGPPeer, _, _>(visitor, kind, |meta, spec, problems| {
            let peer = convert::bgp_peer(meta.name.as_deref()?, &spec, problems)?;
            Some(Item::Update(Update::BgpPeer(peer.name.clone(), Some(Box::new(peer)))))
        }),
        Kind::BgpFilter => custom::<crd::BGPFilter, _, _>(visitor, kind, |meta, spec, problems| {
            let filter = convert::bgp_filter(meta.name.as_deref()?, &spec, problems);
            Some(Item::Update(Update::BgpFilter(filter.name.clone(), Some(Box::new(filter)))))
        }),
        Kind::Service => built_in(visitor, kind, |object: &ServiceObject, problems| {
            let service = convert::service(object, problems)?;
            Some(Update::Service(service.key.clone(), Some(service)))
        }),
        Kind::EndpointSlice => built_in(visitor, kind, |object: &EndpointSliceObject, problems| {
            let slice = convert::endpoint_slice(object, problems)?;
            Some(Update::EndpointSlice(slice.key.clone(), Some(slice)))
        }),
        Kind::FelixConfiguration => {
            visitor.visit(kind, watcher::Config::default(), |object: &Custom<crd::FelixConfiguration>, _| {
                Some(Item::Felix(Box::new((object.metadata.clone(), object.spec.clone()))))
            })
        }
        // Nobody learns of it as an update.
        Kind::CalicoNodeStatus => {
            visitor.visit(kind, watcher::Config::default(), |_: &Custom<crd::CalicoNodeStatus>, _| None)
        }
        _ => custom::<crd::IPPool, _, _>(visitor, kind, |meta, spec, problems| {
            let pool = convert::pool(meta, &spec, problems)?;
            Some(Item::Update(Update::Pool(pool.name.clone(), Some(pool))))
        }),
    }
}

fn pod(object: &PodObject, problems: &mut Problems) -> Option<Update> {
    convert::pod(object, problems).map(|pod| Update::Pod(pod.key.clone(), Some(pod)))
}

/// A kind of Kubernetes' own, which is always well-formed.
fn built_in<V: Visitor, K: Watched>(
    visitor: V,
    kind: Kind,
    convert: fn(&K, &mut Problems) -> Option<Update>,
) -> V::Output {
    visitor.visit(kind, watcher::Config::default(), move |object: &K, problems| {
        convert(object, problems).map(Item::Update)
    })
}

/// A custom resource; one whose spec cannot be read is named and counts as gone.
fn custom<K, S, V: Visitor>(
    visitor: V,
    kind: Kind,
    convert: fn(&ObjectMeta, S, &mut Problems) -> Option<Item>,
) -> V::Output
where
    K: Resource<DynamicType = ()> + kube::core::object::HasSpec<Spec = S> + 'static,
    K::Scope: 'static,
    S: DeserializeOwned + 'static,
    Custom<K>: Watched,
{
    visitor.visit(kind, watcher::Config::default(), move |object: &Custom<K>, problems| {
        let spec = if object.spec.is_null() { serde_json::json!({}) } else { object.spec.clone() };
        let spec = problems.take("spec", serde_json::from_value(spec))?;
        convert(&object.metadata, spec, problems)
    })
}

/// What is asked of an object: by [`watcher`], and by who passes it on.
pub(crate) trait Watched:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + 'static
{
}

impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + 'static> Watched
    for K
{
}
