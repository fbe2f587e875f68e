"""What a file of weights says of itself: its architecture, its preprocessing, the names of its classes.

It is said in the metadata of a safetensors file, in ``config.json`` and ``preprocessor_config.json`` beside it, as timm
and transformers write them, and in the arguments that timm's trainer saves with the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.companions import COMPANIONS, CONFIG, PROCESSOR
from pipeline.checkpoints.own_recipe import (
    RecipeFacts,
    facts_of_processor,
    facts_of_timm,
    facts_of_timm_arguments,
    merge,
)
from pipeline.checkpoints.reading import Checkpoint

_TIMM_CONFIG = "pretrained_cfg"
_OF_PROCESSORS = {"image_processor_type", "feature_extractor_type", "size", "crop_size", "image_mean"}
_UNNAMED = "LABEL_"  # what transformers calls classes that nobody has named
_IMAGENET_TAG = "in1k"
_IMAGENET_CLASSES = 1000
_NOTHING = RecipeFacts()


@dataclass(frozen=True, slots=True)
class SelfDescription:
    """What a file of weights says of itself; empty where it says nothing.

    Attributes:
        architecture: timm's name for its architecture, without tag.
        named_in: Where that name was found.
        recipe: Its preprocessing.
        class_names: Names of its classes, in order.
        is_imagenet: Whether its classes are ImageNet's 1,000.
    """

    architecture: str = ""
    named_in: str = ""
    recipe: RecipeFacts = _NOTHING
    class_names: tuple[str, ...] = ()
    is_imagenet: bool = False


def describe_itself(checkpoint: Checkpoint, companions: Mapping[str, bytes]) -> SelfDescription:
    """Gather what a file says of itself. Of what is beside it, what is not understood says nothing.

    Args:
        checkpoint: The file.
        companions: Content of the files beside it, by name.

    Raises:
        WeightsError: It asks for a preprocessing that is not supported.
    """
    settings, processor = (_parse_object(companions.get(name, b"")) for name in COMPANIONS)
    found = [
        _describe_timm(settings, f"{CONFIG} beside it"),
        _describe_timm(_parse_metadata(checkpoint.metadata), "its metadata"),
        SelfDescription(class_names=_names_of_ids(settings.get("id2label"))),
    ]
    recipe = _NOTHING
    if _OF_PROCESSORS & processor.keys() and _TIMM_CONFIG not in settings:
        recipe = facts_of_processor(processor, f"{PROCESSOR} beside it")
    for description in found:
        recipe = merge(recipe, description.recipe)
    arguments = _fields_of(checkpoint.tree.get("args"))
    if "crop_pct" in arguments:  # of timm's trainer, which stores None for what its user left out
        recipe = merge(recipe, facts_of_timm_arguments(arguments, "the arguments of timm's train.py in it"))
    named = next((description for description in found if description.architecture), SelfDescription())
    return SelfDescription(
        architecture=named.architecture,
        named_in=named.named_in,
        recipe=recipe,
        class_names=next((description.class_names for description in found if description.class_names), ()),
        is_imagenet=any(description.is_imagenet for description in found),
    )


def _describe_timm(settings: Mapping[str, Any], source: str) -> SelfDescription:
    """What timm's ``save_for_hf`` writes; older versions had all of it at the top level."""
    architecture = settings.get("architecture")
    nested = settings.get(_TIMM_CONFIG)
    if not isinstance(nested, Mapping):
        if not (isinstance(architecture, str) and "input_size" in settings):
            return SelfDescription()
        nested = settings
    num_classes = settings.get("num_classes", nested.get("num_classes"))
    tag = str(nested.get("tag") or "")
    return SelfDescription(
        architecture=architecture.partition(".")[0] if isinstance(architecture, str) else "",
        named_in=source,
        recipe=facts_of_timm(nested, source),
        class_names=_names(settings.get("label_names", nested.get("label_names"))),
        is_imagenet=num_classes == _IMAGENET_CLASSES and _IMAGENET_TAG in tag,
    )


def _parse_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a safetensors file, whose values are texts: objects in them are parsed."""
    parsed: dict[str, Any] = dict(metadata)
    if text := metadata.get(_TIMM_CONFIG):
        parsed[_TIMM_CONFIG] = _parse_object(text.encode())
    if names := metadata.get("label_names"):
        parsed["label_names"] = _parse(names.encode())
    return parsed


def _parse(data: bytes) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _parse_object(data: bytes) -> dict[str, Any]:
    content = _parse(data)
    return content if isinstance(content, dict) else {}


def _fields_of(value: object) -> Mapping[str, Any]:
    """The fields of an object in a checkpoint, which is read as data: of a namespace, or a dict."""
    fields = getattr(value, "state", value)
    return fields if isinstance(fields, Mapping) else {}


def _names(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON
    return tuple(value) if isinstance(value, list) and value and all(isinstance(name, str) for name in value) else ()


def _names_of_ids(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON
    """Names of ``{"0": "cat", "1": "dog"}``; none where they are not complete, or are placeholders."""
    if not isinstance(value, Mapping):
        return ()
    names = _names([value.get(str(index)) for index in range(len(value))])
    return () if any(name.startswith(_UNNAMED) for name in names) else names
