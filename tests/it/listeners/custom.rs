//! Listeners with code of their own.

use std::sync::{Arc, Mutex};

use super::{config, event, is_failed, tell, with_custom};
use futures::future::BoxFuture;
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::{Aws, Listener, ListenerContext, NotifyError};
use kinto_serverless::settings::SettingError;

/// The events of the listener that was built.
static TOLD: Mutex<Vec<String>> = Mutex::new(vec![]);

#[derive(Debug)]
struct Custom(String);

impl Listener for Custom {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        assert_ne!(self.0, "panics at once");
        Box::pin(async {
            match &*self.0 {
                "panics" => panic!("on purpose"),
                "sleeps" => std::future::pending().await,
                name => TOLD.lock().unwrap().push(format!("{name} {}", event.id)),
            }
            Ok(())
        })
    }
}

fn custom(parts: ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    Ok(Arc::new(Custom(parts.require("NAME")?.to_owned())))
}

#[tokio::test]
async fn code_of_your_own_goes_before_what_is_built_in() {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let own = with_custom("sqs", &[("NAME", "mine")], &aws, &[("sqs", custom)]).unwrap();
    let event = event(&[""]);
    tell(&own, &event).await.unwrap();
    assert_eq!(*TOLD.lock().unwrap(), [format!("mine {}", event.id)]);
}

#[tokio::test(start_paused = true)]
async fn code_that_panics_or_sleeps_fails() {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    for name in ["panics", "panics at once", "sleeps"] {
        for settings in [
            &[("NAME", name)][..],
            &[("NAME", name), ("SYNCHRONOUS", "true")],
        ] {
            let listeners = with_custom("own", settings, &aws, &[("own", custom)]).unwrap();
            let told = tell(&listeners, &event(&[""])).await;
            assert!(is_failed(&told), "{name}: {told:?}");
            let told = listeners.notify_all(&[event(&[""])]).await;
            assert_eq!(told.unwrap_err().0, "a");
        }
    }
}
