//! Notes that the work on a request makes for its summary, where that is wanted.
//!
//! They are local to the task: what is deep inside a request notes something in one line, and outside
//! [`noted_by`] that does nothing.

use std::cell::RefCell;

use super::Outcome;

tokio::task_local! {
    static NOTES: RefCell<Notes>;
}

/// The notes of one request.
#[derive(Debug, Default)]
pub struct Notes {
    /// The first user that the request, or one of its batch, was known to be from.
    pub user_id: Option<String>,
    /// How often its transaction was sent, or would have been, had another write not come between.
    pub attempts: u32,
    /// The turns that it waited for.
    pub turns: u32,
    /// The number of requests in a batch; `None` for a single request.
    pub batch_size: Option<usize>,
    /// The outcomes of the requests in a batch.
    pub outcomes: Vec<Outcome>,
}

/// Runs `work`, and returns what it noted.
pub async fn noted_by<F: Future>(work: F) -> (F::Output, Notes) {
    let noted = async {
        let done = work.await;
        (done, NOTES.with(RefCell::take))
    };
    NOTES.scope(RefCell::default(), noted).await
}

/// Notes that an attempt begins.
pub fn attempt() {
    note(|notes| notes.attempts += 1);
}

/// Notes a turn that was waited for.
pub fn turn() {
    note(|notes| notes.turns += 1);
}

/// Notes who the user is.
pub fn user(id: Option<&str>) {
    note(|notes| {
        if notes.user_id.is_none() {
            notes.user_id = id.map(str::to_owned);
        }
    });
}

/// Notes the number of requests in a batch.
pub fn batch(size: usize) {
    note(|notes| notes.batch_size = Some(size));
}

/// Notes the outcomes of the requests in a batch.
pub fn outcomes(outcomes: impl IntoIterator<Item = Outcome>) {
    note(|notes| notes.outcomes = outcomes.into_iter().collect());
}

fn note(write: impl FnOnce(&mut Notes)) {
    // An error: nobody wants notes.
    _ = NOTES.try_with(|notes| write(&mut notes.borrow_mut()));
}
