//! The table of endpoints: one row says everything about one. A new read-only endpoint is one row and one handler.
//!
//! The first row that matches a path answers. Each plugin has rows of its own ([`plugins`]).

use crate::api::changes::{broadcasts, changeset, monitor, monitor_entry};
use crate::api::dispatch::endpoint::{ACTION, About, Audience, Endpoint, Handler, ServedEndpoint};
use crate::api::plugins;
use crate::api::service::operation::{
    Operation, body, described, list_parameters, reference, required, responses,
};
use crate::api::service::{hello, openapi, user_data};
use crate::api::web::cors::Exposes;
use crate::resource::Kind;
use crate::settings::ApiSettings;

static ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/",
        audience: Audience::Users,
        operation: |_, _| Operation::utility("server_info", "What the server is and can do."),
        handler: Handler::Call(|cx| Box::pin(hello::hello(cx))),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/__heartbeat__",
        operation: |_, _| {
            let mut operation =
                Operation::utility("__heartbeat__", "All that the server needs answers.");
            let unhealthy = described("Something that the server needs does not answer.");
            operation.responses.insert("503".to_owned(), unhealthy);
            operation
        },
        handler: Handler::Call(|cx| Box::pin(hello::heartbeat(cx))),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/__lbheartbeat__",
        operation: |_, _| Operation::utility("__lbheartbeat__", "The server answers."),
        handler: Handler::Call(|_| Box::pin(async { Ok(hello::lbheartbeat()) })),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/__version__",
        operation: |_, _| Operation::utility("__version__", "What is deployed."),
        handler: Handler::Call(|_| Box::pin(async { Ok(hello::version()) })),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/__api__",
        operation: |_, _| Operation::utility("get_openapi_spec", "This document."),
        handler: Handler::Call(|cx| Box::pin(openapi::handle(cx))),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/contribute.json",
        operation: |_, _| Operation::utility("contribute", "How to take part in the project."),
        handler: Handler::Call(|_| Box::pin(async { Ok(hello::contribute()) })),
        ..Endpoint::READ_ONLY
    },
    user_data::LIST,
    user_data::ENDPOINT,
    Endpoint {
        path: "/batch",
        methods: ACTION,
        operation: |_, _| Operation {
            id: "batch".to_owned(),
            tag: "Batch".to_owned(),
            is_secured: false,
            parameters: vec![required(body("Batch"))],
            consumes: &["application/json"],
            responses: {
                let refusals = [(400, ""), (406, ""), (413, ""), (415, "")];
                let mut responses = responses(&refusals);
                let mut answer = described("The responses, in the order of the requests.");
                answer["schema"] = reference("Responses");
                responses.insert("200".to_owned(), answer);
                responses
            },
        },
        handler: Handler::Batch,
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/__broadcasts__",
        is_served: has_changes,
        operation: |_, _| {
            let description = "The latest broadcast, held back for a while.";
            Operation::utility("get_broadcasts", description)
        },
        handler: Handler::Call(|cx| Box::pin(broadcasts::poll(cx))),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/broadcasts",
        is_served: |settings| settings.broadcasts_endpoint,
        operation: |_, _| {
            let description = "The same in Megaphone's place, for holders of its reader's token.";
            Operation::utility("get_megaphone_broadcasts", description)
        },
        handler: Handler::Call(|cx| Box::pin(broadcasts::broadcasts(cx))),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/buckets/monitor/collections/changes/records",
        is_served: has_changes,
        exposes: Exposes::Page,
        operation: |_, now| Operation {
            // The id that kinto-changes 4.1 generates.
            id: "get_changess".to_owned(),
            tag: "Changes".to_owned(),
            is_secured: false,
            parameters: list_parameters(true, Some(&monitor_entry::FIELDS), None, now),
            consumes: &[],
            responses: responses(&[
                (200, "Changes"),
                (304, ""),
                (307, ""),
                (400, ""),
                (406, ""),
                (412, ""),
            ]),
        },
        handler: Handler::Call(|cx| Box::pin(monitor::records(cx))),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/buckets/monitor/collections/changes/changeset",
        is_served: has_changes,
        operation: |_, _| Operation::changeset("monitor", false),
        handler: Handler::Call(|cx| Box::pin(monitor::changeset(cx))),
        ..Endpoint::READ_ONLY
    },
    Endpoint {
        path: "/buckets/{bucket_id}/collections/{collection_id}/changeset",
        about: About::Changeset,
        audience: Audience::UsersAtOnce,
        is_served: has_changes,
        operation: |_, _| Operation::changeset("collection", true),
        handler: Handler::Call(|cx| Box::pin(changeset::of_collection(cx))),
        ..Endpoint::READ_ONLY
    },
    Endpoint::list(Kind::Bucket, "/buckets", |method, now| {
        Operation::of_list(Kind::Bucket, method, now)
    }),
    Endpoint::object(Kind::Bucket, "/buckets/{id}", |method, now| {
        Operation::of_object(Kind::Bucket, method, now)
    }),
    Endpoint::list(Kind::Group, "/buckets/{bucket_id}/groups", |method, now| {
        Operation::of_list(Kind::Group, method, now)
    }),
    Endpoint::object(
        Kind::Group,
        "/buckets/{bucket_id}/groups/{id}",
        |method, now| Operation::of_object(Kind::Group, method, now),
    ),
    Endpoint::list(
        Kind::Collection,
        "/buckets/{bucket_id}/collections",
        |method, now| Operation::of_list(Kind::Collection, method, now),
    ),
    Endpoint::object(
        Kind::Collection,
        "/buckets/{bucket_id}/collections/{id}",
        |method, now| Operation::of_object(Kind::Collection, method, now),
    ),
    Endpoint::list(
        Kind::Record,
        "/buckets/{bucket_id}/collections/{collection_id}/records",
        |method, now| Operation::of_list(Kind::Record, method, now),
    ),
    Endpoint::object(
        Kind::Record,
        "/buckets/{bucket_id}/collections/{collection_id}/records/{id}",
        |method, now| Operation::of_object(Kind::Record, method, now),
    ),
];

fn has_changes(settings: &ApiSettings) -> bool {
    settings.includes.changes()
}

/// The endpoints that these settings serve, in the order in which a path is matched with them.
pub fn served(settings: &ApiSettings) -> Vec<ServedEndpoint> {
    let plugins = plugins::enabled(settings);
    let endpoints = plugins.flat_map(|plugin| plugin.endpoints).chain(ENDPOINTS);
    let served = endpoints.filter(|endpoint| (endpoint.is_served)(settings));
    served
        .map(|endpoint| ServedEndpoint::new(endpoint, settings))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dispatch::target::Target;
    use crate::resource::ObjectUri;

    fn target(path: &str) -> Option<Target> {
        let vars = [("KINTO_USERID_HMAC_SECRET", "s")].into_iter().collect();
        let settings = ApiSettings::from_vars(&vars).unwrap();
        let served = served(&settings);
        let (served, ids) = ServedEndpoint::find(path, &served)?;
        Some(served.endpoint.target(&ids))
    }

    #[test]
    fn paths_lead_to_what_they_name() {
        let records = ObjectUri::collection("a", "b").children(Kind::Record);
        let object = |uri| Target::Object { uri, is_new: false };
        assert_eq!(target("/"), Some(Target::Server));
        assert_eq!(target("/buckets/a"), Some(object(ObjectUri::bucket("a"))));
        assert_eq!(
            target("/buckets/a/collections/b/records"),
            Some(Target::List(records.clone()))
        );
        assert_eq!(
            target("/buckets/a/collections/b/records/c"),
            Some(object(records.object("c")))
        );
        let monitor = "/buckets/monitor/collections/changes";
        assert_eq!(target(&format!("{monitor}/records")), Some(Target::Server));
        assert_eq!(
            target(&format!("{monitor}/changeset")),
            Some(Target::Server)
        );
        assert_eq!(
            target("/buckets/a/collections/b/changeset"),
            Some(Target::Changeset(ObjectUri::collection("a", "b")))
        );
        for path in [
            "/buckets/a/records",
            "//buckets",
            "/buckets/",
            "/buckets//collections",
        ] {
            assert_eq!(target(path), None, "{path}");
        }
    }
}
