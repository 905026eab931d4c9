//! `kinto.plugins.openid`: users of OpenID Connect providers.
//!
//! A [`provider`] tells whose a token is; [`login`] is the way on which a browser gets one.

pub mod login;
pub mod provider;
