//! The index's file: opened, and made anew where there is none, where it is damaged, or where it is of another layout.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::index::insert_record;
use super::record::Record;
use super::{StoreError, census, holders};
use crate::sys::dir::Dir;

/// Raised when a table changes; an index with another number is made anew.
const SCHEMA: i64 = 5;

const TABLES: &str = "
CREATE TABLE ops (key BLOB PRIMARY KEY, layers BLOB NOT NULL, fields TEXT NOT NULL, created_ms INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL);
CREATE TABLE parts (part TEXT PRIMARY KEY, key BLOB NOT NULL, makings TEXT NOT NULL, built_ms INTEGER NOT NULL);
CREATE TABLE listings (part TEXT, digest BLOB, files BLOB NOT NULL, PRIMARY KEY (part, digest)) WITHOUT ROWID;
CREATE TABLE diff_ids (snapshot BLOB PRIMARY KEY, diff_id TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE layer_blobs (snapshot BLOB, compression TEXT, variant TEXT, digest TEXT NOT NULL, size INTEGER NOT NULL,
    media_type TEXT NOT NULL, PRIMARY KEY (snapshot, compression, variant));
CREATE TABLE contents (tree BLOB, selection TEXT, digest BLOB NOT NULL, PRIMARY KEY (tree, selection));
CREATE TABLE stats (root BLOB, dir BLOB, entries BLOB NOT NULL, PRIMARY KEY (root, dir));
CREATE TABLE answers (reference TEXT PRIMARY KEY, answer TEXT NOT NULL, asked_ms INTEGER NOT NULL);
";

/// How long a process waits for another one's commit.
const BUSY: Duration = Duration::from_secs(20);

/// As [`connect`]. While another process makes the index or closes it as its last user, SQLite says "busy" without waiting
/// as it does elsewhere; so the wait is here.
pub(super) fn connect_patiently(
    path: &Path,
    snapshots: &Path,
    local: bool,
) -> rusqlite::Result<Option<Connection>> {
    let deadline = Instant::now() + BUSY;
    loop {
        match connect(path, snapshots, local) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(3));
            }
            connected => return connected,
        }
    }
}

/// Opens the index, and makes it from the records if it is new; `None`: it is not one of this layout.
fn connect(path: &Path, snapshots: &Path, local: bool) -> rusqlite::Result<Option<Connection>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(32);
    let version = |connection: &Connection| {
        connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
    };
    if version(&connection)? != SCHEMA {
        // Another process may be making it, or be just closing it: what it really is, is decided in one transaction.
        let mode = if local { "wal" } else { "delete" };
        connection.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(()))?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        match (version(&connection)?, tables) {
            (SCHEMA, _) => {}
            (0, 0) => {
                connection.execute_batch(TABLES)?;
                connection.execute_batch(census::TABLES)?;
                connection.execute_batch(holders::TABLE)?;
                insert_records(&connection, snapshots)?;
                connection.execute_batch(&format!("PRAGMA user_version = {SCHEMA}"))?;
            }
            _ => return Ok(None),
        }
        connection.execute_batch("COMMIT")?;
    }
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(Some(connection))
}

pub(super) fn is_unwritable(error: &rusqlite::Error) -> bool {
    // On a full disk there is no room for what its users share.
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
        )
    )
}

/// An index that can only be read, as on a file system that is mounted so: nothing can change it.
pub(super) fn read_only(path: &Path) -> Result<Connection, StoreError> {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(format!("{uri}?immutable=1"), flags).map_err(|source| {
        StoreError::Index {
            what: "read anything",
            source,
        }
    })
}

pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    ) || matches!(
        error,
        rusqlite::Error::SqlInputError { .. } | rusqlite::Error::InvalidColumnType(..)
    )
}

/// What seemed damaged may only have been in the making by another process: it is opened again, and put aside only if
/// SQLite itself finds fault with it.
pub(super) fn again_or_anew(
    path: &Path,
    snapshots: &Path,
    local: bool,
) -> Result<Connection, StoreError> {
    let sound = |connection: &Connection| {
        let verdict =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        verdict.is_ok_and(|verdict| verdict == "ok")
    };
    match connect_patiently(path, snapshots, local) {
        Ok(Some(connection)) if sound(&connection) => Ok(connection),
        _ => anew(path, snapshots, local),
    }
}

/// Puts the index aside, keeping one for those who want to know what happened, and makes a new one.
pub(super) fn anew(path: &Path, snapshots: &Path, local: bool) -> Result<Connection, StoreError> {
    for ending in ["", "-wal", "-shm", "-journal"] {
        let file = path.with_file_name(format!("index.sqlite{ending}"));
        let aside = path.with_file_name(format!("index.sqlite-damaged{ending}"));
        match std::fs::rename(&file, aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("put a damaged index aside", file, error));
            }
            _ => {}
        }
    }
    connect(path, snapshots, local)
        .and_then(|connection| connection.ok_or(rusqlite::Error::InvalidQuery))
        .map_err(|source| StoreError::Index {
            what: "begin anew",
            source,
        })
}

/// Puts in what the records say. A snapshot whose record cannot be read is one that nobody asks for.
fn insert_records(connection: &Connection, snapshots: &Path) -> rusqlite::Result<()> {
    let Ok(dir) = Dir::open_trusted(snapshots) else {
        return Ok(());
    };
    for entry in dir.entries().unwrap_or_default() {
        if let Ok(record) = dir.open_dir(&entry.name).and_then(|dir| Record::read(&dir)) {
            insert_record(connection, &record)?;
        }
    }
    Ok(())
}
