//! `ocicat relay`: joins standard input and output to an agent's socket, for an `ocicat` elsewhere that came by
//! `kubectl exec`. Owns no question: octets pass as they are.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::Args;

use crate::Report;
use crate::client::CallError;
use crate::reach::{Agent, Kind, PLACE};

#[derive(Args)]
pub(crate) struct RelayOptions {
    /// Which agent of this node
    agent: Kind,
    /// Where its socket is
    #[arg(long, value_name = "DIRECTORY", default_value = PLACE)]
    directory: PathBuf,
}

/// Until the agent, or whoever reads, has enough.
pub(crate) fn run(options: &RelayOptions) -> Result<Report, CallError> {
    let socket = options.directory.join(options.agent.socket());
    let failed = |error| CallError::Connect { agent: Agent::at(options.agent, &socket).to_string(), error };
    let stream = UnixStream::connect(&socket).map_err(failed)?;
    let mut questions = stream.try_clone().map_err(failed)?;
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut questions);
        // The agent sees that nobody is there any more, and ends, whereupon we do.
        let _ = questions.shutdown(Shutdown::Write);
    });
    // Who waits for the answer has gone: that is an end like any other.
    let _ = pass(stream);
    Ok(Report::new(String::new(), true))
}

/// At once, whatever is in it: a line is nothing here.
fn pass(mut answers: UnixStream) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut buffer = [0; 16 << 10];
    loop {
        let count = answers.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        out.write_all(buffer.get(..count).unwrap_or_default())?;
        out.flush()?;
    }
}
