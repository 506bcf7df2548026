//! Downloads that are asked for again.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use super::*;
use crate::net::Settings;

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
        name: "file.txt".to_owned(),
        is_tree: false,
    };
    let Answer::Fetched(first) = fetch(&source, None, None, &shelf, &client, &|_| ()).unwrap()
    else {
        panic!("it was not here")
    };
    assert_eq!(
        (first.name.as_str(), first.mtime_s, first.digest),
        ("file.txt", 1_783_764_997, Digest::of(b"hello"))
    );
    let again = fetch(&source, Some(&first), None, &shelf, &client, &|_| ()).unwrap();
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
        fetch(&pinned, Some(&first), None, &shelf, &client, &|_| ()),
        Ok(Answer::Unchanged(_))
    ));
    let wrong = HttpSource {
        checksum: Some("md5:1".to_owned()),
        ..source
    };
    assert_eq!(
        fetch(&wrong, None, None, &shelf, &client, &|_| ())
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
