//! What was asked of each application, and which of the states that the master shows go with it.
//!
//! Pure. Owned by whoever asks; the observer reads it before and after each look, because what is
//! asked may change while it looks. Never does: ask the master.

use std::collections::BTreeMap;

use millrace_proto::v1::ApplicationState;

/// What was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Never submitted: nobody knows it.
    #[default]
    Never,
    /// A submission is on its way.
    Submitting,
    /// The submission was taken: from now on it is never lost.
    Run,
    /// An order to end is on its way.
    Asking,
    /// The order was taken.
    Ending,
    /// It was seen to have ended after that order, and stays so.
    Ended,
}

/// True for an end that somebody asked for.
fn is_wanted_end(state: ApplicationState) -> bool {
    matches!(state, ApplicationState::Stopped | ApplicationState::Killed)
}

impl Wish {
    /// Whether the master may show this of the application; none: it does not know it.
    #[must_use]
    pub fn goes_with(self, shown: Option<ApplicationState>) -> bool {
        use ApplicationState as S;
        let Some(state) = shown else {
            return matches!(self, Self::Never | Self::Submitting);
        };
        let is_live = matches!(state, S::Queued | S::Starting | S::Running);
        match self {
            Self::Never => false,
            Self::Submitting => is_live || is_wanted_end(state),
            Self::Run => is_live,
            Self::Asking => is_live || state == S::Stopping || is_wanted_end(state),
            // An end is shown before it is written down: a master that dies in between begins
            // it again.
            Self::Ending | Self::Ended => state == S::Stopping || is_wanted_end(state),
        }
    }
}

/// The wishes about all applications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes(BTreeMap<String, Wish>);

impl Wishes {
    /// Nothing asked yet of these.
    #[must_use]
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(|name| (name.to_owned(), Wish::Never)).collect())
    }

    /// What was asked of it last.
    #[must_use]
    pub fn get(&self, name: &str) -> Wish {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Something is asked.
    pub fn set(&mut self, name: &str, wish: Wish) {
        self.0.insert(name.to_owned(), wish);
    }

    /// Those of which this was asked last, in order.
    #[must_use]
    pub fn with(&self, wish: Wish) -> Vec<String> {
        let such = self.0.iter().filter(|(_, one)| **one == wish);
        such.map(|(name, _)| name.clone()).collect()
    }

    /// Everybody.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Wish)> {
        self.0.iter().map(|(name, wish)| (name.as_str(), *wish))
    }

    /// The master was seen to show this of an application: an end that was asked for has come.
    pub fn seen(&mut self, name: &str, state: ApplicationState) {
        if self.get(name) == Wish::Ending && is_wanted_end(state) {
            self.set(name, Wish::Ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use ApplicationState as S;

    use super::*;

    #[test]
    fn an_application_that_was_taken_is_never_lost() {
        assert!(!Wish::Run.goes_with(None));
        assert!(!Wish::Ending.goes_with(None) && !Wish::Ended.goes_with(None));
        assert!(Wish::Never.goes_with(None) && Wish::Submitting.goes_with(None));
        assert!(!Wish::Never.goes_with(Some(S::Queued)), "nobody submitted it");
    }

    #[test]
    fn nobody_ends_what_was_not_asked_to_end_and_nothing_fails() {
        for state in [S::Stopping, S::Stopped, S::Killed, S::Failed, S::Rejected] {
            assert!(!Wish::Run.goes_with(Some(state)), "{state:?}");
        }
        for wish in [Wish::Submitting, Wish::Asking, Wish::Ending, Wish::Ended] {
            assert!(!wish.goes_with(Some(S::Failed)), "{wish:?}");
        }
        for state in [S::Queued, S::Starting, S::Running] {
            assert!(Wish::Run.goes_with(Some(state)));
            assert!(!Wish::Ending.goes_with(Some(state)), "the order was taken");
            assert!(!Wish::Ended.goes_with(Some(state)), "it came back to life");
        }
    }

    #[test]
    fn only_an_end_that_was_asked_for_ends_the_wish() {
        let mut wishes = Wishes::of(["a", "b"]);
        wishes.set("a", Wish::Run);
        wishes.seen("a", S::Stopped);
        assert_eq!(wishes.with(Wish::Run), ["a"]);
        wishes.set("a", Wish::Ending);
        wishes.seen("a", S::Stopping);
        assert_eq!(wishes.get("a"), Wish::Ending);
        wishes.seen("a", S::Killed);
        assert_eq!(wishes.get("a"), Wish::Ended);
        assert_eq!(wishes.with(Wish::Never), ["b"]);
    }
}
