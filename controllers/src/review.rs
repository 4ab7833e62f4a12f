//! The answer to one AdmissionReview (`admission.k8s.io/v1`).
//!
//! Objects are checked by the functions that convert them later, so that what is admitted is what is enforced.

use datastore::{Datastore, check, convert::Problem};
use model::Tier;
use serde_json::{Value, json};

/// Problems that one answer names.
const MOST: usize = 10;
/// Characters of a warning that the API server passes on.
const WARNING: usize = 250;

/// What the webhook says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// With warnings for whoever writes.
    Allowed(Vec<String>),
    /// With an HTTP code and what is wrong.
    Refused(u16, String),
}

/// Judges a request.
///
/// # Errors
/// When a question to the API server fails: nobody knows then.
pub async fn review(datastore: &Datastore, request: &Value) -> datastore::Result<Verdict> {
    if request["operation"] == "DELETE" {
        return deletion(datastore, request).await;
    }
    let (object, old) = (&request["object"], &request["oldObject"]);
    let mut verdict = written(object, old);
    if let Verdict::Allowed(warnings) = &mut verdict {
        warnings.extend(tier_warning(datastore, object, old).await);
    }
    if matches!(verdict, Verdict::Allowed(_))
        && object["kind"] == "IPPool"
        && request["operation"] == "CREATE"
    {
        let conflicts = datastore.pool_conflicts(object).await?;
        if !conflicts.is_empty() {
            return Ok(Verdict::Refused(422, conflicts.join("; ")));
        }
    }
    Ok(verdict)
}

/// What is said of a policy whose tier does not exist. It is no refusal: whoever applies many files may bring the Tier
/// after the policy.
async fn tier_warning(datastore: &Datastore, object: &Value, old: &Value) -> Option<String> {
    let kinds = ["NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"];
    let tier = object["spec"]["tier"].as_str().filter(|tier| !tier.is_empty())?;
    let is_asked = kinds.contains(&object["kind"].as_str()?)
        && object["spec"]["tier"] != old["spec"]["tier"]
        && object["metadata"]["deletionTimestamp"].is_null();
    // Who cannot be asked hinders nobody.
    if !is_asked || datastore.has_tier(tier).await.unwrap_or(true) {
        return None;
    }
    Some(format!(
        "spec.tier: there is no Tier {tier}; until there is, the policy comes after all tiers, and what reaches it and \
         is not allowed is dropped"
    ))
}

/// The review with its answer, as it is sent back.
pub fn response(request: &Value, verdict: &Verdict) -> Value {
    let uid = &request["uid"];
    let response = match verdict {
        Verdict::Allowed(warnings) if warnings.is_empty() => json!({"uid": uid, "allowed": true}),
        Verdict::Allowed(warnings) => json!({"uid": uid, "allowed": true, "warnings": warnings}),
        Verdict::Refused(code, message) => {
            let reason = if *code == 403 { "Forbidden" } else { "Invalid" };
            let status = json!({"status": "Failure", "code": code, "reason": reason, "message": message});
            json!({"uid": uid, "allowed": false, "status": status})
        }
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Whoever changes nothing that is checked, or takes a finalizer away, is not held up by what was wrong before.
fn written(object: &Value, old: &Value) -> Verdict {
    let is_going = !object["metadata"]["deletionTimestamp"].is_null();
    let is_same = !old.is_null()
        && object["spec"] == old["spec"]
        && object["metadata"]["labels"] == old["metadata"]["labels"]
        && object["metadata"]["annotations"] == old["metadata"]["annotations"];
    if is_going || is_same {
        return Verdict::Allowed(Vec::new());
    }
    let (warnings, wrong): (Vec<Problem>, Vec<Problem>) =
        check(object).into_iter().partition(|problem| problem.is_warning);
    if wrong.is_empty() {
        let short = |problem: &Problem| problem.to_string().chars().take(WARNING).collect();
        return Verdict::Allowed(warnings.iter().take(MOST).map(short).collect());
    }
    let mut message: Vec<String> = wrong.iter().take(MOST).map(ToString::to_string).collect();
    if wrong.len() > MOST {
        message.push(format!("and {} more", wrong.len() - MOST));
    }
    Verdict::Refused(422, message.join("; "))
}

/// Tiers stay while something depends on them; everything else may go.
async fn deletion(datastore: &Datastore, request: &Value) -> datastore::Result<Verdict> {
    let name = request["name"].as_str().unwrap_or_default();
    if request["kind"]["kind"] != "Tier" {
        return Ok(Verdict::Allowed(Vec::new()));
    }
    if Tier::built_in(name).is_some() {
        return Ok(Verdict::Refused(403, format!("tier {name} is built in and stays")));
    }
    let policies = datastore.policies_in_tier(name).await?;
    Ok(match policies.first() {
        None => Verdict::Allowed(Vec::new()),
        Some(first) => {
            let others = policies.len() - 1;
            let and = if others == 0 { String::new() } else { format!(" and {others} more") };
            Verdict::Refused(403, format!("tier {name} has policies: {first}{and}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: Value) -> Value {
        json!({"kind": "GlobalNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        let Verdict::Refused(422, message) = written(&policy(json!({"selector": "a = 'b'"})), &Value::Null)
        else {
            panic!("it was allowed");
        };

        assert!(
            message.starts_with("spec.selector: expected") && message.ends_with("at position 2"),
            "{message}"
        );
    }

    #[test]
    fn what_is_not_acted_upon_is_a_warning() {
        let rule = json!({"action": "Allow", "http": {"methods": ["GET"]}});

        let verdict = written(&policy(json!({"ingress": [rule]})), &Value::Null);

        assert!(
            matches!(verdict, Verdict::Allowed(warnings) if warnings[0].starts_with("spec.ingress[0].http"))
        );
    }

    #[test]
    fn what_was_wrong_before_holds_nobody_up() {
        let bad = policy(json!({"selector": "a = 'b'"}));
        let mut going = bad.clone();
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");

        assert_eq!(written(&bad, &bad), Verdict::Allowed(Vec::new()));
        assert_eq!(written(&going, &Value::Null), Verdict::Allowed(Vec::new()));
    }

    #[test]
    fn many_problems_are_named_up_to_a_bound() {
        let rules: Vec<Value> = (0..50).map(|_| json!({"action": "Deny", "ipVersion": 5})).collect();

        let Verdict::Refused(_, message) = written(&policy(json!({"ingress": rules})), &Value::Null) else {
            panic!("it was allowed");
        };

        assert!(message.ends_with("and 40 more"), "{message}");
    }
}
