"""What to say of samples in quarantine that may be labelled by a later run, if that asks for it."""

from __future__ import annotations

from collections.abc import Mapping

# Reasons that lie in what is installed, not in the image.
_WHEN: Mapping[str, str] = {
    "unsupported_format": "once a decoder for the format is installed",
    "decoder_crashed": "after an update of the decoders",
}


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
