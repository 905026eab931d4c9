//! `unevaluatedProperties` and `unevaluatedItems`: which parts of a value other keywords evaluate.

use std::collections::HashSet;

use referencing::Draft;
use serde_json::{Map, Value};

use super::Evaluation;
use crate::api::objects::schema::at::{EvaluationResult, Instance};
use crate::api::objects::schema::failure::Failure;
use crate::api::objects::schema::references::Scope;

impl<'s> Evaluation<'s, '_> {
    /// The schemas beside and within a schema that evaluate parts of the same value.
    pub(super) fn applied<'o>(
        &self,
        schema: &'s Map<String, Value>,
        value: &Value,
        scope: &'o Scope<'s, 'o>,
    ) -> Result<Vec<(&'s Value, Scope<'s, 'o>)>, Failure> {
        let mut applied = vec![];
        for keyword in ["$ref", "$dynamicRef"] {
            if let Some(reference) = schema.get(keyword) {
                let at = Instance {
                    value,
                    place: None,
                    keyword,
                    schema,
                    scope,
                };
                applied.push(self.target(&at, reference)?);
            }
        }
        if scope.draft == Draft::Draft201909 && schema.contains_key("$recursiveRef") {
            applied.push(self.references.lookup_recursive(scope));
        }
        let mut parts: Vec<&'s Value> = vec![];
        for keyword in ["allOf", "anyOf", "oneOf"] {
            for part in schema
                .get(keyword)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                if self.is_valid(part, value, scope)? {
                    parts.push(part);
                }
            }
        }
        if let Some(condition) = schema.get("if") {
            let is_met = self.is_valid(condition, value, scope)?;
            parts.extend(Some(condition).filter(|_| is_met));
            parts.extend(schema.get(if is_met { "then" } else { "else" }));
        }
        if let (Some(Value::Object(schemas)), Value::Object(fields)) =
            (schema.get("dependentSchemas"), value)
        {
            parts.extend(
                schemas
                    .iter()
                    .filter(|(name, _)| fields.contains_key(*name))
                    .map(|(_, part)| part),
            );
        }
        for part in parts {
            let own = self.references.entered(part, scope);
            applied.push((part, own.unwrap_or_else(|| scope.clone())));
        }
        Ok(applied)
    }

    pub(super) fn evaluated_fields<'v>(
        &self,
        schema: &'s Map<String, Value>,
        fields: &'v Map<String, Value>,
        value: &Value,
        scope: &Scope<'s, '_>,
        evaluated: &mut HashSet<&'v str>,
    ) -> EvaluationResult {
        self.spend(1 + fields.len())?;
        for (name, inner) in fields {
            let is_named = !self.is_additional(schema, name)?;
            let mut is_evaluated = is_named;
            for keyword in ["additionalProperties", "unevaluatedProperties"] {
                if let Some(schema) = schema.get(keyword).filter(|_| !is_evaluated) {
                    is_evaluated = self.is_valid(schema, inner, scope)?;
                }
            }
            if is_evaluated {
                evaluated.insert(name);
            }
        }
        for (part, scope) in self.applied(schema, value, scope)? {
            if let Value::Object(part) = part {
                self.nested(|| self.evaluated_fields(part, fields, value, &scope, evaluated))?;
            }
        }
        Ok(())
    }

    pub(super) fn evaluated_items(
        &self,
        schema: &'s Map<String, Value>,
        values: &[Value],
        value: &Value,
        scope: &Scope<'s, '_>,
        evaluated: &mut HashSet<usize>,
    ) -> EvaluationResult {
        self.spend(1 + values.len())?;
        match schema.get("items") {
            Some(Value::Array(schemas)) if !schema.contains_key("additionalItems") => {
                evaluated.extend(0..schemas.len());
            }
            Some(_) => evaluated.extend(0..values.len()),
            None => {}
        }
        if let Some(Value::Array(schemas)) = schema.get("prefixItems") {
            evaluated.extend(0..schemas.len());
        }
        for keyword in ["contains", "unevaluatedItems"] {
            if let Some(schema) = schema.get(keyword) {
                for (index, inner) in values.iter().enumerate() {
                    if self.is_valid(schema, inner, scope)? {
                        evaluated.insert(index);
                    }
                }
            }
        }
        for (part, scope) in self.applied(schema, value, scope)? {
            if let Value::Object(part) = part {
                self.nested(|| self.evaluated_items(part, values, value, &scope, evaluated))?;
            }
        }
        Ok(())
    }
}
