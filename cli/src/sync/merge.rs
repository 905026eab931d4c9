//! The objects of a list on both sides, in the order of ids.

use std::cmp::Ordering;
use std::collections::VecDeque;

use kinto_serverless::resource::ListUri;
use kinto_serverless::store::import::ById;
use kinto_serverless::store::{Object, Store};

use super::Result;
use crate::staging::{StagedObject, Staging};

/// What both sides have under one id.
pub(super) type ObjectPair = (String, Option<StagedObject>, Option<Object>);

/// The objects of a list on both sides.
pub(super) struct Merge<'a> {
    staging: &'a Staging,
    list: &'a ListUri,
    after: String,
    source: VecDeque<StagedObject>,
    has_more: bool,
    by_id: ById,
    target: VecDeque<(String, Object)>,
    target_has_more: bool,
}

impl<'a> Merge<'a> {
    pub(super) fn new(staging: &'a Staging, store: &Store, list: &'a ListUri) -> Self {
        Self {
            staging,
            list,
            after: String::new(),
            source: [].into(),
            has_more: true,
            by_id: store.objects_by_id(list),
            target: [].into(),
            target_has_more: true,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<ObjectPair>> {
        if self.source.is_empty() && self.has_more {
            self.source = self.staging.page(self.list, &self.after)?.into();
            match self.source.back() {
                Some(last) => self.after.clone_from(&last.id),
                None => self.has_more = false,
            }
        }
        while self.target.is_empty() && self.target_has_more {
            match self.by_id.next().await? {
                Some(page) => self.target = page.into(),
                None => self.target_has_more = false,
            }
        }
        let order = match (self.source.front(), self.target.front()) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(source), Some((id, _))) => source.id.cmp(id),
        };
        let source = self.source.pop_front_if(|_| order.is_le());
        let target = self.target.pop_front_if(|_| order.is_ge());
        let id = match (&source, &target) {
            (Some(source), _) => source.id.clone(),
            (None, Some((id, _))) => id.clone(),
            (None, None) => return Ok(None),
        };
        Ok(Some((id, source, target.map(|(_, object)| object))))
    }
}
