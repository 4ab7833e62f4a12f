//! The table of built-in resources. Adding one is adding one entry.

use k8s_openapi::api::{
    admissionregistration, apps, authorization, coordination, core, discovery, networking, policy, rbac,
    scheduling,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use crate::columns::{self, Columns};
use crate::defaults;
use crate::names::NameRule;
use crate::registry::{ALL_VERBS, Flavour, Resource, Scope};
use crate::status::Cause;
use crate::validate;

/// What is special about a built-in resource.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Builtin {
    /// Printer columns.
    pub(crate) columns: &'static Columns,
    /// Fills in what the client left out; the old object is there on an update.
    pub(crate) default: fn(&mut Value, Option<&Value>),
    /// Says what is wrong; the old object is there on an update.
    pub(crate) validate: fn(&Value, Option<&Value>) -> Vec<Cause>,
    /// Whether a status that comes with a creation is kept.
    pub(crate) keeps_status_on_create: bool,
    /// Registers the kind's schema and returns its name.
    pub(crate) schema: fn(&mut SchemaGenerator) -> String,
}

/// All built-in resources.
pub(crate) fn table() -> Vec<Resource> {
    use Scope::{Cluster, Namespaced};
    vec![
        group::<core::v1::ConfigMap>("", "configmaps", "ConfigMap", Namespaced)
            .short(&["cm"])
            .columns(&columns::CONFIG_MAP),
        group::<core::v1::Endpoints>("", "endpoints", "Endpoints", Namespaced)
            .singular("endpoints")
            .short(&["ep"])
            .columns(&columns::ENDPOINTS),
        group::<core::v1::Event>("", "events", "Event", Namespaced)
            .short(&["ev"])
            .columns(&columns::EVENT)
            .fields(EVENT_FIELDS),
        group::<core::v1::Namespace>("", "namespaces", "Namespace", Cluster)
            .short(&["ns"])
            .status()
            .name_rule(NameRule::Label)
            .columns(&columns::NAMESPACE)
            .defaults(defaults::namespace)
            .fields(&["status.phase"]),
        group::<core::v1::Node>("", "nodes", "Node", Cluster)
            .short(&["no"])
            .status()
            .keeps_status()
            .columns(&columns::NODE)
            .defaults(defaults::node)
            .validate(validate::node)
            .fields(&["spec.unschedulable"]),
        group::<core::v1::Pod>("", "pods", "Pod", Namespaced)
            .short(&["po"])
            .categories(&["all"])
            .status()
            .generation()
            .subresources(&["binding", "eviction"])
            .columns(&columns::POD)
            .defaults(defaults::pod)
            .validate(validate::pod)
            .fields(POD_FIELDS),
        group::<core::v1::Secret>("", "secrets", "Secret", Namespaced)
            .columns(&columns::SECRET)
            .defaults(defaults::secret)
            .fields(&["type"]),
        group::<core::v1::ServiceAccount>("", "serviceaccounts", "ServiceAccount", Namespaced)
            .short(&["sa"])
            .subresources(&["token"])
            .columns(&columns::SERVICE_ACCOUNT),
        group::<core::v1::Service>("", "services", "Service", Namespaced)
            .short(&["svc"])
            .categories(&["all"])
            .status()
            .name_rule(NameRule::Label1035)
            .columns(&columns::SERVICE)
            .defaults(defaults::service)
            .validate(validate::service)
            .fields(&["spec.clusterIP", "spec.type"]),
        group::<admissionregistration::v1::ValidatingWebhookConfiguration>(
            "admissionregistration.k8s.io",
            "validatingwebhookconfigurations",
            "ValidatingWebhookConfiguration",
            Cluster,
        )
        .generation()
        .columns(&columns::CREATED_AT),
        group::<apps::v1::DaemonSet>("apps", "daemonsets", "DaemonSet", Namespaced)
            .short(&["ds"])
            .categories(&["all"])
            .status()
            .generation()
            .columns(&columns::DAEMON_SET)
            .defaults(defaults::template)
            .validate(validate::workload),
        group::<apps::v1::Deployment>("apps", "deployments", "Deployment", Namespaced)
            .short(&["deploy"])
            .categories(&["all"])
            .status()
            .generation()
            .columns(&columns::DEPLOYMENT)
            .defaults(defaults::deployment)
            .validate(validate::workload),
        group::<authorization::v1::SelfSubjectAccessReview>(
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            Cluster,
        )
        .verbs(&["create"]),
        group::<coordination::v1::Lease>("coordination.k8s.io", "leases", "Lease", Namespaced)
            .columns(&columns::LEASE),
        group::<discovery::v1::EndpointSlice>(
            "discovery.k8s.io",
            "endpointslices",
            "EndpointSlice",
            Namespaced,
        )
        .generation()
        .columns(&columns::ENDPOINT_SLICE),
        group::<networking::v1::NetworkPolicy>(
            "networking.k8s.io",
            "networkpolicies",
            "NetworkPolicy",
            Namespaced,
        )
        .short(&["netpol"])
        .generation()
        .columns(&columns::NETWORK_POLICY)
        .defaults(defaults::network_policy)
        .validate(validate::network_policy),
        group::<policy::v1::PodDisruptionBudget>(
            "policy",
            "poddisruptionbudgets",
            "PodDisruptionBudget",
            Namespaced,
        )
        .short(&["pdb"])
        .status()
        .generation()
        .columns(&columns::POD_DISRUPTION_BUDGET),
        group::<rbac::v1::ClusterRoleBinding>(
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            "ClusterRoleBinding",
            Cluster,
        )
        .name_rule(NameRule::PathSegment)
        .columns(&columns::ROLE_BINDING),
        group::<rbac::v1::ClusterRole>("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", Cluster)
            .name_rule(NameRule::PathSegment)
            .columns(&columns::CREATED_AT),
        group::<rbac::v1::RoleBinding>(
            "rbac.authorization.k8s.io",
            "rolebindings",
            "RoleBinding",
            Namespaced,
        )
        .name_rule(NameRule::PathSegment)
        .columns(&columns::ROLE_BINDING),
        group::<rbac::v1::Role>("rbac.authorization.k8s.io", "roles", "Role", Namespaced)
            .name_rule(NameRule::PathSegment)
            .columns(&columns::CREATED_AT),
        group::<scheduling::v1::PriorityClass>(
            "scheduling.k8s.io",
            "priorityclasses",
            "PriorityClass",
            Cluster,
        )
        .short(&["pc"])
        .generation()
        .columns(&columns::PRIORITY_CLASS),
        group::<apiextensions::v1::CustomResourceDefinition>(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "CustomResourceDefinition",
            Cluster,
        )
        .short(&["crd", "crds"])
        .categories(&["api-extensions"])
        .status()
        .generation()
        .columns(&columns::CREATED_AT)
        .defaults(crate::crd::default)
        .validate(crate::crd::validate),
    ]
}

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

fn group<T: JsonSchema>(group: &str, plural: &str, kind: &str, scope: Scope) -> Resource {
    Resource {
        group: group.into(),
        version: "v1".into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        scope,
        short_names: Vec::new(),
        categories: Vec::new(),
        has_status: false,
        subresources: Vec::new(),
        verbs: ALL_VERBS,
        counts_generation: false,
        name_rule: NameRule::Subdomain,
        fields: Vec::new(),
        flavour: Flavour::BuiltIn(Builtin {
            columns: &columns::NAME_AGE,
            default: |_, _| {},
            validate: |_, _| Vec::new(),
            keeps_status_on_create: false,
            schema: |generator| {
                generator.subschema_for::<T>();
                T::schema_name().into_owned()
            },
        }),
    }
}

impl Resource {
    fn short(mut self, names: &[&str]) -> Self {
        self.short_names = strings(names);
        self
    }

    fn singular(mut self, name: &str) -> Self {
        self.singular = name.into();
        self
    }

    fn categories(mut self, names: &[&str]) -> Self {
        self.categories = strings(names);
        self
    }

    fn status(mut self) -> Self {
        self.has_status = true;
        self
    }

    fn generation(mut self) -> Self {
        self.counts_generation = true;
        self
    }

    fn subresources(mut self, names: &[&'static str]) -> Self {
        self.subresources = names.to_vec();
        self
    }

    fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }

    fn name_rule(mut self, rule: NameRule) -> Self {
        self.name_rule = rule;
        self
    }

    fn fields(mut self, fields: &[&str]) -> Self {
        self.fields = strings(fields);
        self
    }

    fn special(mut self, change: impl FnOnce(&mut Builtin)) -> Self {
        if let Flavour::BuiltIn(builtin) = &mut self.flavour {
            change(builtin);
        }
        self
    }

    fn columns(self, columns: &'static Columns) -> Self {
        self.special(|b| b.columns = columns)
    }

    fn defaults(self, default: fn(&mut Value, Option<&Value>)) -> Self {
        self.special(|b| b.default = default)
    }

    fn validate(self, validate: fn(&Value, Option<&Value>) -> Vec<Cause>) -> Self {
        self.special(|b| b.validate = validate)
    }

    fn keeps_status(self) -> Self {
        self.special(|b| b.keeps_status_on_create = true)
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}
