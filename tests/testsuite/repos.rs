//! Repositories of a habitat: where and when they are checked out, what opens them, and that what opens them is nowhere
//! afterwards.

use crate::harness::Lack;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, Capability, need};
use crate::harness::site::{self, KEY, Site};

/// A site with the repositories `main` and `inner`, and a habitat that says `more`.
fn bench(name: &str) -> Result<(Bench, Site), Lack> {
    machine::program(Capability::Git, "git")?;
    busybox::layout()?;
    let bench = Bench::new(&machine::plain_user()?, name);
    for repository in ["main", "inner"] {
        site::repository(&bench, repository, "");
    }
    let site = Site::new(&bench.path("site"));
    Ok((bench, site))
}

fn habitat(bench: &Bench, more: &str) {
    let base = busybox::layout().expect("it was there before");
    bench.file(
        "config.yaml",
        format!(
            "name: cloned\nbase: {{oci: {}}}\nenv: [USER=dev]\n{more}",
            base.display()
        ),
    );
}

fn inside(bench: &Bench, script: &str) -> String {
    bench
        .ok_with("run localhost/habitat/cloned:latest sh -c", script)
        .out()
}

/// Nothing below a directory holds the words.
fn assert_nowhere(bench: &Bench, directory: &std::path::Path, words: &[&str]) {
    for word in words {
        let found = bench.finish(bench.command("grep").args([
            "-rlaF",
            "-e",
            word,
            &directory.display().to_string(),
        ]));
        assert_eq!(found.out(), "", "`{word}` is below {}", directory.display());
    }
}

#[test]
fn a_secret_opens_a_repository_and_is_nowhere_afterwards() {
    let (bench, site) = need!(bench("repos-secret"));
    // The key as it is, and as a server of http is told it.
    let words = [KEY, "eC1hY2Nlc3MtdG9rZW46c2VzYW1l"];
    habitat(
        &bench,
        &format!(
            "secrets:\n  - {{id: token, env: THE_TOKEN}}\n\
             repos:\n  - {{url: \"{}\", path: /srv/main, branch: main, secret: token}}\n",
            site.url("private/git/main")
        ),
    );
    bench
        .shmocker("habitat build config.yaml")
        .expect(1, &["THE_TOKEN", "not set"]);
    let wrong = bench.env("THE_TOKEN", "guess");
    wrong
        .shmocker("habitat build config.yaml")
        .expect(5, &["private/git/main"]);
    let bench = wrong.env("THE_TOKEN", KEY);

    let run = bench.ok("habitat build config.yaml --progress plain -o type=local,dest=out -t localhost/habitat/cloned:latest");
    for word in words {
        assert!(!run.both().contains(word), "{}", run.both());
    }
    assert_eq!(
        inside(&bench, "cat /srv/main/file; cat /srv/main/.git/config; env")
            .matches("one\n")
            .count(),
        1
    );
    let image = inside(&bench, "cat /srv/main/.git/config; env");
    assert!(
        image.contains("private/git/main") && !image.contains(KEY),
        "{image}"
    );
    assert_nowhere(&bench, bench.store(), &words);
    assert_nowhere(&bench, &bench.path("out"), &words);
    // What is written for other builders is opened by it as well, and holds none of it.
    bench.ok("habitat render config.yaml --out rendered");
    assert!(bench.path("rendered/repo-1/.git").exists());
    assert_nowhere(&bench, &bench.path("rendered"), &words);

    // Another token for the same commit: nothing runs.
    bench.sh("sed -i 's/THE_TOKEN/OTHER_TOKEN/' config.yaml");
    let bench = bench.env("OTHER_TOKEN", KEY);
    assert_eq!(bench.built("habitat build config.yaml").steps_run(), 0);
}

#[test]
fn a_repository_stands_where_its_hook_says_and_in_another_one() {
    let (bench, site) = need!(bench("repos-hooks"));
    let (main, inner) = (site.url("git/main"), site.url("git/inner"));
    habitat(
        &bench,
        &format!(
            "repos:\n  - {{url: \"{main}\", path: /srv/main, access: read}}\n\
             \x20 - {{url: \"{inner}\", path: /srv/main/vendor/inner, branch: feature, shallow: false}}\n\
             \x20 - {{url: \"{inner}\", path: ~/late, ref: v1, after: scripts}}\n\
             \x20 - {{url: \"{inner}\", path: /srv/early, before: repos}}\n\
             scripts:\n  - commands: ls -d /srv/*/file ~/late > ~/seen || true\n"
        ),
    );
    bench.built("habitat build config.yaml");
    let said = inside(
        &bench,
        "cat ~/seen; cat /srv/main/vendor/inner/file ~/late/file; stat -c '%U %n' /srv/main/.git ~/late; \
         grep -c 'pushurl = .*disabled' /srv/main/.git/config; cat /srv/main/.git/shallow | wc -l; ls /srv/main/vendor/inner/.git/shallow || true",
    );
    assert_eq!(
        said,
        "/srv/early/file\n/srv/main/file\ntwo\none\ndev /srv/main/.git\ndev /home/dev/late\n1\n1\n"
    );
}

#[test]
fn the_command_line_adds_a_repository() {
    let (bench, site) = need!(bench("repos-flag"));
    habitat(&bench, "");
    let repo = format!("{}:/srv/main:feature", site.url("git/main"));
    bench.built(&format!(
        "habitat build config.yaml --repo {repo} --repo site/inner:~/inner"
    ));
    assert_eq!(
        inside(&bench, "cat /srv/main/file ~/inner/file"),
        "two\none\n"
    );
    let rendered = bench
        .ok(&format!("habitat render config.yaml --repo {repo}"))
        .out();
    assert!(rendered.contains("# --repo:2 repos[0]"), "{rendered}");
    bench
        .shmocker("habitat check config.yaml --repo https://example.org/a.git")
        .expect(2, &["URL:PATH[:BRANCH]"]);
    bench
        .shmocker("habitat check config.yaml --repo nowhere:/srv/a")
        .expect(1, &["`nowhere` does not exist", "--repo"]);
}
