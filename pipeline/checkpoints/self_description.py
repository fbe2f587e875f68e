"""What a file of weights says of itself: its architecture, its preprocessing, the names of its classes.

It is said in the metadata of a safetensors file, in ``config.json`` and ``preprocessor_config.json`` beside it, as timm
and transformers write them, and in the arguments that timm's trainer saves with the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pipeline.checkpoints.companions import COMPANIONS, CONFIG, PROCESSOR
from pipeline.checkpoints.huggingface import HubNetwork, explain_epsilon, find_hub_network
from pipeline.checkpoints.own_recipe import (
    RecipeFacts,
    facts_of_arguments,
    facts_of_processor,
    facts_of_timm,
    is_of_timm,
    merge,
)

_TIMM_CONFIG = "pretrained_cfg"
_OF_PROCESSORS = {"image_processor_type", "feature_extractor_type", "size", "crop_size", "image_mean"}
_UNNAMED = "LABEL_"  # what transformers calls classes that nobody has named
_IMAGENET_TAG = "in1k"
_IMAGENET_CLASSES = 1000
_NOTHING = RecipeFacts()
_NO_FIELDS: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SelfDescription:
    """What a file of weights says of itself; empty where it says nothing.

    Attributes:
        architecture: Name of its architecture, without tag; that of a trainer may lack ``timm/``.
        named_in: Where that name was found.
        is_own_name: Whether that may be a name of the user's own, as trainers save it, and not of an architecture.
        recipe: Its preprocessing.
        recipe_of: The weights, as ``timm/NAME.TAG``, whose preprocessing fills what that leaves open.
        class_names: Names of its classes, in order.
        is_imagenet: Whether its classes are ImageNet's 1,000.
        model_args: Arguments of timm's constructor that its network was built with.
        hub_network: How its tensors are renamed, where it is a network of transformers; None for others.
        model_type: The kind of network of transformers that it is; empty for others.
        refusal: Why it is no classifier of one class an image; empty if it may be one.
    """

    architecture: str = ""
    named_in: str = ""
    is_own_name: bool = False
    recipe: RecipeFacts = _NOTHING
    recipe_of: str = ""
    class_names: tuple[str, ...] = ()
    is_imagenet: bool = False
    model_args: Mapping[str, Any] = field(default_factory=dict)
    hub_network: HubNetwork | None = None
    model_type: str = ""
    refusal: str = ""


def describe_itself(
    companions: Mapping[str, bytes], metadata: Mapping[str, str] = _NO_FIELDS, tree: Mapping[Any, Any] = _NO_FIELDS
) -> SelfDescription:
    """Gather what a file says of itself. Of what is beside it, what is not understood says nothing.

    Args:
        companions: Content of the files beside it, by name.
        metadata: Of a safetensors file.
        tree: What the file holds: a trainer may have saved its arguments in it.
    """
    settings, processor = (_parse_object(companions.get(name, b"")) for name in COMPANIONS)
    by_timm = _describe_timm(settings, f"{CONFIG} beside it")
    by_metadata = _describe_timm(_parse_metadata(metadata), "its metadata")
    by_hub, by_trainer = _describe_hub_network(settings), _describe_trainer(tree)
    found = (by_timm, by_metadata, by_hub, by_trainer)
    recipe = _NOTHING
    if _OF_PROCESSORS & processor.keys() and _TIMM_CONFIG not in settings:
        recipe = facts_of_processor(processor, f"{PROCESSOR} beside it")
    for description in found:
        recipe = merge(recipe, description.recipe)
    named = next((description for description in found if description.architecture), SelfDescription())
    return SelfDescription(
        architecture=named.architecture,
        named_in=named.named_in,
        is_own_name=named.is_own_name,
        recipe=recipe,
        recipe_of=by_trainer.recipe_of,
        class_names=next((description.class_names for description in found if description.class_names), ()),
        is_imagenet=any(description.is_imagenet for description in found),
        model_args={**by_trainer.model_args, **by_timm.model_args},
        hub_network=by_hub.hub_network,
        model_type=by_hub.model_type,
        refusal=by_hub.refusal,
    )


def _describe_trainer(tree: Mapping[Any, Any]) -> SelfDescription:
    """What trainers save beside the weights: ``arch``, as timm's and PyTorch's examples do, and their arguments."""
    arguments = _fields_of(tree.get("args"))
    name = next((name for name in (tree.get("arch"), arguments.get("model")) if isinstance(name, str)), "")
    by_timm = is_of_timm(arguments)
    return SelfDescription(
        architecture=name.partition(".")[0],
        named_in="the trainer that saved it",
        is_own_name=True,
        recipe=facts_of_arguments(arguments),
        recipe_of=f"timm/{arguments['model']}" if by_timm and isinstance(arguments.get("model"), str) else "",
        model_args=_built_by_timm(arguments) if by_timm else {},
    )


def _built_by_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's ``train.py`` gives to the constructor of a network, of the arguments that change how it computes."""
    said = {"global_pool": arguments.get("gp"), "bn_eps": arguments.get("bn_eps")}
    return {name: value for name, value in said.items() if value is not None} | dict(
        _fields_of(arguments.get("model_kwargs"))
    )


def _describe_timm(settings: Mapping[str, Any], source: str) -> SelfDescription:
    """What timm's ``save_for_hf`` writes; older versions had all of it at the top level."""
    architecture = settings.get("architecture")
    nested = settings.get(_TIMM_CONFIG)
    if not isinstance(nested, Mapping):
        if not isinstance(architecture, str) or not {"input_size", "num_classes"} & settings.keys():
            return SelfDescription()
        nested = settings if "input_size" in settings else {}  # without a recipe: that of the architecture
    num_classes = settings.get("num_classes", nested.get("num_classes"))
    tag = str(nested.get("tag") or "")
    return SelfDescription(
        architecture="timm/" + architecture.partition(".")[0] if isinstance(architecture, str) else "",
        named_in=source,
        recipe=facts_of_timm(nested, source) if nested else _NOTHING,
        class_names=_names(settings.get("label_names", nested.get("label_names"))),
        is_imagenet=num_classes == _IMAGENET_CLASSES and _IMAGENET_TAG in tag,
        model_args=_fields_of(settings.get("model_args")),
    )


def _describe_hub_network(settings: Mapping[str, Any]) -> SelfDescription:
    """What transformers' ``save_pretrained`` writes."""
    network, kind = find_hub_network(settings), settings.get("model_type")
    size, problem, labels = (settings.get(name) for name in ("image_size", "problem_type", "id2label"))
    refusal = ""
    if problem not in (None, "single_label_classification"):
        refusal = f"{CONFIG} beside it says that it is trained for {problem}, and classes are labelled one an image"
    elif network and problem is None and isinstance(labels, Mapping) and len(labels) == 1:
        refusal = f"{CONFIG} beside it has one label, for which transformers trains a regression"
    elif network and (reason := explain_epsilon(settings)):
        refusal = f"{CONFIG} beside it: {reason}"
    return SelfDescription(
        architecture=network.arch if network else "",
        named_in=f"{CONFIG} beside it" if network else "",
        recipe=RecipeFacts(crop_px=size) if network and isinstance(size, int) else _NOTHING,
        class_names=_names_of_ids(labels),
        hub_network=network,
        model_type=kind if isinstance(kind, str) else "",
        refusal=refusal,
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
    """Names in a list; none if they are placeholders."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return ()
    return () if any(name.startswith(_UNNAMED) for name in value) else tuple(value)


def _names_of_ids(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON
    """Names of ``{"0": "cat", "1": "dog"}``; none where they are not complete."""
    return _names([value.get(str(index)) for index in range(len(value))]) if isinstance(value, Mapping) else ()
