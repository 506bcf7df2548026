//! Root filesystems as one tar, in which each lies below a directory of its own.

use std::io::Write;

use super::{Export, SourceError};
use crate::image::layer::{Kind, LayerReader, LayerWriter, Limits, TimeRewrite};
use crate::image::pipe;

/// Writes those of several platforms, each below its own directory.
pub(super) fn write_roots(
    exports: &[Export<'_>],
    out: &mut (dyn Write + Send),
) -> Result<(), SourceError> {
    let mut tar = LayerWriter::new(out, TimeRewrite::Keep);
    for export in exports {
        let directory = export.platform_directory();
        let (mut writer, reader) = pipe::new();
        std::thread::scope(|scope| {
            let moved = scope.spawn(|| moved(reader, &directory, &mut tar));
            let sent = export.source.write_root(export.root_times(), &mut writer);
            match sent {
                Ok(()) => writer.finish(),
                // Dropped without an end, so that the other side stops.
                Err(_) => drop(writer),
            }
            let moved = moved.join().map_err(|_| "a thread has panicked")?;
            match (sent, moved) {
                // What failed on that side broke this one's pipe, and what failed here cut that one off.
                (Err(error), Err(moved)) if moved.is::<std::io::Error>() => {
                    drop(error);
                    Err(moved)
                }
                (Err(error), _) => Err(error),
                (Ok(()), moved) => moved,
            }
        })?;
    }
    tar.finish()?;
    Ok(())
}

fn moved(
    tar: impl std::io::Read,
    directory: &str,
    writer: &mut LayerWriter<impl Write>,
) -> Result<(), SourceError> {
    let mut reader = LayerReader::new(tar, Limits::default());
    let below = |path: &[u8]| match path {
        [] => directory.as_bytes().to_vec(),
        path => [directory.as_bytes(), b"/", path].concat(),
    };
    while let Some(mut entry) = reader.next_entry()? {
        entry.path = below(&entry.path);
        if let Kind::HardLink { target } = &mut entry.kind {
            *target = below(target);
        }
        match entry.kind {
            Kind::File { .. } => writer.file(&entry, &mut reader)?,
            _ => writer.entry(&entry)?,
        }
    }
    Ok(())
}
