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

use crate::environment::{Environment, StartError};
use crate::secrets;
use crate::settings::{SettingError, Vars};
use crate::settings_file;

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
struct FetchedVars {
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

impl FetchedVars {
    fn log(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// Fetches what the variables refer to.
async fn fetch(
    given: &Environment,
    names_secrets: NamesSecrets,
) -> Result<FetchedVars, StartError> {
    let mut vars = given.vars.clone();
    let warnings = settings_file::read(&mut vars, &given.sdk).await?;
    let secrets = names_secrets(&vars)?;
    let is_secret = |name: &str| secrets.iter().any(|secret| secret == name);
    let resolved = secrets::resolve(&mut vars, is_secret, &given.sdk).await?;
    Ok(FetchedVars {
        is_remote: resolved > 0 || given.vars.text(settings_file::KINTO_INI).is_some(),
        warnings,
        vars,
    })
}

fn max_age(vars: &Vars) -> Result<Option<Duration>, SettingError> {
    let age = vars.seconds(MAX_AGE, DEFAULT_MAX_AGE);
    let age = age.map_err(|error| vars.locate(error))?;
    Ok(Some(age).filter(|age| !age.is_zero()))
}

#[cfg(test)]
mod tests {
    use aws_config::{BehaviorVersion, Region, SdkConfig};
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use serde_json::json;
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

    use super::*;

    const SECRET: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-AbCdEf";

    /// A Secrets Manager, and a function that is no more than its key.
    struct World {
        aws: MockServer,
        environment: Environment,
        function: Warm<String>,
    }

    impl World {
        async fn start(key: &str, max_age: &str) -> Self {
            let aws = MockServer::start().await;
            holds(&aws, "first").await;
            let sdk = SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-central-1"))
                .endpoint_url(aws.uri())
                .credentials_provider(SharedCredentialsProvider::new(Credentials::for_tests()))
                .build();
            let vars = [("KEY", key), (MAX_AGE, max_age)].into_iter().collect();
            let environment = Environment::new(vars, sdk);
            let names_secrets = |_: &Vars| Ok(vec!["KEY".to_owned()]);
            let function = Warm::start(environment.clone(), names_secrets, |environment| {
                Box::pin(async move { Ok(environment.vars.require("KEY")?.to_owned()) })
            });
            Self {
                function: function.await.unwrap(),
                aws,
                environment,
            }
        }

        async fn key(&self) -> String {
            (*self.function.current().await).clone()
        }

        fn passes(&self, time: Duration) {
            let mut state = self.function.lock();
            state.not_before -= time;
            state.expires = state.expires.map(|at| at - time);
        }

        async fn fetches(&self) -> usize {
            self.aws.received_requests().await.unwrap().len()
        }
    }

    async fn holds(aws: &MockServer, secret: &str) {
        aws.reset().await;
        Mock::given(matchers::header(
            "x-amz-target",
            "secretsmanager.GetSecretValue",
        ))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"SecretString": secret})))
        .mount(aws)
        .await;
    }

    #[tokio::test]
    async fn a_refused_key_is_fetched_again_once_a_minute_at_most() {
        let world = World::start(SECRET, "3600").await;
        assert_eq!(world.key().await, "first");
        holds(&world.aws, "second").await;
        world.environment.refused.note();
        assert_eq!(world.key().await, "first");
        world.passes(MIN_PAUSE);
        assert_eq!(world.key().await, "second");
        // A far side that refuses whatever it is sent costs no more.
        for _ in 0..5 {
            world.environment.refused.note();
            assert_eq!(world.key().await, "second");
        }
        assert_eq!(world.fetches().await, 1);
    }

    #[tokio::test]
    async fn settings_are_fetched_again_when_they_are_old_and_not_before() {
        let world = World::start(SECRET, "600").await;
        holds(&world.aws, "second").await;
        world.passes(Duration::from_secs(599));
        assert_eq!(world.key().await, "first");
        world.passes(Duration::from_secs(1));
        assert_eq!(world.key().await, "second");
        assert_eq!(
            (world.key().await, world.fetches().await),
            ("second".to_owned(), 1)
        );
    }

    #[tokio::test]
    async fn a_function_whose_settings_are_as_before_is_not_made_anew() {
        let world = World::start(SECRET, "60").await;
        let before = world.function.current().await;
        world.passes(MIN_PAUSE);
        let after = world.function.current().await;
        assert!(Arc::ptr_eq(&before, &after));
        assert_eq!(world.fetches().await, 2);
    }

    #[tokio::test]
    async fn settings_that_cannot_be_read_leave_the_function_as_it_was() {
        let world = World::start(SECRET, "60").await;
        world.aws.reset().await;
        world.passes(MIN_PAUSE);
        assert_eq!(world.key().await, "first");
        holds(&world.aws, "second").await;
        assert_eq!(world.key().await, "first");
        world.passes(MIN_PAUSE);
        assert_eq!(world.key().await, "second");
    }

    #[tokio::test]
    async fn nothing_is_fetched_where_nothing_is_kept_elsewhere() {
        let world = World::start("key", "60").await;
        world.environment.refused.note();
        world.passes(Duration::from_secs(7200));
        assert_eq!(
            (world.key().await, world.fetches().await),
            ("key".to_owned(), 0)
        );
    }
}
