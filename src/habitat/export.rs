//! A habitat for other tools: what stands beside its Dockerfile and contexts so that a development container or a compose
//! file is made of them.
//!
//! devcontainer.json: <https://containers.dev/implementors/json_reference>; compose.yaml: <https://compose-spec.io>, of
//! which `additional_contexts` names contexts as `--build-context` does.

use serde_json::{Map, Value, json};

use super::plan::Plan;
use super::render::context_values;
use super::volumes::Volume;

/// The program that starts services beside a command, in the image.
const LAUNCHER: [&str; 3] = ["/bin/sh", "/etc/habitat/launch", "--forward"];
/// What an image of a habitat starts.
const ENTRYPOINT: &str = "/etc/habitat/entrypoint";
/// The stage that a development container with services is made of.
const STAGE: &str = "devcontainer";

impl Plan {
    /// What makes a development container of the Dockerfile and the contexts beside it. They lie in a directory of the
    /// habitat's own one: `.devcontainer`.
    #[must_use]
    pub fn devcontainer(&self, directory: &str) -> Value {
        let here = format!("${{localWorkspaceFolder}}/{directory}");
        let options: Vec<Value> = self
            .flags()
            .map(|(name, flag)| json!(format!("--build-context={name}={}", flag.at(&here))))
            .collect();
        let mut file = Map::new();
        let mut put = |name: &str, value: Value| file.insert(name.to_owned(), value);
        put("name", json!(self.name));
        let mut build = json!({ "dockerfile": "Dockerfile", "context": ".", "options": options });
        if self.devcontainer_stage().is_some() {
            build["target"] = json!(STAGE);
            put("overrideCommand", json!(false));
        }
        put("build", build);
        put("remoteUser", json!(self.runtime.user));
        put("workspaceFolder", json!(self.runtime.workdir));
        if self.runtime.has_repository {
            // The project is in the image; what lies around the file must not hide it.
            put("workspaceMount", json!(""));
        } else {
            let mount = format!(
                "source=${{localWorkspaceFolder}},target={},type=bind",
                self.runtime.workdir
            );
            put("workspaceMount", json!(mount));
        }
        let mounts: Vec<Value> = self
            .runtime
            .volumes
            .iter()
            .map(|volume| {
                let source = place(volume, "${localEnv:HOME}", "${localWorkspaceFolder}");
                let end = if volume.read_only { ",readonly" } else { "" };
                json!(format!(
                    "source={source},target={},type=bind{end}",
                    volume.target.value
                ))
            })
            .collect();
        if !mounts.is_empty() {
            put("mounts", json!(mounts));
        }
        Value::Object(file)
    }

    /// What a development container of a habitat with services needs at the end of the Dockerfile: it is started by root,
    /// whose launcher starts them, and waits.
    #[must_use]
    pub fn devcontainer_stage(&self) -> Option<String> {
        let entrypoint = json!(self.entrypoint()?);
        Some(format!(
            "\n# What a development container starts: the services.\nFROM final AS {STAGE}\nUSER root\n\
             ENTRYPOINT {entrypoint}\nCMD [\"sleep\", \"infinity\"]\n"
        ))
    }

    /// What makes a service of the Dockerfile and the contexts beside it. `up` leads from there to the directory of the
    /// habitat.
    #[must_use]
    pub fn compose(&self, up: &str) -> String {
        let text = |value: &str| json!(value).to_string();
        let mut file = format!(
            "name: {0}\nservices:\n  {0}:\n    build:\n      context: .\n",
            text(&self.name)
        );
        let contexts: Vec<String> = self
            .flags()
            .map(|(name, flag)| format!("        {}: {}\n", text(name), text(&flag.at("."))))
            .collect();
        if !contexts.is_empty() {
            file.push_str("      additional_contexts:\n");
            file.push_str(&contexts.concat());
        }
        file.push_str(&format!(
            "    image: {}\n",
            text(&format!("localhost/habitat/{}:latest", self.name))
        ));
        if let Some(entrypoint) = self.entrypoint() {
            file.push_str(&format!(
                "    user: root\n    entrypoint: {}\n",
                json!(entrypoint)
            ));
        }
        if self.runtime.tty || self.runtime.command.is_none() {
            file.push_str("    stdin_open: true\n    tty: true\n");
        }
        if !self.runtime.volumes.is_empty() {
            file.push_str("    volumes:\n");
        }
        for volume in &self.runtime.volumes {
            file.push_str(&format!(
                "      - type: bind\n        source: {}\n        target: {}\n",
                text(&place(volume, "${HOME}", up)),
                text(&volume.target.value)
            ));
            if volume.read_only {
                file.push_str("        read_only: true\n");
            }
        }
        file
    }

    fn flags(&self) -> impl Iterator<Item = (&str, Flag)> {
        self.contexts.iter().map(|context| {
            let values = context_values(context, &self.layers);
            let flag = values["flag"].as_str().unwrap_or_default();
            (context.name.as_str(), Flag(flag.to_owned()))
        })
    }

    /// What starts the services and then what the image starts by itself; `None` where there are none.
    fn entrypoint(&self) -> Option<Vec<String>> {
        let runtime = &self.runtime;
        (!runtime.services.is_empty()).then(|| {
            LAUNCHER
                .iter()
                .map(|word| (*word).to_owned())
                .chain([
                    runtime.user.clone(),
                    runtime.services.join(","),
                    ENTRYPOINT.to_owned(),
                ])
                .collect()
        })
    }
}

/// What a context is, seen from the directory of the Dockerfile: `./local`, `oci-layout://./base:latest`.
struct Flag(String);

impl Flag {
    /// The same, seen from elsewhere.
    fn at(&self, directory: &str) -> String {
        match self.0.strip_prefix("oci-layout://./") {
            Some(path) => format!("oci-layout://{directory}/{path}"),
            None => self.0.replacen('.', directory, 1),
        }
    }
}

/// A volume's source, where home and the habitat's directory are spoken of like this.
fn place(volume: &Volume, home: &str, directory: &str) -> String {
    let source = &volume.source.value;
    match source.strip_prefix("~/") {
        Some(rest) => format!("{home}/{rest}"),
        None if source.starts_with('/') => source.clone(),
        None => format!("{directory}/{}", source.trim_start_matches("./")),
    }
}
