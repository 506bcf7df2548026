//! Single items: tools, repositories, scripts; what is said of them and what they become.

use super::keys::Key as _;
use super::report::Report;
use super::tests::{check, render};
use super::*;

#[test]
fn mistakes_in_tools_are_told_with_their_way_out() {
    let text = "\
name: tooled
base_image: debian:12
tools:
  - {name: a b, url: ftp://example.org/a, sha256: 12}
  - {name: zipped, url: https://example.org/zipped.zip}
  - {name: direct, url: https://example.org/x.zip, direct_binary: true}
  - {name: both, url: https://example.org/x.tar, direct_binary: true, extract_path: x}
  - {name: odd, url: \"https://example.org/{verison}/{os}.tar\", sha256: {amd46: 12}, dest: bin, binary: a/b}
  - {name: open, url: \"https://me:secret@example.org/open\"}
  - {name: direct, url: https://example.org/direct.git}
";
    insta::assert_snapshot!(check(text));
}

#[test]
fn a_tool_takes_its_digest_from_the_lock_where_it_says_none() {
    let text = "\
name: tooled
base_image: debian:12
tools:
  - {name: a, url: \"https://example.org/{machine}/a\"}
  - {name: b, version: 3, url: \"https://example.org/b-{version}-{arch}?x=$y\", sha256: {amd64: ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789}}
  - {name: c, url: https://example.org/c.tgz, extract_path: ./c-1/c, dest: \"${SYSTEM_PATH}/tools/bin\"}
";
    let habitat = Habitat::parse(text, "config.yaml")
        .unwrap_or_else(|problems| panic!("{}", told(text, &problems)));
    let sum = "1111111111111111111111111111111111111111111111111111111111111111";
    let facts = Facts {
        debian_arch: "amd64".to_owned(),
        sums: [("https://example.org/x86_64/a".to_owned(), sum.to_owned())].into(),
        ..Facts::default()
    };
    let plan =
        Plan::of(&habitat, &facts).unwrap_or_else(|problems| panic!("{}", told(text, &problems)));
    let rendered = plan.render(&Templates::default()).expect("it renders");
    let lines: Vec<&str> = rendered
        .dockerfile
        .lines()
        .filter(|line| line.contains("tool-") || line.starts_with("ADD"))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
    let downloads: Vec<String> = rendered
        .downloads
        .iter()
        .map(|download| {
            let sum = download.sha256.as_deref().unwrap_or("unknown");
            format!("{} {} {}", download.name, download.url, &sum[..7])
        })
        .collect();
    assert_eq!(
        downloads,
        [
            "a https://example.org/x86_64/a 1111111",
            "b https://example.org/b-3-amd64?x=$y abcdef0",
            "c https://example.org/c.tgz unknown"
        ]
    );
}

#[test]
fn the_tools_of_a_root_are_read_from_a_file_of_their_own() {
    let text = "\
tools:
  - {name: jq, url: https://example.org/jq}
  - {name: yq, url: https://example.org/yq, dest: /opt}
config: {install_path: ./programs, check_updates: false, download_timeout: 60}
";
    let mut report = Report::default();
    let node = super::node::parse(text, 0, &mut report).expect("it is YAML");
    let file = ToolsFile::read(&node, &mut report).expect("it is a tools.yaml");
    assert_eq!(report.finish(), Ok(Vec::new()));
    let dests: Vec<String> = file
        .into_tools()
        .into_iter()
        .filter_map(|tool| tool.dest)
        .map(|dest| dest.value)
        .collect();
    assert_eq!(dests, ["${SYSTEM_PATH}/tools/programs", "/opt"]);
}

#[test]
fn mistakes_in_repositories_are_told_with_their_way_out() {
    let text = "\
name: cloned
base_image: debian:12
secrets: [{id: token, env: TOKEN}]
files:
  - {src: a, dest: /one/a, optional: true}
  - {src: a, dest: /two/a, optional: true, after: repos}
repos:
  - {url: https://example.org/a, path: /a, lfs: true}
  - {url: https://example.org/b, path: /b, secret: tokne}
  - {url: git@example.org:c, path: /c, secret: token}
  - {url: https://me:pass@example.org/d, path: /d, lfs: false}
  - {url: https://example.org/e, path: /e, before: tools, after: scripts}
  - {url: https://example.org/one, path: /one}
  - {url: https://example.org/one, path: /two}
  - {url: https://example.org/three, path: /three/inner, before: repos}
  - {url: https://example.org/three, path: /three}
  - {url: https://example.org/four, path: /four/inner, after: repos}
  - {url: https://example.org/four, path: /four}
";
    insta::assert_snapshot!(check(text));
}

#[test]
fn a_hook_has_files_then_repositories_then_scripts() {
    let text = "\
name: hooks
base_image: debian:12
scripts:
  - {commands: echo script, before: tools}
repos:
  - {url: https://example.org/r, path: /r, before: tools}
  - {url: https://example.org/q, path: /q}
files:
  - {src: f, dest: /f, before: tools}
";
    let rendered = render(text, &[("f", PathKind::File)]);
    let lines: Vec<&str> = rendered
        .dockerfile
        .lines()
        .skip_while(|line| !line.starts_with("FROM habitat"))
        .filter(|line| {
            ["FROM", "COPY --from", "RUN echo"]
                .iter()
                .any(|word| line.starts_with(word))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
    let tools = rendered.phases.iter().find(|phase| phase.name == "tools");
    assert_eq!(
        tools.map(|tools| (tools.hooks_before, tools.hooks_after)),
        Some((3, 0))
    );
}
