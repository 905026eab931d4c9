"""Statements that change one thing in a copy of the source, which a move might lose."""

# Some of the asking users see the contents of these buckets. Nobody sees what only a deleted account could.
SEEN_FIRST = "{} !~ 'of-account[013]'"
ONE = "(SELECT ctid FROM objects WHERE {} ORDER BY " + SEEN_FIRST.format("(parent_id || '/' || id)") + ", parent_id, id LIMIT 1)"


def one(condition):
    return f"ctid = {ONE.format(condition)}"


def live(kind):
    home = {
        "record": "parent_id IN (SELECT parent_id || '/collections/' || id FROM objects AS c WHERE resource_name = 'collection' AND NOT deleted)",
        "collection": "substr(parent_id, 10) IN (SELECT id FROM objects AS b WHERE resource_name = 'bucket' AND NOT deleted)",
        "group": "substr(parent_id, 10) IN (SELECT id FROM objects AS b WHERE resource_name = 'bucket' AND NOT deleted)",
        "history": "substr(parent_id, 10) IN (SELECT id FROM objects AS b WHERE resource_name = 'bucket' AND NOT deleted)",
    }.get(kind, "true")
    return f"resource_name = '{kind}' AND NOT deleted AND {home}"


TOMBSTONE = live("record").replace("AND NOT deleted AND parent_id", "AND deleted AND parent_id", 1)
MEMBERS = f"{live('group')} AND jsonb_array_length(data->'members') > 0"
LATER = "last_modified = last_modified + interval '1 millisecond'"
# No other object of the list has this time.
AND_ALONE = """ AND NOT EXISTS (
    SELECT 1 FROM objects AS other WHERE other.parent_id = objects.parent_id AND other.resource_name = objects.resource_name
        AND other.last_modified = objects.last_modified + interval '1 millisecond')"""


def ace(kind, permission="write"):
    uri = {"bucket": "'/buckets/' || id", "account": "'/accounts/' || id"}.get(kind, f"parent_id || '/{kind}s/' || id")
    found = f"SELECT {uri} FROM objects WHERE {live(kind)}"
    order = f"{SEEN_FIRST.format('object_id')}, object_id"
    row = f"SELECT ctid FROM access_control_entries WHERE permission = '{permission}' AND object_id IN ({found}) ORDER BY {order} LIMIT 1"
    return f"ctid = ({row})"


def entry_reader():
    """A user who sees an entry of a history only by this permission: not by the bucket, not as anybody, and not as a member of a group."""
    of_bucket = "SELECT 1 FROM access_control_entries AS b WHERE b.object_id = o.parent_id AND b.permission IN ('read', 'write')"
    of_entry = "SELECT 1 FROM access_control_entries AS e WHERE e.object_id = a.object_id"
    others = "(e.principal LIKE 'system.%' OR e.principal LIKE '/buckets/%')"
    row = f"""SELECT a.ctid FROM access_control_entries AS a JOIN objects AS o ON a.object_id = o.parent_id || '/history/' || o.id
        WHERE a.permission = 'read' AND o.resource_name = 'history' AND NOT o.deleted AND (a.principal LIKE 'basicauth:%' OR a.principal ~ '^account:account[0134]$')
        AND NOT EXISTS ({of_bucket} AND (b.principal = a.principal OR b.principal LIKE 'system.%' OR b.principal LIKE '/buckets/%'))
        AND NOT EXISTS ({of_entry} AND {others})
        AND EXISTS (SELECT 1 FROM objects AS p WHERE p.resource_name = 'bucket' AND NOT p.deleted AND '/buckets/' || p.id = o.parent_id)
        ORDER BY a.object_id, a.principal LIMIT 1"""
    return f"ctid = ({row})"


DAMAGES = [
    ("a record less", f"DELETE FROM objects WHERE {one(live('record'))}"),
    ("a collection less", f"DELETE FROM objects WHERE {one(live('collection'))}"),
    ("a group less", f"DELETE FROM objects WHERE {one(live('group'))}"),
    ("a bucket less", f"DELETE FROM objects WHERE {one(live('bucket'))}"),
    ("an account less", f"DELETE FROM objects WHERE {one(live('account'))}"),
    ("a tombstone less", f"DELETE FROM objects WHERE {one(TOMBSTONE)}"),
    ("a bucket's tombstone less", f"DELETE FROM objects WHERE {one('deleted AND resource_name = ' + chr(39) + 'bucket' + chr(39))}"),
    ("a record a millisecond off", f"UPDATE objects SET {LATER} WHERE {one(live('record') + AND_ALONE)}"),
    ("a tombstone a millisecond off", f"UPDATE objects SET {LATER} WHERE {one(TOMBSTONE + AND_ALONE)}"),
    ("a bucket a millisecond off", f"UPDATE objects SET {LATER} WHERE {one(live('bucket') + AND_ALONE)}"),
    ("a field more", f"UPDATE objects SET data = data || '{{\"damage\": 1}}' WHERE {one(live('record'))}"),
    ("an integer as a text", f"UPDATE objects SET data = data || '{{\"x\": \"1\"}}' WHERE {one(live('collection'))}"),
    ("a hash swapped", f"UPDATE objects SET data = data || '{{\"password\": \"$2b$12$x\"}}' WHERE {one(live('account'))}"),
    ("a member less", f"UPDATE objects SET data = jsonb_set(data, '{{members}}', (data->'members') - 0) WHERE {one(MEMBERS)}"),
    ("a member more", f"UPDATE objects SET data = jsonb_set(data, '{{members}}', (data->'members') || '\"mallory\"') WHERE {one(MEMBERS.replace('> 0', '>= 0'))}"),
    ("a record's permission less", f"DELETE FROM access_control_entries WHERE {ace('record')}"),
    ("a bucket's permission less", f"DELETE FROM access_control_entries WHERE {ace('bucket')}"),
    ("a group's permission less", f"DELETE FROM access_control_entries WHERE {ace('group')}"),
    ("an account's permission less", f"DELETE FROM access_control_entries WHERE {ace('account')}"),
    ("a principal swapped", f"UPDATE access_control_entries SET principal = 'mallory' WHERE {ace('collection')}"),
    ("a list's time later", "UPDATE timestamps SET last_modified = now() AT TIME ZONE 'UTC' + interval '1 hour' WHERE parent_id = '' AND resource_name = 'bucket'"),
    ("a tombstone that lives", f"UPDATE objects SET deleted = false, data = '{{}}' WHERE {one(TOMBSTONE)}"),
    ("a record that is deleted", f"UPDATE objects SET deleted = true, data = '{{\"deleted\": true}}' WHERE {one(live('record'))}"),
    ("an entry of a history less", f"DELETE FROM objects WHERE {one(live('history'))}"),
    ("an entry a millisecond off", f"UPDATE objects SET {LATER} WHERE {one(live('history') + AND_ALONE)}"),
    ("an entry of another user", f"UPDATE objects SET data = data || '{{\"user_id\": \"mallory\"}}' WHERE {one(live('history'))}"),
    ("an entry's reader less", f"DELETE FROM access_control_entries WHERE {entry_reader()}"),
]
