//! Caches of Debian's packages, each a child process on a loopback port of its own, configured as shipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::exchange::{Answer, Cache, Request};
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// The time limit for a cache to listen. Varnish compiles its configuration.
const PATIENCE: Duration = Duration::from_secs(30);

/// The kind of cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Varnish,
    Nginx,
    Squid,
}

/// A cache that runs until it is dropped.
pub struct Server {
    way: Way,
    // In this order: the process ends before its folder is removed.
    _child: Child,
    _folder: Folder,
}

/// An HTTP client for one port.
#[derive(Clone)]
pub struct Way {
    client: Client,
    url: String,
}

/// A folder that is removed with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Server {
    /// Starts a cache in front of `origin`, a port. `arguments` are added to those it ships with.
    pub async fn start(program: Program, origin: u16, arguments: &[&str]) -> Self {
        let port = free_port().await;
        let folder = folder(program, port);
        let mut command = program.command(&folder.0, port, origin);
        let log = fs::File::create(folder.0.join("output")).unwrap();
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program:?} is not installed (tests/run): {error}"));
        let begin = tokio::time::Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none() && begin.elapsed() < PATIENCE,
                "{program:?} does not listen: {}",
                fs::read_to_string(folder.0.join("output")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self {
            way: Way::to(port),
            _child: child,
            _folder: folder,
        }
    }
}

impl Cache for Server {
    async fn send(&self, request: Request) -> Answer {
        self.way.send(&request).await
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

impl Way {
    /// A client for a port of this machine. Responses are passed on unchanged.
    pub fn to(port: u16) -> Self {
        let client = Client::builder().redirect(Policy::none()).build().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        Self { client, url }
    }

    /// The response to a request.
    pub async fn send(&self, request: &Request) -> Answer {
        let url = format!("{}{}", self.url, request.target);
        let sent = self
            .client
            .request(request.method.clone(), url)
            .headers(request.headers.clone())
            .body(request.body.clone())
            .send();
        let answer = sent.await.unwrap();
        Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.bytes().await.unwrap().to_vec(),
        }
    }
}

impl Program {
    /// The command that starts it, in the foreground and if possible as one process, so that it ends with us.
    fn command(self, folder: &Path, port: u16, origin: u16) -> Command {
        let name = folder.to_str().unwrap();
        match self {
            Self::Varnish => {
                let mut command = Command::new("/usr/sbin/varnishd");
                command.args(["-F", "-j", "none", "-n", name, "-s", "malloc,64m"]);
                command.args(["-a", &format!("127.0.0.1:{port}")]);
                command.args(["-b", &format!("127.0.0.1:{origin}")]);
                command
            }
            Self::Nginx => {
                let config = format!(
                    "daemon off; master_process off; pid {name}/pid; error_log {name}/errors;
                     events {{}}
                     http {{
                         access_log off;
                         client_body_temp_path {name}/bodies;
                         proxy_temp_path {name}/answers;
                         fastcgi_temp_path {name}/f; uwsgi_temp_path {name}/u; scgi_temp_path {name}/s;
                         proxy_cache_path {name}/cache keys_zone=kinto:1m;
                         server {{
                             listen 127.0.0.1:{port};
                             location / {{
                                 proxy_pass http://127.0.0.1:{origin};
                                 proxy_cache kinto;
                                 proxy_cache_revalidate on;
                             }}
                         }}
                     }}"
                );
                let mut command = Command::new("/usr/sbin/nginx");
                command.args(["-c", &write(folder, &config)]);
                command
            }
            Self::Squid => {
                let config = format!(
                    "http_port 127.0.0.1:{port} accel defaultsite=127.0.0.1
                     cache_peer 127.0.0.1 parent {origin} 0 no-query originserver login=PASSTHRU
                     http_access allow all
                     cache_mem 32 MB
                     access_log none
                     cache_log {name}/log
                     pid_filename {name}/pid
                     coredump_dir {name}
                     netdb_filename none
                     visible_hostname squid
                     shutdown_lifetime 0 seconds\n"
                );
                let mut command = Command::new("/usr/sbin/squid");
                command.args(["-N", "-f", &write(folder, &config)]);
                command
            }
        }
    }
}

fn write(folder: &Path, config: &str) -> String {
    let path = folder.join("conf");
    fs::write(&path, config).unwrap();
    path.to_str().unwrap().to_owned()
}

/// An empty folder, writable also for the users that these programs switch to.
fn folder(program: Program, port: u16) -> Folder {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::temp_dir().join(format!("kinto-{program:?}-{port}").to_lowercase());
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    Folder(path)
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}
