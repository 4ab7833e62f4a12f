//! `readiness_gates`: addresses that must answer well before a pod gets a network.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::error::{CniError, code};

/// How long all gates together may take, and the pause before one is asked again (Calico's own).
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(5);
/// One question; no status line is longer.
const ANSWER: Duration = Duration::from_secs(5);
const LONGEST_LINE: u64 = 1024;

/// An address such as `http://localhost:9099/readiness`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Host and port.
    authority: String,
    path: String,
}

impl Gate {
    /// Reads an address; only plain HTTP is spoken.
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        let wrong = || {
            CniError::config(format!("readiness_gates: {text:?} is no address like http://host:port/path"))
        };
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority, path: if path.is_empty() { "/".to_owned() } else { path.to_owned() } })
    }

    fn ask(&self) -> io::Result<()> {
        let address = self.authority.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"))?;
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let (path, host) = (&self.path, &self.authority);
        stream.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut line = String::new();
        BufReader::new(io::Read::take(stream, LONGEST_LINE)).read_line(&mut line)?;
        match line.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(()),
            _ => Err(io::Error::other(format!("it answered {:?}", line.trim_end()))),
        }
    }
}

/// Waits until all gates have answered well.
pub(crate) fn wait(gates: &[Gate]) -> Result<(), CniError> {
    wait_for(gates, PATIENCE, PAUSE)
}

fn wait_for(gates: &[Gate], patience: Duration, pause: Duration) -> Result<(), CniError> {
    let until = Instant::now() + patience;
    for gate in gates {
        while let Err(error) = gate.ask() {
            if Instant::now() + pause >= until {
                let text = format!("readiness_gates: http://{}{} is not ready", gate.authority, gate.path);
                return Err(CniError::new(code::TRY_AGAIN, text).details(error.to_string()));
            }
            std::thread::sleep(pause);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_are_read() {
        let gate = Gate::parse("http://localhost/ready?x=1").unwrap();
        assert_eq!((gate.authority.as_str(), gate.path.as_str()), ("localhost:80", "/ready?x=1"));
        assert_eq!(Gate::parse("http://[::1]:9099").unwrap().authority, "[::1]:9099");
        for text in ["", "https://x", "http://", "x:80", "http://x/\r\nHost: y", "http://x/ y"] {
            assert_eq!(Gate::parse(text).unwrap_err().code, 7, "{text:?}");
        }
    }

    #[test]
    fn a_gate_is_asked_until_it_answers_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Gate::parse(&format!("http://{}/ready", listener.local_addr().unwrap())).unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["HTTP/1.1 503 Unavailable\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let length = stream.read(&mut request).unwrap();
                assert!(request[..length].starts_with(b"GET /ready HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });

        wait_for(std::slice::from_ref(&gate), Duration::from_secs(60), Duration::from_millis(1)).unwrap();
        server.join().unwrap();

        let error = wait_for(&[gate], Duration::ZERO, Duration::ZERO).unwrap_err();
        assert_eq!(error.code, 11);
        assert!(error.msg.contains("/ready is not ready"), "{}", error.msg);
    }
}
