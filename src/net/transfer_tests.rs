//! A server that does, request by request, what its script says; what it was asked is kept.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::digest::Digest;
use crate::net::{Retry, Settings};

fn serve(script: Vec<Vec<u8>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        for answer in script {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut request).unwrap() > 2 {}
            log.lock().unwrap().push(request);
            stream.write_all(&answer).unwrap();
        }
    });
    (address, asked)
}

fn client() -> Client<'static> {
    let retry = Retry {
        attempts: 3,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
    };
    Client::new(Settings {
        retry,
        ..Settings::default()
    })
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

#[test]
fn a_broken_download_goes_on_where_it_broke_off() {
    let (url, asked) = serve(vec![
        answer("200 OK\r\nContent-Length: 10\r\nETag: \"one\"", "01234"),
        answer("503 Service Unavailable", ""),
        answer(
            "206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5",
            "56789",
        ),
    ]);
    let mut body = Vec::new();
    let what = Download {
        url: &url,
        digest: Some(Digest::of(b"0123456789")),
        ..Download::default()
    };
    let outcome = client().download(&what, &mut body, &|_| ()).unwrap();
    assert_eq!(body, b"0123456789");
    assert!(matches!(
        outcome,
        Outcome::Fetched(Fetched { size_bytes: 10, .. })
    ));
    let asked = asked.lock().unwrap();
    assert!(
        asked[2].contains("range: bytes=5-\r\n") && asked[2].contains("if-range: \"one\"\r\n"),
        "{}",
        asked[2]
    );
}

#[test]
fn what_changed_in_between_is_fetched_anew() {
    let (url, _) = serve(vec![
        answer("200 OK\r\nContent-Length: 10\r\nETag: \"one\"", "01234"),
        answer("200 OK\r\nContent-Length: 3\r\nETag: \"two\"", "abc"),
    ]);
    let mut body = Vec::new();
    client()
        .download(
            &Download {
                url: &url,
                ..Download::default()
            },
            &mut body,
            &|_| (),
        )
        .unwrap();
    assert_eq!(body, b"abc");
}

#[test]
fn a_wrong_digest_is_an_error_that_names_both() {
    let (url, _) = serve(vec![answer("200 OK\r\nContent-Length: 3", "abc")]);
    let what = Download {
        url: &url,
        digest: Some(Digest::of(b"abd")),
        ..Download::default()
    };
    let error = client()
        .download(&what, &mut Vec::new(), &|_| ())
        .unwrap_err();
    assert!(matches!(error, Error::WrongDigest { actual, .. } if actual == Digest::of(b"abc")));
}

#[test]
fn a_missing_resource_is_not_asked_for_again() {
    let (url, asked) = serve(vec![answer("404 Not Found", ""), answer("200 OK", "no")]);
    let secret = url.replace("http://", "http://me:s3cret@");
    let error = client().read(&secret, 100).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("the server answers 404 Not Found"),
        "{error}"
    );
    assert!(!error.to_string().contains("s3cret"));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[test]
fn a_server_in_trouble_is_asked_a_bounded_number_of_times() {
    let (url, asked) = serve(vec![answer("500 Oops", ""); 9]);
    let error = client().read(&url, 100).unwrap_err();
    assert!(
        matches!(error, Error::Unreachable { attempts: 3, .. }),
        "{error:?}"
    );
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[test]
fn nobody_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    drop(listener);
    let error = client().read(&url, 100).unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[test]
fn a_limit_holds_with_and_without_a_length() {
    for head in ["200 OK\r\nContent-Length: 10", "200 OK"] {
        let (url, _) = serve(vec![answer(head, "0123456789")]);
        assert!(matches!(
            client().read(&url, 9),
            Err(Error::TooLarge { limit: 9, .. })
        ));
    }
}

#[test]
fn what_is_known_may_still_hold() {
    let (url, asked) = serve(vec![answer("304 Not Modified\r\nETag: \"one\"", "")]);
    let known = Validators {
        etag: Some("\"one\"".to_owned()),
        last_modified: None,
    };
    let outcome = client()
        .download(
            &Download {
                url: &url,
                known,
                ..Download::default()
            },
            &mut Vec::new(),
            &|_| (),
        )
        .unwrap();
    assert!(matches!(outcome, Outcome::NotModified(_)));
    assert!(asked.lock().unwrap()[0].contains("if-none-match: \"one\""));
}

#[test]
fn a_redirect_to_a_file_or_without_end_is_refused() {
    let (url, _) = serve(vec![answer(
        "302 Found\r\nLocation: file:///etc/passwd",
        "",
    )]);
    // An address that is not http never gets as far as a request.
    assert!(client().read(&url, 100).is_err());
    let (url, _) = serve(vec![answer("302 Found\r\nLocation: /again", ""); 12]);
    let error = client().read(&url, 100).unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error:?}");
}
