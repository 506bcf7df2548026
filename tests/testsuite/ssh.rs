//! RUN --mount=type=ssh: agents and keys of the user's, and nothing else of theirs.

use crate::harness::Lack;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, Capability, need};
use crate::harness::processes::Server;
use crate::harness::site;
use crate::harness::ssh::{self, Ssh};

/// A bench with this machine's OpenSSH programs in `tools`, which a Dockerfile copies to `/`.
fn bench(name: &str) -> Result<Bench, Lack> {
    for program in ["ssh-agent", "ssh-add", "ssh-keygen"] {
        machine::program(Capability::Ssh, program)?;
    }
    let bench = Bench::new(&machine::plain_user()?, name);
    bench.sh(
        "mkdir tools; for p in ssh-add ssh-keygen; do f=$(command -v $p); \
         cp --parents -L $f $(ldd $f | grep -o '/[^ ]*' | sort -u) tools; done",
    );
    Ok(bench)
}

/// A real agent, with one key that nobody else has.
fn own_agent(bench: &Bench) -> Server {
    bench.sh("ssh-keygen -q -t ed25519 -N '' -C of-the-agent -f key");
    let agent = ssh::agent(bench, "key");
    bench.sh("rm key");
    agent
}

/// Signs with the agent, in a step, and checks that outside.
const SIGN: &str = "echo data > /data && ssh-keygen -q -Y sign -n test -f /key.pub /data";

fn check_signature(bench: &Bench, public: &str) {
    bench.sh(&format!(
        "echo \"me $(cut -d' ' -f1,2 {public})\" > signers; \
         ssh-keygen -q -Y verify -f signers -I me -n test -s out/data.sig < out/data"
    ));
}

#[test]
fn a_step_lists_the_keys_of_the_users_agent_and_signs_with_them() {
    let bench = need!(bench("ssh-agent"));
    let base = need!(busybox::context());
    let _agent = own_agent(&bench);
    let socket = bench.path("agent").display().to_string();
    let bench = bench.env("SSH_AUTH_SOCK", &socket);
    bench.file(
        "Dockerfile",
        format!(
            "FROM base\nCOPY tools /\nCOPY key.pub /\n\
             RUN --mount=type=ssh ssh-add -l > /listed && test $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0\n\
             RUN --mount=type=ssh,mode=741,uid=100,gid=102 test \"$(stat -c '%u %g %f' $SSH_AUTH_SOCK)\" = '100 102 c1e1'\n\
             RUN --mount=type=ssh,target=/sock,uid=65534 chmod 777 /root && test $SSH_AUTH_SOCK = /sock\n\
             USER nobody\nRUN --mount=type=ssh,uid=65534 ssh-add -l\nUSER root\n\
             RUN --mount=type=ssh {SIGN}\n\
             RUN --mount=type=ssh ! ssh-add -D && ! ssh-add -x < /dev/null && ssh-add -l\n\
             RUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit && test ! -e /sock\n"
        ),
    );
    let build = bench.built(&format!(
        "build {base} --ssh default -o type=local,dest=out ."
    ));
    assert!(build.log().contains("of-the-agent"), "{}", build.log());
    bench.sh("grep ED25519 out/listed; test ! -e out/run/buildkit; test ! -e out/sock");
    check_signature(&bench, "key.pub");
    // What the step tried has left the agent as it was.
    bench.sh("ssh-add -l | grep of-the-agent");

    // No agent is part of a key: without one, everything is there.
    let again = bench.built(&format!("build {base} -o type=local,dest=again ."));
    assert_eq!(again.steps_run(), 0, "{:?}", again.executed());
}

#[test]
fn key_files_are_served_without_an_agent() {
    let bench = need!(bench("ssh-keys"));
    let base = need!(busybox::context());
    bench.sh("ssh-keygen -q -t ed25519 -N '' -C ed -f ed; ssh-keygen -q -t rsa -b 2048 -N '' -C rsa -f rsa; \
              ssh-keygen -q -t ecdsa -b 384 -N '' -C ec -f ec; ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -C pem -f pem");
    for key in ["ed", "rsa", "ec", "pem"] {
        bench.file(
            "Dockerfile",
            format!(
                "FROM base\nCOPY tools /\nCOPY {key}.pub /key.pub\n\
                 RUN --mount=type=ssh,id=deploy ssh-add -l && {SIGN}\n"
            ),
        );
        bench.ok(&format!(
            "build {base} --ssh deploy={key} -o type=local,dest=out ."
        ));
        check_signature(&bench, &format!("{key}.pub"));
        bench.sh("rm -rf out");
    }
    bench.file(
        "Dockerfile",
        "FROM base\nCOPY tools /\nRUN --mount=type=ssh ssh-add -l | wc -l > /count\n",
    );
    bench.ok(&format!(
        "build {base} --ssh default=ed,rsa,ec -o type=local,dest=out ."
    ));
    assert_eq!(bench.sh("cat out/count").out().trim(), "3");
    // Nothing of a key is in the store.
    bench.sh("! grep -rlF \"$(sed -n 3p ed)\" ../store");
}

#[test]
fn an_agent_that_is_not_given_is_missed_only_where_it_is_required() {
    let bench = Bench::new(&need!(machine::plain_user()), "ssh-missing");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=ssh,id=git test ! -e /run/buildkit/ssh_agent.0\n",
    );
    bench.ok(&format!("build {base} ."));
    bench.file(
        "Dockerfile",
        "FROM base\nRUN true\nRUN --mount=type=ssh,id=git,required true\n",
    );
    bench.shmocker(&format!("build {base} .")).expect(
        1,
        &[
            "`git`",
            "Dockerfile:3:",
            "type=ssh,id=git,required",
            "--ssh git=",
        ],
    );
    bench
        .shmocker(&format!("build {base} --ssh default ."))
        .expect(1, &["SSH_AUTH_SOCK"]);
}

#[test]
fn what_cannot_serve_as_an_agent_is_refused_with_a_reason() {
    let bench = need!(bench("ssh-refused"));
    let base = need!(busybox::context());
    bench
        .file("Dockerfile", "FROM base\n")
        .file("text", "hello\n");
    bench.sh("ssh-keygen -q -t ed25519 -N secret -f locked; ssh-keygen -q -t rsa -b 2048 -m PEM -N secret -f locked-pem");
    for (spec, status, parts) in [
        ("default=locked", 1, ["passphrase", "ssh-add"]),
        ("default=locked-pem", 1, ["passphrase", "ssh-add"]),
        ("default=text", 1, ["text", "private key"]),
        ("default=absent", 1, ["absent", "No such file"]),
        ("default=text,raw=true", 2, ["raw", "socket"]),
        ("default=text,raw=perhaps", 2, ["raw=perhaps", "true"]),
    ] {
        bench
            .shmocker(&format!("build {base} --ssh {spec} ."))
            .expect(status, &parts);
    }
}

#[test]
fn a_raw_socket_passes_every_byte_on() {
    let bench = need!(bench("ssh-raw"));
    let base = need!(busybox::context());
    let _agent = own_agent(&bench);
    bench.file(
        "Dockerfile",
        "FROM base\nCOPY tools /\nRUN --mount=type=ssh,id=raw ssh-add -D && ! ssh-add -l > /listed\n",
    );
    bench.ok(&format!(
        "build {base} --ssh raw=agent,raw=true -o type=local,dest=out ."
    ));
    bench.sh("grep 'no identities' out/listed; ! SSH_AUTH_SOCK=$PWD/agent ssh-add -l");
}

/// By git, with an agent or a key that was named: in a step, and for ADD.
#[test]
fn a_repository_is_fetched_over_ssh_with_what_is_offered() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let bench = Bench::new(&user, "ssh-git");
    need!(machine::program(Capability::Git, "git"));
    let repository = site::repository(&bench, "one", "");
    let ssh = need!(Ssh::new(&bench));
    let _server = ssh.server("host");
    bench.sh(
        "ssh-keygen -q -t ed25519 -N '' -f other; cat other.pub >> mine.pub; mkdir tools; \
         for p in git ssh; do f=$(command -v $p); \
         cp --parents -L $f $(ldd $f | grep -o '/[^ ]*' | sort -u) tools; done",
    );
    let address = format!(
        "ssh://{}@127.0.0.1:{}{}",
        user.name,
        ssh.port,
        repository.display()
    );
    bench.file(
        "Dockerfile",
        format!(
            "FROM base\nCOPY tools /\n\
             RUN --mount=type=ssh GIT_SSH_COMMAND='ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null' \
             git clone -q -b feature {address} /cloned\nADD {address}#feature /added\n"
        ),
    );
    for place in ["agent", "other"] {
        bench.ok(&format!(
            "build {base} --no-cache --pull --network host --ssh default={place} -o type=local,dest=out ."
        ));
        bench.sh(
            "rm -r out/cloned/.git; diff -r out/cloned out/added; ls out/added | grep .; rm -r out",
        );
    }
    // Neither has an agent: the step fails as a step, and the repository as a source.
    let denied = |status| {
        bench
            .shmocker(&format!("build {base} --no-cache --pull --network host ."))
            .expect(status, &["Permission denied"]);
    };
    bench.sh("sed -i '/^ADD /d' Dockerfile");
    denied(3);
    bench.file(
        "Dockerfile",
        format!("FROM base\nADD {address}#feature /added\n"),
    );
    denied(5);
}
