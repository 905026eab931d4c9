"""Exceptions from the comparison with the real signer, each with its reason. Every other difference is a fault."""

# Observations that are not compared.
LEFT_OUT = {
    "updates by the stack": "ours writes the source only when its status or its editor changes, so that its writers do not queue at one item. The "
    "real signer writes it at each write of a record, and once for each target that it signs. Only the presence of these entries in the history "
    "is compared",
    "records that a rollback takes back": "in ours the history of the source's bucket has an entry of each. The real signer has them in the history of "
    "the destination's bucket, under the destination's URIs",
    "metadata of a deleted source": "when a source is deleted, the real signer publishes metadata that were never signed; ours publishes none",
    "times after a rollback": "the real signer restores records under old times, so clients that poll the preview never hear of them; ours uses new times",
}

# Steps that the walks leave out.
NOT_DONE = {
    "a command in a batch during a review, or without a preview": "ours carries out a batch in order. The real signer uses the status before "
    "the batch, and the writes take precedence over the command",
    "a source made where something is published already": "when a source's bucket is deleted, its publications stay. In the real signer the new, empty "
    "source empties them without a review. Ours signs them unchanged, and the first approval changes them",
    "a command where what it publishes to is gone": "ours answers 400, except to to-sign, which creates it again; the real signer goes on, with nothing to show",
    "a JSON patch that requests a review, or asks for a diff": "the real signer answers 500; ours carries it out",
    "a field `deleted` of a list or an object without members": "JavaScript treats it as true, so ours does not publish the record; Python does not",
    "a source made again after its groups were changed": "in the real signer, members of the deleted source's groups are again in the new source's groups; "
    "in ours only the listed members are",
}
