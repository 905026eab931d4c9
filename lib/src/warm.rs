//! A function that stays warm for hours and follows its settings all the same: the `kinto.ini` and the secrets that they
//! refer to are fetched again.
//!
//! That happens before an event, never beside one, when the last fetch is older than `settings_max_age_seconds`, and,
//! no more than once a minute, after a far side refused our credentials. Where nothing is kept elsewhere nothing is
//! fetched. What cannot be read, or cannot be used, changes nothing: the function goes on with what it has, and the log
//! says why.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use crate::secrets::{self, RefusedCredentials};
use crate::settings::{SettingError, Vars};
use crate::settings_file;
use crate::startup::{Environment, StartError};

/// Between two fetches at least, whatever a far side answers.
const MIN_PAUSE: Duration = Duration::from_secs(60);
/// How long a fetch may keep an event waiting.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// The variable that says how old settings may be; 0: as old as the function.
const MAX_AGE: &str = "KINTO_SETTINGS_MAX_AGE_SECONDS";
/// Its default, that of AWS's own cache of secrets.
const DEFAULT_MAX_AGE: u64 = 300;

/// Names the variables that may hold secrets of the function: it may read no others.
pub type NamesSecrets = fn(&Vars) -> Result<Vec<String>, SettingError>;
/// Makes the function of its settings.
pub type Build<T> = fn(Environment) -> BoxFuture<'static, Result<T, StartError>>;

/// A function, with what it takes to make it anew.
pub struct Warm<T> {
    /// The environment as it was given: its values are still references.
    given: Environment,
    names_secrets: NamesSecrets,
    build: Build<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    function: Arc<T>,
    /// The settings that the function was made of.
    vars: Vars,
    /// When the settings are too old; `None` where they stay as they are.
    expires: Option<Instant>,
    /// Before that nothing is fetched again.
    not_before: Instant,
}

/// What was fetched.
struct Fetched {
    vars: Vars,
    /// What the log is to be told of the file.
    warnings: Vec<String>,
    /// Whether anything of it is kept elsewhere, and so may change.
    is_remote: bool,
}

impl<T> Warm<T> {
    /// Makes the function.
    ///
    /// # Errors
    /// What it refers to cannot be read; a setting is missing or wrong.
    pub async fn start(
        given: Environment,
        names_secrets: NamesSecrets,
        build: Build<T>,
    ) -> Result<Self, StartError> {
        let fetched = fetch(&given, names_secrets).await?;
        fetched.log();
        let function = build(given.with(fetched.vars.clone())).await?;
        let now = Instant::now();
        let max_age = max_age(&fetched.vars)?.filter(|_| fetched.is_remote);
        let state = State {
            function: Arc::new(function),
            expires: max_age.map(|age| now + age),
            not_before: now + MIN_PAUSE,
            vars: fetched.vars,
        };
        Ok(Self {
            given,
            names_secrets,
            build,
            state: Mutex::new(state),
        })
    }

    /// The function, for one event.
    pub async fn current(&self) -> Arc<T> {
        if self.begins_fetch() {
            match timeout(MAX_WAIT, self.renew()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the settings cannot be used; the earlier ones stay");
                }
                Err(_) => tracing::error!("the settings were not fetched within {MAX_WAIT:?}"),
            }
        }
        Arc::clone(&self.lock().function)
    }

    /// Whether it is time to fetch. Another event that comes meanwhile does not fetch as well.
    fn begins_fetch(&self) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(expires) = state.expires else {
            return false;
        };
        let is_due = now >= expires || self.given.refused.is_noted();
        if !is_due || now < state.not_before {
            return false;
        }
        // If this fails, it is tried again in a minute.
        state.not_before = now + MIN_PAUSE;
        state.expires = Some(now + MIN_PAUSE);
        true
    }

    /// Fetches the settings, and makes the function anew where they are others.
    async fn renew(&self) -> Result<(), StartError> {
        let fetched = fetch(&self.given, self.names_secrets).await?;
        self.given.refused.clear();
        if fetched.vars != self.lock().vars {
            fetched.log();
            let function = (self.build)(self.given.with(fetched.vars.clone())).await?;
            tracing::info!("the settings have changed");
            let mut state = self.lock();
            state.function = Arc::new(function);
            state.vars = fetched.vars;
        }
        let mut state = self.lock();
        // 0 means none, which was said before this function was warm.
        let max_age = max_age(&state.vars)?.unwrap_or(MIN_PAUSE);
        state.expires = Some(Instant::now() + max_age);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fetched {
    fn log(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// Fetches what the variables refer to.
async fn fetch(given: &Environment, names_secrets: NamesSecrets) -> Result<Fetched, StartError> {
    let mut vars = given.vars.clone();
    let warnings = settings_file::read(&mut vars, &given.sdk).await?;
    let secrets = names_secrets(&vars)?;
    let is_secret = |name: &str| secrets.iter().any(|secret| secret == name);
    let resolved = secrets::resolve(&mut vars, is_secret, &given.sdk).await?;
    Ok(Fetched {
        is_remote: resolved > 0 || given.vars.text(settings_file::KINTO_INI).is_some(),
        warnings,
        vars,
    })
}

fn max_age(vars: &Vars) -> Result<Option<Duration>, SettingError> {
    let age = vars.seconds(MAX_AGE, DEFAULT_MAX_AGE)?;
    Ok(Some(age).filter(|age| !age.is_zero()))
}
