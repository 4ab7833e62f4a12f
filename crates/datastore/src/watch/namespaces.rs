//! What annotations of namespaces ask of the network for all pods in them.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use kube::runtime::watcher;
use model::Labels;
use tokio::sync::watch;

use super::sources::ObjectStream;
use crate::objects::NamespaceObject;

/// Calico's annotations of every namespace, by its name.
pub type NamespaceAnnotations = BTreeMap<String, Labels>;

/// Follows them until nobody listens; `None` until they have been listed.
pub(crate) fn spawn(
    mut events: ObjectStream<NamespaceObject>,
) -> watch::Receiver<Option<NamespaceAnnotations>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut listed = NamespaceAnnotations::new();
        loop {
            let event = tokio::select! {
                () = sender.closed() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => handle(event, &mut listed, &sender),
                // The watch goes on; the kinds of policies tell of an API server that is away.
                Some(Err(error)) => tracing::debug!(%error, "watch of namespaces"),
                None => return,
            }
        }
    });
    receiver
}

fn handle(
    event: watcher::Event<NamespaceObject>,
    listed: &mut NamespaceAnnotations,
    sender: &watch::Sender<Option<NamespaceAnnotations>>,
) {
    match event {
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(object) => listed.extend(entry(object)),
        watcher::Event::InitDone => {
            sender.send_replace(Some(std::mem::take(listed)));
        }
        watcher::Event::Apply(object) => {
            sender.send_modify(|all| all.get_or_insert_default().extend(entry(object)));
        }
        watcher::Event::Delete(object) => sender.send_modify(|all| {
            let name = object.metadata.name.unwrap_or_default();
            all.get_or_insert_default().remove(&name);
        }),
    }
}

fn entry(object: NamespaceObject) -> Option<(String, Labels)> {
    Some((object.metadata.name?, object.metadata.annotations.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_come_change_and_go() {
        let (sender, seen) = watch::channel(None);
        let mut listed = NamespaceAnnotations::new();
        let mut tell = |event| handle(event, &mut listed, &sender);
        let annotations = |name: &str| seen.borrow().as_ref().and_then(|all| all.get(name).cloned());

        tell(watcher::Event::Init);
        tell(watcher::Event::InitApply(namespace("a", "1")));
        assert!(seen.borrow().is_none(), "half a list is none");
        tell(watcher::Event::InitDone);
        assert_eq!(annotations("a").unwrap()["k"], "1");
        tell(watcher::Event::Apply(namespace("a", "2")));
        assert_eq!(annotations("a").unwrap()["k"], "2");
        tell(watcher::Event::Delete(namespace("a", "2")));
        assert_eq!(annotations("a"), None);
    }

    fn namespace(name: &str, value: &str) -> NamespaceObject {
        let mut object = NamespaceObject::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.annotations = Some(Labels::from([("k".to_owned(), value.to_owned())]));
        object
    }
}
