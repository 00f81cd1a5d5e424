use std::net::TcpListener;

use super::*;
use crate::change::Wait;

fn for_path(path: &str, present: bool) -> Wait {
    Wait { path: Some(path.into()), present, timeout: 1, pause: 1, ..Wait::default() }
}

#[test]
fn paths() {
    let (_dir, disk) = disk();
    std::fs::write(disk.at("/log"), "ready at last\n").unwrap();
    done(&disk, &Op::Wait(for_path("/log", true))).unwrap();
    done(&disk, &Op::Wait(for_path("/other", false))).unwrap();
    done(&disk, &Op::Wait(Wait { pattern: Some("ready".into()), ..for_path("/log", true) })).unwrap();
    let error = done(&disk, &Op::Wait(for_path("/other", true))).unwrap_err();
    assert_eq!(error.message, "waited 1 s, but /other is not there");
    let error = done(&disk, &Op::Wait(Wait { message: Some("no".into()), ..for_path("/log", false) })).unwrap_err();
    assert_eq!(error.message, "no");
}

#[test]
fn ports() {
    let (_dir, disk) = disk();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let wait = Wait { host: "127.0.0.1".into(), port: Some(port), timeout: 1, present: true, ..Wait::default() };
    done(&disk, &Op::Wait(wait.clone())).unwrap();
    let greeter = std::thread::spawn(move || {
        for _ in 0..2 {
            let _ = listener.accept().unwrap().0.write_all(b"SSH-2.0-x\r\n");
        }
    });
    done(&disk, &Op::Wait(Wait { pattern: Some("^SSH-".into()), ..wait.clone() })).unwrap();
    greeter.join().unwrap();
    done(&disk, &Op::Wait(Wait { present: false, ..wait.clone() })).unwrap();
    assert!(
        done(&disk, &Op::Wait(wait)).unwrap_err().message.contains(&format!("port {port} of 127.0.0.1 is not there"))
    );
}
