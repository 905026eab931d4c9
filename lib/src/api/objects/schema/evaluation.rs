//! Evaluation of a schema, of drafts 4 to 2020-12: whether a value matches it. The keywords and their meanings are
//! those of Python's jsonschema 4.26, with which Kinto 26.5 validates.
//!
//! A schema is evaluated as it is, without preparation: a part that no value reaches does no harm, whatever it refers
//! to. A keyword whose value does not have the form that it needs is ignored.

mod unevaluated;

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use referencing::Draft;
use serde_json::{Map, Value};

use crate::api::objects::schema::assertions::{check_number, check_size, check_type, whole};
use crate::api::objects::schema::at::{EvaluationResult, Instance, PathSegment, shown};
use crate::api::objects::schema::failure::Failure;
use crate::api::objects::schema::pattern::{self, Pattern};
use crate::api::objects::schema::references::{References, Scope, draft_of};
use crate::json::values::{canonical, equal};

/// The most schemas within one another that are evaluated at once: more than Python's stack holds.
const MAX_DEPTH: usize = 300;
/// The bytes of a text that count as one step.
const BYTES: usize = 64;
/// The cost of describing a mismatch, in steps.
const MISMATCH: usize = 10;

/// The rules of an evaluation.
#[derive(Clone, Copy, Default)]
pub(super) struct Rules<'r> {
    /// Fields that may be missing although the schema's own `required` names them.
    pub not_required: &'r [&'r str],
    /// Whether a text of the format `regex` must be a valid pattern.
    pub checks_patterns: bool,
}

/// Matches a value with a schema in at most `max_steps` steps: keywords evaluated and values compared. Returns the
/// first mismatch, or why the match cannot be decided, and the number of steps taken.
pub(super) fn evaluate(
    schema: &Value,
    value: &Value,
    rules: Rules<'_>,
    max_steps: usize,
) -> (Result<(), Failure>, usize) {
    let draft = draft_of(schema).unwrap_or(Draft::Draft202012);
    let (references, root) = References::of(schema, draft);
    let evaluation = Evaluation {
        references,
        root: schema,
        rules,
        depth: Cell::new(0),
        steps: Cell::new(0),
        max_steps,
    };
    let evaluated = evaluation.schema(schema, value, None, &Scope::of(root));
    (evaluated, evaluation.steps.get())
}

struct Evaluation<'s, 'r> {
    references: References<'s>,
    root: &'s Value,
    rules: Rules<'r>,
    depth: Cell<usize>,
    steps: Cell<usize>,
    max_steps: usize,
}

impl<'s> Evaluation<'s, '_> {
    fn spend(&self, steps: usize) -> EvaluationResult {
        self.steps.set(self.steps.get().saturating_add(steps));
        if self.steps.get() > self.max_steps {
            return Err(Failure::Unusable(
                "The schemas of this request take too long to evaluate".to_owned(),
            ));
        }
        Ok(())
    }

    /// Matches a value with a schema in `scope`.
    fn schema(
        &self,
        schema: &'s Value,
        value: &Value,
        place: Option<PathSegment<'_>>,
        scope: &Scope<'s, '_>,
    ) -> EvaluationResult {
        self.spend(1)?;
        self.depth.set(self.depth.get() + 1);
        if self.depth.get() > MAX_DEPTH {
            return Err(Failure::Unusable(
                "The schema is nested too deeply".to_owned(),
            ));
        }
        let evaluated = match self.references.entered(schema, scope) {
            Some(own) => self.keywords(schema, value, place, &own),
            None => self.keywords(schema, value, place, scope),
        };
        self.depth.set(self.depth.get() - 1);
        evaluated
    }

    fn keywords(
        &self,
        schema: &'s Value,
        value: &Value,
        place: Option<PathSegment<'_>>,
        scope: &Scope<'s, '_>,
    ) -> EvaluationResult {
        let fields = match schema {
            Value::Object(fields) => fields,
            Value::Bool(false) => {
                let problem = "Nothing is allowed here".to_owned();
                let field = match place {
                    Some(PathSegment::Field(field)) => field.to_owned(),
                    Some(PathSegment::Index(index)) => index.to_string(),
                    None => String::new(),
                };
                return Err(Failure::Mismatch { field, problem });
            }
            _ => return Ok(()),
        };
        let of = |keyword| Instance {
            value,
            place,
            keyword,
            schema: fields,
            scope,
        };
        if scope.draft <= Draft::Draft7
            && let Some(reference) = fields.get("$ref").filter(|it| !it.is_null())
        {
            return self.reference(&of("$ref"), reference);
        }
        // A keyword may read all of a text.
        let looks = match value {
            Value::String(text) => 1 + text.len() / BYTES / 4,
            _ => 1,
        };
        for (keyword, argument) in fields {
            self.spend(looks)?;
            self.keyword(&of(keyword), argument)?;
        }
        Ok(())
    }

    /// Matches with one keyword, if the draft has it.
    fn keyword(&self, at: &Instance<'_, 's, '_>, argument: &'s Value) -> EvaluationResult {
        use Draft::{Draft4, Draft6, Draft7, Draft201909, Draft202012};
        let draft = at.scope.draft;
        match at.keyword {
            "$ref" | "$dynamicRef" if at.keyword == "$ref" || draft >= Draft202012 => {
                self.reference(at, argument)
            }
            "$recursiveRef" if draft == Draft201909 => {
                let (target, scope) = self.references.lookup_recursive(at.scope);
                self.schema(target, at.value, at.place, &scope)
            }
            "allOf" | "anyOf" | "oneOf" => self.combination(at, argument),
            "not" => match self.is_valid(argument, at.value, at.scope)? {
                true => at.mismatch("Must not match the schema of `not`"),
                false => Ok(()),
            },
            "if" if draft >= Draft7 => self.condition(at, argument),
            "type" => check_type(at, argument),
            "enum" => self.one_of(at, argument),
            "const" if draft >= Draft6 => {
                self.spend(size(argument))?;
                match equal(argument, at.value) {
                    true => Ok(()),
                    false => at.mismatch(format!("{} was expected", shown(argument))),
                }
            }
            "format" if self.rules.checks_patterns && argument == "regex" => match at.value {
                Value::String(text) if self.pattern(text)?.is_none() => {
                    at.mismatch(format!("{} is not a regular expression", shown(at.value)))
                }
                _ => Ok(()),
            },
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                check_number(at, argument)
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
            | "maxProperties" => check_size(at, argument),
            "pattern" => match (argument, at.value) {
                (Value::String(pattern), Value::String(text)) => {
                    match self.is_like(pattern, text)? {
                        true => Ok(()),
                        false => {
                            at.mismatch(format!("{} does not match {pattern}", shown(at.value)))
                        }
                    }
                }
                _ => Ok(()),
            },
            "items" | "prefixItems" | "additionalItems" | "contains" | "uniqueItems"
            | "unevaluatedItems" => match at.value {
                Value::Array(values) => self.of_array(at, argument, values),
                _ => Ok(()),
            },
            "dependencies" if draft > Draft7 => Ok(()),
            "dependentRequired" | "dependentSchemas" | "unevaluatedProperties"
                if draft < Draft201909 =>
            {
                Ok(())
            }
            "propertyNames" if draft == Draft4 => Ok(()),
            _ => match at.value {
                Value::Object(fields) => self.of_object(at, argument, fields),
                _ => Ok(()),
            },
        }
    }

    fn reference(&self, at: &Instance<'_, 's, '_>, reference: &Value) -> EvaluationResult {
        let (target, scope) = self.target(at, reference)?;
        self.schema(target, at.value, at.place, &scope)
    }

    fn target<'o>(
        &self,
        at: &Instance<'_, 's, 'o>,
        reference: &Value,
    ) -> Result<(&'s Value, Scope<'s, 'o>), Failure> {
        let target = reference
            .as_str()
            .and_then(|reference| self.references.lookup(reference, at.scope));
        target.ok_or_else(|| {
            Failure::Unusable(format!(
                "{} refers to nothing that is there",
                shown(reference)
            ))
        })
    }

    fn is_valid(
        &self,
        schema: &'s Value,
        value: &Value,
        scope: &Scope<'s, '_>,
    ) -> Result<bool, Failure> {
        match self.schema(schema, value, None, scope) {
            Ok(()) => Ok(true),
            Err(Failure::Mismatch { .. }) => {
                self.spend(MISMATCH)?;
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    fn combination(&self, at: &Instance<'_, 's, '_>, argument: &'s Value) -> EvaluationResult {
        let Value::Array(schemas) = argument else {
            return Ok(());
        };
        if at.keyword == "allOf" {
            let mut schemas = schemas.iter();
            return schemas.try_for_each(|part| self.schema(part, at.value, at.place, at.scope));
        }
        let mut matched = 0;
        for schema in schemas {
            matched += usize::from(self.is_valid(schema, at.value, at.scope)?);
            if matched > 0 && at.keyword == "anyOf" {
                return Ok(());
            }
        }
        match matched {
            0 => at.mismatch(format!("{} matches none of the schemas", shown(at.value))),
            1 => Ok(()),
            _ => at.mismatch(format!(
                "{} matches more than one of the schemas",
                shown(at.value)
            )),
        }
    }

    fn condition(&self, at: &Instance<'_, 's, '_>, argument: &'s Value) -> EvaluationResult {
        let is_met = self.is_valid(argument, at.value, at.scope)?;
        match at.schema.get(if is_met { "then" } else { "else" }) {
            Some(schema) => self.schema(schema, at.value, at.place, at.scope),
            None => Ok(()),
        }
    }

    fn one_of(&self, at: &Instance<'_, 's, '_>, argument: &Value) -> EvaluationResult {
        let Value::Array(values) = argument else {
            return Ok(());
        };
        for value in values {
            self.spend(size(value))?;
            if equal(value, at.value) {
                return Ok(());
            }
        }
        at.mismatch(format!(
            "{} is not one of {}",
            shown(at.value),
            shown(argument)
        ))
    }

    /// The compiled pattern; `None` if it is not a pattern.
    fn pattern(&self, pattern: &str) -> Result<Option<Arc<Pattern>>, Failure> {
        let mut taken = 0;
        let compiled = pattern::compiled(pattern, &mut |steps| {
            taken += steps;
            self.spend(steps)
        })?;
        // A cached pattern costs the same: another process has yet to compile it, each time that it checks a value.
        if self.rules.checks_patterns && taken == 0 {
            self.spend(compiled.as_ref().map_or(0, |pattern| pattern.steps))?;
        }
        Ok(compiled)
    }

    /// Returns `true` if the pattern is found in the text.
    fn is_like(&self, pattern: &str, text: &str) -> Result<bool, Failure> {
        let unusable = |problem| Failure::Unusable(format!("{problem}: {pattern}"));
        let compiled = self.pattern(pattern)?;
        let compiled = compiled.ok_or_else(|| unusable("Not a regular expression"))?;
        let found = compiled.is_in(text, &mut |steps| self.spend(steps))?;
        found.ok_or_else(|| unusable("A pattern that takes too long"))
    }

    fn of_array(
        &self,
        at: &Instance<'_, 's, '_>,
        argument: &'s Value,
        values: &[Value],
    ) -> EvaluationResult {
        let draft = at.scope.draft;
        let each = |schema: &'s Value, from: usize| {
            let mut rest = values.iter().enumerate().skip(from);
            rest.try_for_each(|(index, value)| {
                self.schema(schema, value, Some(PathSegment::Index(index)), at.scope)
            })
        };
        let one_by_one = |schemas: &'s [Value]| {
            let mut pairs = values.iter().zip(schemas).enumerate();
            pairs.try_for_each(|(index, (value, schema))| {
                self.schema(schema, value, Some(PathSegment::Index(index)), at.scope)
            })
        };
        match (at.keyword, argument) {
            // Kinto fails on this in draft 2020-12, where it is called `prefixItems`.
            ("items", Value::Array(schemas)) => one_by_one(schemas),
            ("items", schema) => {
                let prefix = at.schema.get("prefixItems").and_then(Value::as_array);
                let prefix = prefix.filter(|_| draft >= Draft::Draft202012);
                each(schema, prefix.map_or(0, Vec::len))
            }
            ("prefixItems", Value::Array(schemas)) if draft >= Draft::Draft202012 => {
                one_by_one(schemas)
            }
            ("additionalItems", schema) => match at.schema.get("items") {
                Some(Value::Array(schemas)) => each(schema, schemas.len()),
                _ => Ok(()),
            },
            ("contains", schema) if draft >= Draft::Draft6 => self.contains(at, schema, values),
            ("uniqueItems", Value::Bool(true)) => {
                let mut seen = HashSet::new();
                for value in values {
                    self.spend(size(value))?;
                    if !seen.insert(canonical(value)) {
                        return at.mismatch(format!("{} is there twice", shown(value)));
                    }
                }
                Ok(())
            }
            ("unevaluatedItems", schema) if draft >= Draft::Draft201909 => {
                let mut evaluated = HashSet::new();
                self.evaluated_items(at.schema, values, at.value, at.scope, &mut evaluated)?;
                for (index, value) in values.iter().enumerate() {
                    if !evaluated.contains(&index) {
                        self.schema(schema, value, Some(PathSegment::Index(index)), at.scope)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn contains(
        &self,
        at: &Instance<'_, 's, '_>,
        schema: &'s Value,
        values: &[Value],
    ) -> EvaluationResult {
        let mut matched = 0;
        for value in values {
            matched += u64::from(self.is_valid(schema, value, at.scope)?);
        }
        let counts = at.scope.draft >= Draft::Draft201909;
        let bound = |keyword| at.schema.get(keyword).and_then(whole).filter(|_| counts);
        if matched < bound("minContains").unwrap_or(1) {
            return at.mismatch(format!(
                "Only {matched} items match the schema of `contains`"
            ));
        }
        if bound("maxContains").is_some_and(|most| matched > most) {
            return at.mismatch(format!("{matched} items match the schema of `contains`"));
        }
        Ok(())
    }

    fn of_object(
        &self,
        at: &Instance<'_, 's, '_>,
        argument: &'s Value,
        fields: &Map<String, Value>,
    ) -> EvaluationResult {
        let check = |schema: &'s Value, name: &str, value: &Value| {
            self.schema(schema, value, Some(PathSegment::Field(name)), at.scope)
        };
        match (at.keyword, argument) {
            ("properties", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    self.spend(1)?;
                    if let Some(value) = fields.get(name) {
                        check(schema, name, value)?;
                    }
                }
            }
            ("patternProperties", Value::Object(schemas)) => {
                for (pattern, schema) in schemas {
                    for (name, value) in fields {
                        if self.is_like(pattern, name)? {
                            check(schema, name, value)?;
                        }
                    }
                }
            }
            ("additionalProperties", schema) => {
                for (name, value) in fields {
                    self.spend(1)?;
                    if self.is_additional(at.schema, name)? {
                        if schema == &Value::Bool(false) {
                            let problem = format!("Additional properties are not allowed: {name}");
                            return at.mismatch(problem);
                        }
                        check(schema, name, value)?;
                    }
                }
            }
            ("propertyNames", schema) => {
                for name in fields.keys() {
                    let name = Value::from(name.as_str());
                    self.schema(schema, &name, at.place, at.scope)?;
                }
            }
            ("required", Value::Array(names)) => self.required(at, names, fields)?,
            (
                "dependentRequired" | "dependentSchemas" | "dependencies",
                Value::Object(of_names),
            ) => {
                self.spend(of_names.len())?;
                for (_, needed) in of_names
                    .iter()
                    .filter(|(name, _)| fields.contains_key(*name))
                {
                    match needed {
                        Value::Array(names) => self.required(at, names, fields)?,
                        schema => self.schema(schema, at.value, at.place, at.scope)?,
                    }
                }
            }
            ("unevaluatedProperties", schema) => {
                let mut evaluated = HashSet::new();
                self.evaluated_fields(at.schema, fields, at.value, at.scope, &mut evaluated)?;
                for (name, value) in fields {
                    if evaluated.contains(name.as_str()) {
                        continue;
                    }
                    if schema == &Value::Bool(false) {
                        let problem = format!("Unevaluated properties are not allowed: {name}");
                        return at.mismatch(problem);
                    }
                    check(schema, name, value)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn required(
        &self,
        at: &Instance<'_, 's, '_>,
        names: &[Value],
        fields: &Map<String, Value>,
    ) -> EvaluationResult {
        self.spend(names.len())?;
        let is_root = self
            .root
            .as_object()
            .is_some_and(|root| std::ptr::eq(root, at.schema));
        let not_required = if is_root && at.keyword == "required" {
            self.rules.not_required
        } else {
            &[]
        };
        let mut missing = names.iter().filter_map(Value::as_str);
        let missing =
            missing.find(|name| !fields.contains_key(*name) && !not_required.contains(name));
        match missing {
            Some(name) => at.mismatch_of(name, format!("\"{name}\" is a required property")),
            None => Ok(()),
        }
    }

    /// Returns `true` if neither `properties` nor `patternProperties` of a schema cover a field.
    fn is_additional(&self, schema: &Map<String, Value>, name: &str) -> Result<bool, Failure> {
        let object = |keyword| schema.get(keyword).and_then(Value::as_object);
        if object("properties").is_some_and(|schemas| schemas.contains_key(name)) {
            return Ok(false);
        }
        for pattern in object("patternProperties").into_iter().flat_map(Map::keys) {
            if self.is_like(pattern, name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Evaluates one level deeper, within the limit: the nesting may have no end.
    fn nested(&self, go: impl FnOnce() -> EvaluationResult) -> EvaluationResult {
        self.depth.set(self.depth.get() + 1);
        if self.depth.get() > MAX_DEPTH {
            return Err(Failure::Unusable(
                "The schema is nested too deeply".to_owned(),
            ));
        }
        let evaluated = go();
        self.depth.set(self.depth.get() - 1);
        evaluated
    }
}

/// The number of values in a value, itself included; a long text counts more.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(size).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(size).sum::<usize>(),
        Value::String(text) => 1 + text.len() / BYTES,
        _ => 1,
    }
}
