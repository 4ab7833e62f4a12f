//! The agent's HTTP servers, which follow the configuration while it runs.
//!
//! A new address is listened on before the old one is given up, except where both have the same port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use model::{FelixConfiguration, Listener};
use probes::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Route = Arc<dyn Fn(&str) -> Response + Send + Sync>;

/// One server that can move.
pub struct Server {
    route: Route,
    present: Option<(SocketAddr, JoinHandle<()>)>,
    /// The command line named its address, which wins over the cluster's.
    is_fixed: bool,
    /// What could not be listened on, so that it is said once.
    refused: Option<SocketAddr>,
}

impl Server {
    pub fn new(is_fixed: bool, route: impl Fn(&str) -> Response + Send + Sync + 'static) -> Self {
        Self { route: Arc::new(route), present: None, is_fixed, refused: None }
    }

    /// Serves there from now on; nowhere when `None`. What fails leaves the present server as it is.
    pub async fn listen(&mut self, address: Option<SocketAddr>) -> io::Result<()> {
        let Some(address) = address else {
            self.close().await;
            return Ok(());
        };
        let old = self.present.as_ref().map(|(present, _)| *present);
        if old == Some(address) {
            return Ok(());
        }
        let mut bound = TcpListener::bind(address).await;
        if bound.is_err() && old.is_some_and(|old| old.port() == address.port()) {
            self.close().await;
            bound = TcpListener::bind(address).await;
            if let (Err(_), Some(old)) = (&bound, old) {
                self.serve(old, TcpListener::bind(old).await?).await;
            }
        }
        self.serve(address, bound?).await;
        Ok(())
    }

    async fn serve(&mut self, address: SocketAddr, listener: TcpListener) {
        self.close().await;
        let route = self.route.clone();
        let task = tokio::spawn(probes::serve(listener, move |path: &str| route(path)));
        self.present = Some((address, task));
    }

    /// Its socket is closed when this returns.
    async fn close(&mut self) {
        if let Some((_, task)) = self.present.take() {
            task.abort();
            let _ = task.await;
        }
    }

    async fn follow(&mut self, what: &str, wanted: Listener) {
        if self.is_fixed {
            return;
        }
        let address = wanted.enabled.then(|| SocketAddr::new(wanted.host, wanted.port));
        match self.listen(address).await {
            Ok(()) => self.refused = None,
            Err(error) if self.refused != address => {
                tracing::warn!(what, ?address, %error, "cannot listen where the configuration says");
                self.refused = address;
            }
            Err(_) => {}
        }
    }
}

/// Moves the servers of health and metrics as the configuration says, until it ends.
pub async fn follow(
    mut health: Server,
    mut metrics: Server,
    mut configuration: watch::Receiver<Arc<FelixConfiguration>>,
) {
    loop {
        let present = configuration.borrow_and_update().clone();
        health.follow("health", present.health).await;
        metrics.follow("metrics", present.metrics).await;
        if configuration.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::net::TcpStream;

    use super::*;
    use probes::Status;

    fn server() -> Server {
        Server::new(false, |_| Response::text(Status::Ok, "here"))
    }

    /// Of an IP address that no other test has, so that nobody takes the port meanwhile.
    async fn free_address(test: u8) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 99, 1, test), 0)).await.unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_server_moves_and_stops() {
        let mut server = server();
        let (first, second) = (free_address(1).await, free_address(2).await);

        server.listen(Some(first)).await.unwrap();
        assert!(TcpStream::connect(first).await.is_ok());
        server.listen(Some(second)).await.unwrap();
        assert!(TcpStream::connect(second).await.is_ok());
        server.listen(None).await.unwrap();

        assert!(TcpStream::connect(first).await.is_err());
        assert!(TcpStream::connect(second).await.is_err());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_leaves_the_old_one() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut server = server();
        let first = free_address(3).await;
        server.listen(Some(first)).await.unwrap();

        let address = taken.local_addr().unwrap();
        server.follow("health", Listener { enabled: true, host: address.ip(), port: address.port() }).await;

        assert!(TcpStream::connect(first).await.is_ok());
    }

    #[tokio::test]
    async fn the_same_port_on_all_addresses_is_taken_over() {
        let mut server = server();
        let first = free_address(4).await;
        server.listen(Some(first)).await.unwrap();

        let all = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), first.port());
        let _ = server.listen(Some(all)).await;

        assert!(TcpStream::connect(first).await.is_ok());
    }
}
