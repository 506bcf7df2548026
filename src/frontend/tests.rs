//! Dockerfiles and what they lower to.
