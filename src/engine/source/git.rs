//! A git repository.
