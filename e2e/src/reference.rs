//! The judge of image references: `github.com/distribution/reference`, the parser that container runtimes use.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::tools::Tool;

/// A running judge. Dropping it ends it.
pub struct Oracle {
    child: Child,
    // Taken only while the oracle is dropped.
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
}

/// What `reference.ParseNormalizedNamed` says of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OracleResult {
    /// It is a reference.
    Reference(OracleReference),
    /// It is none, and why.
    Refused(String),
}

/// The parts of a reference, normalised; no tag is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OracleReference {
    /// The host, with its port if it has one: `docker.io` for `nginx`.
    pub domain: String,
    /// The repository: `library/nginx` for `nginx`.
    pub path: String,
    /// The tag, without its colon.
    pub tag: Option<String>,
    /// The digest, with its algorithm.
    pub digest: Option<String>,
    /// The whole: `domain/path[:tag][@digest]`.
    pub string: String,
}

impl Oracle {
    /// Starts the judge, built first if need be. Blocks.
    ///
    /// # Errors
    /// Those of [`Tool::path`], or when the program cannot be started.
    pub fn start() -> Result<Self> {
        let mut child = Command::new(Tool::Reference.path()?)
            // It keeps nothing; collecting that less often costs some megabytes.
            .env("GOGC", "800")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the reference parser")?;
        let input = child.stdin.take().context("the reference parser has no standard input")?;
        let output = child.stdout.take().context("the reference parser has no standard output")?;
        Ok(Self { child, input: Some(BufWriter::new(input)), output: BufReader::new(output) })
    }

    /// What the judge says of each string, in order. Blocks; a million take seconds.
    ///
    /// # Errors
    /// When the program ends or answers what cannot be read.
    pub fn parse_all<S: AsRef<str> + Sync>(&mut self, strings: &[S]) -> Result<Vec<OracleResult>> {
        let Some(input) = &mut self.input else { bail!("the reference parser has been stopped") };
        let (output, child) = (&mut self.output, &mut self.child);
        // Written on a thread of its own: the program answers while it reads, and either pipe may be full.
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_all(input, strings));
            let results = strings.iter().map(|_| read_one(output)).collect::<Result<Vec<_>>>();
            if results.is_err() {
                // Nobody reads any more: the writer would wait for ever.
                drop(child.kill());
            }
            let written = writer.join().unwrap_or_else(|_| bail!("the writing thread panicked"));
            // A program that ends breaks both; what it did not answer says more.
            let results = results?;
            written?;
            Ok(results)
        })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One line of the program's output.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    domain: String,
    #[serde(default)]
    path: String,
    tag: Option<String>,
    digest: Option<String>,
    #[serde(default)]
    string: String,
    #[serde(default)]
    error: String,
}

fn write_all<S: AsRef<str>>(input: &mut BufWriter<ChildStdin>, strings: &[S]) -> Result<()> {
    for string in strings {
        serde_json::to_writer(&mut *input, string.as_ref()).context("write to the reference parser")?;
        input.write_all(b"\n").context("write to the reference parser")?;
    }
    input.flush().context("write to the reference parser")
}

fn read_one(output: &mut BufReader<ChildStdout>) -> Result<OracleResult> {
    let mut line = String::new();
    if output.read_line(&mut line).context("read from the reference parser")? == 0 {
        bail!("the reference parser ended before it had answered everything");
    }
    let Answer { ok, domain, path, tag, digest, string, error } =
        serde_json::from_str(&line).with_context(|| format!("read the reference parser's answer {line:?}"))?;
    Ok(if ok {
        OracleResult::Reference(OracleReference { domain, path, tag, digest, string })
    } else {
        OracleResult::Refused(error)
    })
}
