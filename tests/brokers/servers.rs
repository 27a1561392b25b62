//! Real brokers, each in a folder and on a port of its own, killed by its pid.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::support::{Lines, Owned};
use super::within;

/// Where `make tools` puts the brokers.
fn tool(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/brokers");
    let file = root.join(path);
    assert!(file.exists(), "{} is missing: `make tools` brings it", file.display());
    file
}

/// How a broker is started in a folder, on a port.
type Start = dyn Fn(&Path, u16) -> Command;

/// A broker that can be ended and started again, with what it has on disk.
pub(crate) struct Server {
    name: &'static str,
    folder: TempDir,
    port: u16,
    command: Box<Start>,
    /// Runs beside it, for as long.
    _beside: Option<Owned>,
    running: Option<(Owned, Lines)>,
}

impl Server {
    fn start(
        name: &'static str,
        folder: TempDir,
        beside: Option<Owned>,
        command: impl Fn(&Path, u16) -> Command + 'static,
    ) -> Self {
        let command = Box::new(command);
        let port = free_port();
        let mut server = Self { name, folder, port, command, _beside: beside, running: None };
        server.restart();
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Ends it at once, with everything it has only in memory.
    pub(crate) fn kill(&mut self) {
        let (mut process, _) = self.running.take().expect("it runs");
        kill_process(Pid::from_child(&process.0), Signal::KILL).expect("a child of ours");
        process.0.wait().expect("a child of ours");
    }

    pub(crate) fn restart(&mut self) {
        let mut process = Owned(start((self.command)(self.folder.path(), self.port)));
        let log = Lines::of(self.name, process.0.stdout.take().expect("it is piped"));
        let errors = Lines::of(self.name, process.0.stderr.take().expect("it is piped"));
        within(&format!("{} to accept", self.name), || {
            let ended = process.0.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "{ended:?}\n{}{}", log.text(), errors.text());
            TcpStream::connect(self.address()).ok()
        });
        self.running = Some((process, log));
    }
}

fn start(mut command: Command) -> Child {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = piped.get_program().to_owned();
    piped.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// A port nobody listens on at this moment; a broker takes its port from a file.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound").port()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the file is written");
}

/// mosquitto; `settings` are lines of its configuration beside those every test needs.
pub(crate) fn mosquitto(settings: &'static str) -> Server {
    Server::start("mosquitto", folder(), None, move |folder, port| {
        let file = folder.join("mosquitto.conf");
        let data = folder.display();
        let listener = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        // As root it would change its user, who may not write here.
        let user = "user root\n";
        let kept = format!("persistence true\npersistence_location {data}/\n");
        write(&file, &format!("{listener}{user}{kept}{settings}\n"));
        let mut command = Command::new(tool("usr/sbin/mosquitto"));
        command.arg("-c").arg(file).env("LD_LIBRARY_PATH", libraries());
        command
    })
}

/// nats-server with its MQTT listener, which keeps messages in JetStream.
pub(crate) fn nats() -> Server {
    Server::start("nats-server", folder(), None, |folder, port| {
        let file = folder.join("nats.conf");
        let data = folder.display();
        write(
            &file,
            &format!(
                "server_name: weir\nlisten: \"127.0.0.1:-1\"\n\
                 jetstream {{ store_dir: \"{data}/jetstream\" }}\n\
                 mqtt {{ listen: \"127.0.0.1:{port}\" }}\n"
            ),
        );
        let mut command = Command::new(tool("usr/sbin/nats-server"));
        command.arg("-c").arg(file);
        command
    })
}

/// RabbitMQ with rabbitmq_mqtt, and the epmd it needs.
pub(crate) fn rabbitmq() -> Server {
    const HOME: &str = "usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8";
    let folder = folder();
    let names = free_port();
    let mut epmd = Command::new(tool("usr/lib/erlang/bin/epmd"));
    epmd.args(["-address", "127.0.0.1", "-port", &names.to_string()]);
    let epmd = Owned(start(epmd));
    let (amqp, nodes) = (free_port(), free_port());
    Server::start("rabbitmq", folder, Some(epmd), move |folder, port| {
        let data = folder.display();
        write(&folder.join("plugins"), "[rabbitmq_mqtt].\n");
        write(
            &folder.join("rabbitmq.conf"),
            &format!(
                "listeners.tcp.1 = 127.0.0.1:{amqp}\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\n\
                 mqtt.allow_anonymous = true\nlog.console = true\nlog.file = false\n"
            ),
        );
        let erlang = tool("usr/lib/erlang/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(tool(&format!("{HOME}/sbin/rabbitmq-server")));
        command
            .env("PATH", format!("{}:{path}", erlang.display()))
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", names.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", "weir@localhost")
            .env("RABBITMQ_DIST_PORT", nodes.to_string())
            .env("RABBITMQ_MNESIA_BASE", format!("{data}/mnesia"))
            .env("RABBITMQ_LOG_BASE", format!("{data}/log"))
            .env("RABBITMQ_PID_FILE", format!("{data}/pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            // In one process, which is the one that is killed.
            .env("RUNNING_UNDER_SYSTEMD", "true");
        command
    })
}

fn libraries() -> PathBuf {
    let arch = std::env::consts::ARCH;
    tool(&format!("usr/lib/{arch}-linux-gnu"))
}

/// rmqtt in this process, as it comes: sessions in memory. It ends with the process.
pub(crate) fn rmqtt() -> SocketAddr {
    let (address, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let listener = rmqtt::net::Builder::new()
                .name("test")
                .laddr(SocketAddr::from(([127, 0, 0, 1], 0)))
                .allow_anonymous(true)
                .bind()
                .and_then(rmqtt::net::Listener::tcp)
                .expect("a listener");
            address.send(listener.local_addr().expect("it is bound")).expect("somebody asks");
            let context = rmqtt::context::ServerContext::new().busy_check_enable(false);
            let server = rmqtt::server::MqttServer::new(context.build().await);
            server.listener(listener).build().run().await.expect("rmqtt runs");
        });
    });
    bound.recv().expect("rmqtt starts")
}

/// Where a mosquitto with TLS finds its files, and what weir needs to sign in.
pub(crate) struct Secured {
    pub(crate) server: Server,
    pub(crate) folder: PathBuf,
}

/// mosquitto that asks for a client certificate and a password (user `weir`, password `secret`).
pub(crate) fn mosquitto_with_tls() -> Secured {
    let folder = folder();
    let path = folder.path().to_path_buf();
    certificates(&path);
    let mut command = Command::new(tool("usr/bin/mosquitto_passwd"));
    command.env("LD_LIBRARY_PATH", libraries()).args(["-b", "-c"]).arg(path.join("passwords"));
    let made = command.args(["weir", "secret"]).status().expect("mosquitto_passwd runs");
    assert!(made.success(), "{made}");
    write(&path.join("password"), "secret\n");
    let server = Server::start("mosquitto", folder, None, |folder, port| {
        let at = folder.display();
        let file = folder.join("mosquitto.conf");
        write(
            &file,
            &format!(
                "listener {port} 127.0.0.1\nuser root\nallow_anonymous false\n\
                 password_file {at}/passwords\ncafile {at}/ca.pem\ncertfile {at}/server.pem\n\
                 keyfile {at}/server.key\nrequire_certificate true\n"
            ),
        );
        let mut command = Command::new(tool("usr/sbin/mosquitto"));
        command.arg("-c").arg(file).env("LD_LIBRARY_PATH", libraries());
        command
    });
    Secured { server, folder: path }
}

/// `ca.pem`, and signed by it `server` for localhost and `client`, each `.pem` and `.key`.
fn certificates(folder: &Path) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(vec![]).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "weir test CA");
    let certificate = ca.self_signed(&key).expect("a certificate");
    write(&folder.join("ca.pem"), &certificate.pem());
    let issuer = rcgen::Issuer::new(ca, key);
    for (name, host) in [("server", "localhost"), ("client", "weir")] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).expect("parameters");
        let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
        write(&folder.join(format!("{name}.pem")), &certificate.pem());
        write(&folder.join(format!("{name}.key")), &key.serialize_pem());
    }
}
