//! An SMTP server that records what it gets.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Accepts every mail, unless it has other answers.
pub struct Smtp {
    pub port: u16,
    /// Its self-signed certificate, as PEM. It is for `localhost`.
    pub certificate: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Smtp {
    /// With TLS from the first byte, or else by STARTTLS. A line that begins with the first of one of `answers` is
    /// answered by the second.
    pub async fn start(implicit_tls: bool, answers: &'static [(&str, &str)]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key);
        let tls = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let taken_down = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, heard) = (tls.clone(), Arc::clone(&taken_down));
                // A client may disconnect at any time.
                tokio::spawn(async move {
                    let _ = converse(stream, implicit_tls, tls, answers, &heard).await;
                });
            }
        });
        Self {
            port,
            certificate: made.cert.pem(),
            heard,
        }
    }

    /// The lines that clients sent since the last call.
    pub fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

async fn converse(
    stream: TcpStream,
    implicit_tls: bool,
    tls: TlsAcceptor,
    answers: &[(&str, &str)],
    heard: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut is_encrypted = implicit_tls;
    let mut stream: Box<dyn Stream> = match implicit_tls {
        true => Box::new(tls.accept(stream).await?),
        false => Box::new(stream),
    };
    stream.write_all(b"220 localhost\r\n").await?;
    let mut stream = BufReader::new(stream);
    let mut in_mail = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end_matches("\r\n");
        heard.lock().unwrap().push(line.to_owned());
        if in_mail && line != "." {
            continue;
        }
        let usual = match line.split(' ').next() {
            Some("EHLO") if is_encrypted => "250-localhost\r\n250 AUTH PLAIN LOGIN",
            Some("EHLO") => "250-localhost\r\n250 STARTTLS",
            Some("STARTTLS") => "220 Go ahead",
            Some("AUTH") => "235 Welcome",
            Some("DATA") => "354 Go on",
            Some("QUIT") => "221 Bye",
            _ => "250 OK",
        };
        let told = answers.iter().find(|(begin, _)| line.starts_with(begin));
        let answer = told.map_or(usual, |(_, answer)| answer);
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
        stream.flush().await?;
        in_mail = answer.starts_with("354");
        if answer.starts_with("220") {
            let plain = stream.into_inner();
            let encrypted: Box<dyn Stream> = Box::new(tls.accept(plain).await?);
            stream = BufReader::new(encrypted);
            is_encrypted = true;
        }
    }
}
