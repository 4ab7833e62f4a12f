//! The writes of garbage collection: carries out the steps of `ipam::gc`.

use std::collections::BTreeSet;

use ::ipam::gc::{self, Leak, Plan};
use ::ipam::{Key, Object, Snapshot, Step, Version, Write, rest_from};
use model::Cidr;

use super::{Attempts, IpamClient, IpamError, State, nanoseconds};
use crate::Error;

impl IpamClient {
    /// Frees addresses that nobody uses, each only if it still belongs to the handle and has the sequence number
    /// that were judged, and makes their handles count what is left. Returns how many were freed.
    ///
    /// `idle`: for how many seconds nobody has used them. They rest first when that is less than the cool-down.
    ///
    /// # Errors
    /// When the API server is away; what was not freed is found again.
    pub async fn take_back(&self, leaks: &[Leak], idle: u64) -> Result<usize, IpamError> {
        let mut state = self.shared.state.lock().await;
        self.prepare(&mut state, false).await?;
        let cooldown = state.snapshot.settings.configuration.cooldown;
        let from = if idle >= cooldown { None } else { rest_from(nanoseconds(), cooldown) };
        let freed = state.finish(|snapshot, _| gc::take_back(leaks, snapshot, from)).await?;
        let handles: BTreeSet<&String> = leaks.iter().filter_map(|leak| leak.handle.as_ref()).collect();
        for handle in handles {
            state.begin();
            state.finish(|snapshot, _| gc::settle_handle(handle, snapshot)).await?;
        }
        Ok(freed)
    }

    /// Makes a handle count what the blocks say; one that holds nothing is deleted.
    ///
    /// # Errors
    /// When the API server is away.
    pub async fn settle_handle(&self, id: &str) -> Result<(), IpamError> {
        let mut state = self.shared.state.lock().await;
        state.begin();
        state.finish(|snapshot, _| gc::settle_handle(id, snapshot)).await.map(drop)
    }

    /// Makes the object of a handle that these blocks name and that does not exist.
    ///
    /// # Errors
    /// When the API server is away.
    pub async fn restore_handle(&self, id: &str, blocks: &BTreeSet<Cidr>) -> Result<(), IpamError> {
        let mut state = self.shared.state.lock().await;
        state.begin();
        state.finish(|snapshot, _| gc::restore_handle(id, blocks, snapshot)).await.map(drop)
    }

    /// Gives up an own block that is empty; one that is in use again is kept, which is no error.
    ///
    /// # Errors
    /// When the API server is away.
    pub async fn release_spare(&self, cidr: Cidr) -> Result<(), IpamError> {
        let mut state = self.shared.state.lock().await;
        self.prepare(&mut state, false).await?;
        state.finish(|snapshot, now| gc::release_spare(snapshot, cidr, now)).await.map(drop)
    }

    /// Deletes a block that is empty and that nobody owns.
    ///
    /// # Errors
    /// When the API server is away.
    pub async fn drop_unowned(&self, cidr: Cidr) -> Result<(), IpamError> {
        let mut state = self.shared.state.lock().await;
        self.prepare(&mut state, false).await?;
        state.finish(|snapshot, now| gc::drop_unowned(snapshot, cidr, now)).await.map(drop)
    }

    /// Does what is planned for this client's node, which is gone. Returns how many addresses were freed.
    ///
    /// # Errors
    /// When the API server is away; whoever asks again carries on.
    pub async fn clean_up(&self, plan: &Plan) -> Result<usize, IpamError> {
        // Nobody has used them for longer than any pod waits: they need no rest, and their blocks can go at once.
        let freed = self.take_back(&plan.leaks, u64::MAX).await?;
        for cidr in &plan.claims {
            let mut state = self.shared.state.lock().await;
            state.begin();
            state.finish(|snapshot, now| gc::end_claim(snapshot, *cidr, now)).await?;
        }
        Ok(freed)
    }

    /// Asks this client's node whether it lives; returns the version of the question, also when it stood already.
    ///
    /// # Errors
    /// When the API server is away, or the question was answered this very moment.
    pub async fn ask(&self) -> Result<Version, IpamError> {
        let mut state = self.shared.state.lock().await;
        let question = gc::question(&state.node);
        let key = Key::Affinity(question.node.clone(), question.cidr);
        let written = state.objects.write(&Write::Create(Object::Affinity(question))).await;
        match written {
            Ok(Some(version)) => Ok(version),
            Ok(None) | Err(Error::AlreadyExists { .. }) => {
                let found = state.objects.get(&key).await?;
                found.map(|(_, version)| version).ok_or(IpamError::Contended(1))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Does the question of this version still stand? A compare-and-swap, so that no stale answer counts; returns the
    /// version that it has now, `None` when it was answered.
    ///
    /// # Errors
    /// When the API server is away.
    pub async fn is_unanswered(&self, version: &Version) -> Result<Option<Version>, IpamError> {
        let mut state = self.shared.state.lock().await;
        let question = Object::Affinity(gc::question(&state.node));
        match state.objects.write(&Write::Update(question, version.clone())).await {
            Ok(version) => Ok(version),
            Err(Error::Conflict { .. } | Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the question away: the node lives, or nothing is left of it. None is no error.
    ///
    /// # Errors
    /// When the API server is away.
    pub async fn answer(&self) -> Result<(), IpamError> {
        let mut state = self.shared.state.lock().await;
        let question = gc::question(&state.node);
        let key = Key::Affinity(question.node, question.cidr);
        for _ in 0..Attempts::UNDISTURBED {
            let Some((_, version)) = state.objects.get(&key).await? else { return Ok(()) };
            match state.objects.write(&Write::Delete(key.clone(), version)).await {
                Ok(_) | Err(Error::NotFound { .. }) => return Ok(()),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended(Attempts::UNDISTURBED))
    }
}

impl State {
    /// Takes steps to their end; one that cannot go on for a reason of its own has ended too. Returns how many
    /// addresses became free or rest.
    pub(super) async fn finish<E>(
        &mut self,
        next: impl Fn(&Snapshot, u64) -> Step<(), E>,
    ) -> Result<usize, IpamError> {
        let mut freed = 0;
        for retry in Attempts::new() {
            match next(&self.snapshot, nanoseconds()) {
                Step::Done(()) | Step::Failed(_) => return Ok(freed),
                Step::Read(read) => self.read(&read).await?,
                Step::Write(write) => {
                    let before = self.given_out();
                    self.write(&write, retry).await?;
                    freed += before.saturating_sub(self.given_out());
                }
            }
        }
        Err(IpamError::Contended(Attempts::MOST))
    }

    fn given_out(&self) -> usize {
        self.snapshot.blocks().map(|block| block.value.allocated().count()).sum()
    }
}
