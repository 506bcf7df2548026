//! What holds for every tree.

use super::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// What is copied hashes to what it was copied from, and a second copy over it changes nothing.
    #[test]
    fn a_copy_hashes_to_the_same(
        files in proptest::collection::btree_map("[a-c]{1,2}(/[a-c]{1,2}){0,3}", ("[ -~]{0,20}", 0_u32..0o1000), 0..12)
    ) {
        let dir = TempDir::new();
        for (path, (content, mode)) in &files {
            let place = dir.path().join("src").join(path);
            if fs::create_dir_all(place.parent().unwrap()).is_err() || place.is_dir() {
                continue;
            }
            match mode % 5 {
                0 => symlink(content.replace('\0', "").get(..1).unwrap_or("x"), &place).unwrap_or_default(),
                _ => {
                    if fs::write(&place, content).is_ok() {
                        fs::set_permissions(&place, fs::Permissions::from_mode(mode | 0o400)).unwrap();
                    }
                }
            }
        }
        fs::create_dir_all(dir.path().join("src")).unwrap();
        fs::create_dir(dir.path().join("dest")).unwrap();
        let whole = |path: &str| Tree::mounted(Root::open_trusted(dir.path().join(path), Scope::Image).unwrap(), "a tree");
        let read = reading(None);
        let before = hash::subtree(&whole("src"), "/", &read).unwrap();
        for _ in 0..2 {
            apply(&copy_of(&["/"], "/copy"), &whole("src"), &dir.path().join("dest")).unwrap();
            prop_assert_eq!(hash::subtree(&whole("dest"), "/copy", &read).unwrap(), before);
        }
    }
}
