//! Plans, text and arguments, without the kernel.

use clap::Parser;
use weft_proto::names::{PROXY_MARK, PROXY_UID};

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    init: InitArgs,
}

fn args(words: &[&str]) -> Result<InitArgs, clap::Error> {
    let words = std::iter::once(&"init").chain(words);
    Command::try_parse_from(words).map(|command| command.init)
}

fn plan(words: &[&str]) -> InterceptionPlan {
    args(words).expect("parses").plan().expect("makes sense")
}

#[test]
fn the_default_rules_read_as_documented() {
    let expected = include_str!("golden/default.nft");
    assert_eq!(rules(&plan(&[])).to_string(), expected);
}

#[test]
fn every_option_has_its_rule() {
    let expected = include_str!("golden/everything.nft");
    let plan = plan(&[
        "--outbound-port=1001",
        "--inbound-port=1002",
        "--exempt-uid=7",
        "--exempt-mark=0x2140",
        "--skip-outbound-ports=5432,25,5432",
        "--skip-inbound-ports=9000",
        "--skip-subnets=10.1.2.3/8,fd00::/8,192.168.0.1,0.0.0.0/0",
        "--skip-source-subnets=169.254.0.0/16,fe80::1",
        "--inbound-ports=8080,8443",
    ]);
    assert_eq!(rules(&plan).to_string(), expected);
}

#[test]
fn a_mark_alone_replaces_the_default_uid() {
    assert_eq!(plan(&[]), InterceptionPlan::default());
    assert_eq!(plan(&[]).exempt_uid, Some(PROXY_UID));
    assert_eq!(
        plan(&["--exempt-mark", "8512"]),
        InterceptionPlan::by_mark(PROXY_MARK)
    );
    let both = plan(&["--exempt-mark=0x2140", "--exempt-uid=2140"]);
    assert_eq!(
        (both.exempt_uid, both.exempt_mark),
        (Some(2140), Some(0x2140))
    );
}

#[test]
fn the_sentinel_comes_before_any_exemption() {
    let plan = plan(&[
        "--exempt-mark=1",
        "--exempt-uid=2",
        "--skip-subnets=0.0.0.0/0,::/0",
    ]);
    for table in rules(&plan).tables {
        let output = table.chains.iter().find(|chain| chain.hook == Hook::Output);
        let first = &output.expect("there is one").rules[0];
        assert_eq!(first.action, Action::Redirect(plan.outbound_port));
        assert!(matches!(first.matches[0], Match::Destination(_)));
    }
}

#[test]
fn without_ipv6_only_its_table_is_missing() {
    let all = rules(&InterceptionPlan::default());
    let v4 = all.clone().without_ipv6();
    assert_eq!(v4.tables, all.tables[..1]);
}

#[test]
fn bad_arguments_are_named() {
    for (word, complaint) in [
        ("--outbound-port=0", "from 1 to 65535"),
        ("--skip-outbound-ports=80,x", "from 1 to 65535"),
        ("--inbound-ports=65536", "from 1 to 65535"),
        ("--exempt-mark=0", "without a mark"),
        ("--exempt-mark=0x1ffffffff", "32 bits"),
        ("--skip-subnets=10.0.0.0/33", "not an address or subnet"),
        ("--exempt-uid=root", "invalid digit"),
    ] {
        let error = args(&[word]).expect_err(word).to_string();
        assert!(error.contains(complaint), "{word}: {error}");
        let option = word.split('=').next().expect("has one");
        assert!(error.contains(option), "{word}: {error}");
    }
    args(&["--print", "--undo"]).expect_err("one or the other");
}

#[test]
fn what_only_the_whole_can_tell_is_reported_whole() {
    let many: Vec<_> = (1..=65).map(|port: u16| port.to_string()).collect();
    let many = format!("--inbound-ports={}", many.join(","));
    let args = args(&["--outbound-port=15143", &many]).expect("parses");
    assert_eq!(
        args.plan().expect_err("two things are wrong"),
        [
            "--outbound-port and --inbound-port are both 15143",
            "--inbound-ports has 65 entries of at most 64"
        ]
    );
    let code = format!("{:?}", run(&args));
    assert_eq!(code, format!("{:?}", std::process::ExitCode::from(64)));
}
