//! Generic netlink: parts of the kernel that are known by name, and number their messages when they are loaded.

use std::io;

use crate::nl::{Batch, Message, Protocol, Socket, Writer, errno, named};

/// `struct genlmsghdr`.
pub(crate) const GENL_HEADER: usize = 4;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// One such part, by its name. It is looked for when it is first needed: the kernel may load it only then.
pub(crate) struct Generic {
    socket: Socket,
    name: &'static str,
    number: Option<u16>,
}

impl Generic {
    /// In the network namespace of the calling thread.
    pub(crate) fn open(name: &'static str) -> io::Result<Self> {
        let socket = Socket::open(Protocol::Generic).map_err(|e| named("open generic netlink socket", e))?;
        Ok(Self { socket, name, number: None })
    }

    /// What the kernel calls it in messages.
    fn number(&mut self) -> io::Result<u16> {
        if let Some(number) = self.number {
            return Ok(number);
        }
        let (name, mut found) = (self.name, None);
        let result = self.socket.request(
            GENL_ID_CTRL,
            0,
            |w| {
                w.bytes(&header(CTRL_CMD_GETFAMILY));
                w.string(CTRL_ATTR_FAMILY_NAME, name);
            },
            |message| {
                let mut attributes = message.attributes(GENL_HEADER);
                let id = attributes.find(|attribute| attribute.kind == CTRL_ATTR_FAMILY_ID);
                found = id.and_then(|id| Some(u16::from_ne_bytes(id.payload.try_into().ok()?))).or(found);
            },
        );
        match result {
            Ok(()) => {}
            Err(error) if errno(&error) == Some(libc::ENOENT) => {}
            Err(error) => return Err(named(format!("ask the kernel for {name}"), error)),
        }
        let absent = || io::Error::new(io::ErrorKind::Unsupported, format!("this kernel has no {name}"));
        self.number = found;
        found.ok_or_else(absent)
    }

    /// Asks for all messages of a kind.
    pub(crate) fn dump<T: Default>(
        &mut self,
        command: u8,
        body: impl Fn(&mut Writer<'_>),
        each: impl FnMut(&mut T, &Message<'_>),
    ) -> io::Result<T> {
        let number = self.number()?;
        let whole = |w: &mut Writer<'_>| {
            w.bytes(&header(command));
            body(w);
        };
        self.socket.dump(number, whole, each)
    }

    /// Sends one message and waits until it is done.
    pub(crate) fn set(&mut self, command: u8, body: impl FnOnce(&mut Writer<'_>)) -> io::Result<()> {
        let number = self.number()?;
        let mut batch = Batch::new();
        batch.push(number, 0, |w| {
            w.bytes(&header(command));
            body(w);
        });
        self.socket.make_room(batch.bytes());
        match self.socket.execute(&mut batch)?.remove(&0) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

fn header(command: u8) -> [u8; GENL_HEADER] {
    [command, 1, 0, 0]
}
