"""What to say of samples in quarantine that may be labelled by a later run, if that asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.text import fmt

# Reasons that lie in what is installed, not in the image.
_WHEN: Mapping[str, str] = {
    "unsupported_format": "once a decoder for the format is installed",
    "decoder_crashed": "after an update of the decoders",
}
_UNREAD = ("shard_missing", "shard_forbidden", "shard_archived")  # of loose images as well


def retry_rows(quarantined: Mapping[str, int]) -> list[tuple[str, str]]:
    """A row for each reason for which trying again may help.

    Args:
        quarantined: Number of samples by reason.
    """
    return [
        ("try again", f"{quarantined[reason]:,} {reason}: {when}, with --retry {reason}")
        for reason, when in _WHEN.items()
        if quarantined.get(reason)
    ]


def unread_rows(quarantined: Mapping[str, int]) -> list[tuple[str, str]]:
    """The row about loose images that could not be read, whose reasons are those of shards; none without any.

    Args:
        quarantined: Number of samples by reason. Shards are no samples.
    """
    reasons = [reason for reason in _UNREAD if quarantined.get(reason)]
    if not reasons:
        return []
    count = sum(quarantined[reason] for reason in reasons)
    what = f"{fmt.plural(count, 'loose image')} ({', '.join(reasons)})"
    return [("not read", f"{what}: the same label command tries {'it' if count == 1 else 'them'} again")]
