//! The debounce window, and functions that are stopped at any point.

use std::time::Duration;

use super::{World, by_hand, clock, killed_after, seconds, versions};
use kinto_local::megaphone::ReceivedBroadcast;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn the_first_change_is_told_at_once_and_the_latest_at_the_end_of_each_window() {
    let world = World::new(&[("mp", &[("DEBOUNCE_SECONDS", "300")])])
        .await
        .consuming();
    for timestamp in 1..=10 {
        world.change(timestamp).await;
        sleep(Duration::from_secs(55)).await;
    }
    world.settled().await;
    let arrivals = world.receiver().arrivals();
    assert_eq!(versions(&arrivals), [1, 6, 10]);
    assert_eq!(seconds(&arrivals, world.begin), [0, 300, 600]);
    // After a quiet time the next broadcast is sent at once again.
    sleep(Duration::from_secs(1000)).await;
    let begin = Instant::now();
    world.change(11).await;
    world.settled().await;
    let last = world.receiver().arrivals().pop().unwrap();
    assert_eq!(versions(std::slice::from_ref(&last)), [11]);
    assert!(last.at.duration_since(begin) < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn without_a_window_every_change_is_told_at_once() {
    let world = World::new(&[("mp", &[])]).await.consuming();
    for timestamp in 1..=3 {
        world.change(timestamp).await;
        world.settled().await;
    }
    assert_eq!(versions(&world.receiver().arrivals()), [1, 2, 3]);
    assert!(world.begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_stopped_anywhere_neither_loses_a_broadcast_nor_breaks_the_window() {
    const WINDOW: Duration = Duration::from_secs(60);
    for waits in 0.. {
        let world = World::new(&[("mp", &[("DEBOUNCE_SECONDS", "60")])]).await;
        world.change(1).await;
        let stopped = killed_after(
            waits,
            world.broadcaster.handle_at(by_hand(), clock(world.begin)),
        );
        let ended = stopped.await.is_some();
        let world = world.consuming();
        world.change(2).await;
        world.settled().await;
        let arrivals = world.receiver().arrivals();
        let told = versions(&arrivals);
        assert!(
            told == [2] || told == [1, 2],
            "stopped after {waits} waits: {told:?}"
        );
        let apart = |pair: &[ReceivedBroadcast]| pair[1].at.duration_since(pair[0].at) >= WINDOW;
        assert!(
            arrivals.windows(2).all(apart),
            "stopped after {waits} waits"
        );
        if ended {
            assert!(
                waits >= 3,
                "it waits for the table, Megaphone and the table"
            );
            break;
        }
    }
}
