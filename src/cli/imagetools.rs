//! `imagetools`: several images of registries as one, and what a registry has under a name.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::args::imagetools::{CreateArguments, ImagetoolsCommand, InspectRemoteArguments};
use super::environment::Environment;
use super::exit::Exit;
use super::registry::{draft, name_of, of_platform, of_store};
use super::report::Stop;
use super::request::{print, write_file};
use crate::engine::base::of_registry;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::solve::registries;
use crate::event::BuildEvent;
use crate::image::{Content, Descriptor, Name};
use crate::registry::{Alone, Document, Error, Join, JoinSource, Registries};
use crate::ship::export::{Annotation, AnnotationPlace};
use crate::store::Store;

/// Carries out a command of `imagetools`.
pub(super) fn run(
    command: ImagetoolsCommand,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    match command {
        ImagetoolsCommand::Create(arguments) => create(arguments, store, environment),
        ImagetoolsCommand::Inspect(arguments) => inspect(arguments, environment),
    }
}

fn create(
    arguments: CreateArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let tags = arguments.tags.iter().map(|tag| name_of(tag));
    let tags = tags.collect::<Result<Vec<Name>, Stop>>()?;
    if tags.is_empty() && !arguments.dry_run {
        return Err(Stop::usage(
            "nothing says what the image is called",
            "give `--tag NAME`, or `--dry-run` to see what it would be",
        ));
    }
    if let Some(tag) = tags.iter().find(|tag| tag.digest.is_some()) {
        return Err(Stop::usage(
            format!("`{tag}` names a digest, and a name is what was wanted"),
            "leave out what begins with `@`",
        ));
    }
    let draft = draft(
        arguments.reach.clone(),
        arguments.watch.clone(),
        environment,
    )?;
    let join = join_of(&arguments, &tags)?;
    let events = draft.events(environment);
    let registries = registries(&draft.work, events.as_ref());
    let failed = |error: Error| Stop::from(of_registry(&error));
    let joined = registries.join(&join).map_err(failed)?;
    if arguments.dry_run {
        print(&format!("{}\n", String::from_utf8_lossy(&joined.bytes)));
        return Ok(Exit::Done);
    }
    let store = Store::open(store).map_err(of_store)?;
    let registries = registries.remembered(&store);
    // Nothing that is on its way is deleted meanwhile.
    let _work = store.tmp_dir().map_err(of_store)?;
    for tag in &tags {
        let image = tag.to_string();
        events.emit(BuildEvent::PushStarted {
            image: image.clone(),
        });
        let pushed = registries
            .send_joined(&store, &joined, tag, &|_| ())
            .map_err(failed)?;
        events.emit(BuildEvent::PushDone {
            image,
            digest: joined.descriptor.digest,
            bytes: pushed.bytes,
            blobs_sent: pushed.sent,
            blobs_mounted: pushed.mounted,
            blobs_there: pushed.there,
        });
    }
    if let Some(path) = &arguments.metadata_file {
        let names: Vec<String> = tags.iter().map(Name::to_string).collect();
        let metadata = json!({
            "containerimage.descriptor": joined.descriptor,
            "containerimage.digest": joined.descriptor.digest,
            "image.name": names.join(","),
        });
        write_file(path, &format!("{metadata:#}\n"))?;
    }
    print(&format!("{}\n", joined.descriptor.digest));
    Ok(Exit::Done)
}

fn join_of(arguments: &CreateArguments, tags: &[Name]) -> Result<Join, Stop> {
    let mut given = arguments.sources.clone();
    for file in &arguments.files {
        let read = std::fs::read_to_string(file).map_err(|error| {
            let message = format!("`{}` cannot be read", file.display());
            Stop::from(Failure::caused(
                FailureKind::Input,
                "cli::read",
                message,
                &error,
            ))
        })?;
        given.push(read);
    }
    let mut sources = Vec::new();
    if arguments.append {
        sources.extend(tags.first().map(|tag| JoinSource {
            name: tag.clone(),
            descriptor: None,
        }));
    }
    for text in &given {
        sources.push(source_of(text.trim(), tags)?);
    }
    if sources.is_empty() {
        return Err(Stop::usage(
            "no images were given",
            "name those that become one: `shmocker imagetools create -t NAME IMAGE IMAGE`",
        ));
    }
    let (mut notes, mut descriptor_notes) = (Vec::new(), Vec::new());
    for given in &arguments.annotations {
        let parsed = Annotation::parse(given)
            .map_err(|error| Stop::usage(error.to_string(), "write `index:KEY=VALUE`"))?;
        for note in parsed {
            match note.place {
                AnnotationPlace::Index => notes.push((note.key, note.value)),
                AnnotationPlace::ManifestDescriptor => {
                    descriptor_notes.push((note.platform, note.key, note.value));
                }
                AnnotationPlace::Manifest | AnnotationPlace::IndexDescriptor => {
                    return Err(Stop::usage(
                        format!(
                            "`{given}` would change an image, and images are joined as they are"
                        ),
                        "write `index:KEY=VALUE` or `manifest-descriptor:KEY=VALUE`",
                    ));
                }
            }
        }
    }
    let platforms = arguments.platforms.iter();
    Ok(Join {
        sources,
        platforms: platforms
            .map(|platform| of_platform(Some(platform)))
            .collect::<Result<_, Stop>>()?,
        notes,
        descriptor_notes,
        alone: match arguments.prefer_index {
            true => Alone::Listed,
            false => Alone::AsItIs,
        },
    })
}

/// A name; or a digest or descriptor of something in the repository of the first tag.
fn source_of(given: &str, tags: &[Name]) -> Result<JoinSource, Stop> {
    let of_tag = |digest| match tags.first() {
        Some(tag) => Ok(Name {
            tag: None,
            ..tag.clone()
        }
        .with_digest(digest)),
        None => Err(Stop::usage(
            format!("nothing says which repository has `{given}`"),
            "give `--tag`, or a name in full: REPOSITORY@sha256:…",
        )),
    };
    if given.starts_with('{') {
        let descriptor: Descriptor = serde_json::from_str(given).map_err(|error| {
            Stop::usage(
                format!("`{given}` is not a descriptor: {error}"),
                "it has `mediaType`, `digest` and `size`",
            )
        })?;
        return Ok(JoinSource {
            name: of_tag(descriptor.digest)?,
            descriptor: Some(descriptor),
        });
    }
    let name = match given.parse() {
        Ok(digest) => of_tag(digest)?,
        Err(_) => name_of(given)?,
    };
    Ok(JoinSource {
        name,
        descriptor: None,
    })
}

/// What of it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Text,
    All,
    Manifest,
    Image,
}

fn inspect(arguments: InspectRemoteArguments, environment: &Environment) -> Result<Exit, Stop> {
    let shown = match arguments.format.replace(' ', "").as_str() {
        "text" => Shown::Text,
        "json" | "{{json.}}" => Shown::All,
        "{{json.Manifest}}" => Shown::Manifest,
        "{{json.Image}}" => Shown::Image,
        _ => {
            return Err(Stop::usage(
                format!(
                    "`{}` is a template, which is not filled in",
                    arguments.format
                ),
                "write `--format json` and take what you want from it, for instance with jq; or `{{json .Manifest}}`, `{{json .Image}}`",
            ));
        }
    };
    let name = name_of(&arguments.image)?;
    let draft = draft(
        arguments.reach,
        super::args::WatchArguments::default(),
        environment,
    )?;
    let events = draft.events(environment);
    let registries = registries(&draft.work, events.as_ref());
    let failed = |error: Error| Stop::from(of_registry(&error));
    let document = registries.document(&name).map_err(failed)?;
    if arguments.raw {
        print(&String::from_utf8_lossy(&document.bytes));
        return Ok(Exit::Done);
    }
    let referrers = || registries.referrers(&name, &document.descriptor.digest);
    let text = match shown {
        Shown::Text => told(&name, &document, &referrers().map_err(failed)?),
        Shown::Manifest => format!("{:#}\n", manifest_of(&document)),
        Shown::Image => {
            let image = image_of(&registries, &name, &document).map_err(failed)?;
            format!("{image:#}\n")
        }
        Shown::All => {
            let all = json!({
                "name": name.to_string(),
                "manifest": manifest_of(&document),
                "image": image_of(&registries, &name, &document).map_err(failed)?,
                "referrers": referrers().map_err(failed)?,
            });
            format!("{all:#}\n")
        }
    };
    print(&text);
    Ok(Exit::Done)
}

/// The document with its own digest and size.
fn manifest_of(document: &Document) -> Value {
    let mut shown = match &document.content {
        Content::Manifest(manifest) => serde_json::to_value(manifest),
        Content::Index(index) => serde_json::to_value(index),
    }
    .unwrap_or_default();
    shown["mediaType"] = document.descriptor.media_type.clone().into();
    shown["digest"] = document.descriptor.digest.to_string().into();
    shown["size"] = document.descriptor.size.into();
    shown
}

/// The configuration; of an index, those of its images by platform.
fn image_of(registries: &Registries, name: &Name, document: &Document) -> Result<Value, Error> {
    let value = |config| serde_json::to_value(config).unwrap_or_default();
    let Content::Index(index) = &document.content else {
        return Ok(registries
            .config(name, document)?
            .map_or(Value::Null, value));
    };
    let mut images = serde_json::Map::new();
    for listed in &index.manifests {
        let Some(platform) = listed.platform.as_ref().filter(|its| its.os != "unknown") else {
            continue;
        };
        let part = name.with_digest(listed.digest);
        if let Some(config) = registries.config(&part, &registries.document(&part)?)? {
            images.insert(platform.to_string(), value(config));
        }
    }
    Ok(images.into())
}

/// As buildx lays it out.
fn told(name: &Name, document: &Document, referrers: &[Descriptor]) -> String {
    let Descriptor {
        media_type, digest, ..
    } = &document.descriptor;
    let mut text = format!("Name:      {name}\nMediaType: {media_type}\nDigest:    {digest}\n");
    let mut list = |title: &str, listed: &[Descriptor]| {
        if listed.is_empty() {
            return;
        }
        text.push_str(&format!("\n{title}:\n"));
        let entries: Vec<String> = listed.iter().map(|one| entry(name, one)).collect();
        text.push_str(&entries.join("\n"));
    };
    match &document.content {
        Content::Index(index) => list("Manifests", &index.manifests),
        Content::Manifest(manifest) => list("Layers", &manifest.layers),
    }
    list("Referrers", referrers);
    text.chars()
        .map(|letter| match letter {
            letter if letter.is_control() && letter != '\n' => '\u{fffd}',
            letter => letter,
        })
        .collect()
}

fn entry(name: &Name, listed: &Descriptor) -> String {
    let name = Name {
        tag: None,
        ..name.with_digest(listed.digest)
    };
    let mut text = format!("  Name:      {name}\n  MediaType: {}\n", listed.media_type);
    if let Some(kind) = listed.other.get("artifactType").and_then(Value::as_str) {
        text.push_str(&format!("  Artifact:  {kind}\n"));
    }
    if let Some(platform) = &listed.platform {
        text.push_str(&format!("  Platform:  {platform}\n"));
    }
    text.push_str(&format!("  Size:      {}\n", listed.size));
    for (key, value) in &listed.annotations {
        text.push_str(&format!("  Note:      {key}: {value}\n"));
    }
    text
}
