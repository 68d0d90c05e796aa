use proptest::prelude::*;

use super::batch::{self, checksum};
use super::store::Store;
use super::wire::{Reader, Writer};
use super::{Broker, Cluster, Error};

fn store(id: i32) -> Store {
    let brokers = (1..=3).map(|id| Broker {
        id,
        host: format!("kafka-{id}"),
        port: 9092,
    });
    let store = Store::default();
    store.set_cluster(Cluster {
        id,
        brokers: brokers.collect(),
        partitions: 4,
    });
    store
}

#[test]
fn checksums_are_those_of_the_rfc() {
    // RFC 3720, B.4.
    assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
    assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(checksum(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
}

#[test]
fn partitions_are_led_round_and_round() {
    let cluster = store(1).cluster();
    let leaders: Vec<_> = (-1..5).map(|partition| cluster.leader(partition)).collect();
    assert_eq!(leaders, [None, Some(1), Some(2), Some(3), Some(1), None]);
    assert_eq!(Cluster::default().leader(0), None);
}

#[test]
fn only_the_leader_takes_and_gives() {
    let batch = batch::encode(&[b"a", b"b"], 1);
    assert_eq!(Store::default().add("t", 0, &batch), Err(Error::NoLeader));
    let store = store(1);
    assert_eq!(store.add("t", 0, &batch).unwrap().0, 0);
    assert_eq!(store.add("t", 0, &batch).unwrap().0, 2);
    assert_eq!(store.add("t", 3, &batch).unwrap().0, 0);
    assert_eq!(store.add("t", 1, &batch), Err(Error::NotLeader));
    assert_eq!(store.add("t", 4, &batch), Err(Error::Unknown));
    let found = store.read("t", 0, 2, 1000).unwrap();
    assert_eq!((found.end, found.records, found.batches.len()), (4, 2, 1));
    let records = batch::records(&found.batches[0]).unwrap();
    assert_eq!(records, [(2, &b"a"[..]), (3, b"b")]);
    // One at least, however little is asked for.
    assert_eq!(store.read("t", 0, 0, 0).unwrap().batches.len(), 1);
    assert!(store.read("t", 0, 4, 1000).unwrap().batches.is_empty());
    assert_eq!(
        store.read("t", 0, 5, 0).unwrap_err(),
        Error::OffsetOutOfRange
    );
    assert_eq!(store.read("t", 2, 0, 0).unwrap_err(), Error::NotLeader);
}

#[test]
fn what_was_changed_on_its_way_is_refused() {
    let mut batch = batch::encode(&[b"paid: 100"], 1);
    let last = batch.len() - 2;
    batch[last] ^= 1;
    assert_eq!(store(1).add("t", 0, &batch), Err(Error::Corrupt));
}

#[test]
fn errors_have_their_codes() {
    for error in [Error::NotLeader, Error::Full, Error::Other(87)] {
        assert_eq!(Error::check(error.code()), Err(error));
    }
    assert_eq!(Error::check(0), Ok(()));
}

proptest! {
    #[test]
    fn numbers_come_back(value: i64, unsigned: u64) {
        let mut writer = Writer::default();
        writer.signed(value).unsigned(unsigned).i64(value);
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(reader.signed(), Ok(value));
        prop_assert_eq!(reader.unsigned(), Ok(unsigned));
        prop_assert_eq!(reader.i64(), Ok(value));
        prop_assert!(reader.is_at_end());
    }

    #[test]
    fn records_come_back(values: Vec<Vec<u8>>, base in 0_i64..1_000_000) {
        prop_assume!(!values.is_empty());
        let all: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let mut bytes = batch::encode(&all, 1_700_000_000_000);
        batch::set_base(&mut bytes, base);
        let head = batch::head(&bytes).unwrap();
        prop_assert!(head.is_whole && head.is_plain);
        prop_assert_eq!((head.base, head.count), (base, values.len() as i64));
        let wanted: Vec<(i64, &[u8])> = (base..).zip(all).collect();
        prop_assert_eq!(batch::records(&bytes).unwrap(), wanted);
        let twice = bytes.repeat(2);
        prop_assert_eq!(batch::split(&twice).len(), 2);
        prop_assert_eq!(batch::split(&twice[..twice.len() - 1]).len(), 1);
    }

    #[test]
    fn nothing_that_comes_makes_it_panic(bytes: Vec<u8>) {
        let _ = batch::head(&bytes);
        let _ = batch::records(&bytes);
        let _ = batch::split(&bytes);
        let _ = Reader::new(&bytes).array(Reader::text);
        let _ = super::requests::Head::read(&mut Reader::new(&bytes));
    }
}
