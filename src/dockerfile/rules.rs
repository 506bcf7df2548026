//! The rules whose breach is warned of: BuildKit's names and pages, our words.

/// A rule that a Dockerfile can be checked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name, as `# check=skip=` has it.
    pub name: &'static str,
    /// What it asks for.
    pub description: &'static str,
    /// The last part of the page about it, where there is one.
    page: Option<&'static str>,
    /// Whether it is silent until `# check=experimental=` names it.
    pub experimental: bool,
}

/// All rules.
pub const RULES: [Rule; 22] = [
    rule(
        "StageNameCasing",
        "names of stages are in lower case",
        "stage-name-casing",
    ),
    rule(
        "FromAsCasing",
        "`as` is in upper or lower case as its FROM is",
        "from-as-casing",
    ),
    rule(
        "NoEmptyContinuation",
        "no line of an instruction that goes on is empty; later versions may refuse that",
        "no-empty-continuation",
    ),
    rule(
        "ConsistentInstructionCasing",
        "all instructions of a file are in the same case",
        "consistent-instruction-casing",
    ),
    rule(
        "DuplicateStageName",
        "no two stages have the same name",
        "duplicate-stage-name",
    ),
    rule(
        "ReservedStageName",
        "no stage is called `context` or `scratch`",
        "reserved-stage-name",
    ),
    rule(
        "JSONArgsRecommended",
        "CMD and ENTRYPOINT are arrays, so that no shell stands between the program and its signals",
        "json-args-recommended",
    ),
    rule(
        "MaintainerDeprecated",
        "the author of an image is a label; MAINTAINER is deprecated",
        "maintainer-deprecated",
    ),
    rule(
        "UndefinedArgInFrom",
        "FROM uses arguments that were declared before",
        "undefined-arg-in-from",
    ),
    rule(
        "WorkdirRelativePath",
        "the first WORKDIR of a stage is absolute, so that it does not hang on the base",
        "workdir-relative-path",
    ),
    rule(
        "UndefinedVar",
        "variables are set before they are used",
        "undefined-var",
    ),
    rule(
        "MultipleInstructionsDisallowed",
        "CMD, ENTRYPOINT and HEALTHCHECK stand once in a stage: only the last counts",
        "multiple-instructions-disallowed",
    ),
    rule(
        "LegacyKeyValueFormat",
        "ENV and LABEL are written with `=` between name and value",
        "legacy-key-value-format",
    ),
    Rule {
        name: "InvalidBaseImagePlatform",
        description: "the base is for the platform that is built for",
        page: None,
        experimental: false,
    },
    rule(
        "RedundantTargetPlatform",
        "FROM does not name `$TARGETPLATFORM`, which is what it takes anyway",
        "redundant-target-platform",
    ),
    rule(
        "SecretsUsedInArgOrEnv",
        "secrets are mounted; what ARG and ENV hold is in the image for all to see",
        "secrets-used-in-arg-or-env",
    ),
    rule(
        "InvalidDefaultArgInFrom",
        "the defaults of the arguments that FROM uses make the name of an image",
        "invalid-default-arg-in-from",
    ),
    rule(
        "FromPlatformFlagConstDisallowed",
        "`FROM --platform` is no constant",
        "from-platform-flag-const-disallowed",
    ),
    rule(
        "CopyIgnoredFile",
        "COPY and ADD take nothing that the ignore file leaves out",
        "copy-ignored-file",
    ),
    Rule {
        experimental: true,
        ..rule(
            "InvalidDefinitionDescription",
            "a comment directly above a named FROM or an ARG describes it, `# NAME description`; others have an empty line or an empty comment below them",
            "invalid-definition-description",
        )
    },
    rule(
        "ExposeProtoCasing",
        "the protocol of EXPOSE is in lower case",
        "expose-proto-casing",
    ),
    rule(
        "ExposeInvalidFormat",
        "EXPOSE names ports of the container, no address and no port of the host; later versions may refuse that",
        "expose-invalid-format",
    ),
];

const fn rule(name: &'static str, description: &'static str, page: &'static str) -> Rule {
    Rule {
        name,
        description,
        page: Some(page),
        experimental: false,
    }
}

impl Rule {
    /// The rule of that name; `None` for the code of another problem.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.name == name)
    }

    /// The page about it, with examples.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let page = self.page?;
        Some(format!(
            "https://docs.docker.com/go/dockerfile/rule/{page}/"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_rule_is_named_as_the_rule_is() {
        for rule in RULES {
            let Some(page) = rule.page else { continue };
            let joined = page.replace('-', "");
            assert_eq!(joined, rule.name.to_lowercase());
            assert_eq!(Rule::named(rule.name), Some(&rule));
        }
    }
}
