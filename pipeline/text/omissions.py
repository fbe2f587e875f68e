"""What lies in the inputs and has no row, or not one of its own, in words."""

from __future__ import annotations

from typing import Protocol

from pipeline.text import fmt


class Omissions(Protocol):
    """A result that counts what has no row: see :class:`pipeline.records.Omitted`."""

    @property
    def other_images(self) -> int:
        """Images of samples of which another image is labelled."""

    @property
    def other_images_example(self) -> str:
        """Name of one of them."""

    @property
    def separate_images(self) -> int:
        """Of these, those whose names look as if each were a sample."""

    @property
    def passed_over(self) -> int:
        """Members of no sample."""

    @property
    def passed_over_example(self) -> str:
        """Name of one of them."""

    @property
    def repeated_keys(self) -> int:
        """Samples whose key an earlier sample of the shard has, too."""

    @property
    def repeated_keys_example(self) -> str:
        """The key of one of them."""


def omitted_rows(found: Omissions) -> list[tuple[str, str]]:
    """A name and a sentence for each kind that was found."""
    rows = []
    if found.other_images:
        cause = "not labelled, because another image of the sample is"
        rows.append(("other images", f"{found.other_images:,} {cause}, e.g. {found.other_images_example}"))
    if found.passed_over:
        members = fmt.plural(found.passed_over, "member", "members")
        rows.append(("passed over", f"{members} of no sample, e.g. {found.passed_over_example}"))
    if found.repeated_keys:
        samples = fmt.plural(found.repeated_keys, "sample", "samples")
        cause = "with the key of an earlier one of the shard"
        rows.append(("repeated keys", f"{samples} {cause}, e.g. {found.repeated_keys_example}"))
    return rows


def advise_images_all(found: Omissions) -> str:
    """One line that proposes ``--images all`` where most images, by their names, are samples of their own; or none."""
    if 2 * found.separate_images <= found.other_images:
        return ""
    return (
        f"{fmt.plural(found.other_images, 'image is', 'images are')} not labelled, because another one has the same "
        "name up to the first dot, "
        f"e.g. {found.other_images_example}: --images all labels each of them"
    )
