//! An `iptables-nft-restore` that stays open between writes.
//!
//! To start the program costs some milliseconds, and when it ends the kernel lets it wait some twenty more for a grace
//! period of RCU, though what it wrote has long been in force. Kept open it writes a pod's chains in a tenth of a
//! millisecond. That a write is done is known by a comment behind it: with `--verbose` the program repeats comments.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};

/// How long the program may take to repeat the first comment; one that reads to the end first never will.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// So many writes, and a fresh process takes over: nobody has promised that it leaks nothing.
const LIFE: u32 = 512;
/// Longer than what a pipe's writer holds back (4096 bytes), shorter than what the program takes for a line (10240).
const MARK: usize = 8192;

/// The program, and what it was told so far.
#[derive(Debug)]
pub(crate) struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// What it prints as errors; a file, so that it never waits for a reader.
    errors: File,
    /// Lines that went in before the present write; it counts from its start.
    lines: usize,
    writes: u32,
}

/// The program ended, so that not all was written.
pub(crate) struct Ended {
    pub(crate) output: Output,
    /// Lines that went in before.
    pub(crate) lines: usize,
}

impl Session {
    /// Starts the program. `None` where it does nothing before its input ends, as some versions do.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> io::Result<Option<Self>> {
        let errors = File::from(memfd_create("iptables-restore errors", MemfdFlags::CLOEXEC)?);
        let mut child = Command::new(name)
            .args(arguments)
            .arg("--verbose")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Ok(None);
        };
        let mut session = Self { child, stdin, stdout, errors, lines: 0, writes: 0 };
        session.stdin.write_all(mark(MARKS[0]).as_bytes())?;
        session.lines += 1;
        let mut waits = [PollFd::from_borrowed_fd(session.stdout.as_fd(), PollFlags::IN)];
        let is_heard = poll(&mut waits, Some(&PATIENCE))? > 0 && read_mark(&mut session.stdout, MARKS[0])?;
        Ok(is_heard.then_some(session))
    }

    /// The process ID, by which the kernel tells who wrote.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Is it time for another one?
    pub(crate) fn is_worn(&self) -> bool {
        self.writes >= LIFE
    }

    /// Returns when all of `input` is in the kernel, or the program has ended.
    pub(crate) fn restore(&mut self, input: &str) -> Result<(), io::Result<Ended>> {
        // The end of the mark before may still be on its way: it is of another character.
        let character = MARKS[(self.writes as usize + 1) % MARKS.len()];
        let text = format!("{input}{}", mark(character));
        let (mut stdin, stdout) = (&self.stdin, &mut self.stdout);
        // A process that stops reading says why on its stderr.
        let mut write = || _ = stdin.write_all(text.as_bytes());
        let is_heard = thread::scope(|scope| {
            // Short text finds room in the pipe; for longer the program's output must be read meanwhile.
            if text.len() > ROOM {
                scope.spawn(write);
            } else {
                write();
            }
            read_mark(stdout, character)
        });
        match is_heard {
            Ok(true) => {
                self.lines += text.lines().count();
                self.writes += 1;
                Ok(())
            }
            Ok(false) => Err(self.ended()),
            Err(error) => Err(Err(error)),
        }
    }

    fn ended(&mut self) -> io::Result<Ended> {
        let status = self.child.wait()?;
        let mut stderr = Vec::new();
        self.errors.seek(SeekFrom::Start(0))?;
        (&self.errors).take(MOST_ERRORS).read_to_end(&mut stderr)?;
        Ok(Ended { output: Output { status, stdout: Vec::new(), stderr }, lines: self.lines })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It has nothing to do: what it was told is written.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What fits into a pipe at once, with room to spare.
const ROOM: usize = 32 << 10;
/// More is not read of what it printed.
const MOST_ERRORS: u64 = 64 << 10;

/// What marks are made of, in turn.
const MARKS: [u8; 2] = [b'~', b'='];

fn mark(character: u8) -> String {
    format!("#{}\n", char::from(character).to_string().repeat(MARK))
}

/// Reads until enough of the comment is back: the rest may stay in the program's buffer. False: it has ended.
fn read_mark(stdout: &mut ChildStdout, character: u8) -> io::Result<bool> {
    let mut seen = 0;
    let mut buffer = [0; 16 << 10];
    while seen < MARK / 2 {
        let length = stdout.read(&mut buffer)?;
        if length == 0 {
            return Ok(false);
        }
        seen += buffer[..length].iter().filter(|byte| **byte == character).count();
    }
    Ok(true)
}
