//! The tokens of people and programs: made, listed, revoked.

use millrace_common::access::{Role, Secrets, UserClaims};
use millrace_common::error::{Code, Error};
use millrace_common::id::ApplicationName;
use millrace_common::random;
use millrace_proto::v1;

use super::Shared;
use crate::access::{Principal, TokenRecord};
use crate::control::{CreateToken, RevokeToken};

/// Longest time that a token may be valid: a hundred years, so that no sum overflows.
const VALID_FOR_MS_MAX: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;

fn secrets(shared: &Shared) -> Result<&Secrets, Error> {
    shared.secrets.as_deref().ok_or_else(|| {
        Error::new(
            Code::WrongState,
            "this cluster has no tokens: its master was started without a secret",
            "make a secret with `millrace token init` and start the masters with --secret-file",
        )
    })
}

/// Makes a token.
pub(super) async fn create(
    shared: &Shared,
    who: &Principal,
    request: v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse, Error> {
    let secrets = secrets(shared)?;
    let role = Role::from_proto(request.role()).ok_or_else(|| {
        Error::new(
            Code::IncompleteMessage,
            format!(
                "the request's field `role` is absent or has the unknown value {}",
                request.role
            ),
            "choose ROLE_VIEWER, ROLE_SUBMITTER or ROLE_ADMIN",
        )
    })?;
    // The same rule as for applications: a name that goes through every log and file system.
    let name: ApplicationName = request.name.parse()?;
    if request.valid_for_ms > VALID_FOR_MS_MAX {
        return Err(Error::new(
            Code::InvalidValue,
            format!("a token can not be valid for {} ms", request.valid_for_ms),
            "choose at most a hundred years, or 0 for a token that does not expire",
        ));
    }
    let created_ms = shared.clock.now_ms();
    let valid_for = i64::try_from(request.valid_for_ms).unwrap_or(i64::MAX);
    let expires_ms = if valid_for == 0 { 0 } else { created_ms.saturating_add(valid_for) };
    // Not a secret: the seal is.
    let id = random::uuid().simple().to_string()[..12].to_owned();
    let token = secrets.user_token(&UserClaims { id: id.clone(), role, expires_ms });
    let info = v1::TokenInfo {
        id,
        name: name.to_string(),
        role: role.to_proto().into(),
        created_ms,
        created_by: who.owner(),
        expires_ms,
        revoked_ms: 0,
    };
    let record = TokenRecord { info: info.clone(), hash: token.hash().to_vec() };
    shared.leader.ask(CreateToken(record)).await??;
    Ok(v1::CreateTokenResponse { info: Some(info), token: token.reveal().to_owned() })
}

/// Every token that is remembered.
pub(super) async fn list(shared: &Shared) -> Result<v1::ListTokensResponse, Error> {
    secrets(shared)?;
    let tokens = shared.leader.read(|core| core.tokens.list()).await?;
    Ok(v1::ListTokensResponse { tokens })
}

/// Refuses a token from now on.
pub(super) async fn revoke(
    shared: &Shared,
    request: v1::RevokeTokenRequest,
) -> Result<v1::RevokeTokenResponse, Error> {
    secrets(shared)?;
    let info = shared.leader.ask(RevokeToken(request.id)).await??;
    Ok(v1::RevokeTokenResponse { info: Some(info) })
}
