//! A client of the webhook that costs little itself.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use h2::client::SendRequest;
use harbor_pilot::tls::issue::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Sends the review and reads the whole answer.
pub trait Client {
    async fn ask(&mut self);
}

/// One connection.
pub struct Http1 {
    stream: TlsStream<TcpStream>,
    request: Vec<u8>,
}

impl Http1 {
    /// A connection that has shaken hands, to ask this again and again.
    pub async fn connect(authority: &Authority, address: SocketAddr, body: &[u8]) -> Self {
        Self { stream: connect(authority, address, "http/1.1").await, request: request(body) }
    }

    /// As [`Client::ask`], for those who want to know the answer.
    pub async fn answer(&mut self) -> Vec<u8> {
        self.stream.write_all(&self.request).await.unwrap();
        self.stream.flush().await.unwrap();
        read_answer(&mut self.stream).await
    }
}

impl Client for Http1 {
    async fn ask(&mut self) {
        drop(self.answer().await);
    }
}

/// One of the streams of a connection.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    body: Bytes,
}

impl Http2 {
    /// One connection, on which so many ask at a time.
    pub async fn connect(
        authority: &Authority,
        address: SocketAddr,
        streams: usize,
        body: &Bytes,
    ) -> impl Iterator<Item = Self> + use<> {
        let stream = connect(authority, address, "h2").await;
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        std::iter::repeat_n((sender, body.clone()), streams).map(|(sender, body)| Self { sender, body })
    }
}

impl Client for Http2 {
    async fn ask(&mut self) {
        let request = Request::post("https://localhost/mutate?timeout=10s").header(CONTENT_TYPE, "application/json");
        let mut sender = self.sender.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(self.body.clone(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
    }
}

async fn connect(authority: &Authority, address: SocketAddr, protocol: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.issued().certificate_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

fn request(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /mutate?timeout=10s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn read_answer(connection: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let (mut answer, mut have) = ([0; 8 * 1024], 0);
    loop {
        let read = connection.read(&mut answer[have..]).await.unwrap();
        assert!(read > 0, "the server hung up");
        have += read;
        let Some(head) = answer[..have].windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&answer[..head]).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if have == head + 4 + length.parse::<usize>().unwrap() {
            return answer[head + 4..have].to_vec();
        }
    }
}
