//! BuildKit's table of paths that lead through links, and through links to links.

use std::os::unix::fs::symlink;

use crate::dockerfile::fixtures::{agree, fixture};
use crate::sys::file::tempdir::TempDir;
use crate::sys::root::{Root, Scope};

/// The tree that the table speaks of: a directory where there is no target.
const TREE: &[(&str, &str)] = &[
    ("target", ""),
    ("link1", ""),
    ("link1/sub", ""),
    ("link1/notaloop", "../target"),
    ("link1/final", "/target"),
    ("link2", ""),
    ("link2/link1", "/link1/"),
    ("link2/link1sub", "/link1/sub/"),
    ("link2/notaloop", "./link1sub/../notaloop"),
    ("link2/notaloop_abs", "/link2/link1sub/../notaloop"),
    ("link2/notaloop2", "./link1/../link1/notaloop"),
    ("link2/notaloop2_abs", "/link2/link1/../link1/notaloop"),
    ("link2/target", "./link1sub/../final"),
    ("link2/target_abs", "/link2/link1sub/../final"),
    ("link2/target2", "./link1/../link1/final"),
    ("link2/target2_abs", "/link2/link1/../link1/final"),
    ("link3", "/link2"),
];

#[test]
fn links_lead_where_buildkit_goes() {
    let Some(text) = fixture("tables/cache-contenthash.json") else {
        return;
    };
    let dir = TempDir::new();
    for (path, target) in TREE {
        let path = dir.path().join(path);
        match *target {
            "" => std::fs::create_dir(path).unwrap(),
            target => symlink(target, path).unwrap(),
        }
    }
    let root = Root::open_trusted(dir.path(), Scope::Image).unwrap();
    let tables: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = tables["path_test.go/TestRootPathSymlinks/range1"]
        .as_array()
        .unwrap();
    let mut differences = Vec::new();
    for row in rows {
        let path = row["path"].as_str().unwrap();
        let found = if row["followTrailing"] == true {
            root.real_path(path).unwrap()
        } else {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            root.real_path(parent).unwrap().join(name)
        };
        let found = format!("/{}", found.display());
        if row["expected"] != found.as_str() {
            differences.push(format!("{row}: {found}"));
        }
    }
    agree("tables: paths through links", rows.len(), &differences);
}
