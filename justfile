# Everything that a change must pass; .ci/run does the same on a fresh machine.
check: fmt clippy test docs deny

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --release --all-targets --locked -- -D warnings

test *arguments:
    ./tests/run {{arguments}}

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

deny:
    cargo deny check

bench:
    cargo bench

# Accept new snapshots and write generated files anew.
update:
    UPDATE=1 INSTA_UPDATE=always cargo test --release
