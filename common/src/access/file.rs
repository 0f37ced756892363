//! The files that hold secrets and tokens: for their owner only, written as a whole.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::secret::Secrets;
use super::token::Token;
use crate::error::{Code, Error};

/// Largest file that is read: a secret or a token has about a hundred bytes.
const FILE_BYTES_MAX: u64 = 4_096;

/// The secrets of a cluster.
///
/// # Errors
/// [`Code::FileUnreadable`] when it can not be read, is readable by others, or holds none.
pub fn read_secrets(path: &Path) -> Result<Secrets, Error> {
    Secrets::parse(&read(path)?)
}

/// The token in a file.
///
/// # Errors
/// [`Code::FileUnreadable`] when it can not be read, is readable by others, or holds none.
pub fn read_token(path: &Path) -> Result<Token, Error> {
    Token::parse(&read(path)?).ok().flatten().ok_or_else(|| {
        Error::new(
            Code::FileUnreadable,
            format!("{} holds no token", path.display()),
            "write a token into it, as `millrace token create` prints it",
        )
    })
}

fn read(path: &Path) -> Result<String, Error> {
    let unreadable = |why: String| {
        Error::new(
            Code::FileUnreadable,
            format!("{} can not be read: {why}", path.display()),
            "give a file that you may read",
        )
    };
    let metadata = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::new(
            Code::FileUnreadable,
            format!(
                "{} holds a secret, and others may use it: its mode is {mode:o}",
                path.display()
            ),
            format!("run `chmod 600 {}`", path.display()),
        ));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(unreadable("it is far too large to hold a token".to_owned()));
    }
    fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))
}

/// Writes a secret or a token as one line into a file of mode 0600, in one step.
///
/// # Errors
/// [`Code::DirectoryUnusable`].
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let staged = path.with_extension("new");
    let write = || {
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().map_err(|error| {
        Error::new(
            Code::DirectoryUnusable,
            format!("{} can not be written", path.display()),
            "name a directory that you may write to",
        )
        .caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::secret::Secret;
    use super::*;

    #[test]
    fn what_is_written_is_for_its_owner_and_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let secret = Secret::generate().unwrap();
        write_private(&path, &secret.reveal()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let secrets = read_secrets(&path).unwrap();
        assert_eq!(secrets, Secrets::from(secret));
        write_private(&path, secrets.node_token().reveal()).unwrap();
        assert!(read_token(&path).unwrap().is(&secrets.node_token()));
        assert_eq!(read_secrets(&path).unwrap_err().code(), Code::FileUnreadable);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        write_private(&path, Secrets::from(Secret::generate().unwrap()).node_token().reveal())
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_token(&path).unwrap_err();
        assert_eq!(error.code(), Code::FileUnreadable);
        assert!(error.message().contains("640") && error.next_move().contains("chmod 600"));
        assert!(read_token(&directory.path().join("absent")).is_err());
    }
}
