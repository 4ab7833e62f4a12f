//! Files in one compressed archive (POSIX ustar, RFC 1952).

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Size of a block of an archive, bytes.
const BLOCK: usize = 512;

/// An archive that is being written.
pub(super) struct Archive<W: Write> {
    out: GzEncoder<W>,
    /// Seconds since 1970, which all files get.
    time: u64,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W, time: u64) -> Self {
        Self { out: GzEncoder::new(out, Compression::default()), time }
    }

    /// Adds a file; a name that is too long is cut.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.out.write_all(&header(name, content.len(), self.time))?;
        self.out.write_all(content)?;
        let rest = (BLOCK - content.len() % BLOCK) % BLOCK;
        self.out.write_all(&[0; BLOCK][..rest])
    }

    /// Writes the end.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; BLOCK * 2])?;
        self.out.finish()
    }
}

fn header(name: &str, size: usize, time: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    let name: Vec<u8> = name.bytes().filter(|byte| byte.is_ascii_graphic()).take(99).collect();
    put(0, &name);
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{time:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_reads_what_was_written() {
        let mut archive = Archive::new(Vec::new(), 1_700_000_000);
        archive.add("a/b.txt", b"hello").unwrap();
        archive.add("c", &[b'x'; 600]).unwrap();
        let octets = archive.finish().unwrap();

        let mut tar =
            Command::new("tar").args(["-xzO"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        tar.stdin.take().unwrap().write_all(&octets).unwrap();
        let output = tar.wait_with_output().unwrap();

        assert_eq!(output.stdout, format!("hello{}", "x".repeat(600)).into_bytes());
    }
}
