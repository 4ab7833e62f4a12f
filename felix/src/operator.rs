//! The operator's socket: what `ocicat` and gRPC clients ask of this node. Root only, bounded, read-only.

mod live;
pub mod met;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream;
use http::{Request, Response};
use hyper::body::Incoming;
use operator_socket::grpc::{Answers, refuse, streaming, unary};
use operator_socket::{Framed, Service};
use parking_lot::Mutex;
use proto::felix as api;
use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tonic::Status;
use tonic::body::Body;

use crate::command::Dataplane;
use crate::drop_log::DropLog;
use crate::drops::is_wanted;
use crate::reclaim::Suspected;

/// How often one who follows hears that the agent is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the dataplane's thread may take to look at something: an apply may be under way.
const PATIENCE: Duration = Duration::from_secs(8);

/// What this node can tell.
#[derive(Clone)]
pub struct Operator {
    pub node: Arc<str>,
    pub drops: Arc<DropLog>,
    pub dataplane: Dataplane,
    pub suspected: Arc<Mutex<Suspected>>,
}

impl Service for Operator {
    async fn framed(self, mut client: Framed) -> io::Result<()> {
        while let Some(request) = client.request::<api::Request>().await? {
            let answer = match request.call {
                Some(Call::Drops(wanted)) if wanted.follow => return self.follow(client, wanted).await,
                Some(Call::Drops(wanted)) => Ok(Answer::Drops(self.page(&wanted).0)),
                Some(Call::Audit(_)) => self.audit().await.map(Answer::Audit),
                Some(Call::Explain(packet)) => self.explain(packet).await.map(Answer::Explained),
                Some(Call::PolicyStatus(_)) => self.policy_status().await.map(Answer::PolicyStatus),
                Some(Call::Configuration(_)) => self.configuration().await.map(Answer::Configuration),
                Some(Call::Suspects(_)) => Ok(Answer::Suspects(self.suspects())),
                None => Err("this agent does not know the call".to_owned()),
            };
            client.send(&response(answer.unwrap_or_else(Answer::Error))).await?;
        }
        Ok(())
    }

    fn grpc(self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send {
        self.call(request)
    }
}

impl Operator {
    async fn call(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let Some(call) = path.strip_prefix(api::SERVICE) else {
            return refuse(format!("this agent has {} only, not {path}", api::SERVICE.trim_matches('/')));
        };
        let failed = |what: String| Status::unavailable(what);
        match call {
            "Drops" => streaming(request, |wanted| self.stream(wanted)).await,
            "Audit" => {
                unary(request, |_: request::Audit| async move { self.audit().await.map_err(failed) }).await
            }
            "Explain" => {
                unary(request, |packet| async move {
                    self.explain(packet).await.map_err(Status::invalid_argument)
                })
                .await
            }
            "PolicyStatus" => {
                unary(request, |_: request::PolicyStatus| async move {
                    self.policy_status().await.map_err(failed)
                })
                .await
            }
            "Configuration" => {
                unary(request, |_: request::Configuration| async move {
                    self.configuration().await.map_err(failed)
                })
                .await
            }
            "Suspects" => unary(request, |_: request::Suspects| async move { Ok(self.suspects()) }).await,
            _ => refuse(format!("{call} is not answered by this agent")),
        }
    }

    /// What is kept, and where what comes can be had.
    fn page(&self, wanted: &request::Drops) -> (api::Drops, Receiver<Arc<api::Drop>>) {
        let (mut page, followed) = self.drops.follow(wanted);
        page.node = self.node.to_string();
        (page, followed)
    }

    /// Sends what is kept and then what comes, until the client goes.
    async fn follow(&self, mut client: Framed, wanted: request::Drops) -> io::Result<()> {
        let (page, mut followed) = self.page(&wanted);
        client.send(&response(Answer::Drops(page))).await?;
        loop {
            let next = tokio::select! {
                page = self.next(&mut followed, &wanted) => page,
                () = client.gone() => return Ok(()),
            };
            client.send(&response(Answer::Drops(next))).await?;
        }
    }

    /// The next record, or an empty page when none came for a while.
    async fn next(&self, followed: &mut Receiver<Arc<api::Drop>>, wanted: &request::Drops) -> api::Drops {
        let records = tokio::time::timeout(HEARTBEAT, wanted_record(followed, wanted)).await;
        let (lost, problem) = self.drops.state();
        let records = records.into_iter().collect();
        api::Drops { records, more: true, lost, problem, node: self.node.to_string() }
    }

    async fn stream(self, wanted: request::Drops) -> Result<Answers<api::Drops>, Status> {
        let (page, followed) = self.page(&wanted);
        let first = Some((page, followed));
        let pages =
            stream::unfold((self, wanted, first, None), |(this, wanted, first, followed)| async move {
                match (first, followed) {
                    (Some((page, followed)), _) => Some((Ok(page), (this, wanted, None, Some(followed)))),
                    (None, Some(mut followed)) if wanted.follow => {
                        let page = this.next(&mut followed, &wanted).await;
                        Some((Ok(page), (this, wanted, None, Some(followed))))
                    }
                    _ => None,
                }
            });
        Ok(Box::pin(pages))
    }

    async fn audit(&self) -> Result<api::Audit, String> {
        let node = self.node.to_string();
        let seen = self.dataplane.look(PATIENCE, |worker| worker.audit()).await;
        seen.map(|audit| api::Audit { node, ..audit }).map_err(|error| error.to_string())
    }

    async fn policy_status(&self) -> Result<api::PolicyStatus, String> {
        let node = self.node.to_string();
        let seen = self.dataplane.look(PATIENCE, |worker| worker.policies()).await;
        seen.map(|status| api::PolicyStatus { node, ..status }).map_err(|error| error.to_string())
    }

    fn suspects(&self) -> api::Suspects {
        self.suspected.lock().report(&self.node, Instant::now())
    }

    async fn configuration(&self) -> Result<api::Configuration, String> {
        let seen = self.dataplane.look(PATIENCE, |worker| worker.settings()).await;
        let settings = seen.map_err(|error| error.to_string())?;
        Ok(api::Configuration { node: self.node.to_string(), settings })
    }
}

/// Waits for a record that is wanted; those that were too fast for us are counted by whoever reads them later.
async fn wanted_record(followed: &mut Receiver<Arc<api::Drop>>, wanted: &request::Drops) -> api::Drop {
    loop {
        match followed.recv().await {
            Ok(record) if is_wanted(&record, &wanted.pod, &wanted.policy) => return (*record).clone(),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn response(answer: Answer) -> api::Response {
    api::Response { answer: Some(answer) }
}
