//! Names of downloads, and downloads that are asked for again.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use super::*;
use crate::net::Settings;

#[test]
fn a_file_is_named_by_the_server_else_by_its_address() {
    let check = |disposition: Option<&str>, url: &str, name: &str| {
        assert_eq!(file_name(disposition, url, url), name)
    };
    check(None, "https://host/a/b.tar.gz?x=/y", "b.tar.gz");
    check(None, "https://host/a%20b", "a b");
    check(None, "https://host/", "download");
    check(None, "https://host", "download");
    check(None, "https://host/..%2f..%2fetc", "etc");
    check(None, "https://host/a/..", "download");
    check(
        Some("attachment; filename=\"x; y.txt\""),
        "https://host/z",
        "x; y.txt",
    );
    check(
        Some("attachment; filename=plain; filename*=UTF-8''na%C3%AFve"),
        "https://host/z",
        "naïve",
    );
    check(
        Some("attachment; filename=\"../../etc/passwd\""),
        "https://host/z",
        "passwd",
    );
    check(Some("attachment; filename=\"..\""), "https://host/z", "z");
    check(Some("inline"), "https://host/z", "z");
}

/// Answers with a file that has an ETag; 304 where it is asked with it.
fn serve(requests: usize) -> (String, std::thread::JoinHandle<Vec<bool>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.txt", listener.local_addr().unwrap());
    let handle = std::thread::spawn(move || {
        let mut conditional = Vec::new();
        for _ in 0..requests {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut request).unwrap() > 2 {}
            let known = request.contains("if-none-match: \"v1\"");
            conditional.push(known);
            let head = "ETag: \"v1\"\r\nLast-Modified: Sat, 11 Jul 2026 10:16:37 GMT\r\nConnection: close\r\n";
            let answer = if known {
                format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n")
            } else {
                format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{head}\r\nhello")
            };
            stream.write_all(answer.as_bytes()).unwrap();
        }
        conditional
    });
    (url, handle)
}

#[test]
fn a_download_is_asked_for_again_and_kept() {
    let scratch = crate::engine::source::scratch("http");
    let shelf = Shelf {
        directory: scratch.join("kept"),
        tmp: scratch.join("tmp"),
    };
    for directory in [&shelf.directory, &shelf.tmp, &scratch.join("tree")] {
        fs::create_dir(directory).unwrap();
    }
    let client = Client::new(Settings::default());
    let (url, server) = serve(2);
    let source = HttpSource {
        url,
        checksum: None,
    };
    let Answer::Fetched(first) = fetch(&source, None, &shelf, &client, &|_| ()).unwrap() else {
        panic!("it was not here")
    };
    assert_eq!(
        (first.name.as_str(), first.mtime_s, first.digest),
        ("file.txt", 1_783_764_997, Digest::of(b"hello"))
    );
    let again = fetch(&source, Some(&first), &shelf, &client, &|_| ()).unwrap();
    assert_eq!(again, Answer::Unchanged(first.clone()));
    assert_eq!(server.join().unwrap(), [false, true]);

    let path = place(&first, &shelf, &scratch.join("tree")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(
        modified
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
        first.mtime_s
    );

    // With a checksum the server, gone by now, is not asked at all.
    let pinned = HttpSource {
        checksum: Some(first.digest.to_string()),
        ..source.clone()
    };
    assert!(matches!(
        fetch(&pinned, Some(&first), &shelf, &client, &|_| ()),
        Ok(Answer::Unchanged(_))
    ));
    let wrong = HttpSource {
        checksum: Some("md5:1".to_owned()),
        ..source
    };
    assert_eq!(
        fetch(&wrong, None, &shelf, &client, &|_| ())
            .unwrap_err()
            .fault(),
        Fault::Input
    );
    assert_eq!(
        fs::read_dir(&shelf.tmp).unwrap().count(),
        0,
        "no temporary file is left"
    );
    fs::remove_dir_all(&scratch).unwrap();
}
