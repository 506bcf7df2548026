//! What a repository of this machine says of its references, read without git: cheap enough to be asked at each build.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::digest::Key;

/// The most that the head of a bundle may have.
const BUNDLE_HEAD_BYTES_MAX: u64 = 16 << 20;

/// A key of everything that decides what the references of a local repository or bundle mean: as long as it is the same,
/// [`super::Git::resolve`] gives the same answer. `None`: it is not a repository of this machine.
///
/// It reads content, never times: of a bundle its head (references and the commits they name; the rest is named by those),
/// of a repository HEAD, `packed-refs`, all of `refs`, and the list of a reftable.
///
/// # Errors
/// If it is not there, or cannot be read.
pub fn local_fingerprint(url: &str) -> io::Result<Option<Key>> {
    if !super::reference::is_local(url) {
        return Ok(None);
    }
    let path = Path::new(url);
    let mut said = Vec::new();
    if path.is_file() {
        read_bundle_head(path, &mut said)?;
    } else {
        let (own, common) = git_directories(path)?;
        for file in [
            own.join("HEAD"),
            common.join("packed-refs"),
            common.join("reftable/tables.list"),
        ] {
            add_file(&file, &mut said)?;
        }
        add_tree(&common.join("refs"), &mut said)?;
    }
    Ok(Some(Key::of(&said)))
}

fn read_bundle_head(path: &Path, said: &mut Vec<u8>) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?.take(BUNDLE_HEAD_BYTES_MAX));
    loop {
        let start = said.len();
        let count = reader.read_until(b'\n', said)?;
        if count == 0 || said[start..] == *b"\n" {
            return Ok(());
        }
    }
}

/// The git directory of a repository, and the one that it shares with its other worktrees.
fn git_directories(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let dot_git = path.join(".git");
    let own = if dot_git.is_file() {
        let text = fs::read_to_string(&dot_git)?;
        path.join(text.trim().strip_prefix("gitdir: ").unwrap_or_default())
    } else if dot_git.is_dir() {
        dot_git
    } else {
        path.to_owned()
    };
    if !own.join("HEAD").exists() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} is not a git repository", path.display()),
        ));
    }
    let common = match fs::read_to_string(own.join("commondir")) {
        Ok(text) => own.join(text.trim()),
        Err(_) => own.clone(),
    };
    Ok((own, common))
}

fn add_file(path: &Path, said: &mut Vec<u8>) -> io::Result<()> {
    match fs::read(path) {
        Ok(content) => {
            said.extend((content.len() as u64).to_le_bytes());
            said.extend(content);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            said.extend(u64::MAX.to_le_bytes());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn add_tree(directory: &Path, said: &mut Vec<u8>) -> io::Result<()> {
    let mut entries = match fs::read_dir(directory) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        said.extend(entry.file_name().as_encoded_bytes());
        said.push(0);
        if entry.file_type()?.is_dir() {
            add_tree(&entry.path(), said)?;
            said.push(1);
        } else {
            add_file(&entry.path(), said)?;
        }
    }
    Ok(())
}
