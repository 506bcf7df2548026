//! The inside of a `.deb`: an ar archive of `debian-binary`, `control.tar` and `data.tar` (deb(5)).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::path::Path;

use super::error::{Error, Result};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;

/// A tar that is unpacked as it is read.
pub(super) type Tar = tar::Archive<Box<dyn Read>>;

/// The tar of a package's files.
pub(super) fn data(path: &Path, package: &str) -> Result<Tar> {
    member(path, package, "data.tar")
}

/// The tar of what dpkg is told of a package: its control fields, scripts, lists.
pub(super) fn control(path: &Path, package: &str) -> Result<Tar> {
    member(path, package, "control.tar")
}

fn member(path: &Path, package: &str, wanted: &str) -> Result<Tar> {
    let broken = |why: String| Error::Package {
        package: package.to_owned(),
        why,
    };
    let mut file = File::open(path).map_err(|error| Error::io("cannot open", path, error))?;
    let (name, size) = find(&mut file, wanted).map_err(|error| broken(error.to_string()))?;
    let member: Take<File> = file.take(size);
    let reader: Box<dyn Read> = match name.strip_prefix(wanted) {
        Some("") => Box::new(buffered(member)),
        Some(".xz") => Box::new(buffered(liblzma::read::XzDecoder::new(member))),
        Some(".gz") => Box::new(buffered(flate2::read::MultiGzDecoder::new(member))),
        Some(".zst") => {
            let decoder = zstd::stream::read::Decoder::new(member);
            Box::new(buffered(
                decoder.map_err(|error| broken(error.to_string()))?,
            ))
        }
        _ => {
            return Err(broken(format!(
                "it has a `{name}`, a form that is not known"
            )));
        }
    };
    Ok(tar::Archive::new(reader))
}

fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(256 << 10, reader)
}

/// Stands before the content of the member whose name begins with `wanted`; its whole name and length.
fn find(file: &mut File, wanted: &str) -> io::Result<(String, u64)> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(wrong("it is not an ar archive"));
    }
    loop {
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header)
            .map_err(|_| wrong(&format!("it ends before its {wanted}")))?;
        if &header[58..] != b"`\n" {
            return Err(wrong("an ar header in it is damaged"));
        }
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range]).trim().to_owned()
        };
        let name = text(0..16).trim_end_matches('/').to_owned();
        let size: u64 = text(48..58)
            .parse()
            .map_err(|_| wrong("an ar header in it has no length"))?;
        if name.starts_with(wanted) {
            return Ok((name, size));
        }
        // Members begin at even offsets.
        let skip =
            i64::try_from(size + size % 2).map_err(|_| wrong("an ar member in it is too long"))?;
        file.seek(SeekFrom::Current(skip))?;
    }
}
