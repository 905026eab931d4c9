//! Lists of objects.

mod clock;
mod deletion;
mod reading;
