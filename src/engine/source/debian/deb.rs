//! The inside of a `.deb`: an ar archive of `debian-binary`, `control.tar` and `data.tar` (deb(5)).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::path::Path;

use super::error::{Error, Result};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;

/// The tar of a package's files, unpacked as it is read.
pub(super) fn data(path: &Path, package: &str) -> Result<tar::Archive<Box<dyn Read>>> {
    let broken = |why: String| Error::Package {
        package: package.to_owned(),
        why,
    };
    let mut file = File::open(path).map_err(|error| Error::io("cannot open", path, error))?;
    let (name, size) = find_data(&mut file).map_err(|error| broken(error.to_string()))?;
    let member: Take<File> = file.take(size);
    let reader: Box<dyn Read> = match name.strip_prefix("data.tar") {
        Some("") => Box::new(BufReader::with_capacity(256 << 10, member)),
        Some(".xz") => Box::new(BufReader::with_capacity(
            256 << 10,
            liblzma::read::XzDecoder::new(member),
        )),
        Some(".gz") => Box::new(BufReader::with_capacity(
            256 << 10,
            flate2::read::MultiGzDecoder::new(member),
        )),
        Some(".zst") => {
            let decoder = zstd::stream::read::Decoder::new(member)
                .map_err(|error| broken(error.to_string()))?;
            Box::new(BufReader::with_capacity(256 << 10, decoder))
        }
        _ => {
            return Err(broken(format!(
                "its files are in `{name}`, a form that is not known"
            )));
        }
    };
    Ok(tar::Archive::new(reader))
}

/// Stands before the content of `data.tar…`; its name and length.
fn find_data(file: &mut File) -> io::Result<(String, u64)> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(wrong("it is not an ar archive"));
    }
    loop {
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header)
            .map_err(|_| wrong("it ends before its data.tar"))?;
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
        if name.starts_with("data.tar") {
            return Ok((name, size));
        }
        // Members begin at even offsets.
        let skip =
            i64::try_from(size + size % 2).map_err(|_| wrong("an ar member in it is too long"))?;
        file.seek(SeekFrom::Current(skip))?;
    }
}
