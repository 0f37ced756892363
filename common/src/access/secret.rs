//! The cluster's secret, which only its masters hold: it seals tokens and checks their seals.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::token::{Claims, Role, Token, UserClaims};
use crate::error::{Code, Error};

/// How a secret's text begins.
const PREFIX: &str = "mrsecret_";
/// The secret that seals, and the one before it while tokens are being replaced.
const SECRETS_MAX: usize = 2;

/// One secret of 256 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new one, out of the system's randomness.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            Error::internal(format!("the system gives no random bytes: {error}"))
        })?;
        Ok(Self(bytes))
    }

    /// As it stands in its file.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", hex(&self.0))
    }

    fn parse(line: &str) -> Option<Self> {
        Some(Self(unhex(line.trim().strip_prefix(PREFIX)?)?))
    }

    fn mac(&self, claims: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(claims.as_bytes());
        mac
    }

    fn seal(&self, claims: &Claims) -> Token {
        let claims = claims.to_text();
        let seal: [u8; 32] = self.mac(&claims).finalize().into_bytes().into();
        Token::sealed(format!("mr_{claims}_{}", hex(&seal)))
    }
}

/// The secrets of a cluster: the first seals, all are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    current: Secret,
    /// Of the time before the last change, until all its tokens were replaced.
    former: Vec<Secret>,
}

impl From<Secret> for Secrets {
    fn from(current: Secret) -> Self {
        Self { current, former: Vec::new() }
    }
}

impl Secrets {
    /// The secrets of a file: one a line, the current one first.
    ///
    /// # Errors
    /// [`Code::FileUnreadable`] when a line is none, or there are none or more than two.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let unfit = |what: &str| {
            Error::new(
                Code::FileUnreadable,
                format!("the file of the cluster's secret {what}"),
                "make one with `millrace token init`, or restore it from your safe",
            )
        };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let secrets: Option<Vec<Secret>> = lines.map(Secret::parse).collect();
        let mut secrets = secrets.ok_or_else(|| unfit("has a line that is no secret"))?;
        if secrets.len() > SECRETS_MAX {
            return Err(unfit("has more than two: the current one and the one before"));
        }
        if secrets.is_empty() {
            return Err(unfit("is empty"));
        }
        let former = secrets.split_off(1);
        let current = secrets.pop().ok_or_else(|| unfit("is empty"))?;
        Ok(Self { current, former })
    }

    /// What nodes show.
    #[must_use]
    pub fn node_token(&self) -> Token {
        self.current.seal(&Claims::Node)
    }

    /// The administrator's token that comes with the secret: it is in no list, and only a change of
    /// the secret revokes it.
    #[must_use]
    pub fn admin_token(&self) -> Token {
        let claims = UserClaims { id: String::new(), role: Role::Admin, expires_ms: 0 };
        self.current.seal(&Claims::User(claims))
    }

    /// A token of a person or a program.
    #[must_use]
    pub fn user_token(&self, claims: &UserClaims) -> Token {
        self.current.seal(&Claims::User(claims.clone()))
    }

    /// What the containers of an attempt show.
    #[must_use]
    pub fn container_token(&self, application: &str, attempt: u32) -> Token {
        let application = application.to_owned();
        self.current.seal(&Claims::Container { application, attempt })
    }

    /// What a token says, when a secret of this cluster has sealed it. The comparison takes as long
    /// for a seal that is wrong in its first byte as for one that is wrong in its last.
    ///
    /// # Errors
    /// [`Code::UnknownToken`] when none has.
    pub fn open(&self, token: &Token) -> Result<Claims, Error> {
        let unknown = || {
            Error::new(
                Code::UnknownToken,
                "the token is not of this cluster",
                "see MILLRACE_TOKEN_FILE and --master: both must be of one cluster",
            )
        };
        let text = token.reveal().strip_prefix("mr_").ok_or_else(unknown)?;
        let (claims, seal) = text.rsplit_once('_').ok_or_else(unknown)?;
        let seal = unhex::<32>(seal).ok_or_else(unknown)?;
        let mut all = std::iter::once(&self.current).chain(&self.former);
        if !all.any(|secret| secret.mac(claims).verify_slice(&seal).is_ok()) {
            return Err(unknown());
        }
        Claims::parse(claims).ok_or_else(unknown)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if text.len() != 2 * N || !is_hex {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secrets(byte: u8) -> Secrets {
        Secret([byte; 32]).into()
    }

    fn user(id: &str, role: Role, expires_ms: i64) -> UserClaims {
        UserClaims { id: id.to_owned(), role, expires_ms }
    }

    #[test]
    fn tokens_come_back_as_what_they_say() {
        let ours = secrets(1);
        let claims = user("7f", Role::Submitter, 1_700_000_000_000);
        assert_eq!(ours.open(&ours.node_token()).unwrap(), Claims::Node);
        assert_eq!(ours.open(&ours.user_token(&claims)).unwrap(), Claims::User(claims));
        assert_eq!(
            ours.open(&ours.container_token("word-count", 3)).unwrap(),
            Claims::Container { application: "word-count".to_owned(), attempt: 3 }
        );
        assert_eq!(ours.open(&ours.admin_token()).unwrap(), Claims::User(user("", Role::Admin, 0)));
    }

    #[test]
    fn another_clusters_token_is_unknown() {
        let error = secrets(1).open(&secrets(2).admin_token()).unwrap_err();
        assert_eq!(error.code(), Code::UnknownToken);
    }

    #[test]
    fn a_changed_secret_believes_the_former_and_seals_with_the_new() {
        let (old, new) = (Secret([1; 32]), Secret([2; 32]));
        let both = Secrets::parse(&format!("{}\n{}\n", new.reveal(), old.reveal())).unwrap();
        let old = Secrets::from(old);
        assert_eq!(both.open(&old.node_token()).unwrap(), Claims::Node);
        assert!(both.node_token().is(&Secrets::from(new).node_token()));
        assert!(old.open(&both.node_token()).is_err());
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused() {
        let one = Secret([1; 32]).reveal();
        for text in ["", "\n", "secret", &one[1..], &format!("{one}\n{one}\n{one}")] {
            assert_eq!(Secrets::parse(text).unwrap_err().code(), Code::FileUnreadable, "{text:?}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let ours = secrets(7);
        let text = format!("{ours:?} {:?} {:?}", ours.node_token(), ours.node_token().header());
        assert!(!text.contains("0707") && !text.contains("mr_"), "{text}");
    }

    proptest! {
        #[test]
        fn no_change_of_a_token_is_believed(at in 0usize..90, byte in 0x21u8..0x7f) {
            let ours = secrets(1);
            let token = ours.user_token(&user("7f", Role::Viewer, 0));
            let mut bytes = token.reveal().as_bytes().to_vec();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            let text = String::from_utf8(bytes).unwrap();
            if let Ok(Some(changed)) = Token::parse(&text) {
                prop_assert!(ours.open(&changed).is_err(), "{text}");
            }
        }

        #[test]
        fn whatever_is_shown_is_refused_in_words(text in "\\PC{0,300}") {
            let ours = secrets(1);
            if let Ok(Some(token)) = Token::parse(&text) {
                prop_assert!(ours.open(&token).is_err());
            }
        }
    }
}
