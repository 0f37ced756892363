//! One shell for a whole document, so that a variable that one command sets is there for the next;
//! each command's output with its errors, as a terminal shows them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use millrace_integration_tests::command::{base_environment, binary};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// No command of a document takes longer, on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(120);
/// Begins the line behind each command's output.
const MARK: &str = "--- the end of a command, with ";

/// A running shell.
#[derive(Debug)]
pub(crate) struct Shell {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    /// A shell in `directory`, with our programs on its path and nothing else of this environment.
    pub(crate) fn start(directory: &Path) -> Self {
        let programs = binary("millrace").parent().expect("a file lies in a directory").to_owned();
        let mut environment = base_environment();
        for (name, value) in &mut environment {
            if name == "PATH" {
                *value = format!("{}:{value}", programs.display());
            }
        }
        let mut child = tokio::process::Command::new("/bin/sh")
            .env_clear()
            .envs(environment)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("there is a shell");
        let input = child.stdin.take().expect("its input is a pipe");
        let output = child.stdout.take().expect("its output is a pipe");
        Self { child, input, output: BufReader::new(output).lines() }
    }

    /// Runs a command to its end; its exit code, and what it printed, each line with its end.
    pub(crate) async fn run(&mut self, command: &str) -> (i32, String) {
        let text = format!("{{ {command}\n}} </dev/null 2>&1; printf '\\n{MARK}%s\\n' $?\n");
        self.input.write_all(text.as_bytes()).await.expect("the shell reads");
        let read = async {
            let mut printed = String::new();
            loop {
                let line = self.output.next_line().await.expect("its output is text");
                let line = line.unwrap_or_else(|| panic!("`{command}` ended the shell: {printed}"));
                if let Some(code) = line.strip_prefix(MARK) {
                    // The line break before the mark is the command's own where it left it out.
                    let whole = printed.strip_suffix('\n').unwrap_or(&printed);
                    let is_open = !whole.is_empty() && !whole.ends_with('\n');
                    let whole = if is_open { &printed } else { whole };
                    return (code.parse().expect("an exit code is a number"), whole.to_owned());
                }
                printed.push_str(&line);
                printed.push('\n');
            }
        };
        let ended = tokio::time::timeout(DEADLINE, read).await;
        ended.unwrap_or_else(|_| panic!("`{command}` hangs"))
    }

    /// Ends the shell in order.
    pub(crate) async fn end(mut self) {
        drop(self.input);
        let status = self.child.wait().await.expect("the shell can be waited for");
        assert!(status.success(), "{status}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_errors_and_variables_are_those_of_one_shell() {
        let directory = tempfile::tempdir().unwrap();
        let mut shell = Shell::start(directory.path());
        assert_eq!(shell.run("printf 'a\\n\\nb\\n'").await, (0, "a\n\nb\n".to_owned()));
        assert_eq!(shell.run("X=two words").await.0, 127, "a command that there is not");
        assert_eq!(shell.run("eval 'X=\"two words\"'").await, (0, String::new()));
        assert_eq!(
            shell.run("echo \\\n  \"$X\" >&2; (exit 3)").await,
            (3, "two words\n".to_owned())
        );
        assert_eq!(shell.run("printf '{}'").await, (0, "{}\n".to_owned()));
        assert_eq!(shell.run("cat").await, (0, String::new()), "no input is left for a command");
        shell.end().await;
    }
}
