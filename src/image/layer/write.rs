//! Writing: the same entries always give the same bytes.

use std::io::{self, Read, Write};

use super::header::{BLOCK, checksums, field, put_octal, put_record};
use super::{Entry, Kind, OPAQUE, TimeRewrite, WHITEOUT};
use crate::image::Timestamp;

/// Writes a layer, entry by entry, in the order in which they come.
#[derive(Debug)]
pub struct LayerWriter<W: Write> {
    out: W,
    times: TimeRewrite,
    buffer: Vec<u8>,
}

/// The largest number in so many octal digits.
const fn octal_max(digits: u32) -> u64 {
    (1 << (3 * digits)) - 1
}

impl<W: Write> LayerWriter<W> {
    /// A writer of an empty layer.
    pub fn new(out: W, times: TimeRewrite) -> Self {
        Self {
            out,
            times,
            buffer: vec![0; 256 << 10],
        }
    }

    /// Where the bytes go.
    pub fn output(&self) -> &W {
        &self.out
    }

    /// Writes an entry that has no content: anything but a file.
    ///
    /// # Panics
    /// If it is a file of more than no bytes: a bug of the caller.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        assert!(
            !matches!(entry.kind, Kind::File { size: 1.. }),
            "a file comes with its content"
        );
        self.header(entry)
    }

    /// Writes a file with its content, of which there must be exactly as much as the entry says.
    pub fn file(&mut self, entry: &Entry, content: &mut impl Read) -> io::Result<()> {
        let Kind::File { size } = entry.kind else {
            return self.entry(entry);
        };
        self.header(entry)?;
        let mut left = size;
        while left > 0 {
            let wanted = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = match content.read(&mut self.buffer[..wanted]) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if got == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the file became {left} bytes shorter while it was read"),
                ));
            }
            self.out.write_all(&self.buffer[..got])?;
            left -= got as u64;
        }
        self.pad(size)
    }

    /// Writes a file whose content `fill` writes, of which there must be exactly as much as the entry says.
    pub fn filled(
        &mut self,
        entry: &Entry,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let Kind::File { size } = entry.kind else {
            return self.entry(entry);
        };
        self.header(entry)?;
        let mut exact = Exact {
            out: &mut self.out,
            left: size,
        };
        fill(&mut exact)?;
        if exact.left > 0 {
            return Err(io::Error::other(format!(
                "the content is {} bytes shorter than was said",
                exact.left
            )));
        }
        self.pad(size)
    }

    /// Says that what `path` named in lower layers is gone.
    pub fn whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        let name_at = path
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |slash| slash + 1);
        let (directory, name) = path.split_at(name_at);
        self.header(&marker([directory, WHITEOUT, name].concat()))
    }

    /// Says that nothing is seen of what lower layers have in `directory` (empty for the root).
    pub fn opaque(&mut self, directory: &[u8]) -> io::Result<()> {
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        self.header(&marker([directory, slash, OPAQUE].concat()))
    }

    /// Ends the layer and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let mut header = [0; BLOCK];
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let name = match entry.kind {
            Kind::Directory if entry.path.is_empty() => b"./".to_vec(),
            Kind::Directory => [&entry.path[..], b"/"].concat(),
            _ => entry.path.clone(),
        };
        put_text(&mut header[field::NAME], &name, "path", &mut records)?;
        put_octal(&mut header[field::MODE], u64::from(entry.mode & 0o7777));
        put_number(&mut header[field::UID], entry.uid, "uid", &mut records);
        put_number(&mut header[field::GID], entry.gid, "gid", &mut records);
        let size = if let Kind::File { size } = entry.kind {
            size
        } else {
            0
        };
        put_number(&mut header[field::SIZE], size, "size", &mut records);
        let seconds = self.times.apply(entry.mtime).seconds;
        match u64::try_from(seconds) {
            Ok(seconds) => put_number(&mut header[field::MTIME], seconds, "mtime", &mut records),
            Err(_) => {
                put_octal(&mut header[field::MTIME], 0);
                records.push((b"mtime".to_vec(), seconds.to_string().into_bytes()));
            }
        }
        let (mut major, mut minor) = (0, 0);
        header[field::TYPE] = match &entry.kind {
            Kind::File { .. } => b'0',
            Kind::HardLink { target } => {
                put_text(&mut header[field::LINK], target, "linkpath", &mut records)?;
                b'1'
            }
            Kind::Symlink { target } => {
                put_text(&mut header[field::LINK], target, "linkpath", &mut records)?;
                b'2'
            }
            Kind::CharDevice {
                major: of,
                minor: which,
            } => {
                (major, minor) = (*of, *which);
                b'3'
            }
            Kind::BlockDevice {
                major: of,
                minor: which,
            } => {
                (major, minor) = (*of, *which);
                b'4'
            }
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        };
        for (place, value) in [(field::MAJOR, major), (field::MINOR, minor)] {
            if u64::from(value) > octal_max(7) {
                return Err(io::Error::other(format!(
                    "a device number of {value} does not fit into a tar"
                )));
            }
            put_octal(&mut header[place], u64::from(value));
        }
        header[field::MAGIC].copy_from_slice(b"ustar\x0000");
        for (key, value) in &entry.xattrs {
            if key.contains(&b'=') || key.contains(&0) {
                let key = String::from_utf8_lossy(key);
                return Err(io::Error::other(format!(
                    "a tar cannot hold an extended attribute named `{key}`"
                )));
            }
            records.push(([b"SCHILY.xattr.", &key[..]].concat(), value.clone()));
        }
        if !records.is_empty() {
            self.pax(&name, records)?;
        }
        self.block(&mut header)
    }

    /// The extended header that stands before an entry.
    fn pax(&mut self, name: &[u8], mut records: Vec<(Vec<u8>, Vec<u8>)>) -> io::Result<()> {
        records.sort();
        let mut content = Vec::new();
        for (key, value) in &records {
            put_record(&mut content, key, value);
        }
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let base_at = name
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |slash| slash + 1);
        let mut own_name = [b"PaxHeaders.0/", &name[base_at..]].concat();
        own_name.truncate(field::NAME.len());
        let mut header = [0; BLOCK];
        header[..own_name.len()].copy_from_slice(&own_name);
        for place in [
            field::MODE,
            field::UID,
            field::GID,
            field::MTIME,
            field::MAJOR,
            field::MINOR,
        ] {
            put_octal(&mut header[place], 0);
        }
        put_octal(&mut header[field::SIZE], content.len() as u64);
        header[field::TYPE] = b'x';
        header[field::MAGIC].copy_from_slice(b"ustar\x0000");
        self.block(&mut header)?;
        self.out.write_all(&content)?;
        self.pad(content.len() as u64)
    }

    /// Writes a header after putting its checksum into it.
    fn block(&mut self, header: &mut [u8; BLOCK]) -> io::Result<()> {
        let (sum, _) = checksums(header);
        put_octal(
            &mut header[field::CHECKSUM.start..field::CHECKSUM.end - 1],
            sum,
        );
        header[field::CHECKSUM.end - 1] = b' ';
        self.out.write_all(header)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 {
            Ok(())
        } else {
            self.out.write_all(&[0; BLOCK][over..])
        }
    }
}

/// Takes no more than was said.
struct Exact<'a, W> {
    out: &'a mut W,
    left: u64,
}

impl<W: Write> Write for Exact<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("the content is longer than was said"));
        }
        let written = self.out.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// An empty file that is a sign: without mode, owner or time, so that it is the same whenever it is written.
fn marker(path: Vec<u8>) -> Entry {
    Entry {
        path,
        kind: Kind::File { size: 0 },
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Timestamp::from_seconds(0),
        xattrs: Vec::new(),
    }
}

fn put_text(
    field: &mut [u8],
    text: &[u8],
    key: &str,
    records: &mut Vec<(Vec<u8>, Vec<u8>)>,
) -> io::Result<()> {
    if text.contains(&0) {
        return Err(io::Error::other("a name in a tar holds no NUL"));
    }
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    if text.len() > field.len() || !text.is_ascii() {
        records.push((key.as_bytes().to_vec(), text.to_vec()));
    }
    Ok(())
}

fn put_number(field: &mut [u8], value: u64, key: &str, records: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    let fits = value <= octal_max(field.len() as u32 - 1);
    put_octal(field, if fits { value } else { 0 });
    if !fits {
        records.push((key.as_bytes().to_vec(), value.to_string().into_bytes()));
    }
}
