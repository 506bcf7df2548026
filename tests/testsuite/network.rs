//! The network of a step: its own with a way out, none, or the host's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::http::{Pace, Server};
use crate::harness::machine::{self, Capability, Lack, need};
use crate::harness::processes::wait_until;

const TUN: &str = "/dev/net/tun";

/// `/dev/net/tun` with these permissions, put back at the end. Taken only by a test that is alone.
struct Tun(std::fs::Permissions);

impl Tun {
    fn with_mode(mode: u32) -> Result<Self, Lack> {
        let lack = |reason: &str| Capability::Tun.lack(reason);
        machine::root()?;
        let before = std::fs::metadata(TUN)
            .map_err(|_| lack("there is no /dev/net/tun"))?
            .permissions();
        std::fs::set_permissions(TUN, std::fs::Permissions::from_mode(mode))
            .map_err(|error| lack(&error.to_string()))?;
        Ok(Self(before))
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        // The machine may have taken the device away meanwhile; there is nobody to tell.
        drop(std::fs::set_permissions(TUN, self.0.clone()));
    }
}

/// The interfaces of a step, and what a server on the host's loopback says to it.
fn look(bench: &Bench, base: &str, flags: &str, server: &Server) -> (String, String) {
    // Not `wget`: a static busybox cannot look up its service names.
    bench.file(
        "Dockerfile",
        format!(
            "FROM base\nRUN {flags} cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' ' | sort > /interfaces; \
             printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 127.0.0.1 {} > /loopback || true\n",
            server.port()
        ),
    );
    bench.ok(&format!(
        "build {base} --no-cache --allow network.host --progress plain -o type=local,dest=out ."
    ));
    let interfaces = bench.sh("cat out/interfaces").out();
    (interfaces, bench.sh("cat out/loopback; rm -rf out").out())
}

#[test]
fn a_step_has_a_network_of_its_own_without_a_way_to_the_hosts_loopback() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    if !machine::on_path("pasta") && !machine::on_path("slirp4netns") {
        return Capability::Tun
            .lack("neither pasta nor slirp4netns is installed")
            .skip();
    }
    let _alone = machine::alone();
    let _tun = need!(Tun::with_mode(0o666));
    let server = Server::new(b"secret of the host\n".to_vec(), Pace::AtOnce);
    let bench = Bench::new(&user, "network");

    // Some kernels put unused devices into every new namespace; what matters is a way out.
    let is_way_out = |name: &str| name != "lo" && !name.starts_with("ifb");

    let (interfaces, answer) = look(&bench, &base, "", &server);
    assert_eq!(
        interfaces.lines().filter(|name| is_way_out(name)).count(),
        1,
        "{interfaces}"
    );
    assert_eq!(answer, "");

    let (_, answer) = look(&bench, &base, "--network=host", &server);
    assert!(answer.contains("secret of the host"), "{answer}");

    let (interfaces, answer) = look(&bench, &base, "--network=none", &server);
    assert_eq!(
        interfaces.lines().filter(|name| is_way_out(name)).count(),
        0,
        "{interfaces}"
    );
    assert_eq!(answer, "");
}

#[test]
fn where_no_network_of_its_own_is_to_be_had_the_build_says_so_once() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let _alone = machine::alone();
    let _tun = need!(Tun::with_mode(0o600));
    let bench = Bench::new(&user, "network-closed");
    bench.file("Dockerfile", "FROM base AS a\nRUN true 1\nRUN true 2\nFROM base\nRUN true 3\nCOPY --from=a /bin/sh /sh\n");

    let build = bench.built(&format!("build {base} ."));

    let warnings: Vec<&str> = build
        .of_kind("warning")
        .filter_map(|warning| warning["message"].as_str())
        .filter(|message| message.contains("network"))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // Neither helper is left behind.
    let place = bench.store().to_owned();
    assert_eq!(
        crate::harness::processes::attached_to(Path::new(&place)),
        [""; 0]
    );
}

#[test]
fn the_hosts_network_must_be_allowed() {
    let bench = Bench::new(&need!(machine::plain_user()), "network-refused");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\nRUN --network=host true\n");
    bench
        .shmocker(&format!("build {base} ."))
        .expect(6, &["network.host", "--allow"]);
    bench.ok(&format!("build {base} --allow network.host ."));
}

#[test]
fn a_published_port_leads_into_the_container() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    if !machine::on_path("pasta") && !machine::on_path("slirp4netns") {
        return Capability::Tun
            .lack("neither pasta nor slirp4netns is installed")
            .skip();
    }
    let _alone = machine::alone();
    let _tun = need!(Tun::with_mode(0o666));
    let bench = Bench::new(&user, "publish");
    bench.file(
        "Dockerfile",
        "FROM base\nRUN mkdir /www && echo served > /www/index.html\n",
    );
    bench.ok(&format!("build {base} -t mine ."));
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .port();

    let mut child = bench.start(
        &format!("run -p 127.0.0.1:{port}:80 mine httpd -f -p 80 -h /www"),
        "log",
    );
    let url = format!("http://127.0.0.1:{port}/");
    let mut answer = String::new();
    let come = wait_until(Duration::from_secs(10), || {
        answer = reqwest::blocking::get(&url)
            .and_then(reqwest::blocking::Response::text)
            .unwrap_or_default();
        !answer.is_empty()
    });
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let log = std::fs::read_to_string(bench.path("log")).unwrap_or_default();
    assert!(come.is_some(), "nobody answers: {log}");
    assert_eq!(answer, "served\n");
}
