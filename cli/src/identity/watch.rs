//! Looking at a rotation until it has ended.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::text::progress;
use super::{ask_status, now, print};
use crate::proxy_status::ask::Server;

const PERIOD: Duration = Duration::from_secs(1);
/// How soon one that was asked for must have begun.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// How long the control plane may not answer, as while it starts again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints each change, until no rotation is under way in a state newer than `generation`.
pub(super) fn until_ended(server: &Server, generation: u64) -> Result<(), String> {
    let begin = Instant::now();
    let mut answered = Instant::now();
    let mut shown = Vec::new();
    loop {
        match ask_status(server) {
            Ok(status) => {
                answered = Instant::now();
                match &status.rotation {
                    None if status.generation > generation => {
                        print("the rotation has ended\n");
                        return Ok(());
                    }
                    None if begin.elapsed() > BEGINS_WITHIN => {
                        return Err(
                            "it does not begin; the log of the control plane says why".to_owned()
                        );
                    }
                    None => {}
                    Some(rotation) => {
                        let waiting = rotation.waiting_for.clone();
                        let stand = vec![(rotation.phase.clone(), waiting)];
                        if stand != shown {
                            print(&(progress(rotation, now()).join("\n") + "\n"));
                            shown = stand;
                        }
                    }
                }
            }
            Err(error) if answered.elapsed() > PATIENCE => return Err(error.to_string()),
            Err(_) => {}
        }
        sleep(PERIOD);
    }
}
