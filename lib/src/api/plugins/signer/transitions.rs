//! The statuses of a source, and who may change which into which (Remote Settings).
//!
//! Stored are `signed`, `work-in-progress` and `to-review`; the others are commands, which end in one of these.

use serde_json::{Map, Value};

/// The field in which an editor writes to reviewers.
pub const EDITOR_COMMENT: &str = "last_editor_comment";
/// The field in which a reviewer answers.
pub const REVIEWER_COMMENT: &str = "last_reviewer_comment";
/// The field of a source that has its status.
pub const STATUS: &str = "status";
/// Everything is published.
pub const SIGNED: &str = "signed";
/// Something was written since.
pub const WORK_IN_PROGRESS: &str = "work-in-progress";
/// Somebody asks for what was written to be published.
pub const TO_REVIEW: &str = "to-review";
/// Publish it.
pub const TO_SIGN: &str = "to-sign";
/// Sign again what is published.
pub const TO_RESIGN: &str = "to-resign";
/// Take back what is not published.
pub const TO_ROLLBACK: &str = "to-rollback";

/// Who asked last for a review.
pub const REVIEW_REQUEST_BY: &str = "last_review_request_by";
/// The fields that the stack alone writes.
pub const TRACKING: [&str; 8] = [
    "last_edit_by",
    "last_edit_date",
    REVIEW_REQUEST_BY,
    "last_review_request_date",
    "last_review_by",
    "last_review_date",
    "last_signature_by",
    "last_signature_date",
];

/// What a write of a source is to do beside the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Nothing.
    Nothing,
    /// What was under review is so no more.
    Reject,
    /// Show reviewers what there is.
    RequestReview,
    /// Publish it.
    Approve,
    /// Sign again what is published, and keep the status, whichever it was.
    Resign,
    /// Make the source what is published.
    Rollback,
}

/// The user who writes.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// The user.
    pub id: Option<&'a str>,
    /// Whether it is one of the editors.
    pub is_editor: bool,
    /// Whether it is one of the reviewers.
    pub is_reviewer: bool,
}

/// Why a source may not be written so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400.
    Invalid(&'static str),
    /// 403.
    Forbidden(&'static str),
}

const NOT_EDITOR: Refusal = Refusal::Forbidden("Who requests a review must be one of the editors");
const NOT_REVIEWER: Refusal = Refusal::Forbidden("Who approves must be one of the reviewers");
const NO_STATUS: Refusal = Refusal::Invalid("Invalid status, or one that nobody can set");

/// A field; `null` counts as missing.
fn value<'d>(data: &'d Map<String, Value>, field: &str) -> Option<&'d Value> {
    data.get(field).filter(|value| !value.is_null())
}

/// What a write does that makes a source of `old` one of `new`.
///
/// # Errors
/// What it is refused for; statuses are looked at before the fields that the stack writes.
pub fn of_update(
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    who: Actor<'_>,
    is_reviewed: bool,
) -> Result<Transition, Refusal> {
    let step = step(old, new, who, is_reviewed)?;
    let differs = |field: &&str| value(old, field) != value(new, field);
    match TRACKING.iter().any(differs) {
        true => Err(Refusal::Invalid(
            "Fields that tell who did what are read-only",
        )),
        false => Ok(step),
    }
}

fn step(
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    who: Actor<'_>,
    is_reviewed: bool,
) -> Result<Transition, Refusal> {
    let (from, to) = (value(old, STATUS), value(new, STATUS));
    if from == to {
        return Ok(Transition::Nothing);
    }
    let Some(to) = to else {
        return Err(Refusal::Invalid("The status cannot be removed"));
    };
    let is_from = |status: &str| from.is_some_and(|from| from == status);
    match to.as_str() {
        Some(WORK_IN_PROGRESS) if is_from(TO_REVIEW) => Ok(Transition::Reject),
        Some(WORK_IN_PROGRESS) => Ok(Transition::Nothing),
        Some(TO_REVIEW) if is_reviewed && !who.is_editor => Err(NOT_EDITOR),
        Some(TO_REVIEW) => Ok(Transition::RequestReview),
        Some(TO_SIGN) if is_from(SIGNED) => Err(Refusal::Invalid("It is signed already")),
        Some(TO_SIGN) if !is_reviewed => Ok(Transition::Approve),
        Some(TO_SIGN) if !who.is_reviewer => Err(NOT_REVIEWER),
        Some(TO_SIGN) if !is_from(TO_REVIEW) => Err(Refusal::Invalid("It is not under review")),
        Some(TO_SIGN) => {
            let requested_by = value(old, REVIEW_REQUEST_BY).and_then(Value::as_str);
            match requested_by == who.id {
                true => Err(Refusal::Forbidden("Who requested a review cannot approve")),
                false => Ok(Transition::Approve),
            }
        }
        Some(TO_RESIGN) => Ok(Transition::Resign),
        Some(TO_ROLLBACK) if is_from(SIGNED) => {
            Err(Refusal::Invalid("There is nothing in progress"))
        }
        Some(TO_ROLLBACK) => Ok(Transition::Rollback),
        _ => Err(NO_STATUS),
    }
}

/// Checks what a source is created with. It ends as signed, whatever its status says.
///
/// # Errors
/// What it is refused for.
pub fn of_creation(new: &Map<String, Value>, is_reviewed: bool) -> Result<(), Refusal> {
    match value(new, STATUS).map(Value::as_str) {
        None => {}
        Some(Some(WORK_IN_PROGRESS | TO_RESIGN | TO_ROLLBACK)) => {}
        // Nobody is in a group yet.
        Some(Some(TO_REVIEW)) if is_reviewed => return Err(NOT_EDITOR),
        Some(Some(TO_SIGN)) if is_reviewed => return Err(NOT_REVIEWER),
        Some(Some(TO_REVIEW | TO_SIGN)) => {}
        Some(_) => return Err(NO_STATUS),
    }
    match TRACKING.iter().any(|field| value(new, field).is_some()) {
        true => Err(Refusal::Invalid(
            "Fields that tell who did what are read-only",
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EDITOR: Actor<'_> = Actor {
        id: Some("editor"),
        is_editor: true,
        is_reviewer: false,
    };
    const REVIEWER: Actor<'_> = Actor {
        id: Some("reviewer"),
        is_editor: false,
        is_reviewer: true,
    };
    const ADMIN: Actor<'_> = Actor {
        id: Some("admin"),
        is_editor: false,
        is_reviewer: false,
    };
    const BOTH: Actor<'_> = Actor {
        id: Some("requester"),
        is_editor: true,
        is_reviewer: true,
    };

    fn source(status: &Value) -> Map<String, Value> {
        let source =
            json!({"status": status, "last_review_request_by": "requester", "last_edit_by": null});
        source.as_object().unwrap().clone()
    }

    /// From a status to one: `400`, `403`, or the step.
    fn outcome(
        from: &Value,
        to: &Value,
        who: Actor<'_>,
        is_reviewed: bool,
    ) -> Result<Transition, u16> {
        of_update(&source(from), &source(to), who, is_reviewed).map_err(|refusal| match refusal {
            Refusal::Invalid(_) => 400,
            Refusal::Forbidden(_) => 403,
        })
    }

    #[test]
    fn the_table_of_transitions_with_review() {
        use Transition::*;
        let stored = [SIGNED, WORK_IN_PROGRESS, TO_REVIEW];
        // For the three stored statuses; of the new one.
        type Row<'w> = (&'static str, Actor<'w>, [Result<Transition, u16>; 3]);
        let table: [Row<'_>; 15] = [
            (
                WORK_IN_PROGRESS,
                ADMIN,
                [Ok(Nothing), Ok(Nothing), Ok(Reject)],
            ),
            (
                TO_REVIEW,
                EDITOR,
                [Ok(RequestReview), Ok(RequestReview), Ok(Nothing)],
            ),
            (TO_REVIEW, REVIEWER, [Err(403), Err(403), Ok(Nothing)]),
            (TO_REVIEW, ADMIN, [Err(403), Err(403), Ok(Nothing)]),
            (TO_SIGN, REVIEWER, [Err(400), Err(400), Ok(Approve)]),
            (TO_SIGN, EDITOR, [Err(400), Err(403), Err(403)]),
            (TO_SIGN, ADMIN, [Err(400), Err(403), Err(403)]),
            (TO_SIGN, BOTH, [Err(400), Err(400), Err(403)]),
            (TO_RESIGN, ADMIN, [Ok(Resign), Ok(Resign), Ok(Resign)]),
            (TO_ROLLBACK, ADMIN, [Err(400), Ok(Rollback), Ok(Rollback)]),
            (SIGNED, REVIEWER, [Ok(Nothing), Err(400), Err(400)]),
            ("other", REVIEWER, [Err(400), Err(400), Err(400)]),
            ("", ADMIN, [Err(400), Err(400), Err(400)]),
            ("Signed", ADMIN, [Err(400), Err(400), Err(400)]),
            ("to-refresh", ADMIN, [Err(400), Err(400), Err(400)]),
        ];
        for (to, who, expected) in table {
            for (from, expected) in stored.iter().zip(expected) {
                let got = outcome(&json!(from), &json!(to), who, true);
                assert_eq!(got, expected, "{from} -> {to} by {who:?}");
            }
        }
    }

    #[test]
    fn without_review_any_writer_requests_and_approves() {
        let to = |from: &str, to: &str| outcome(&json!(from), &json!(to), ADMIN, false);
        assert_eq!(to(SIGNED, TO_REVIEW), Ok(Transition::RequestReview));
        assert_eq!(to(WORK_IN_PROGRESS, TO_SIGN), Ok(Transition::Approve));
        assert_eq!(to(TO_REVIEW, TO_SIGN), Ok(Transition::Approve));
        assert_eq!(to(SIGNED, TO_SIGN), Err(400));
    }

    #[test]
    fn a_status_is_a_text_and_cannot_be_removed() {
        for to in [json!(7), json!(false), json!({}), json!([]), json!(null)] {
            assert_eq!(outcome(&json!(SIGNED), &to, ADMIN, false), Err(400), "{to}");
        }
        // What was never signed has none.
        assert_eq!(
            outcome(&json!(null), &json!(null), ADMIN, false),
            Ok(Transition::Nothing)
        );
        assert_eq!(
            outcome(&json!(null), &json!(TO_SIGN), ADMIN, false),
            Ok(Transition::Approve)
        );
    }

    #[test]
    fn who_did_what_is_written_by_the_stack_alone() {
        let old = source(&json!(WORK_IN_PROGRESS));
        for field in TRACKING {
            let mut new = old.clone();
            new.insert(field.to_owned(), json!("other"));
            assert!(of_update(&old, &new, ADMIN, false).is_err(), "{field}");
            let mut new = old.clone();
            new.remove(field);
            let may = of_update(&old, &new, ADMIN, false).is_ok();
            assert_eq!(may, field != REVIEW_REQUEST_BY, "{field}");
        }
        let mut new = old.clone();
        new.insert("last_editor_comment".to_owned(), json!("x"));
        assert!(of_update(&old, &new, ADMIN, false).is_ok());
    }

    #[test]
    fn a_status_is_looked_at_before_who_did_what() {
        let (old, mut new) = (source(&json!(WORK_IN_PROGRESS)), source(&json!(TO_SIGN)));
        new.insert("last_edit_by".to_owned(), json!("other"));
        let refusal = of_update(&old, &new, ADMIN, true).unwrap_err();
        assert_eq!(refusal, NOT_REVIEWER);
    }

    #[test]
    fn a_source_is_created_as_signed() {
        let create = |status: &Value, is_reviewed| {
            let new = json!({"status": status});
            of_creation(new.as_object().unwrap(), is_reviewed)
        };
        for status in [
            json!(null),
            json!(WORK_IN_PROGRESS),
            json!(TO_RESIGN),
            json!(TO_ROLLBACK),
        ] {
            assert_eq!(create(&status, true), Ok(()), "{status}");
        }
        assert_eq!(create(&json!(TO_SIGN), true), Err(NOT_REVIEWER));
        assert_eq!(create(&json!(TO_REVIEW), true), Err(NOT_EDITOR));
        assert_eq!(create(&json!(TO_SIGN), false), Ok(()));
        assert_eq!(create(&json!(SIGNED), true), Err(NO_STATUS));
        assert_eq!(create(&json!(7), false), Err(NO_STATUS));
        let tracked = json!({"last_edit_by": "x"});
        assert!(of_creation(tracked.as_object().unwrap(), false).is_err());
    }
}
