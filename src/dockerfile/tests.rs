//! What the parser makes of files.
