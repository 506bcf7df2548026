//! A download.
