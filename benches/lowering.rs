//! How long a large Dockerfile takes to parse, and to lower: 5,000 lines, 200 stages. Needs no user, store or network.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use shmocker::dockerfile::{Dockerfile, Problem, Severity, parse};
use shmocker::frontend::{Lowered, Lowering, Need, Options, Resolved, lower};
use shmocker::image::ImageConfig;

const STAGES: usize = 200;
const LINES: usize = 5_000;
const ROUNDS: usize = 50;

fn main() {
    let text = large();
    assert_eq!(text.lines().count(), LINES);
    let parsed = parse(&text);
    let is_wrong = |problem: &&Problem| problem.severity == Severity::Error;
    assert_eq!(parsed.problems.iter().find(is_wrong), None);
    let dockerfile = parsed.dockerfile;
    let options = Options {
        file: "Dockerfile".to_owned(),
        ..Options::default()
    };
    let (lowered, resolved) = in_full(&dockerfile, &options);
    assert_eq!(lowered.stages.len(), STAGES);

    report("parse 5,000 lines", || parse(black_box(&text)));
    report("lower 200 stages, everything known", || {
        lower(&dockerfile, &options, &resolved)
    });
    report("parse and lower, asking for what is needed", || {
        let parsed = parse(black_box(&text));
        let lowered = in_full(&parsed.dockerfile, &options);
        (parsed, lowered)
    });
}

/// 200 stages of 25 lines: chains of ten, each of which takes files of the one before.
fn large() -> String {
    let mut text = String::new();
    for stage in 0..STAGES {
        let base = match stage % 10 {
            0 => "base".to_owned(),
            _ => format!("stage-{}", stage - 1),
        };
        let from = match stage / 10 {
            0 => String::new(),
            chain => format!("--from=stage-{} ", chain * 10 - 1),
        };
        let _ = write!(
            text,
            "FROM {base} AS stage-{stage}\n\
             ARG VERSION=1.{stage} TARGETPLATFORM\n\
             ENV STAGE_{stage}=\"number $VERSION\" PATH=/opt/{stage}/bin:$PATH\n\
             # What the stage is made of.\n\
             RUN --mount=type=cache,target=/var/cache/{stage},sharing=locked \\\n    \
                 --mount=type=secret,id=token \\\n    \
                 apt-get update && \\\n    \
                 apt-get install -y --no-install-recommends \\\n        \
                 build-essential \\\n        \
                 ca-certificates && \\\n    \
                 rm -rf /var/lib/apt/lists/*\n\
             WORKDIR /srv/{stage}\n\
             COPY {from}--chown=1000:1000 --chmod=u=rwX,go=rX src/{stage}/ ${{STAGE_{stage}:-x}}/*.c ./src/\n\
             COPY --link <<EOF /etc/stage-{stage}\nversion = ${{VERSION%%.*}}\nstage = {stage}\nEOF\n\
             RUN <<EOF\nset -eu\nmake -C src \"STAGE={stage}\"\nEOF\n\
             LABEL org.example.stage=\"{stage}\" org.example.version=$VERSION\n\
             USER 1000:1000\n\
             EXPOSE 8{stage:03}\n\
             CMD [\"run\", \"--stage={stage}\"]\n"
        );
    }
    text
}

/// Lowers with an answer to every question.
fn in_full(dockerfile: &Dockerfile, options: &Options) -> (Lowered, Resolved) {
    let mut resolved = Resolved::default();
    loop {
        match lower(dockerfile, options, &resolved) {
            Ok(Lowering::Done(lowered)) => return (*lowered, resolved),
            Ok(Lowering::Needs(needs)) => {
                for need in needs {
                    match need {
                        Need::Config(source) => resolved.found(source, ImageConfig::default()),
                        Need::File(file) => resolved.file(file, None),
                    }
                }
            }
            Err(problems) => panic!("{problems:?}"),
        }
    }
}

/// Times what makes a value; giving its memory back is no part of it, since a build keeps it to its end.
fn report<T>(what: &str, mut work: impl FnMut() -> T) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let made = black_box(work());
            let took = start.elapsed();
            drop(made);
            took
        })
        .collect();
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:<48} {:>8.2} ms  (best {:.2})",
        ms(times[ROUNDS / 2]),
        ms(times[0])
    );
}
