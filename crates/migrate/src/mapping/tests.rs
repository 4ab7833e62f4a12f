//! Objects written by hand as Calico stores them, and what each is in our group.

use serde_json::{Value, json};

use super::*;
use crate::kind_of;

fn ours(plural: &str, object: &Value) -> Mapped {
    to_ours(kind_of(plural).unwrap(), object).unwrap_or_else(|note| panic!("{note:?}"))
}

fn refused(plural: &str, object: &Value) -> (Effect, String) {
    let note = to_ours(kind_of(plural).unwrap(), object).unwrap_err();
    (note.effect, note.field)
}

fn enveloped(stored: &str, envelope: &Value, spec: &Value) -> Value {
    json!({
        "apiVersion": CALICO, "kind": "GlobalNetworkPolicy",
        "metadata": {
            "name": stored, "uid": "u", "resourceVersion": "7", "generation": 2,
            "annotations": {METADATA: envelope.to_string()},
        },
        "spec": spec,
    })
}

#[test]
fn what_users_wrote_comes_out_of_the_envelope() {
    let envelope = json!({
        "name": "deny-all", "creationTimestamp": null, "labels": {"a": "b"},
        "annotations": {"note": "x", LAST_APPLIED: "{}"},
    });
    let stored = enveloped("default.deny-all", &envelope, &json!({"tier": "default", "selector": "all()"}));

    let mapped = ours("globalnetworkpolicies", &stored);

    let expected = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "deny-all", "labels": {"a": "b"}, "annotations": {"note": "x"}},
        "spec": {"tier": "default", "selector": "all()"},
    });
    assert_eq!(mapped.object, expected);
    assert!(mapped.notes.is_empty());
}

#[test]
fn names_of_policies_lose_the_tier_that_an_older_release_put_before_them() {
    let name = |stored: &str, tier: Option<&str>| {
        let spec = tier.map_or(json!({}), |tier| json!({"tier": tier}));
        let object =
            json!({"metadata": {"name": stored, "namespace": "dev", "labels": {"x": "y"}}, "spec": spec});
        let mapped = ours("networkpolicies", &object);
        assert_eq!(mapped.object["metadata"]["labels"], json!({"x": "y"}), "nobody wrote an envelope");
        mapped.full_name()
    };

    assert_eq!(name("default.web", None), "dev/web");
    assert_eq!(name("default.web", Some("default")), "dev/web");
    assert_eq!(name("security.web", Some("security")), "dev/security.web");
    assert_eq!(name("web", Some("security")), "dev/web");
    assert_eq!(name("knp.default.web", None), "dev/knp.default.web");
    assert_eq!(name("default.", None), "dev/default.");
    let kept = enveloped("default.web", &json!({"name": "default.web"}), &json!({}));
    assert_eq!(ours("globalnetworkpolicies", &kept).name, "default.web", "its user named it so");
    let pool = json!({"metadata": {"name": "default.pool"}, "spec": {}});
    assert_eq!(ours("ippools", &pool).name, "default.pool");
}

#[test]
fn two_objects_with_one_name_are_found() {
    let policy = |stored: &str| ours("globalnetworkpolicies", &json!({"metadata": {"name": stored}}));

    assert_eq!(collisions(&[policy("default.web"), policy("web"), policy("b")]), ["GlobalNetworkPolicy web"]);
    assert!(collisions(&[policy("a"), policy("b")]).is_empty());
}

#[test]
fn ipams_objects_are_spelled_otherwise_and_keep_all_they_say() {
    let spec = json!({
        "cidr": "10.0.0.0/30", "affinity": "host:node-a", "affinityClaimTime": "2026-01-01T00:00:00Z",
        "strictAffinity": false, "sequenceNumber": 1_767_225_600_000_000_007_i64,
        "sequenceNumberForAllocation": {"0": 1_767_225_600_000_000_003_i64}, "deleted": false,
        "allocations": [0, null, null, null], "unallocated": [3, 2, 1],
        "attributes": [{"handle_id": "k8s-pod-network.aaaa", "secondary": {"node": "node-a", "pod": "p1"}}],
    });
    let block = ours("ipamblocks", &json!({"metadata": {"name": "10-0-0-0-30"}, "spec": spec}));
    assert_eq!((block.name.as_str(), &block.object["spec"]), ("10-0-0-0-30", &spec));

    let labels = json!({"projectcalico.org/affinity-type": "host", "projectcalico.org/ip-version": "4"});
    let affinity = json!({
        "metadata": {"name": "node-a-10-0-0-0-30", "labels": labels},
        "spec": {"cidr": "10.0.0.0/30", "deleted": "false", "node": "node-a", "state": ""},
    });
    let mapped = ours("blockaffinities", &affinity);
    let expected = json!({"cidr": "10.0.0.0/30", "deleted": false, "node": "node-a", "state": "confirmed", "type": "host"});
    assert_eq!((&mapped.object["spec"], &mapped.object["metadata"]["labels"]), (&expected, &labels));

    let config = json!({"metadata": {"name": "default"}, "spec": {"strictAffinity": true, "autoAllocateBlocks": true}});
    assert_eq!(ours("ipamconfigs", &config).object["kind"], "IPAMConfiguration");
    for deleted in [json!("true"), json!(true)] {
        let gone = json!({"metadata": {"name": "h"}, "spec": {"handleID": "h", "deleted": deleted}});
        assert_eq!(refused("ipamhandles", &gone), (Effect::Ignored, "spec.deleted".to_owned()));
    }
}

#[test]
fn owners_and_finalizers_of_calico_are_left_and_named() {
    let envelope = json!({"ownerReferences": [
        {"apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkSet", "name": "s", "uid": "1"},
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "2"},
    ]});
    let mut stored = enveloped("tier", &envelope, &json!({"order": 100}));
    stored["metadata"]["finalizers"] = json!(["projectcalico.org/tier-controller"]);

    let mapped = ours("tiers", &stored);

    assert_eq!(mapped.object["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    assert!(mapped.object["metadata"].get("finalizers").is_none());
    let fields: Vec<_> = mapped.notes.iter().map(|note| note.field.as_str()).collect();
    assert_eq!(fields, ["metadata.ownerReferences", "metadata.finalizers"]);
}

#[test]
fn half_written_objects_are_refused_by_name() {
    for (object, field) in [
        (json!(null), "metadata"),
        (json!([]), "metadata"),
        (json!({"metadata": {}}), "metadata"),
        (json!({"metadata": {"name": "a"}, "spec": 3}), "spec"),
        (enveloped("a", &json!("text"), &json!({})), "metadata.annotations[projectcalico.org/metadata]"),
    ] {
        assert_eq!(refused("globalnetworkpolicies", &object), (Effect::Blocks, field.to_owned()), "{object}");
    }
    let ending = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert_eq!(refused("ippools", &ending).0, Effect::Ignored);
    // Without a spec it says nothing, and that is allowed.
    assert_eq!(ours("tiers", &json!({"metadata": {"name": "t"}})).object["spec"], json!({}));
}

#[test]
fn an_object_that_goes_back_is_read_as_what_it_was() {
    let object = json!({
        "apiVersion": OURS, "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "web", "labels": {"a": "b"}, "annotations": {"note": "x"}, "uid": "u", "resourceVersion": "9"},
        "spec": {"tier": "default", "selector": "all()"},
    });
    let kind = kind_of("globalnetworkpolicies").unwrap();

    let stored = to_calico_object(kind, &object, None);
    assert_eq!((&stored["metadata"]["name"], &stored["apiVersion"]), (&json!("default.web"), &json!(CALICO)));
    assert!(stored["metadata"].get("resourceVersion").is_none());
    let read = to_ours(kind, &stored).unwrap();
    assert!(same(&read.object, &object), "{read:?}");
    let replaced =
        to_calico_object(kind, &object, Some(&json!({"metadata": {"name": "web", "resourceVersion": "3"}})));
    assert_eq!(
        (&replaced["metadata"]["name"], &replaced["metadata"]["resourceVersion"]),
        (&json!("web"), &json!("3"))
    );

    let claim = json!({
        "metadata": {"name": "n-10-0-0-0-26", "labels": {"projectcalico.org/ip-version": "4"}},
        "spec": {"cidr": "10.0.0.0/26", "node": "n", "state": "confirmed", "type": "host", "deleted": false},
    });
    let kind = kind_of("blockaffinities").unwrap();
    let stored = to_calico_object(kind, &claim, None);
    assert_eq!(
        (&stored["spec"]["deleted"], &stored["metadata"]["labels"]),
        (&json!("false"), &claim["metadata"]["labels"])
    );
    assert!(same(&to_ours(kind, &stored).unwrap().object, &claim));
    assert!(!same(&json!({"spec": {"a": 1}}), &json!({"spec": {"a": 2}})));
}

#[test]
fn nothing_that_is_stored_panics() {
    for plural in ["tiers", "ipamblocks", "blockaffinities", "networkpolicies", "ipamhandles"] {
        let kind = kind_of(plural).unwrap();
        for spec in
            [json!(null), json!(1), json!([]), json!("x"), json!({"deleted": {}, "tier": 3, "state": []})]
        {
            for metadata in
                [json!(null), json!({"name": "a", "labels": 3, "annotations": [], "ownerReferences": {}})]
            {
                let object = json!({"metadata": metadata, "spec": spec});
                let _ = to_ours(kind, &object);
                to_calico_object(kind, &object, Some(&json!(3)));
            }
        }
    }
}
