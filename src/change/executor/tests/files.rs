use std::os::unix::fs::symlink;

use rustix::fs::XattrFlags;

use super::*;

#[test]
fn a_new_content_keeps_mode_attributes_and_the_link_to_it() {
    let (_dir, disk) = disk();
    std::fs::create_dir(disk.at("/real")).unwrap();
    std::fs::write(disk.at("/real/grub"), "old\n").unwrap();
    std::fs::set_permissions(disk.at("/real/grub"), std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink("/real/grub", disk.at("/link")).unwrap();
    let has_xattrs = rustix::fs::setxattr(disk.at("/real/grub"), "user.note", b"kept", XattrFlags::empty()).is_ok();
    // An access ACL as the kernel stores it: version 2, then tag, permissions and id of each entry.
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 12345), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let name = "system.posix_acl_access";
    let has_acls = rustix::fs::setxattr(disk.at("/real/grub"), name, &acl, XattrFlags::empty()).is_ok();

    done(&disk, &write("/link", "new\n")).unwrap();

    assert_eq!(std::fs::read_to_string(disk.at("/real/grub")).unwrap(), "new\n");
    assert!(std::fs::symlink_metadata(disk.at("/link")).unwrap().is_symlink());
    assert_eq!(mode(&disk.at("/real/grub")), 0o640);
    assert_eq!(names(&disk.at("/real")), ["grub"]);
    let mut buffer = [0u8; 256];
    if has_xattrs {
        let length = rustix::fs::getxattr(disk.at("/real/grub"), "user.note", &mut buffer[..]).unwrap();
        assert_eq!(&buffer[..length], b"kept");
    }
    if has_acls {
        let length = rustix::fs::getxattr(disk.at("/real/grub"), name, &mut buffer[..]).unwrap();
        assert_eq!(&buffer[..length], acl);
    }
}

#[test]
fn a_new_file_is_0644_and_owners_are_set() {
    let (_dir, disk) = disk();
    done(&disk, &write("/a", "1")).unwrap();
    assert_eq!(mode(&disk.at("/a")), 0o644);
    let root = rustix::process::geteuid().is_root();
    let owner = if root { "4321".to_string() } else { rustix::process::geteuid().as_raw().to_string() };
    let op = Op::SetAttributes { path: "/a".into(), mode: Some(0o4755), owner: Some(owner.clone()), group: None };
    done(&disk, &op).unwrap();
    assert_eq!(mode(&disk.at("/a")), 0o4755);
    assert_eq!(std::fs::metadata(disk.at("/a")).unwrap().uid().to_string(), owner);
    // A new content keeps both.
    done(&disk, &write("/a", "2")).unwrap();
    assert_eq!(mode(&disk.at("/a")), 0o4755);
    assert_eq!(std::fs::metadata(disk.at("/a")).unwrap().uid().to_string(), owner);
}

#[test]
fn a_missing_folder_and_a_folder_in_the_way_are_told() {
    let (_dir, disk) = disk();
    let error = done(&disk, &write("/no/such/file", "x")).unwrap_err();
    assert!(error.message.contains("the folder /no/such does not exist"), "{error}");
    std::fs::create_dir(disk.at("/d")).unwrap();
    let error = done(&disk, &write("/d", "x")).unwrap_err();
    assert!(error.message.contains("/d is a folder"), "{error}");
    assert_eq!(names(&disk.0), ["d"]);
    let error = done(&disk, &Op::Link { path: "/d".into(), target: "x".into() }).unwrap_err();
    assert!(error.message.contains("/d is a folder"), "{error}");
    assert_eq!(names(&disk.0), ["d"]);
}

#[test]
fn a_content_that_fails_its_check_is_not_put_in_place() {
    let (_dir, disk) = disk();
    std::fs::write(disk.at("/conf"), "old").unwrap();
    let with = |text: &str| Op::WriteFile {
        path: "/conf".into(),
        content: Content::Bytes(text.into()),
        mode: None,
        owner: None,
        group: None,
        validate: vec![vec!["grep".into(), "-q".into(), "good".into(), "%s".into()]],
    };
    let error = done(&disk, &with("bad")).unwrap_err();
    assert!(error.message.contains("did not pass its check"), "{error}");
    assert_eq!(std::fs::read_to_string(disk.at("/conf")).unwrap(), "old");
    assert_eq!(names(&disk.0), ["conf"]);
    done(&disk, &with("good")).unwrap();
    assert_eq!(std::fs::read_to_string(disk.at("/conf")).unwrap(), "good");
}

#[test]
fn folders_links_and_copies() {
    let (_dir, disk) = disk();
    let folder = Op::MakeFolder { path: "/d".into(), mode: Some(0o2750), owner: None, group: None };
    done(&disk, &folder).unwrap();
    assert_eq!(mode(&disk.at("/d")), 0o2750);
    done(&disk, &folder).unwrap();
    std::fs::write(disk.at("/d/a"), "text").unwrap();
    done(&disk, &Op::Link { path: "/d/l".into(), target: "a".into() }).unwrap();
    done(&disk, &Op::Link { path: "/d/l".into(), target: "b".into() }).unwrap();
    assert_eq!(std::fs::read_link(disk.at("/d/l")).unwrap(), Path::new("b"));
    // A link over a file takes its place.
    done(&disk, &Op::Link { path: "/d/a2".into(), target: "a".into() }).unwrap();
    let copy = Op::WriteFile {
        path: "/d/copy".into(),
        content: Content::CopyOf("/d/a2".into()),
        mode: Some(0o600),
        owner: None,
        group: None,
        validate: vec![],
    };
    done(&disk, &copy).unwrap();
    assert_eq!(std::fs::read_to_string(disk.at("/d/copy")).unwrap(), "text");
    assert_eq!(mode(&disk.at("/d/copy")), 0o600);
    assert_eq!(names(&disk.at("/d")), ["a", "a2", "copy", "l"]);
}

#[test]
fn removing_a_folder_does_not_follow_links_out_of_it() {
    let (_dir, disk) = disk();
    std::fs::create_dir_all(disk.at("/d/e/f")).unwrap();
    std::fs::create_dir(disk.at("/outside")).unwrap();
    std::fs::write(disk.at("/outside/precious"), "x").unwrap();
    symlink(disk.at("/outside"), disk.at("/d/e/out")).unwrap();
    std::fs::write(disk.at("/d/e/f/x"), "x").unwrap();
    symlink("d", disk.at("/l")).unwrap();
    done(&disk, &Op::Remove { path: "/l/e".into() }).unwrap();
    assert_eq!(names(&disk.at("/d")), Vec::<String>::new());
    done(&disk, &Op::Remove { path: "/l".into() }).unwrap();
    done(&disk, &Op::Remove { path: "/d".into() }).unwrap();
    done(&disk, &Op::Remove { path: "/d".into() }).unwrap();
    done(&disk, &Op::Remove { path: "/gone/with/its/folder".into() }).unwrap();
    assert_eq!(names(&disk.0), ["outside"]);
    assert_eq!(names(&disk.at("/outside")), ["precious"]);
    assert!(done(&disk, &Op::Remove { path: "/".into() }).is_err());
}

#[test]
fn a_poke_is_one_write_and_explains_its_errors() {
    let (_dir, disk) = disk();
    std::fs::write(disk.at("/bind"), "").unwrap();
    let poke = |path: &str| Op::Poke { path: path.into(), value: "0000:82:00.0".into(), effects: vec![] };
    done(&disk, &poke("/bind")).unwrap();
    assert_eq!(std::fs::read_to_string(disk.at("/bind")).unwrap(), "0000:82:00.0");
    let error = done(&disk, &poke("/nothing")).unwrap_err();
    assert!(error.message.contains("can't write `0000:82:00.0` to /nothing"), "{error}");
    assert!(error.hint.is_some());
    assert_eq!(names(&disk.0), ["bind"]);
}
