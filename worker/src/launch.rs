//! The border between the node and a container's process: the launch context in a file, and a pipe
//! on standard input that tells the container when its node dies.
//!
//! The file is readable by its owner only. The node writes it, the container reads it once.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use millrace_common::access::Token;
use millrace_common::error::{Code, Error};
use millrace_proto::v1::LaunchContext;
use prost::Message as _;

/// Name of the file in the container's work directory.
pub const FILE: &str = "launch.pb";

/// Exit code of a container whose node died.
pub const EXIT_ORPHANED: i32 = 113;

/// Writes the context into `directory`, for its owner only.
///
/// # Errors
/// Of the file system.
pub fn write(directory: &Path, context: &LaunchContext) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(directory.join(FILE))?;
    file.write_all(&context.encode_to_vec())
}

/// Reads the context of this container.
///
/// # Errors
/// [`Code::FileUnreadable`] when the file can not be read or is no launch context.
pub fn read(path: &Path) -> Result<LaunchContext, Error> {
    let unreadable = |what: &str| {
        Error::new(
            Code::FileUnreadable,
            format!("the launch context {} {what}", path.display()),
            "containers are started by a node; submit an application with `millrace submit`",
        )
    };
    let bytes =
        std::fs::read(path).map_err(|error| unreadable("can not be read").caused_by(error))?;
    let context = LaunchContext::decode(bytes.as_slice())
        .map_err(|error| unreadable("is damaged").caused_by(error))?;
    // A container that took a damaged token for none would serve everybody.
    Token::parse(&context.token).map_err(|error| unreadable("is damaged").caused_by(error))?;
    Ok(context)
}

/// The token of the container's attempt; none in a cluster without tokens.
#[must_use]
pub fn token(context: &LaunchContext) -> Option<Token> {
    Token::parse(&context.token).ok().flatten()
}

/// Ends this process as soon as standard input ends: the node that holds the other end has died.
///
/// A thread of its own, so that it works however stuck everything else is.
///
/// # Errors
/// When no thread can be made.
pub fn watch_parent() -> io::Result<()> {
    let watch = || {
        let mut buffer = [0; 64];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // Writing may fail with the node that held the other end; the exit code says it as well.
        let _ = writeln!(io::stderr(), "the node of this container has died: exiting");
        std::process::exit(EXIT_ORPHANED);
    };
    std::thread::Builder::new().name("watch-parent".to_owned()).spawn(watch).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_context_is_for_its_owner_only_and_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let context = LaunchContext {
            container_id: "a-a1-driver".to_owned(),
            args: vec![String::new(), "ä b".to_owned()],
            ..Default::default()
        };
        write(dir.path(), &context).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), context);
        std::fs::write(&path, b"\xff\xff").unwrap();
        assert_eq!(read(&path).unwrap_err().code(), Code::FileUnreadable);
        let damaged = LaunchContext { token: "what".to_owned(), ..context };
        write(dir.path(), &damaged).unwrap();
        assert_eq!(read(&path).unwrap_err().code(), Code::FileUnreadable);
    }
}
