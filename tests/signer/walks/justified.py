"""What is not compared, or not asked for, each with its reason. Every other difference from the real signer is a fault."""

# What is left out of a comparison.
LEFT_OUT = {
    "updates by the stack": "ours writes the source when its status or its editor changes, so that its writers do not queue at one item; the "
    "real one at each write of a record, and once for each target that is signed. Of these entries of the history only whether there are any is "
    "compared",
    "records that a rollback takes back": "the history of the source's bucket has an entry of each; the real one has them in that of the "
    "destination's bucket, under the destination's URIs",
    "metadata of a deleted source": "the real one publishes what was never signed with the deletion of a source; ours publishes none",
    "times after a rollback": "the real one writes records back under old times, of which who polls the preview never hears; ours under new ones",
}

# What the walks do not do.
NOT_DONE = {
    "a command in a batch during a review, or without a preview": "ours carries out a batch in order; the real one goes by the status before "
    "the batch, and lets the writes win over the command",
    "a source made where something is published already": "with the deletion of a source's bucket what it published stays. Made again, and empty, the "
    "source empties it in the real one, without a review; ours signs it as it is, and the first approval changes it",
    "a command where what it publishes to is gone": "400 in ours, but for to-sign, which makes it again; the real one goes on, with nothing to show",
    "a JSON patch that requests a review, or asks for a diff": "500 in the real one; ours does it",
    "a field `deleted` of a list or an object without members": "JavaScript takes it for true, so that ours does not publish the record; Python does not",
    "a source made again after its groups were changed": "who was in a group of a source that is gone is in the new one's again in the real one; "
    "in ours the members are those that are listed",
}
