//! The side that takes in what a [`Server`](crate::Server) sends: a machine that outlives its connections.

use std::collections::BTreeMap;

use proto::typha::{
    FromClient, FromServer, Hello, PROTOCOL, Pong, Subscribe, Wanted, from_client, from_server,
};

use crate::chunk::expand;
use crate::{Event, Name};

/// Why a connection cannot be used any longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("its first message is no Welcome")]
    NoWelcome,
    #[error(
        "it forwards fields of revision {server}, and this program reads {client}: typha must be upgraded first"
    )]
    Older { server: u32, client: u32 },
    #[error("a message is not well-formed")]
    Malformed,
    #[error("it said: {0}")]
    Goodbye(String),
}

/// See the module.
#[derive(Debug)]
pub struct Follower {
    hello: Hello,
    /// Of the server that the positions are from; 0 for none.
    instance: u64,
    kinds: BTreeMap<String, Kind>,
    skip: Vec<u32>,
    is_welcome: bool,
    /// Waits to be sent.
    answers: Vec<FromClient>,
}

#[derive(Debug, Default)]
struct Kind {
    /// Of the last chunk.
    position: u64,
    /// A whole list was taken in.
    is_listed: bool,
    /// A list was begun since it was asked for: one that ends before began before.
    is_begun: bool,
}

impl Follower {
    /// A program of this name and version on a node, which reads fields of revision `fields`.
    pub fn new(node: &str, program: &str, version: &str, fields: u32) -> Self {
        let hello = Hello {
            protocol: PROTOCOL,
            fields,
            node: node.to_owned(),
            program: program.to_owned(),
            version: version.to_owned(),
            ..Hello::default()
        };
        Self {
            hello,
            instance: 0,
            kinds: BTreeMap::new(),
            skip: Vec::new(),
            is_welcome: false,
            answers: Vec::new(),
        }
    }

    /// Asks for a list of a kind and its changes from now on, also when it is followed already.
    pub fn subscribe(&mut self, kind: &str) {
        self.kinds.insert(kind.to_owned(), Kind::default());
        if self.is_welcome {
            let wanted = vec![Wanted { kind: kind.to_owned(), position: 0 }];
            self.answers
                .push(FromClient { message: Some(from_client::Message::Subscribe(Subscribe { wanted })) });
        }
    }

    /// What to say first on a new connection.
    pub fn connected(&mut self) -> FromClient {
        self.is_welcome = false;
        self.skip.clear();
        self.answers.clear();
        let wanted = self.kinds.iter().map(|(kind, known)| Wanted {
            kind: kind.clone(),
            position: if known.is_listed { known.position } else { 0 },
        });
        let hello = Hello { instance: self.instance, wanted: wanted.collect(), ..self.hello.clone() };
        FromClient { message: Some(from_client::Message::Hello(hello)) }
    }

    /// The objects come from elsewhere now: the next connection begins with lists.
    pub fn forget(&mut self) {
        self.instance = 0;
        self.kinds.values_mut().for_each(|kind| *kind = Kind::default());
    }

    /// What is to be sent.
    pub fn take_answers(&mut self) -> Vec<FromClient> {
        std::mem::take(&mut self.answers)
    }

    /// Has the server said what it is?
    pub fn is_welcome(&self) -> bool {
        self.is_welcome
    }

    /// Takes in a message, and gives what follows from it, by kind.
    ///
    /// # Errors
    /// When the connection is of no use any more; what was taken in stays.
    pub fn handle(&mut self, message: FromServer) -> Result<Vec<(String, Event)>, ProtocolError> {
        use from_server::Message;
        // Of a later version, and sent to all: not for us.
        let Some(message) = message.message else { return Ok(Vec::new()) };
        if !self.is_welcome && !matches!(message, Message::Welcome(_) | Message::Goodbye(_)) {
            return Err(ProtocolError::NoWelcome);
        }
        match message {
            Message::Welcome(welcome) => {
                if welcome.fields < self.hello.fields {
                    let (server, client) = (welcome.fields, self.hello.fields);
                    return Err(ProtocolError::Older { server, client });
                }
                if welcome.instance != self.instance {
                    self.forget();
                    self.instance = welcome.instance;
                }
                self.is_welcome = true;
            }
            Message::Chunk(chunk) => return self.chunk(&chunk),
            Message::ListBegins(list) => {
                if let Some(kind) = self.kinds.get_mut(&list.kind) {
                    *kind = Kind { is_begun: true, ..Kind::default() };
                    return Ok(vec![(list.kind, Event::ListBegins)]);
                }
            }
            Message::Listed(list) => {
                if let Some(kind) = self.kinds.get_mut(&list.kind).filter(|kind| kind.is_begun) {
                    kind.is_listed = true;
                    return Ok(vec![(list.kind, Event::Listed)]);
                }
            }
            Message::Missing(missing) => return Ok(vec![(missing.kind, Event::Missing)]),
            Message::Skip(skip) => self.skip = skip.indexes,
            Message::Ping(ping) => self
                .answers
                .push(FromClient { message: Some(from_client::Message::Pong(Pong { number: ping.number })) }),
            Message::Goodbye(goodbye) => return Err(ProtocolError::Goodbye(goodbye.reason)),
        }
        Ok(Vec::new())
    }

    fn chunk(&mut self, chunk: &proto::typha::Chunk) -> Result<Vec<(String, Event)>, ProtocolError> {
        let skip = std::mem::take(&mut self.skip);
        let Some(kind) = self.kinds.get_mut(&chunk.kind) else { return Ok(Vec::new()) };
        let objects = expand(chunk).ok_or(ProtocolError::Malformed)?;
        kind.position = chunk.position;
        // The indexes ascend.
        let is_alive =
            |index: usize| u32::try_from(index).is_ok_and(|index| skip.binary_search(&index).is_err());
        let alive = objects.into_iter().enumerate().filter(|(index, _)| is_alive(*index));
        let events = alive.map(|(_, object)| {
            let name = Name::new(&object.namespace, &object.name);
            let event = match object.content {
                Some(content) => Event::Put(name, content),
                None => Event::Gone(name),
            };
            (chunk.kind.clone(), event)
        });
        Ok(events.collect())
    }
}
