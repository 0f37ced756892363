//! Who leads: one item, renewed every few seconds, taken over when it stands still.
//!
//! A standby measures stillness by its own monotonic clock, never by times in the item. A leader
//! that could not renew for a while stops serving before a standby may take over. Whoever listens
//! on the very place of the last leader knows that it is gone and does not wait.

use std::time::Duration;

use millrace_common::clock::Clock;
use millrace_common::error::{Code, Error};
use millrace_proto::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{LeaderItem, Store, StoreError, Tenure};

/// The intervals of leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderTiming {
    /// How often the leader renews.
    pub renew_interval: Duration,
    /// A leader that did not renew for this long steps down.
    pub step_down_after: Duration,
    /// A standby that saw no renewal for this long takes over.
    pub take_over_after: Duration,
}

/// Leadership that was won.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The item as this master wrote it last.
    pub item: LeaderItem,
    /// Monotonic time just before it was written.
    pub since: Duration,
}

/// What a master that does not lead knows of who does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Where the leading master is reached, as `host:port`.
    pub leader: Option<String>,
    /// Why the store does not say who leads, or does not let this master go on leading.
    pub trouble: Option<v1::Failure>,
}

impl Known {
    /// The refusal of whoever asks this master.
    #[must_use]
    pub fn refusal(&self) -> Error {
        let refusal = Error::not_leader(self.leader.as_deref());
        match &self.trouble {
            Some(trouble) => refusal.caused_by(Error::from_failure(trouble.clone())),
            None => refusal,
        }
    }

    fn fails(&mut self, error: &StoreError) {
        self.leader = None;
        self.trouble = match error {
            StoreError::Passing(error) | StoreError::Lasting(error) => Some(error.to_failure()),
            StoreError::Refused | StoreError::Deposed => None,
        };
    }

    fn is_silent(&mut self) {
        self.leader = None;
        self.trouble = Some(
            Error::new(
                Code::AwsUnreachable,
                "DynamoDB does not answer",
                "see the endpoint (AWS_ENDPOINT_URL), the network and the region",
            )
            .to_failure(),
        );
    }
}

/// What a standby does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Look again a little later.
    Wait,
    /// Write this item in place of what was seen.
    Take(LeaderItem),
}

/// The standby's pure part: what it has seen, and since when it stands still.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Campaign {
    instance: String,
    place: String,
    address: String,
    /// Leadership starts above this term: nodes have seen it.
    min_term: u64,
    take_over_after: Duration,
    seen: Option<(u64, u64, Duration)>,
}

impl Campaign {
    /// A standby that has seen nothing yet.
    #[must_use]
    pub fn new(
        instance: String,
        place: String,
        address: String,
        min_term: u64,
        take_over_after: Duration,
    ) -> Self {
        Self { instance, place, address, min_term, take_over_after, seen: None }
    }

    /// The leader item was read at this monotonic time.
    pub fn observe(&mut self, now: Duration, item: Option<&LeaderItem>) -> Decision {
        let Some(item) = item else { return self.take(0, 0) };
        let since = match self.seen {
            Some((term, counter, since)) if (term, counter) == (item.term, item.counter) => since,
            _ => now,
        };
        self.seen = Some((item.term, item.counter, since));
        let is_gone = item.is_released
            || item.place == self.place
            || item.instance == self.instance
            || now.saturating_sub(since) >= self.take_over_after;
        if is_gone { self.take(item.term, item.counter) } else { Decision::Wait }
    }

    fn take(&self, term: u64, counter: u64) -> Decision {
        Decision::Take(LeaderItem {
            term: term.max(self.min_term) + 1,
            counter: counter + 1,
            instance: self.instance.clone(),
            place: self.place.clone(),
            address: self.address.clone(),
            is_released: false,
        })
    }
}

/// Waits until this master leads; none when `cancel` came first. `known` shows where the leading
/// master is reached while there is one, and why that is not known.
///
/// # Errors
/// What the store says when it will say so again, as that the table is missing.
pub async fn campaign(
    store: &dyn Store,
    clock: &dyn Clock,
    mut campaign: Campaign,
    poll_interval: Duration,
    known: &watch::Sender<Known>,
    cancel: &CancellationToken,
) -> Result<Option<Leadership>, Error> {
    let mut has_told = false;
    loop {
        let seen = match store.read_leader().await {
            Ok(seen) => seen,
            Err(StoreError::Lasting(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the leader item can not be read");
                known.send_modify(|known| known.fails(&error));
                if pause(poll_interval, cancel).await { continue } else { return Ok(None) }
            }
        };
        if let Decision::Take(item) = campaign.observe(clock.monotonic(), seen.as_ref()) {
            let since = clock.monotonic();
            known.send_replace(Known::default());
            match store.write_leader(&item, seen.as_ref()).await {
                Ok(()) => return Ok(Some(Leadership { item, since })),
                // Refused, or unknown: the next look tells.
                Err(StoreError::Lasting(error)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "leadership was not taken");
                    known.send_modify(|known| known.fails(&error));
                }
            }
        } else {
            let leader = seen.unwrap_or_default();
            if !has_told {
                tracing::info!(leader = leader.address, term = leader.term, "standing by");
                has_told = true;
            }
            let leader = Some(leader.address).filter(|address| !address.is_empty());
            known.send_replace(Known { leader, trouble: None });
        }
        if !pause(poll_interval, cancel).await {
            return Ok(None);
        }
    }
}

/// False when cancelled.
async fn pause(interval: Duration, cancel: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(interval) => true,
        () = cancel.cancelled() => false,
    }
}

/// Renews leadership and with it `tenure` until it is lost or `cancel` comes; then gives it up. Returns
/// when this master must not serve any more. `known` shows what keeps it from renewing.
pub async fn hold(
    store: &dyn Store,
    clock: &dyn Clock,
    leadership: Leadership,
    timing: LeaderTiming,
    tenure: &Tenure,
    known: &watch::Sender<Known>,
    cancel: &CancellationToken,
) {
    let mut item = leadership.item;
    let mut renewed = leadership.since;
    loop {
        if !pause(timing.renew_interval, cancel).await {
            let released =
                LeaderItem { counter: item.counter + 1, is_released: true, ..item.clone() };
            if let Err(error) = store.write_leader(&released, Some(&item)).await {
                tracing::warn!(%error, "leadership could not be given up: the next leader waits");
            }
            return;
        }
        let asked = clock.monotonic();
        let left = timing.step_down_after.saturating_sub(asked.saturating_sub(renewed));
        let next = LeaderItem { counter: item.counter + 1, ..item.clone() };
        match tokio::time::timeout(left, renew(store, &item, &next)).await {
            Ok(Ok(())) => {
                item = next;
                renewed = asked;
                tenure.renew(asked);
                known.send_if_modified(|known| known.trouble.take().is_some());
            }
            Ok(Err(StoreError::Refused)) => {
                tracing::warn!(term = item.term, "another master has taken over");
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "leadership could not be renewed");
                known.send_modify(|known| known.fails(&error));
            }
            Err(_) => {
                tracing::warn!("the renewal of leadership had no answer");
                known.send_modify(Known::is_silent);
            }
        }
        if clock.monotonic().saturating_sub(renewed) >= timing.step_down_after {
            tracing::error!(after = ?timing.step_down_after, "not renewed: stepping down");
            return;
        }
    }
}

/// One renewal. After an answer that was lost the item tells whether it was applied.
async fn renew(store: &dyn Store, item: &LeaderItem, next: &LeaderItem) -> Result<(), StoreError> {
    match store.write_leader(next, Some(item)).await {
        Err(StoreError::Refused) => match store.read_leader().await? {
            Some(found) if found == *next => Ok(()),
            Some(found) if found == *item => {
                Err(StoreError::Passing(Error::internal("the item was refused and is unchanged")))
            }
            _ => Err(StoreError::Refused),
        },
        outcome => outcome,
    }
}
