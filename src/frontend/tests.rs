//! Dockerfiles and what they lower to.

use super::*;
use crate::dockerfile::parse;
use crate::graph::{
    CacheSharing, CopySource, Exec, FileMode, GitSource, ImageSource, Judge, Mkdir, Mount, Network,
    OciLayoutSource, Op, Source, Unpack,
};

fn try_lower(file: &str, options: &Options, resolved: &Resolved) -> Result<Lowering, Vec<Problem>> {
    let parsed = parse(file);
    let wrong = |problem: &&Problem| problem.severity == crate::dockerfile::Severity::Error;
    assert_eq!(parsed.problems.iter().find(wrong), None, "{file}");
    let mut resolved = resolved.clone();
    loop {
        match lower(&parsed.dockerfile, options, &resolved) {
            // Every file is there, unless a test says otherwise.
            Ok(Lowering::Needs(needs))
                if needs.iter().any(|need| matches!(need, Need::File(_))) =>
            {
                for need in needs {
                    if let Need::File(file) = need {
                        resolved.file(file, None);
                    }
                }
            }
            other => return other,
        }
    }
}

fn options() -> Options {
    Options {
        file: "Dockerfile".to_owned(),
        ..Options::default()
    }
}

fn image(name: &str) -> Source {
    Source::Image(ImageSource::new(name.to_owned()))
}

/// A base with a little of everything.
fn base() -> ImageConfig {
    let mut config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        ..Default::default()
    };
    config.config.env = vec!["PATH=/bin".to_owned(), "BASE=1".to_owned()];
    config.config.cmd = Some(vec!["sh".to_owned()]);
    config.config.working_dir = "/base".to_owned();
    config
}

fn lowered_with(file: &str, options: &Options) -> Lowered {
    let mut resolved = Resolved::default();
    resolved.found(image("docker.io/library/base:latest"), base());
    match try_lower(file, options, &resolved) {
        Ok(Lowering::Done(lowered)) => *lowered,
        other => panic!("{file}: {other:?}"),
    }
}

fn lowered(file: &str) -> Lowered {
    lowered_with(file, &options())
}

fn problems(file: &str) -> Vec<String> {
    let mut resolved = Resolved::default();
    resolved.found(image("docker.io/library/base:latest"), base());
    match try_lower(file, &options(), &resolved) {
        Err(problems) => problems
            .into_iter()
            .filter(|problem| problem.severity == crate::dockerfile::Severity::Error)
            .map(|problem| format!("{}: {}", problem.code, problem.message))
            .collect(),
        Ok(other) => panic!("{file}: {other:?}"),
    }
}

fn history(lowered: &Lowered) -> Vec<&str> {
    lowered
        .history
        .iter()
        .map(|entry| entry.created_by.as_str())
        .collect()
}

fn last_op(lowered: &Lowered) -> &Op {
    &lowered.graph.node(lowered.target).op
}

fn last_exec(lowered: &Lowered) -> &Exec {
    match last_op(lowered) {
        Op::Exec(exec) => exec,
        other => panic!("{other:?}"),
    }
}

fn last_copy(lowered: &Lowered) -> &crate::graph::Copy {
    match last_op(lowered) {
        Op::Copy(copy) => copy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bases_are_asked_for_until_they_are_known() {
    let file = "FROM debian:12 AS a\nFROM localhost/x AS unused\nFROM scratch\nCOPY --from=a /x /\nCOPY --from=busybox /y /\n";
    let mut resolved = Resolved::default();
    let wanted = [
        image("docker.io/library/debian:12"),
        image("docker.io/library/busybox:latest"),
    ];
    assert_eq!(
        try_lower(file, &options(), &resolved),
        Ok(Lowering::Needs(
            wanted.iter().cloned().map(Need::Config).collect()
        ))
    );
    for source in wanted {
        resolved.found(source, base());
    }
    let Ok(Lowering::Done(lowered)) = try_lower(file, &options(), &resolved) else {
        panic!()
    };
    let names: Vec<&str> = lowered
        .stages
        .iter()
        .map(|stage| stage.name.as_str())
        .collect();
    assert_eq!(names, ["a", "2"]);
    assert_eq!(lowered.base, None);
}

#[test]
fn a_base_that_cannot_be_had_is_shown_at_its_line() {
    let mut resolved = Resolved::default();
    resolved.missing(
        image("docker.io/library/late:latest"),
        "there is no image `late`",
    );
    let problems = try_lower(
        "FROM late\nFROM scratch AS late\nFROM scratch\nCOPY --from=0 /a /\n",
        &options(),
        &resolved,
    )
    .unwrap_err();
    assert_eq!(problems[0].message, "there is no image `late`");
    assert_eq!(problems[0].span.unwrap().line, 1);
    assert_eq!(
        problems[0].help.as_deref(),
        Some("the stage `late` is defined only at line 2; move it up")
    );
}

#[test]
fn named_contexts_take_the_place_of_images_and_stages() {
    let mut options = options();
    let local = Source::Local {
        name: "src".to_owned(),
    };
    options.contexts.insert("debian".to_owned(), local.clone());
    options.contexts.insert("stage".to_owned(), local.clone());
    for file in [
        "FROM debian\n",
        "FROM docker.io/library/debian:latest\n",
        "FROM nowhere AS stage\nRUN never\n",
        "FROM scratch\nCOPY --from=debian / /\n",
    ] {
        let lowered = lowered_with(file, &options);
        let uses = lowered
            .graph
            .nodes()
            .iter()
            .any(|node| node.op == Op::Source(local.clone()));
        assert!(uses, "{file}");
        assert!(
            lowered
                .graph
                .nodes()
                .iter()
                .all(|node| !matches!(node.op, Op::Exec(_)))
        );
    }
}

#[test]
fn the_history_is_worded_as_buildkit_words_it() {
    let file = "\
ARG GLOBAL=g
FROM scratch
ARG GLOBAL A=1
ENV X=\"a b\" Y=$A
RUN echo $X
RUN [\"ls\", \"-l\"]
COPY --chown=1:2 --chmod=755 a b /c/
COPY <<EOF /d
text
EOF
WORKDIR sub
WORKDIR /
LABEL k=v
USER me
EXPOSE 80 53/udp
VOLUME /v /w
STOPSIGNAL SIGTERM
SHELL [\"/bin/bash\", \"-c\"]
HEALTHCHECK --interval=5s CMD true
CMD [\"a\", \"b c\"]
ENTRYPOINT run it
MAINTAINER me
";
    let lowered = lowered(file);
    assert_eq!(
        history(&lowered),
        [
            "ARG GLOBAL=g A=1",
            "ENV X=a b Y=1",
            "RUN |2 GLOBAL=g A=1 /bin/sh -c echo $X # buildkit",
            "RUN |2 GLOBAL=g A=1 ls -l # buildkit",
            "COPY --chown=1:2 --chmod=755 a b /c/ # buildkit",
            "COPY <<EOF /d # buildkit",
            "WORKDIR /sub",
            "WORKDIR /",
            "LABEL k=v",
            "USER me",
            "EXPOSE [53/udp 80/tcp]",
            "VOLUME [/v /w]",
            "STOPSIGNAL SIGTERM",
            "SHELL [/bin/bash -c]",
            "HEALTHCHECK {Test:[CMD-SHELL true] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
            "CMD [\"a\" \"b c\"]",
            "ENTRYPOINT [\"/bin/bash\" \"-c\" \"run it\"]",
            "MAINTAINER me",
        ]
    );
    let layers = lowered.history.iter().filter(|entry| entry.node.is_some());
    assert_eq!(layers.count(), 5);
    let config = &lowered.config.config;
    assert_eq!(config.env[1..], ["X=a b", "Y=1"]);
    assert_eq!(
        config.cmd.as_deref(),
        Some(&["a".to_owned(), "b c".to_owned()][..])
    );
    assert_eq!(config.user, "me");
    assert_eq!(config.working_dir, "/");
    assert_eq!(lowered.config.author.as_deref(), Some("me"));
}

#[test]
fn values_of_one_instruction_see_what_was_before_it() {
    let lowered = lowered("FROM base\nENV a=1\nENV a=2 b=$a PATH=/x:$PATH\n");
    assert_eq!(
        lowered.config.config.env,
        ["PATH=/x:/bin", "BASE=1", "a=2", "b=1"]
    );
}

#[test]
fn arguments_have_scopes() {
    let file = "ARG V=global\nARG W\nFROM scratch AS a\nARG S=s\nFROM a\nARG V\nARG W=own\nARG TARGETARCH\nRUN x\n";
    let mut with = options();
    with.build_args.insert("W".to_owned(), "given".to_owned());
    with.build_args.insert("NOBODY".to_owned(), "1".to_owned());
    let lowered = lowered_with(file, &with);
    let env = &last_exec(&lowered).env;
    let value = |name: &str| {
        env.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(value("V"), Some("global"));
    assert_eq!(value("W"), Some("given"));
    assert_eq!(value("S"), Some("s"));
    assert_eq!(value("TARGETARCH"), Some("amd64"));
    assert_eq!(value("TARGETOS"), None);
    assert!(value("PATH").is_some());
    assert_eq!(lowered.unused_build_args, ["NOBODY"]);
}

#[test]
fn proxies_stay_out_of_the_key_until_they_are_declared() {
    let mut with = options();
    with.proxies
        .insert("http_proxy".to_owned(), "http://p".to_owned());
    let proxy = |name: &str| (name.to_owned(), "http://p".to_owned());
    let lowered = lowered_with("FROM scratch\nRUN x\n", &with);
    assert_eq!(
        last_exec(&lowered).env_unkeyed,
        [proxy("HTTP_PROXY"), proxy("http_proxy")]
    );
    let lowered = lowered_with("FROM scratch\nARG http_proxy\nRUN x\n", &with);
    assert_eq!(last_exec(&lowered).env_unkeyed, [proxy("HTTP_PROXY")]);
    assert!(last_exec(&lowered).env.contains(&proxy("http_proxy")));
}

#[test]
fn the_body_of_a_heredoc_is_the_script() {
    for (file, argv, scripts) in [
        ("RUN <<EOF\na\nb\nEOF\n", "a\nb\n", None),
        ("RUN <<-EOF\n\ta\n\tEOF\n", "a\n", None),
        (
            "RUN <<E\n#!/usr/bin/env python\nx\nE\n",
            "/dev/pipes/E",
            Some("#!/usr/bin/env python\nx\n"),
        ),
        (
            "RUN python <<EOF > /x\na\nEOF\n",
            "python <<EOF > /x\na\nEOF",
            None,
        ),
        (
            "RUN cat <<A <<B\n1\nA\n2\nB\n",
            "cat <<A <<B\n1\nA\n2\nB",
            None,
        ),
    ] {
        let lowered = lowered(&format!("FROM scratch\n{file}"));
        let exec = last_exec(&lowered);
        assert_eq!(exec.argv, ["/bin/sh", "-c", argv], "{file}");
        let found = exec.scripts.first().map(|script| script.content.as_str());
        assert_eq!(found, scripts, "{file}");
    }
}

#[test]
fn mounts_have_their_defaults() {
    let file = "\
FROM scratch AS tools
FROM scratch
WORKDIR /w
ARG D=deps
RUN --mount=type=cache,target=/c/ --mount=type=cache,id=x,target=$D,sharing=locked,uid=5 \\
    --mount=target=/src,source=a,rw --mount=from=tools,target=/t --mount=type=tmpfs,target=/tmp,size=1m \\
    --mount=type=secret,id=s,env=S --mount=type=secret,id=t,required --network=none x
";
    let lowered = lowered(file);
    let exec = last_exec(&lowered);
    assert_eq!(exec.network, Network::None);
    let [
        Mount::Cache(plain),
        Mount::Cache(deps),
        Mount::Bind(source),
        Mount::Bind(tools),
        Mount::Tmpfs(memory),
        Mount::Secret(variable),
        Mount::Secret(file),
    ] = exec.mounts.as_slice()
    else {
        panic!("{:?}", exec.mounts)
    };
    assert_eq!(
        (plain.id.as_str(), plain.target.as_str(), plain.mode),
        ("/c", "/c", 0o755)
    );
    assert_eq!(
        (deps.id.as_str(), deps.target.as_str(), deps.uid),
        ("x", "/w/deps", 5)
    );
    assert_eq!(deps.sharing, CacheSharing::Locked);
    assert_eq!((source.source.path.as_str(), source.writable), ("/a", true));
    assert!(!tools.writable);
    assert_eq!(memory.size_bytes, Some(1_048_576));
    assert_eq!(
        (
            variable.target.path.as_deref(),
            variable.target.env.as_deref()
        ),
        (None, Some("S"))
    );
    assert_eq!(file.target.path.as_deref(), Some("/run/secrets/t"));
    let ids: Vec<(&str, bool)> = lowered
        .secrets
        .iter()
        .map(|secret| (secret.id.as_str(), secret.required))
        .collect();
    assert_eq!(ids, [("s", false), ("t", true)]);
}

#[test]
fn agents_have_their_defaults() {
    let lowered = lowered(
        "FROM scratch\nRUN --mount=type=ssh --mount=type=ssh,id=git,required,mode=741,uid=7 x\n\
         RUN --mount=type=ssh,target=/sock y\n",
    );
    let exec = last_exec(&lowered);
    let agent = ("SSH_AUTH_SOCK".to_owned(), "/sock".to_owned());
    assert!(exec.env.contains(&agent));
    let Op::Exec(first) = &lowered.graph.nodes()[1].op else {
        panic!("{:?}", lowered.graph)
    };
    let [Mount::Ssh(plain), Mount::Ssh(git)] = first.mounts.as_slice() else {
        panic!("{:?}", first.mounts)
    };
    let agent = (
        "SSH_AUTH_SOCK".to_owned(),
        "/run/buildkit/ssh_agent.0".to_owned(),
    );
    assert!(first.env.contains(&agent));
    assert_eq!(
        (plain.id.as_str(), plain.mode, plain.required),
        ("default", 0o600, false)
    );
    assert_eq!(
        (git.target.as_str(), git.mode, git.uid),
        ("/run/buildkit/ssh_agent.1", 0o741, 7)
    );
    let ids: Vec<(&str, bool)> = lowered
        .agents
        .iter()
        .map(|agent| (agent.id.as_str(), agent.required))
        .collect();
    assert_eq!(ids, [("default", false), ("git", true)]);
}

/// As BuildKit has it: what a command can see of it is part of the key, apart from addresses of hosts.
#[test]
fn what_every_run_gets_is_part_of_its_key() {
    let key = |change: &dyn Fn(&mut Options)| {
        let mut with = options();
        change(&mut with);
        let lowered = lowered_with("FROM scratch\nRUN x\n", &with);
        Op::Exec(last_exec(&lowered).clone()).fields().key()
    };
    let host = |name: &str, last: u8| crate::graph::Host {
        name: name.to_owned(),
        address: [10, 0, 0, last].into(),
    };
    let limit = |soft| crate::graph::Ulimit {
        name: "nofile".to_owned(),
        soft: Some(soft),
        hard: Some(9),
    };
    let keys = [
        key(&|_| {}),
        key(&|with| with.run.hosts = vec![host("a", 1)]),
        key(&|with| with.run.hosts = vec![host("b", 1)]),
        key(&|with| with.run.ulimits = vec![limit(1)]),
        key(&|with| with.run.ulimits = vec![limit(2)]),
        key(&|with| with.run.shm_bytes = Some(1)),
        key(&|with| with.run.network = Some(Network::None)),
        key(&|with| with.run.cgroup_parent = Some("a".to_owned())),
        key(&|with| {
            let hostname = "BUILDKIT_SANDBOX_HOSTNAME".to_owned();
            with.build_args.insert(hostname, "h".to_owned());
        }),
    ];
    let different: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
    assert_eq!(
        keys[0],
        key(&|with| with.run.network = Some(Network::Default))
    );
    assert_eq!(keys[1], key(&|with| with.run.hosts = vec![host("a", 2)]));
}

#[test]
fn copies_and_additions_keep_what_is_written() {
    let lowered = lowered(
        "FROM scratch\nWORKDIR /w\nCOPY --link --parents --exclude=*.o --chmod=u=rwX a/. ./b .\n",
    );
    let copy = last_copy(&lowered);
    let paths: Vec<&str> = copy
        .sources
        .iter()
        .map(|source| match source {
            CopySource::Path { path, .. } => path.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        (paths.as_slice(), copy.dest.as_str()),
        (&["a/.", "./b"][..], "/w/")
    );
    assert!(copy.link && copy.parents && copy.unpack == Unpack::Nothing);
    assert_eq!(copy.chmod, Some(FileMode::Symbolic("u=rwX".to_owned())));
    assert_eq!(copy.exclude, ["*.o"]);
}

#[test]
fn additions_unpack_what_is_local_and_nothing_else() {
    let local = lowered("FROM scratch\nADD a.tar /\n");
    assert_eq!(last_copy(&local).unpack, Unpack::Files);
    let kept = lowered("FROM scratch\nADD --unpack=false a.tar /\n");
    assert_eq!(last_copy(&kept).unpack, Unpack::Nothing);
    let download = lowered("FROM scratch\nADD https://example.com/a.tar /\n");
    let copy = last_copy(&download);
    assert_eq!(copy.unpack, Unpack::Nothing);
    assert_eq!(copy.chmod, None);
    assert!(matches!(copy.sources[..], [CopySource::Download { .. }]));
    let git = lowered("FROM scratch\nADD --keep-git-dir https://example.com/a.git#v1:dir /a\n");
    let source = GitSource {
        url: "https://example.com/a.git".to_owned(),
        reference: Some("v1".to_owned()),
        checksum: None,
        is_short: false,
        fetch_by_commit: false,
        subdir: Some("dir".to_owned()),
        depth: Some(1),
        submodules: true,
        keep_git_dir: true,
        remote: None,
        read_only: false,
        secret: None,
    };
    let nodes = git.graph.nodes();
    assert!(
        nodes
            .iter()
            .any(|node| node.op == Op::Source(Source::Git(source.clone())))
    );
}

#[test]
fn heredocs_of_copies_are_files() {
    let lowered =
        lowered("FROM scratch\nARG A=1\nCOPY <<one <<'two' /d/\n$A \"x\" \\$A\none\n$A\ntwo\n");
    let contents: Vec<(&str, &str)> = last_copy(&lowered)
        .sources
        .iter()
        .map(|source| match source {
            CopySource::Inline(file) => (file.name.as_str(), file.content.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(contents, [("one", "1 \"x\" $A\n"), ("two", "$A\n")]);
}

#[test]
fn steps_say_where_they_come_from() {
    let mut with = options();
    with.origins = Origins::new(vec![Origin {
        first: 3,
        last: 4,
        file: "habitat.yaml".to_owned(),
        line: 7,
    }]);
    let file = "FROM scratch AS a\nWORKDIR /x\n# shmocker: timeout=2m tap\nRUN a \\\n  b\n";
    let lowered = lowered_with(file, &with);
    let [first, second] = lowered.stages[0].nodes[..] else {
        panic!()
    };
    let origin = |node| lowered.graph.node(node).step.clone().unwrap();
    assert_eq!(origin(first).step, "0/0");
    assert_eq!(
        (origin(first).file.as_str(), origin(first).line),
        ("Dockerfile", 2)
    );
    assert_eq!(
        (origin(second).file.as_str(), origin(second).line),
        ("habitat.yaml", 7)
    );
    assert_eq!(origin(second).name, "RUN a   b");
    assert_eq!(origin(second).stage, "a");
    let exec = last_exec(&lowered);
    assert_eq!((exec.timeout_ms, exec.judge), (Some(120_000), Judge::Tap));
}

#[test]
fn the_base_image_passes_on_what_it_is() {
    let inherited = lowered("FROM base\nUSER me\nWORKDIR sub\nENTRYPOINT [\"x\"]\n");
    assert_eq!(inherited.config.config.cmd, None);
    let op = Op::Mkdir(Mkdir {
        root: inherited.base.as_ref().unwrap().node,
        path: "/base/sub".to_owned(),
        user: "me".to_owned(),
        mode: 0o755,
    });
    assert_eq!(*last_op(&inherited), op);
    assert_eq!(inherited.base.as_ref().unwrap().config, base());
    let both = lowered("FROM base\nCMD [\"own\"]\nENTRYPOINT [\"x\"]\n");
    assert_eq!(both.config.config.cmd, Some(vec!["own".to_owned()]));
}

#[test]
fn triggers_of_the_base_run_first_and_once() {
    let mut config = base();
    config.config.on_build = Some(vec![
        "RUN first".to_owned(),
        "COPY --from=tools /a /".to_owned(),
    ]);
    let mut resolved = Resolved::default();
    resolved.found(image("docker.io/library/base:latest"), config);
    let file = "FROM scratch AS tools\nFROM base AS b\nONBUILD ENV LATER=1\nRUN second\nFROM b\nRUN third\n";
    let Ok(Lowering::Done(lowered)) = try_lower(file, &options(), &resolved) else {
        panic!()
    };
    assert_eq!(
        history(&lowered),
        [
            "RUN /bin/sh -c first # buildkit",
            "COPY /a / # buildkit",
            "RUN /bin/sh -c second # buildkit",
            "ENV LATER=1",
            "RUN /bin/sh -c third # buildkit",
        ]
    );
    assert_eq!(lowered.config.config.on_build, None);
    let kept = lowered
        .stages
        .iter()
        .find(|stage| stage.name == "b")
        .unwrap();
    assert_eq!(
        kept.config.config.on_build,
        Some(vec!["ENV LATER=1".to_owned()])
    );
    let step = lowered.graph.node(kept.nodes[0]).step.clone().unwrap();
    assert_eq!((step.name.as_str(), step.line), ("ONBUILD RUN first", 2));
}

#[test]
fn what_is_wrong_is_said_with_all_its_places() {
    for (file, expected) in [
        ("ARG A\n", "frontend::no_stage"),
        ("RUN x\nFROM scratch\n", "frontend::before_from"),
        ("FROM $NOPE\n", "frontend::no_base"),
        ("FROM Upper\n", "frontend::image_name"),
        (
            "FROM scratch AS a\nCOPY --from=a / /\n",
            "frontend::copy_from_self",
        ),
        (
            "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nFROM a\n",
            "frontend::later_stage",
        ),
        (
            "FROM scratch AS a\nCOPY --from=b / /\nFROM a AS b\n",
            "frontend::cycle",
        ),
        (
            "FROM scratch\nCOPY --from=7 / /\n",
            "frontend::no_stage_index",
        ),
        (
            "FROM scratch\nCOPY --from=$X / /\n",
            "frontend::from_variable",
        ),
        (
            "FROM scratch\nRUN --security=loose x\n",
            "frontend::security",
        ),
        ("FROM scratch\nRUN --device=a/b=c x\n", "frontend::device"),
        (
            "FROM scratch\nRUN --mount=target=/ x\n",
            "frontend::mount_target",
        ),
        (
            "FROM scratch\nRUN --mount=target=/a --mount=type=tmpfs,target=/a x\n",
            "frontend::mount_twice",
        ),
        ("FROM scratch\nCOPY --chmod=999 a /\n", "frontend::chmod"),
        (
            "FROM scratch\nCOPY --link --chown=me a /\n",
            "frontend::chown_link",
        ),
        (
            "FROM scratch\nCOPY https://example.com/a /\n",
            "frontend::copy_url",
        ),
        (
            "FROM scratch\nADD --checksum=sha256:1 https://example.com/a /\n",
            "frontend::checksum",
        ),
        ("FROM scratch\nENV A=${B:?missing}\n", "frontend::expand"),
        ("FROM scratch\nEXPOSE no\n", "frontend::expose"),
        ("FROM scratch\nRUN []\n", "frontend::no_command"),
        ("FROM scratch\nSTOPSIGNAL no\n", "frontend::signal"),
        (
            "# syntax=example.com/other\nFROM scratch\n",
            "frontend::syntax",
        ),
    ] {
        let found = problems(file);
        assert!(
            found.iter().any(|found| found.starts_with(expected)),
            "{file}: {found:?}"
        );
    }
    let all = problems("FROM scratch\nEXPOSE no\nCOPY --chmod=999 a /\nRUN --security=loose x\n");
    assert_eq!(all.len(), 3);
}

#[test]
fn what_nothing_needs_does_no_harm() {
    let lowered = lowered("FROM $NOPE AS broken\nCOPY --from=9 / /\nFROM scratch\nRUN x\n");
    assert_eq!(lowered.stages.len(), 1);
    assert_eq!(lowered.stages[0].index, 1);
}

#[test]
fn targets_are_found_by_name_and_index() {
    let file = "FROM scratch AS One\nRUN 1\nFROM scratch AS two\nRUN 2\n";
    for (target, line) in [("one", 1), ("TWO", 3), ("0", 1)] {
        let mut with = options();
        with.target = Some(target.to_owned());
        assert_eq!(
            lowered_with(file, &with).stages[0].first_line,
            line,
            "{target}"
        );
    }
    let mut with = options();
    with.target = Some("onee".to_owned());
    let problems = try_lower(file, &with, &Resolved::default()).unwrap_err();
    let missing = problems
        .iter()
        .find(|problem| problem.code == "frontend::no_target")
        .unwrap();
    assert_eq!(missing.help.as_deref(), Some("did you mean `one`?"));
}

#[test]
fn an_empty_epoch_takes_back_what_the_file_says() {
    let mut with = options();
    with.build_args
        .insert("SOURCE_DATE_EPOCH".to_owned(), String::new());
    let lowered = lowered_with(
        "ARG SOURCE_DATE_EPOCH=5\nFROM scratch\nARG SOURCE_DATE_EPOCH\nRUN x\n",
        &with,
    );
    assert_eq!(lowered.source_date_epoch, None);
    let is_epoch = |(name, _): &(String, String)| name == "SOURCE_DATE_EPOCH";
    assert!(!last_exec(&lowered).env.iter().any(is_epoch));
    let found = problems("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n");
    assert!(found.iter().any(|it| it.contains("soon")), "{found:?}");
}

#[test]
fn a_stage_can_be_for_another_platform() {
    let layout = |platform: Option<&str>| {
        Source::OciLayout(OciLayoutSource {
            path: "/layout".to_owned(),
            tag: None,
            digest: None,
            platform: platform.map(str::to_owned),
        })
    };
    let mut with = options();
    with.contexts.insert("tools".to_owned(), layout(None));
    with.contexts
        .insert("tools::linux/s390x".to_owned(), image("special"));
    let file = "ARG TARGETPLATFORM\nFROM --platform=linux/arm64/v8 tools AS arm64\nFROM --platform=linux/s390x tools AS s390x\nFROM tools AS own\nARG TARGETARCH\nCOPY --from=arm64 /a /\nCOPY --from=s390x /a /\n";
    let mut resolved = Resolved::default();
    let Ok(Lowering::Needs(needs)) = try_lower(file, &with, &resolved) else {
        panic!("bases are asked for");
    };
    let arm = layout(Some("linux/arm64"));
    let special = Source::Image(ImageSource {
        name: "special".to_owned(),
        platform: Some("linux/s390x".to_owned()),
    });
    for source in [&arm, &special, &layout(None)] {
        assert!(needs.contains(&Need::Config(source.clone())), "{needs:?}");
    }
    let config = |architecture: &str| ImageConfig {
        architecture: architecture.to_owned(),
        ..base()
    };
    resolved.found(arm, config("arm64"));
    resolved.found(special, config("amd64"));
    resolved.found(layout(None), config("amd64"));
    let Ok(Lowering::Done(lowered)) = try_lower(file, &with, &resolved) else {
        panic!("it lowers");
    };
    assert_eq!(lowered.stages[0].config.architecture, "arm64");
    let wrong: Vec<_> = lowered
        .warnings
        .iter()
        .filter(|problem| problem.code == "InvalidBaseImagePlatform")
        .map(|problem| problem.span.map(|span| span.line))
        .collect();
    assert_eq!(wrong, [Some(3)]);
}

#[test]
fn an_addition_can_take_downloads_and_files() {
    let lowered = lowered("FROM scratch\nADD a.tar https://example.com/b.tar /\n");
    let copy = last_copy(&lowered);
    assert_eq!((copy.unpack, &copy.chmod), (Unpack::Files, &None));
    assert_eq!(copy.sources.len(), 2);
}

#[test]
fn the_outline_has_what_the_target_needs() {
    let lowered = lowered(
        "# BASE the base\nARG BASE=scratch\nARG UNUSED\nFROM $BASE AS a\n# A it\nARG A=1\nRUN --mount=type=secret,id=s,required x\nFROM scratch AS b\nARG B\nFROM scratch AS c\nARG A=2\nCOPY --from=a / /\nRUN --mount=type=cache,target=/c x\n",
    );
    let outline = &lowered.outline;
    assert_eq!(outline.name.as_deref(), Some("c"));
    let args: Vec<_> = outline
        .args
        .iter()
        .map(|arg| (arg.name.as_str(), arg.value.as_deref(), arg.span.line))
        .collect();
    assert_eq!(
        args,
        [("BASE", Some("scratch"), 2), ("A", Some("2"), 11)],
        "what a stage itself says goes before what others say"
    );
    assert_eq!(outline.args[0].description.as_deref(), Some("the base"));
    assert_eq!(outline.secrets[0].id, "s");
    assert!(outline.secrets[0].required);
    assert_eq!(outline.caches[0].id, "/c");
}

#[test]
fn a_base_that_nobody_knows_may_set_anything() {
    let file = "FROM unknown\nCOPY $FROM_BASE /\nCOPY $FROM_BASE /\n";
    let options = Options {
        scope: Scope::All,
        ..options()
    };
    let told = |review: Review| -> Vec<&'static str> {
        review.breaches().map(|(rule, _)| rule.name).collect()
    };
    assert_eq!(told(review(file, &options, |_| None)), Vec::<&str>::new());
    let known = review(file, &options, |_| Some(Ok(base())));
    assert_eq!(told(known), ["UndefinedVar", "UndefinedVar"]);
    let missing = review(file, &options, |_| Some(Err("it is not there".to_owned())));
    assert_eq!(missing.mistakes().count(), 1);
    assert_eq!(missing.outline, None);
}

#[test]
fn every_stage_is_looked_through_where_nothing_is_built() {
    let file = "FROM scratch AS a\nCMD x\nFROM scratch\n";
    for (scope, count) in [(Scope::Target, 0), (Scope::All, 1)] {
        let options = Options { scope, ..options() };
        let found = review(file, &options, |_| None);
        assert_eq!(found.breaches().count(), count, "{scope:?}");
    }
    let base = "ARG BASE\nFROM $BASE AS a\nFROM scratch\n";
    let found = review(base, &options(), |_| None);
    let rules: Vec<_> = found.breaches().map(|(rule, _)| rule.name).collect();
    assert_eq!(rules, ["InvalidDefaultArgInFrom"]);
}

#[test]
fn the_epoch_comes_from_an_argument_or_the_file() {
    let mut with = options();
    with.source_date_epoch = Some(5);
    let lowered = lowered_with("FROM scratch\nARG SOURCE_DATE_EPOCH\nRUN x\n", &with);
    assert_eq!(lowered.source_date_epoch, Some(5));
    let pair = ("SOURCE_DATE_EPOCH".to_owned(), "5".to_owned());
    assert!(last_exec(&lowered).env.contains(&pair));
    let own = lowered_with("ARG SOURCE_DATE_EPOCH=7\nFROM scratch\n", &options());
    assert_eq!(own.source_date_epoch, Some(7));
}

#[test]
fn mistakes_of_every_kind_are_reported_together() {
    let file = "FROM base AS one
COPY --from=two /a /b
EXPOSE many
FROM base AS two
COPY --chmod=9 a /b
COPY absent /c
FROM gone
COPY --from=one /a /b
COPY --from=9 /a /b
WORKDIR ${X:?no X}
";
    let mut resolved = Resolved::default();
    resolved.found(image("docker.io/library/base:latest"), base());
    resolved.missing(image("docker.io/library/gone:latest"), "no image `gone`");
    let absent = ContextFile {
        context: "context".to_owned(),
        path: "absent".to_owned(),
    };
    let absence = Absence {
        code: "copy::missing",
        message: "`absent` is not in the build context".to_owned(),
        help: None,
    };
    resolved.file(absent, Some(absence));
    let problems = try_lower(file, &options(), &resolved).unwrap_err();
    let found: Vec<(u32, &str)> = problems
        .iter()
        .map(|problem| (problem.span.unwrap().line, problem.code))
        .collect();
    assert_eq!(
        found,
        [
            (2, "frontend::later_stage"),
            (3, "frontend::expose"),
            (5, "frontend::chmod"),
            (6, "copy::missing"),
            (7, "frontend::no_base"),
            (9, "frontend::no_stage_index"),
            (10, "frontend::expand"),
        ]
    );
}
