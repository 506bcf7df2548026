//! Tests against the fixtures that lie beside the project; a printed skip where they are not there.
