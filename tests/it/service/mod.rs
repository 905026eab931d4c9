//! The server itself rather than its objects. Statuses, headers and error numbers are those of Kinto 26.5.0 for the
//! same requests.

mod availability;
mod endpoints;
mod hello;
mod openapi;
mod settings_file;
mod user_data;
