//! Who may ask for what: tokens, the secret that makes them, and the files that hold them.
//!
//! Promises: a token says whose it is and can not be made or changed without the cluster's secret;
//! tokens and secrets are compared in constant time and never printed by `Debug`; their files are
//! for their owner only. Owned by whoever serves or calls. Never does: decide what a caller may do.

mod file;
mod secret;
mod token;

pub use self::file::{read_secrets, read_token, write_private};
pub use self::secret::{Secret, Secrets};
pub use self::token::{Claims, Role, Token, UserClaims};
