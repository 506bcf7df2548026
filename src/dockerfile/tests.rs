//! What the parser makes of files: places, recovery, extras; and what holds for every text.

use proptest::prelude::*;

use super::expand::{Keep, NoVariables, expand};
use super::glob::Glob;
use super::ignore::IgnoreFile;
use super::*;

fn codes(text: &str) -> Vec<(&'static str, u32)> {
    let place = |problem: &Problem| (problem.code, problem.span.map_or(0, |span| span.line));
    parse(text).problems.iter().map(place).collect()
}

#[test]
fn every_mistake_of_a_file_is_reported_with_its_line() {
    let file = "\
FORM scratch
FROM scratch AS 1
COPY a
RUN --mont=type=cache x
RUN --mount=type=cach,target=/x x
HEALTHCHECK --interval=1 CMD x
ENV a
LABEL k=v w
SHELL bash
RUN ok
";
    assert_eq!(
        codes(file),
        [
            ("dockerfile::unknown_instruction", 1),
            ("dockerfile::stage_name", 2),
            ("dockerfile::no_destination", 3),
            ("dockerfile::unknown_flag", 4),
            ("dockerfile::mount", 5),
            ("dockerfile::duration", 6),
            ("dockerfile::no_value", 7),
            ("dockerfile::no_value", 8),
            ("dockerfile::shell_form", 9),
        ]
    );
    let parsed = parse(file);
    assert_eq!(parsed.dockerfile.instructions.len(), 10);
    let helps: Vec<Option<&str>> = parsed
        .problems
        .iter()
        .map(|problem| problem.help.as_deref())
        .collect();
    assert_eq!(helps[0], Some("did you mean `FROM`?"));
    assert_eq!(helps[3], Some("did you mean `mount`?"));
    assert_eq!(helps[4], Some("did you mean `cache`?"));
}

#[test]
fn words_stand_where_they_are_written() {
    let file = "# a comment\nFROM  debian:12  AS  Base\nRUN --network=none \\\n  # between\n  echo hi\nCOPY [\"a b\", \"/c\"]\n";
    let parsed = parse(file);
    let written = |span: Span| &file[span.start..span.end];
    let [from, run, copy] = &parsed.dockerfile.instructions[..] else {
        panic!()
    };
    let Kind::From(base) = &from.kind else {
        panic!()
    };
    assert_eq!(written(base.base.span), "debian:12");
    assert_eq!(written(base.name.as_ref().unwrap().span), "Base");
    assert_eq!(base.name.as_ref().unwrap().text, "base");
    let Kind::Run(run_kind) = &run.kind else {
        panic!()
    };
    assert_eq!(
        written(run_kind.network.as_ref().unwrap().span),
        "--network=none"
    );
    let Command::Shell(line) = &run_kind.command else {
        panic!()
    };
    assert_eq!((written(line.span), line.span.line), ("echo hi", 5));
    assert_eq!(run.original, "RUN --network=none   echo hi");
    let Kind::Copy(transfer) = &copy.kind else {
        panic!()
    };
    let [TransferSource::Path(source)] = &transfer.sources[..] else {
        panic!()
    };
    assert_eq!(written(source.span), "\"a b\"");
    assert_eq!(written(transfer.dest.span), "\"/c\"");
}

#[test]
fn extras_belong_to_the_run_directly_below() {
    let extras = |text: &str| {
        let parsed = parse(text);
        let problems = parsed
            .problems
            .iter()
            .map(|problem| problem.code)
            .collect::<Vec<_>>();
        (
            parsed.dockerfile.instructions.last().unwrap().extras,
            problems,
        )
    };
    let both = Extras {
        timeout_ms: Some(120_000),
        tap: true,
    };
    let none = Extras::default();
    for (text, expected, problem) in [
        (
            "FROM scratch\n# shmocker: timeout=2m tap\nRUN x\n",
            both,
            None,
        ),
        (
            "FROM scratch\n# shmocker: timeout=2m\n# a word\n# shmocker: tap\nRUN x\n",
            both,
            None,
        ),
        (
            "FROM scratch\n# shmocker: timeout=2m tap\n\nRUN x\n",
            none,
            None,
        ),
        (
            "FROM scratch\n# shmocker: timeout=2\nRUN x\n",
            none,
            Some("dockerfile::duration"),
        ),
        (
            "FROM scratch\n# shmocker: tape\nRUN x\n",
            none,
            Some("dockerfile::unknown_extra"),
        ),
    ] {
        assert_eq!(
            extras(text),
            (expected, problem.into_iter().collect()),
            "{text}"
        );
    }
    let (_, problems) = extras("FROM scratch\n# shmocker: tap\nUSER x\n");
    assert_eq!(problems, ["dockerfile::extras_place"]);
}

#[test]
fn the_escape_character_can_be_a_backtick() {
    let parsed = parse("# escape=`\nFROM scratch\nRUN dir C:\\ `\n  more\n");
    assert_eq!(parsed.problems, []);
    assert_eq!(
        parsed.dockerfile.instructions[1].original,
        "RUN dir C:\\   more"
    );
    assert_eq!(
        codes("# escape=x\nFROM scratch\n"),
        [("dockerfile::escape", 1)]
    );
    assert_eq!(
        codes("# escape=`\n# escape=`\nFROM scratch\n"),
        [("dockerfile::directive_twice", 2)]
    );
}

#[test]
fn an_open_heredoc_is_pointed_at() {
    let parsed = parse("FROM scratch\nRUN <<EOF\necho\n");
    assert_eq!(parsed.problems[0].code, "dockerfile::open_heredoc");
    assert_eq!(parsed.problems[0].span.unwrap().line, 2);
}

#[test]
fn command_lines_fall_into_words() {
    for (line, expected) in [
        ("a b", Some(vec!["a", "b"])),
        (
            "sh -c 'a  b' \"$X c\" d\\ e",
            Some(vec!["sh", "-c", "a  b", "$X c", "d e"]),
        ),
        ("'open", None),
    ] {
        let found = words(line).ok();
        let expected = expected.map(|words| words.into_iter().map(str::to_owned).collect());
        assert_eq!(found, expected, "{line}");
    }
}

/// Text that looks like a Dockerfile often enough to get deep into the parser.
fn dockerfiles() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[a-z$\\\\\"'{}<>=:,\\[\\] -]{0,12}",
        Just("FROM scratch".to_owned()),
        Just("RUN --mount=type=cache,target=/x echo".to_owned()),
        Just("COPY <<EOF <<-'B C' /d".to_owned()),
        Just("EOF".to_owned()),
        Just("ONBUILD RUN <<E".to_owned()),
        Just("ENV a=b c=\"d e\" \\".to_owned()),
        Just("HEALTHCHECK --interval=5s CMD [\"x\", \"ä\"]".to_owned()),
        Just("# shmocker: timeout=2m tap".to_owned()),
        Just("# escape=`".to_owned()),
        Just("\u{feff}".to_owned()),
        "\\PC{0,10}",
    ];
    let end = prop_oneof![Just("\n"), Just("\r\n"), Just(" "), Just("\\\n"), Just("")];
    let lines = proptest::collection::vec((word, end), 0..12);
    lines.prop_map(|lines| {
        lines
            .into_iter()
            .map(|(word, end)| format!("{word}{end}"))
            .collect()
    })
}

fn spans(instruction: &Instruction) -> Vec<Span> {
    let mut spans = vec![instruction.span, instruction.keyword.span];
    spans.extend(instruction.flags.iter().map(|flag| flag.span));
    spans.extend(instruction.comments.iter().map(|comment| comment.span));
    spans.extend(instruction.heredocs.iter().map(|heredoc| heredoc.span));
    match &instruction.arguments {
        Arguments::Json(words) | Arguments::Words(words) => {
            spans.extend(words.iter().map(|word| word.span))
        }
        Arguments::Line(word) => spans.push(word.span),
        Arguments::Pairs(pairs) => {
            spans.extend(
                pairs
                    .iter()
                    .flat_map(|pair| [pair.name.span, pair.value.span]),
            );
        }
        Arguments::Instruction(inner) => spans.extend(self::spans(inner)),
        Arguments::None | Arguments::Typed(..) => {}
    }
    spans
}

#[test]
fn a_pair_that_goes_on_in_the_next_line_has_its_places_there() {
    let text = "ENV a=b \\\n:\\\n\u{c55}=x\n";
    let parsed = parse(text);
    let Arguments::Pairs(pairs) = &parsed.dockerfile.instructions[0].arguments else {
        panic!("ENV has pairs")
    };
    let shown = |span: Span| &text[span.start..span.end];
    assert_eq!(shown(pairs[1].name.span), ":\\\n\u{c55}");
    assert_eq!(shown(pairs[1].value.span), "x");
}

proptest! {
    #[test]
    fn printing_gives_back_what_was_read(text in dockerfiles()) {
        prop_assert_eq!(parse(&text).dockerfile.to_string(), text);
    }

    #[test]
    fn every_place_is_in_the_text(text in dockerfiles()) {
        let parsed = parse(&text);
        let of_problems = parsed.problems.iter().filter_map(|problem| problem.span);
        for span in parsed.dockerfile.instructions.iter().flat_map(spans).chain(of_problems) {
            prop_assert!(span.start <= span.end && span.end <= text.len(), "{:?} of {}", span, text.len());
            prop_assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end), "{:?}", span);
        }
    }

    #[test]
    fn no_word_makes_the_expansion_panic(word in "[a-z${}:#%/?+\\\\\"'<> *-]{0,24}") {
        for keep in [Keep::Nothing, Keep::QuotesAsText, Keep::Quotes, Keep::QuotesAndEscapes, Keep::Unset] {
            drop(expand(&word, '\\', &NoVariables, keep));
        }
    }

    #[test]
    fn no_pattern_makes_the_matching_panic(pattern in "[a-c/*?\\[\\]^!\\\\-]{0,12}", path in "[a-c/]{0,10}") {
        if let Ok(glob) = Glob::parse_double_star(&pattern) {
            let _ = glob.matches(&path);
        }
        if let Ok(ignore) = IgnoreFile::of([pattern.as_str()]) {
            let _ = ignore.decide(&path);
            let _ = ignore.may_contain_exceptions(&path);
        }
    }
}

#[test]
fn a_word_has_its_limits() {
    use super::expand::{ExpandError, Keep, NoVariables, expand};

    let deep = format!("{}{}", "${A:-".repeat(5_000), "}".repeat(5_000));
    let error = expand(&deep, '\\', &NoVariables, Keep::Nothing).unwrap_err();
    assert_eq!(error, ExpandError::TooDeep);

    let variables = |value: String| std::collections::BTreeMap::from([("A".to_owned(), value)]);
    let mut known = variables("x".repeat(1 << 18));
    let error = loop {
        match expand("$A\"$A\"", '\\', &known, Keep::Nothing) {
            Ok(longer) => known = variables(longer.text),
            Err(error) => break error,
        }
    };
    assert_eq!(error, ExpandError::TooLong);

    // Each is six times as long as the one in it.
    let known = variables("a/b.c".to_owned());
    let nested = |times: usize| format!("{}x{}", "${A///".repeat(times), "}".repeat(times));
    let some = expand(&nested(5), '\\', &known, Keep::Nothing).unwrap();
    assert!(some.text.len() > 6_usize.pow(5));
    let error = expand(&nested(50), '\\', &known, Keep::Nothing).unwrap_err();
    assert_eq!(error, ExpandError::TooLong);

    let known = variables("x".repeat(1 << 18));
    let error = expand("${A//*y/}", '\\', &known, Keep::Nothing).unwrap_err();
    assert_eq!(error, ExpandError::TooMuch);
    let quick = expand("${A//xy/}", '\\', &known, Keep::Nothing).unwrap();
    assert_eq!(quick.text.len(), 1 << 18);
}
