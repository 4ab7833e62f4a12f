//! BIRD's control socket, as far as `birdc show …` and `calicoctl node status` ask. Owns the protocol: a line
//! asks, lines with four-digit codes answer, the last of them has a space behind its code.

mod clock;
mod show;

pub use clock::utc;

use std::io;
use std::path::Path;
use std::time::Duration;

use bgp_packet::Family;
use operator_socket::ControlSocket;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::Console;
use crate::routes::{Table, Walk, Wanted};

/// Longest command.
const MAX_COMMAND: u64 = 4096;
/// How long a client may stay without asking anything; people leave `birdc` open.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long a client may take for an answer.
const SLOW: Duration = Duration::from_secs(10);

/// BIRD's socket for one family or for both.
pub struct BirdSocket;

impl BirdSocket {
    /// Serves `birdc` on `path`, for root only: all peers, or those with addresses of `family` as the two
    /// daemons of Calico's BIRD 1.6 have them (`bird.ctl`, `bird6.ctl`). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// What the file system says; `AddrInUse` when somebody answers there already, such as a BIRD that runs.
    pub fn bind(path: &Path, family: Option<Family>, console: Console) -> io::Result<ControlSocket> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        ControlSocket::serve(path, move |stream| client(stream, family, console.clone()))
    }
}

async fn client<S>(stream: S, family: Option<Family>, console: Console) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    send(&mut stream, &format!("0001 BIRD {} ready.\n", show::VERSION)).await?;
    loop {
        let mut line = String::new();
        let mut limited = (&mut stream).take(MAX_COMMAND);
        let n = tokio::time::timeout(PATIENCE, limited.read_line(&mut line)).await??;
        if n == 0 {
            return Ok(());
        }
        if !line.ends_with('\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "command is too long"));
        }
        match Command::parse(&line) {
            Command::Routes { wanted, all, best } => {
                let wanted = wanted.unwrap_or(Wanted::All(family));
                routes(&mut stream, &console, wanted, all, best).await?;
            }
            command => {
                let answer = console.ask(move |subject| show::answer(subject, &command, family)).await;
                let answer = answer.unwrap_or_else(|_| "9001 The speaker is stopping\n".to_owned());
                send(&mut stream, &answer).await?;
            }
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    tokio::time::timeout(SLOW, async {
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await
    })
    .await?
}

/// Routes may be many: they go out page by page.
async fn routes(
    stream: &mut (impl AsyncWrite + Unpin),
    console: &Console,
    wanted: Wanted,
    all: bool,
    best: bool,
) -> io::Result<()> {
    let mut walk = match Walk::begin(console, Table::Global, wanted).await {
        Ok(walk) => walk,
        Err(error) => return send(stream, &format!("9001 {error}\n")).await,
    };
    let mut first = true;
    while let Some(page) = walk.page().await {
        let page: Vec<_> = page.into_iter().filter(|found| !best || found.best.is_some()).collect();
        let text = console.ask(move |subject| show::routes(subject, &page, all, first)).await;
        first = false;
        send(stream, &text.unwrap_or_default()).await?;
    }
    let end = if first { "8001 Network not in table\n" } else { "0000 \n" };
    send(stream, end).await
}

/// What a line asks. BIRD takes any unique beginning of a word; so do we.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Status,
    /// Of protocols with this name or pattern; all if `None`.
    Protocols {
        all: bool,
        name: Option<String>,
    },
    Routes {
        wanted: Option<Wanted>,
        all: bool,
        best: bool,
    },
    /// BIRD lets a client lock itself out of changing anything; nothing can be changed here anyway.
    Restrict,
    /// Something that BIRD would do.
    NotHere(String),
    Unknown,
}

impl Command {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is = |word: &str, full: &str, least: usize| word.len() >= least && full.starts_with(word);
        match words.as_slice() {
            [show, what, ..] if is(show, "show", 2) && is(what, "status", 2) => Self::Status,
            [show, what, rest @ ..] if is(show, "show", 2) && is(what, "protocols", 1) => {
                let all = rest.first().is_some_and(|word| *word == "all");
                let name = rest.get(usize::from(all)).map(|name| name.trim_matches('"').to_owned());
                Self::Protocols { all, name }
            }
            [show, what, rest @ ..] if is(show, "show", 2) && is(what, "route", 1) => Self::route(rest),
            [restrict] if is(restrict, "restrict", 3) => Self::Restrict,
            [
                "configure" | "disable" | "enable" | "restart" | "reload" | "down" | "debug" | "mrt" | "dump",
                ..,
            ] => Self::NotHere(words[0].to_owned()),
            _ => Self::Unknown,
        }
    }

    fn route(words: &[&str]) -> Self {
        let (mut wanted, mut all, mut best) = (None, false, false);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "all" => all = true,
                "primary" => best = true,
                "for" => match words.next().and_then(|word| word.parse().ok()) {
                    Some(address) => wanted = Some(Wanted::Holding(address)),
                    None => return Self::Unknown,
                },
                prefix => match prefix.parse() {
                    Ok(prefix) => wanted = Some(Wanted::Exact(prefix)),
                    Err(_) => return Self::Unknown,
                },
            }
        }
        Self::Routes { wanted, all, best }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_cut_as_long_as_they_are_clear() {
        let all = Command::Protocols { all: true, name: Some("Mesh_*".to_owned()) };

        assert_eq!(Command::parse("show protocols all \"Mesh_*\"\n"), all);
        assert_eq!(Command::parse("sh p\n"), Command::Protocols { all: false, name: None });
        assert_eq!(Command::parse("show stat"), Command::Status);
        let held = Wanted::Holding("10.0.0.1".parse().unwrap());
        let expected = Command::Routes { wanted: Some(held), all: true, best: false };
        assert_eq!(Command::parse("show route for 10.0.0.1 all"), expected);
    }

    #[test]
    fn what_would_change_something_is_named_and_the_rest_is_unknown() {
        assert_eq!(Command::parse("disable all"), Command::NotHere("disable".to_owned()));
        for line in ["", "show", "show route for", "show route nonsense", "x y z"] {
            assert_eq!(Command::parse(line), Command::Unknown, "{line}");
        }
    }
}
