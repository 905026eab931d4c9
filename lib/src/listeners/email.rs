//! `email`: an event is a mail.
use super::{Listener, Parts};
use crate::settings::SettingError;
use std::sync::Arc;
/// Makes the listener.
pub fn make(parts: Parts<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    Err(parts.wrong("USE", "not there yet"))
}
