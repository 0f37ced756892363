//! Asking before something that can not be undone.
//!
//! Promises: asks only on a terminal; without one nothing is done unless the user said `--yes`.

use std::io::{BufRead, IsTerminal, Write};

use millrace_common::error::{Code, Error};

/// Asks on the terminal whether to go on. `what` names the deed, as in "resetting word-count";
/// `consequence` is a sentence that says what it does.
///
/// # Errors
/// [`Code::NotConfirmed`] unless the answer is yes.
pub(super) fn confirm(what: &str, consequence: &str) -> Result<(), Error> {
    let refused = |why: String| {
        Error::new(Code::NotConfirmed, why, "give --yes if you are sure; nothing was changed")
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused(format!(
            "{what} needs a confirmation, and there is no terminal to ask on: {consequence}"
        )));
    }
    let mut terminal = std::io::stderr().lock();
    let asked = write!(terminal, "{consequence}. Go on? [y/N] ").and_then(|()| terminal.flush());
    let mut answer = String::new();
    let read = asked.and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(refused(format!("{what} was not confirmed"))),
        Err(error) => Err(refused(format!("the terminal can not be asked: {error}"))),
    }
}
