//! The references of a schema: to parts of the schema itself, and to the published metaschemas. Nothing is fetched, and
//! nothing is looked up before it is needed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use percent_encoding::percent_decode_str;
use referencing::{Draft, SPECIFICATIONS};
use reqwest::Url;
use serde_json::Value;

/// The URI of a schema that has none of its own: references are resolved against something.
const UNNAMED: &str = "schema:///";

/// The draft that a schema names (Kinto 26.5: exactly these URIs); `None` when it names none, or an unknown one.
pub(super) fn draft_of(schema: &Value) -> Option<Draft> {
    let uri = schema.get("$schema")?.as_str()?;
    match uri.strip_suffix('#').unwrap_or(uri) {
        // The check of a schema refuses what only draft 3 has.
        "http://json-schema.org/draft-03/schema" | "http://json-schema.org/draft-04/schema" => {
            Some(Draft::Draft4)
        }
        "http://json-schema.org/draft-06/schema" => Some(Draft::Draft6),
        "http://json-schema.org/draft-07/schema" => Some(Draft::Draft7),
        "https://json-schema.org/draft/2019-09/schema" => Some(Draft::Draft201909),
        "https://json-schema.org/draft/2020-12/schema" => Some(Draft::Draft202012),
        _ => None,
    }
}

/// A schema with a URI of its own, or the whole schema.
#[derive(Debug)]
pub(super) struct Resource<'s> {
    uri: String,
    /// The schema.
    pub contents: &'s Value,
    /// Its draft.
    pub draft: Draft,
    /// The named parts of it, and whether the name is a `$dynamicAnchor`.
    anchors: HashMap<&'s str, (&'s Value, bool)>,
}

/// The place in a schema where something is evaluated.
#[derive(Clone)]
pub(super) struct Scope<'s, 'o> {
    /// The resource that references are relative to.
    pub resource: Rc<Resource<'s>>,
    /// The draft whose keywords apply.
    pub draft: Draft,
    /// The scope from which this one was entered.
    outer: Option<&'o Scope<'s, 'o>>,
}

/// The resources known so far.
pub(super) struct References<'s> {
    by_uri: RefCell<HashMap<String, Rc<Resource<'s>>>>,
    /// The same, by the address of their contents.
    by_contents: RefCell<HashMap<*const Value, Rc<Resource<'s>>>>,
}

impl<'s> References<'s> {
    /// The references of a schema, which is of `draft` unless it names another, and the resource of the whole schema.
    pub fn of(schema: &'s Value, draft: Draft) -> (Self, Rc<Resource<'s>>) {
        let references = Self {
            by_uri: RefCell::default(),
            by_contents: RefCell::default(),
        };
        let root = references.add(schema, draft, UNNAMED);
        (references, root)
    }

    /// The scope of a part of a schema in `scope`; `None` if it is the same.
    pub fn entered<'o>(&self, schema: &Value, scope: &'o Scope<'s, 'o>) -> Option<Scope<'s, 'o>> {
        let own = self
            .by_contents
            .borrow()
            .get(&std::ptr::from_ref(schema))
            .cloned();
        let own = own.filter(|own| !Rc::ptr_eq(own, &scope.resource));
        let draft = draft_of(schema).unwrap_or(scope.draft);
        if own.is_none() && draft == scope.draft {
            return None;
        }
        Some(Scope {
            resource: own.unwrap_or_else(|| Rc::clone(&scope.resource)),
            draft,
            outer: Some(scope),
        })
    }

    /// The target of a reference in `scope`, and the scope of that target; `None` if there is none.
    pub fn lookup<'o>(
        &self,
        reference: &str,
        scope: &'o Scope<'s, 'o>,
    ) -> Option<(&'s Value, Scope<'s, 'o>)> {
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let mut resource = match uri {
            "" => Rc::clone(&scope.resource),
            _ => self.resource(&join(&scope.resource.uri, uri))?,
        };
        let mut contents = resource.contents;
        let fragment = percent_decode_str(fragment).decode_utf8().ok()?;
        if let Some(pointer) = fragment.strip_prefix('/') {
            for segment in pointer.split('/') {
                contents = match contents {
                    Value::Array(values) => values.get(segment.parse::<usize>().ok()?)?,
                    _ => contents.get(segment.replace("~1", "/").replace("~0", "~"))?,
                };
                let inner = self
                    .by_contents
                    .borrow()
                    .get(&std::ptr::from_ref(contents))
                    .cloned();
                resource = inner.unwrap_or(resource);
            }
        } else if !fragment.is_empty() {
            let (anchored, is_dynamic) = *resource.anchors.get(&*fragment)?;
            contents = anchored;
            if is_dynamic {
                (contents, resource) = outermost(&fragment, scope, contents, resource);
            }
        }
        let draft = draft_of(contents).unwrap_or(resource.draft);
        let scope = Scope {
            resource,
            draft,
            outer: Some(scope),
        };
        Some((contents, scope))
    }

    /// The target of `$recursiveRef`: the outermost of the enclosing schemas that have `$recursiveAnchor`.
    pub fn lookup_recursive<'o>(&self, scope: &'o Scope<'s, 'o>) -> (&'s Value, Scope<'s, 'o>) {
        let is_recursive = |resource: &Resource<'_>| {
            resource.contents.get("$recursiveAnchor") == Some(&Value::Bool(true))
        };
        let mut resource = &scope.resource;
        let mut around = Some(scope);
        while let Some(scope) = around.filter(|scope| is_recursive(&scope.resource)) {
            resource = &scope.resource;
            around = scope.outer;
        }
        let scope = Scope {
            resource: Rc::clone(resource),
            draft: resource.draft,
            outer: Some(scope),
        };
        (resource.contents, scope)
    }

    /// The resource with this URI: part of the schema, or a metaschema.
    fn resource(&self, uri: &str) -> Option<Rc<Resource<'s>>> {
        if let Some(known) = self.by_uri.borrow().get(uri) {
            return Some(Rc::clone(known));
        }
        let parsed = referencing::uri::from_str(uri).ok()?;
        let metaschema = SPECIFICATIONS.resolver(parsed).lookup("#").ok()?.contents();
        let draft = draft_of(metaschema)?;
        Some(self.add(metaschema, draft, uri))
    }

    /// Adds a schema and everything in it; `uri` is its URI, or the base of its own.
    fn add(&self, schema: &'s Value, draft: Draft, uri: &str) -> Rc<Resource<'s>> {
        let uri = id_of(schema, draft).map_or_else(|| uri.to_owned(), |id| join(uri, id));
        let mut anchors = HashMap::new();
        self.collect(schema, draft, &uri, &mut anchors);
        let resource = Rc::new(Resource {
            uri: uri.clone(),
            contents: schema,
            draft,
            anchors,
        });
        // Of two with the same URI the outer one counts, which is added last.
        self.by_uri.borrow_mut().insert(uri, Rc::clone(&resource));
        let address = std::ptr::from_ref(schema);
        self.by_contents
            .borrow_mut()
            .insert(address, Rc::clone(&resource));
        resource
    }

    /// Collects the names of a schema and its parts, and adds the parts that are resources of their own.
    fn collect(
        &self,
        schema: &'s Value,
        draft: Draft,
        uri: &str,
        anchors: &mut HashMap<&'s str, (&'s Value, bool)>,
    ) {
        let text = |keyword: &str| schema.get(keyword).and_then(Value::as_str);
        let of_id = text(draft.id_keyword()).filter(|_| draft <= Draft::Draft7);
        let of_id = of_id.and_then(|id| id.strip_prefix('#'));
        let anchor = text("$anchor").filter(|_| draft >= Draft::Draft201909);
        let dynamic = text("$dynamicAnchor").filter(|_| draft >= Draft::Draft202012);
        for (name, is_dynamic) in [(of_id, false), (anchor, false), (dynamic, true)] {
            if let Some(name) = name {
                anchors.entry(name).or_insert((schema, is_dynamic));
            }
        }
        for part in draft.subresources_of(schema) {
            let draft = draft_of(part).unwrap_or(draft);
            match id_of(part, draft) {
                Some(_) => _ = self.add(part, draft, uri),
                None => self.collect(part, draft, uri, anchors),
            }
        }
    }
}

impl<'s> Scope<'s, '_> {
    /// The scope of the whole schema.
    pub fn of(root: Rc<Resource<'s>>) -> Self {
        Self {
            draft: root.draft,
            resource: root,
            outer: None,
        }
    }
}

/// The part of the outermost enclosing schema with a `$dynamicAnchor` of this name, else the reference's own target.
fn outermost<'s>(
    name: &str,
    scope: &Scope<'s, '_>,
    mut contents: &'s Value,
    mut resource: Rc<Resource<'s>>,
) -> (&'s Value, Rc<Resource<'s>>) {
    let mut around = Some(scope);
    while let Some(scope) = around {
        if let Some((anchored, true)) = scope.resource.anchors.get(name) {
            contents = anchored;
            resource = Rc::clone(&scope.resource);
        }
        around = scope.outer;
    }
    (contents, resource)
}

/// The URI that a schema gives itself; up to draft 7, nothing beside a `$ref` counts.
fn id_of(schema: &Value, draft: Draft) -> Option<&str> {
    if draft <= Draft::Draft7 && schema.get("$ref").is_some() {
        return None;
    }
    let id = schema.get(draft.id_keyword())?.as_str()?;
    let id = id.trim_end_matches('#');
    (!id.is_empty() && !id.starts_with('#')).then_some(id)
}

/// The URI of a reference without its fragment; a text that is no URI stands for itself.
fn join(base: &str, reference: &str) -> String {
    let base = Url::parse(base).or_else(|_| Url::parse(UNNAMED));
    match base.and_then(|base| base.join(reference)) {
        Ok(mut url) => {
            url.set_fragment(None);
            url.into()
        }
        Err(_) => reference.to_owned(),
    }
}
