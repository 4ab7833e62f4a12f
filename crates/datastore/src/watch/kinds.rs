//! One stream of events for each kind.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use model::{NodeName, Policy, Update};
use serde::de::DeserializeOwned;

use super::tracker::{Event, Item, ObjectName};
use super::{Kind, Retry};
use crate::convert::{self, Problems};
use crate::crd;
use crate::objects::{
    AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy, ClusterPolicyObject, Custom,
    EndpointSliceObject, NamespaceObject, NetworkPolicyObject, NodeObject, PodObject, ServiceAccountObject,
    ServiceObject,
};

/// Events of one kind.
pub(super) type EventStream = Pin<Box<dyn Stream<Item = (Kind, Event)> + Send>>;

/// Lists and watches one kind for ever, for who lives on `node`.
pub(super) fn watch(client: Client, kind: Kind, node: &NodeName) -> EventStream {
    match kind {
        Kind::LocalPod => {
            let here = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
            events(client, kind, here, |object: &PodObject, problems| pod(object, problems).map(Item::Update))
        }
        Kind::Node => built_in(client, kind, |object: &NodeObject, problems| {
            convert::node(object, problems).map(|node| Update::Node(node.name.clone(), Some(node)))
        }),
        Kind::Pod => built_in(client, kind, pod),
        Kind::Namespace => built_in(client, kind, |object: &NamespaceObject, _| {
            let labels = object.metadata.labels.clone().unwrap_or_default();
            Some(Update::Namespace(object.metadata.name.clone()?, Some(labels)))
        }),
        Kind::ServiceAccount => built_in(client, kind, |object: &ServiceAccountObject, _| {
            let meta = &object.metadata;
            let labels = meta.labels.clone().unwrap_or_default();
            Some(Update::ServiceAccount(meta.namespace.clone()?, meta.name.clone()?, Some(labels)))
        }),
        _ => policies(client, kind),
    }
}

/// Kinds of policies.
fn policies(client: Client, kind: Kind) -> EventStream {
    match kind {
        Kind::KubernetesNetworkPolicy => built_in(client, kind, |object: &NetworkPolicyObject, problems| {
            convert::kubernetes_policy(object, problems).map(policy)
        }),
        Kind::NetworkPolicy => custom::<crd::NetworkPolicy, _>(client, kind, |meta, spec, problems| {
            convert::network_policy(meta, &spec, problems).map(policy).map(Item::Update)
        }),
        Kind::GlobalNetworkPolicy => {
            custom::<crd::GlobalNetworkPolicy, _>(client, kind, |meta, spec, problems| {
                convert::global_network_policy(meta, &spec, problems).map(policy).map(Item::Update)
            })
        }
        Kind::StagedNetworkPolicy => {
            custom::<crd::StagedNetworkPolicy, _>(client, kind, |meta, spec, problems| {
                convert::staged_network_policy(meta, &spec, problems).map(policy).map(Item::Update)
            })
        }
        Kind::StagedGlobalNetworkPolicy => {
            custom::<crd::StagedGlobalNetworkPolicy, _>(client, kind, |meta, spec, problems| {
                convert::staged_global_network_policy(meta, &spec, problems).map(policy).map(Item::Update)
            })
        }
        Kind::StagedKubernetesNetworkPolicy => {
            custom::<crd::StagedKubernetesNetworkPolicy, _>(client, kind, |meta, spec, problems| {
                convert::staged_kubernetes_policy(meta, &spec, problems).map(policy).map(Item::Update)
            })
        }
        Kind::ClusterNetworkPolicy => {
            built_in(client, kind, |object: &ClusterPolicyObject<ClusterNetworkPolicy>, problems| {
                convert::cluster_network_policy(&object.metadata, &object.spec, problems).map(policy)
            })
        }
        Kind::AdminNetworkPolicy => {
            built_in(client, kind, |object: &ClusterPolicyObject<AdminNetworkPolicy>, problems| {
                convert::admin_network_policy(&object.metadata, &object.spec, problems).map(policy)
            })
        }
        Kind::BaselineAdminNetworkPolicy => {
            built_in(client, kind, |object: &ClusterPolicyObject<BaselineAdminNetworkPolicy>, problems| {
                convert::baseline_admin_network_policy(&object.metadata, &object.spec, problems).map(policy)
            })
        }
        _ => beside_policies(client, kind),
    }
}

fn policy(policy: Policy) -> Update {
    Update::Policy(policy.key.clone(), Some(Box::new(policy)))
}

/// Kinds that policies refer to.
fn beside_policies(client: Client, kind: Kind) -> EventStream {
    match kind {
        Kind::Tier => custom::<crd::Tier, _>(client, kind, |meta, spec, problems| {
            let name = meta.name.clone()?;
            let tier = convert::tier(&name, &spec, problems);
            Some(Item::Update(Update::Tier(name, Some(tier))))
        }),
        Kind::NetworkSet => custom::<crd::NetworkSet, _>(client, kind, |meta, spec, problems| {
            let (key, set) = convert::network_set(meta, &spec, problems)?;
            Some(Item::Update(Update::NetworkSet(key, Some(set))))
        }),
        Kind::GlobalNetworkSet => custom::<crd::GlobalNetworkSet, _>(client, kind, |meta, spec, problems| {
            let (key, set) = convert::global_network_set(meta, &spec, problems)?;
            Some(Item::Update(Update::NetworkSet(key, Some(set))))
        }),
        Kind::HostEndpoint => custom::<crd::HostEndpoint, _>(client, kind, |meta, spec, problems| {
            let endpoint = convert::host_endpoint(meta, &spec, problems)?;
            Some(Item::Update(Update::HostEndpoint(endpoint.name.clone(), Some(Box::new(endpoint)))))
        }),
        Kind::Profile => custom::<crd::Profile, _>(client, kind, |meta, spec, problems| {
            let profile = convert::profile(meta, &spec, problems)?;
            Some(Item::Update(Update::Profile(profile.name.clone(), Some(Box::new(profile)))))
        }),
        _ => network(client, kind),
    }
}

/// Kinds about addresses, routes and settings.
fn network(client: Client, kind: Kind) -> EventStream {
    match kind {
        Kind::IpamBlock => custom::<crd::IPAMBlock, _>(client, kind, |_, spec, problems| {
            let block = convert::block(&spec, problems).filter(|block| !block.deleted)?;
            Some(Item::Update(Update::Block(block.cidr, Some(Box::new(block)))))
        }),
        Kind::BlockAffinity => custom::<crd::BlockAffinity, _>(client, kind, |_, spec, problems| {
            let affinity = convert::affinity(&spec, problems).filter(|affinity| !affinity.deleted)?;
            Some(Item::Update(Update::BlockAffinity(affinity.node.clone(), affinity.cidr, Some(affinity))))
        }),
        Kind::IpamConfiguration => {
            custom::<crd::IPAMConfiguration, _>(client, kind, |meta, spec, problems| {
                let settings = convert::ipam_configuration(&spec, problems);
                (meta.name.as_deref() == Some("default"))
                    .then_some(Item::Update(Update::IpamConfiguration(Some(settings))))
            })
        }
        Kind::IpReservation => custom::<crd::IPReservation, _>(client, kind, |meta, spec, problems| {
            let ranges = convert::ip_reservation(&spec, problems);
            Some(Item::Update(Update::IpReservation(meta.name.clone()?, Some(ranges))))
        }),
        Kind::BgpConfiguration => {
            custom::<crd::BGPConfiguration, _>(client, kind, |_, spec, _| Some(Item::Bgp(Box::new(spec))))
        }
        Kind::BgpPeer => custom::<crd::BGPPeer, _>(client, kind, |meta, spec, problems| {
            let peer = convert::bgp_peer(meta.name.as_deref()?, &spec, problems)?;
            Some(Item::Update(Update::BgpPeer(peer.name.clone(), Some(Box::new(peer)))))
        }),
        Kind::BgpFilter => custom::<crd::BGPFilter, _>(client, kind, |meta, spec, problems| {
            let filter = convert::bgp_filter(meta.name.as_deref()?, &spec, problems);
            Some(Item::Update(Update::BgpFilter(filter.name.clone(), Some(Box::new(filter)))))
        }),
        Kind::Service => built_in(client, kind, |object: &ServiceObject, problems| {
            let service = convert::service(object, problems)?;
            Some(Update::Service(service.key.clone(), Some(service)))
        }),
        Kind::EndpointSlice => built_in(client, kind, |object: &EndpointSliceObject, problems| {
            let slice = convert::endpoint_slice(object, problems)?;
            Some(Update::EndpointSlice(slice.key.clone(), Some(slice)))
        }),
        Kind::FelixConfiguration => {
            events(client, kind, watcher::Config::default(), |object: &Custom<crd::FelixConfiguration>, _| {
                Some(Item::Felix(Box::new((object.metadata.clone(), object.spec.clone()))))
            })
        }
        _ => custom::<crd::IPPool, _>(client, kind, |meta, spec, problems| {
            let pool = convert::pool(meta, &spec, problems)?;
            Some(Item::Update(Update::Pool(pool.name.clone(), Some(pool))))
        }),
    }
}

fn pod(object: &PodObject, problems: &mut Problems) -> Option<Update> {
    convert::pod(object, problems).map(|pod| Update::Pod(pod.key.clone(), Some(pod)))
}

/// A kind of Kubernetes' own, which is always well-formed.
fn built_in<K>(client: Client, kind: Kind, convert: fn(&K, &mut Problems) -> Option<Update>) -> EventStream
where
    K: Watched,
{
    events(client, kind, watcher::Config::default(), move |object: &K, problems| {
        convert(object, problems).map(Item::Update)
    })
}

/// A custom resource; one whose spec cannot be read is named and counts as gone.
fn custom<K, S>(
    client: Client,
    kind: Kind,
    convert: fn(&ObjectMeta, S, &mut Problems) -> Option<Item>,
) -> EventStream
where
    K: Resource<DynamicType = ()> + kube::core::object::HasSpec<Spec = S> + 'static,
    K::Scope: 'static,
    S: DeserializeOwned + 'static,
    Custom<K>: Watched,
{
    events(client, kind, watcher::Config::default(), move |object: &Custom<K>, problems| {
        let spec = if object.spec.is_null() { serde_json::json!({}) } else { object.spec.clone() };
        let spec = problems.take("spec", serde_json::from_value(spec))?;
        convert(&object.metadata, spec, problems)
    })
}

/// What [`watcher`] asks of an object.
trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {}

impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static> Watched for K {}

fn events<K: Watched>(
    client: Client,
    kind: Kind,
    config: watcher::Config,
    convert: impl Fn(&K, &mut Problems) -> Option<Item> + Send + 'static,
) -> EventStream {
    let config = config.page_size(PAGE);
    let mut begins = false;
    let mut failures = 0_u32;
    let retry = Retry::new();
    let absent = retry.absent.clone();
    // The watcher says `Init` before every attempt, also one that fails: it is held back until something came
    // of it, or every failure would look like a success to the back-off.
    watcher(Api::<K>::all(client), config)
        .filter_map(move |result| {
            std::future::ready(match result {
                Ok(watcher::Event::Init) => {
                    begins = true;
                    None
                }
                Ok(event) => Some(Ok((std::mem::take(&mut begins), event))),
                Err(error) => {
                    absent.store(kind.is_optional() && is_missing(kind, &error), Ordering::Relaxed);
                    Some(Err(error))
                }
            })
        })
        .backoff(retry)
        .flat_map(move |result| {
            let (first, second) = match result {
                Ok((begins, event)) => {
                    failures = 0;
                    (begins.then_some(Event::ListBegins), translate(kind, event, &convert))
                }
                Err(error) => {
                    failures += 1;
                    (None, report(kind, failures, &error))
                }
            };
            stream::iter([first, second].into_iter().flatten().map(move |event| (kind, event)))
        })
        .boxed()
}

/// Objects a page: a list is never whole in memory.
const PAGE: u32 = 250;

fn translate<K: Watched>(
    kind: Kind,
    event: watcher::Event<K>,
    convert: &impl Fn(&K, &mut Problems) -> Option<Item>,
) -> Option<Event> {
    match event {
        watcher::Event::Init => None,
        watcher::Event::InitDone => Some(Event::Listed),
        watcher::Event::Delete(object) => Some(Event::Gone(name_of(&object)?)),
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
            let name = name_of(&object)?;
            let mut problems = Problems::default();
            let item = convert(&object, &mut problems);
            for problem in problems.0 {
                let (field, reason) = (problem.field, problem.reason);
                tracing::warn!(?kind, object = %name, field, reason, "not understood");
            }
            Some(Event::Put(name, item))
        }
    }
}

fn name_of<K: Resource>(object: &K) -> Option<ObjectName> {
    let meta = object.meta();
    Some(ObjectName {
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        name: meta.name.as_deref()?.into(),
    })
}

/// Logs a failure, the first of a row and then every now and then.
///
/// A kind that the API server does not know, three times in a row, counts as empty; one that not every cluster
/// has does at once.
fn report(kind: Kind, failures: u32, error: &watcher::Error) -> Option<Event> {
    let missing = is_missing(kind, error);
    if missing && kind.is_optional() {
        return Some(Event::Missing);
    }
    if failures == 1 || failures.is_multiple_of(20) {
        tracing::warn!(?kind, %error, failures, "watch interrupted, it is retried");
    }
    (missing && failures >= 3).then_some(Event::Missing)
}

/// A kind that not every cluster has need not be ours to read, either.
fn is_missing(kind: Kind, error: &watcher::Error) -> bool {
    let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error else { return false };
    status.code == 404 || (status.code == 403 && kind.is_optional())
}
