use std::io::Write as _;

use super::*;

#[test]
fn a_challenge_says_for_what() {
    let challenge = r#"Bearer realm="admin.weft.dev", verb="operate", namespace="mesh""#;
    let wanted = Wanted::of(challenge).unwrap();
    assert_eq!(wanted.verb, "operate");
    assert_eq!(wanted.namespace, "mesh");
    assert_eq!(wanted.account(), ("weft-operator", "weft-operate"));
    for wrong in [
        "",
        "Basic realm=\"admin.weft.dev\"",
        r#"Bearer realm="registry", verb="operate", namespace="mesh""#,
        r#"Bearer realm="admin.weft.dev", verb="all", namespace="mesh""#,
        r#"Bearer realm="admin.weft.dev", verb="operate""#,
        r#"Bearer realm="admin.weft.dev", verb="operate", namespace="a/b""#,
        r#"Bearer realm="admin.weft.dev", verb="operate", namespace="""#,
    ] {
        assert_eq!(Wanted::of(wrong), None, "{wrong}");
    }
}

#[test]
fn a_file_has_one_token() {
    let mut file = tempfile();
    writeln!(file.1, "abc.def").unwrap();
    assert_eq!(read(&file.0).unwrap(), "abc.def");
    write!(file.1, "two lines").unwrap();
    assert!(matches!(read(&file.0), Err(TokenError::NoToken(_))));
    std::fs::write(&file.0, "x".repeat(MAX_TOKEN as usize + 1)).unwrap();
    assert!(matches!(read(&file.0), Err(TokenError::NoToken(_))));
    std::fs::write(&file.0, "\n").unwrap();
    assert!(matches!(read(&file.0), Err(TokenError::NoToken(_))));
    std::fs::remove_file(&file.0).unwrap();
    assert!(matches!(read(&file.0), Err(TokenError::File { .. })));
}

fn tempfile() -> (PathBuf, File) {
    let name = format!("weft-token-{}-{:x}", std::process::id(), fastrand::u64(..));
    let path = std::env::temp_dir().join(name);
    let file = File::create_new(&path).unwrap();
    (path, file)
}
