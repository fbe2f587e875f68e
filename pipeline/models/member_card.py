"""What ``shardlabel models ARCH=FILE`` shows: a member as a job would use it, and where each part of it comes from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.models.locate import WeightsFile
from pipeline.models.weights import ResolvedMember

_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class MemberCard:
    """A member.

    Attributes:
        alias, arch, num_classes: As in :class:`pipeline.models.weights.MemberSpec`.
        file: Path or URI of its file.
        num_bytes, sha256: Of the file.
        tensors: Where its tensors lie in the file: ``state_dict``, ``model_ema``.
        head: Its head, if it is not the architecture's own; else None.
        class_names: The first of the names of its classes.
        class_names_from: Where these come from.
        input_px, resize_px, interpolation, fit, mean, std: Its preprocessing, as in
            :class:`pipeline.models.preprocessing.Recipe`.
        recipe_from: Where that comes from.
        notes: What a job would say of it, one line each.
    """

    alias: str
    arch: str
    num_classes: int
    file: str
    num_bytes: int
    sha256: str
    tensors: str
    head: str | None
    class_names: tuple[str, ...]
    class_names_from: str
    input_px: int
    resize_px: int
    interpolation: str
    fit: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    recipe_from: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Make a dict for JSON."""
        return dataclasses.asdict(self)


def make_member_card(
    member: ResolvedMember, file: WeightsFile, class_names: tuple[str, ...], class_names_from: str
) -> MemberCard:
    """Make the card of a member.

    Args:
        member: Resolved.
        file: The file of its weights.
        class_names: The names that a job of this member alone would give its classes.
        class_names_from: Why.
    """
    spec, origin = member.spec, member.origin
    geometry, head = spec.recipe.geometry, spec.network.head
    return MemberCard(
        alias=spec.alias,
        arch=spec.arch,
        num_classes=spec.num_classes,
        file=file.uri,
        num_bytes=len(file.data),
        sha256=file.sha256,
        tensors=origin.key or "the whole file",
        head=None if head is None else head.describe(),
        class_names=class_names[:_NAMES_SHOWN],
        class_names_from=class_names_from,
        input_px=geometry.crop_px,
        resize_px=geometry.resize_px,
        interpolation=geometry.interpolation,
        fit=geometry.fit,
        mean=spec.recipe.mean,
        std=spec.recipe.std,
        recipe_from=origin.recipe,
        notes=origin.notes,
    )
