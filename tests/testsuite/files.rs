//! Files of a habitat: where they go, whose they are, what is left out, and those of the host's home.

use crate::harness::Lack;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, need};

fn bench(name: &str, more: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    let base = busybox::layout()?.display();
    bench.file(
        "config.yaml",
        format!("name: filed\nbase: {{oci: {base}}}\nenv: [USER=dev]\n{more}"),
    );
    Ok(bench)
}

fn inside(bench: &Bench, script: &str) -> String {
    bench
        .ok_with("run -u root localhost/habitat/filed:latest sh -c", script)
        .out()
}

#[test]
fn a_file_goes_where_its_destination_says() {
    let bench = need!(bench(
        "files-dest",
        "files:\n  - {src: files/one, dest: /srv/renamed}\n  - {src: files/one, dest: /srv/into/}\n\
         \x20 - {src: files/tree, dest: /srv/content}\n  - {src: files/tree, dest: /srv/into/}\n\
         \x20 - {src: files/one, dest: ~/.config/app/one, mode: '0600'}\n  - {src: files/one, dest: ~/, mode: 0o640, owner: root}\n\
         \x20 - {src: files/gone, dest: /srv/gone, optional: true}\n"
    ));
    bench
        .file("files/one", "one\n")
        .file("files/tree/deep/two", "two\n");
    bench.built("habitat build config.yaml");
    assert_eq!(
        inside(
            &bench,
            "cd /srv; find . -type f | sort; stat -c '%U %a %n' /home/dev/.config /home/dev/.config/app/one /home/dev/one renamed"
        ),
        "./content/deep/two\n./into/one\n./into/tree/deep/two\n./renamed\n\
         dev 755 /home/dev/.config\ndev 600 /home/dev/.config/app/one\nroot 640 /home/dev/one\nroot 644 renamed\n"
    );
    bench.sh("sed -i 's/, optional: true//' config.yaml");
    bench
        .shmocker("habitat build config.yaml")
        .expect(1, &["`files/gone` does not exist", "optional: true"]);
}

#[test]
fn what_habignore_names_is_left_out() {
    let bench = need!(bench(
        "files-ignore",
        "files:\n  - {src: files, dest: /srv/files}\n"
    ));
    bench
        .file(
            ".habignore",
            "# notes\n*.log\n!keep.log\n/files/secret\nbuild/\n",
        )
        .file("files/a.log", "")
        .file("files/deep/keep.log", "")
        .file("files/secret", "")
        .file("files/deep/secret", "")
        .file("files/build/out", "")
        .file("files/text", "");
    bench.built("habitat build config.yaml");
    assert_eq!(
        inside(&bench, "cd /srv/files; find . -type f | sort"),
        "./deep/keep.log\n./deep/secret\n./text\n"
    );
    // What is left out changes nothing.
    bench.file("files/a.log", "more\n");
    assert_eq!(bench.built("habitat build config.yaml").steps_run(), 0);
}

#[test]
fn a_file_of_the_home_is_refused_unless_that_is_allowed() {
    let bench = need!(bench(
        "files-home",
        "files:\n  - {src: ~/.filed-netrc, dest: ~/.netrc}\n"
    ));
    let home = bench.path("home").display().to_string();
    let bench = bench.env("HOME", &home);
    bench.file("home/.filed-netrc", "login me\n");
    let looked = bench.ok("habitat check config.yaml");
    assert!(
        looked.stderr.contains("is a file of your home"),
        "{}",
        looked.both()
    );
    bench.shmocker("habitat build config.yaml").expect(
        6,
        &["`~/.filed-netrc` is a file of your home", "--allow home"],
    );
    assert_eq!(
        bench.ok("images --format json").json(),
        serde_json::json!([])
    );

    bench.built("habitat build config.yaml --allow home");
    assert_eq!(
        inside(&bench, "cat /home/dev/.netrc; stat -c %U /home/dev/.netrc"),
        "login me\ndev\n"
    );
    bench.sh("sed -i 's/dest: ~/allow_home: true, dest: ~/' config.yaml");
    bench.built("habitat build config.yaml");
    bench.sh("rm home/.filed-netrc");
    bench
        .shmocker("habitat build config.yaml")
        .expect(1, &["`~/.filed-netrc` does not exist"]);
}

#[test]
fn the_environment_is_text_and_nothing_in_it_is_run() {
    let bench = need!(bench(
        "files-env",
        "scripts:\n\
         \x20 - {run_as: root, commands: 'echo \"export FOUND=later\" >> /etc/profile.d/habitat-env.sh'}\n\
         \x20 - {commands: 'echo $FOUND $GREETING $OWN > ~/seen', env: {GREETING: own, OWN: '{env.WORKDIR}'}}\n\
         labels: {org.example.at: '${WORKDIR}/$${WORKDIR}'}\n"
    ));
    bench.sh(
        r#"sed -i "s|^env:.*|env: {USER: dev, GREETING: hello, PATH: '\${PATH}:/opt/bin', TWICE: '\${GREETING}-\${GREETING}', ODD: '\$(touch /pwned) \`touch /pwned\` \"q\" \\\\ end'}|" config.yaml"#,
    );
    bench.built("habitat build config.yaml");
    let said = inside(
        &bench,
        "cat /home/dev/seen; echo \"$TWICE\"; echo \"$PATH\"; echo \"$ODD\"; ls /pwned 2>/dev/null | wc -l; \
         env -i sh -c '. /etc/profile.d/habitat-env.sh; echo \"$ODD $FOUND\"'",
    );
    assert_eq!(
        said,
        "later own /workspace\nhello-hello\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin\n\
         $(touch /pwned) `touch /pwned` \"q\" \\ end\n0\n$(touch /pwned) `touch /pwned` \"q\" \\ end later\n"
    );
    let labels = &bench.ok("inspect localhost/habitat/filed:latest").json()["config"]["Labels"];
    assert_eq!(labels["org.example.at"], "/workspace/${WORKDIR}");
}

/// Every requirement that is not met is told, by what it is and what it should be.
#[test]
fn verify_tells_everything_that_is_not_as_required() {
    let bench = need!(bench(
        "files-verify",
        "files:\n  - {src: one, dest: /srv/one, mode: 640}\n\
         scripts:\n  - {run_as: root, commands: 'ln -s one /srv/link; mkdir /srv/directory; chmod 2755 /srv/directory'}\n\
         verify-fs:\n  required_files:\n    - /srv/one\n    - ~/gone\n\
         \x20   - {path: /srv/one, type: file, mode: 640, owner: root, contains: needle, sha256: SUM}\n\
         \x20   - {path: /srv/one, type: directory, mode: 600, owner: dev, contains: pin}\n\
         \x20   - {path: /srv/link, type: symlink}\n    - {path: /srv/link, type: file}\n\
         \x20   - {path: /srv/directory, mode: '2755', type: directory}\n    - {path: /srv/directory, mode: 755}\n\
         \x20   - {path: /srv/nothing, absent: true}\n    - {path: /srv/one, absent: true}\n\
         \x20   - {path: /srv/one, sha256: b111111111111111111111111111111111111111111111111111111111111111}\n"
    ));
    bench.file("one", "hay needle hay\n");
    bench.sh("sum=$(sha256sum one | cut -d' ' -f1); sed -i \"s/SUM/$sum/\" config.yaml");
    let run = bench.shmocker("habitat build config.yaml");
    run.expect(
        3,
        &[
            "/home/dev/gone is missing",
            "/srv/one is a file, not a directory",
            "/srv/one has the mode 0640, not 0600",
            "/srv/one belongs to root:root, not to dev",
            "/srv/one does not contain pin",
            "/srv/link is a symlink, not a file",
            "/srv/directory has the mode 2755, not 0755",
            "/srv/one is there",
            "not b111111111111111111111111111111111111111111111111111111111111111",
            "9 of the requirements are not met",
        ],
    );
    assert!(!run.stderr.contains("/srv/nothing"), "{}", run.both());
}
