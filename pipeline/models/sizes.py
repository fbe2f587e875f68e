"""The size of the input that a vision transformer was trained with, as the tables in its state dict tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pipeline.errors import WeightsError
from pipeline.models.anatomy import Anatomy

_TV_POSITIONS, _TV_PATCHES = "encoder.pos_embedding", "conv_proj.weight"
_TIMM_POSITIONS, _TIMM_PATCHES = "pos_embed", "patch_embed.proj.weight"
_TIMM_WINDOWS = "layers.0.blocks.0.attn.relative_position_bias_table"


@dataclass(frozen=True, slots=True)
class InputSize:
    """The input that tensors are made for.

    Attributes:
        input_px: Its side, pixels.
        told_by: The tensor that tells it.
        window_size: Of timm's Swin, where it is not the usual one.
    """

    input_px: int
    told_by: str
    window_size: int | None = None


def find_input_size(state: Mapping[str, torch.Tensor], anatomy: Anatomy) -> InputSize | None:
    """Find the size of the input in a state dict; None if nothing tells it.

    Args:
        state: The tensors.
        anatomy: Of the architecture.
    """
    if _TV_POSITIONS in state and _TV_PATCHES in state:
        return _of_patches(state[_TV_POSITIONS].shape[-2] - 1, state[_TV_PATCHES], _TV_POSITIONS)
    if _TIMM_POSITIONS in state and _TIMM_PATCHES in state and anatomy.prefix_tokens is not None:
        return _of_patches(
            state[_TIMM_POSITIONS].shape[-2] - anatomy.prefix_tokens, state[_TIMM_PATCHES], _TIMM_POSITIONS
        )
    if _TIMM_WINDOWS in state and anatomy.window_size and anatomy.fixed_px:
        own = _window(state[_TIMM_WINDOWS])
        if own and own != anatomy.window_size:  # as many windows as usual
            return InputSize(anatomy.fixed_px * own // anatomy.window_size, _TIMM_WINDOWS, own)
    return None


def check_tables(state: Mapping[str, torch.Tensor], anatomy: Anatomy, uri: str) -> None:
    """Refuse a vision transformer that was built otherwise than its architecture, which timm's resampling would hide.

    Args:
        state: The tensors.
        anatomy: Of the architecture.
        uri: Where they came from, for messages.

    Raises:
        WeightsError: It has no class token, no position for it, another last norm, or an input that is no square.
    """
    name = _TV_POSITIONS if _TV_POSITIONS in anatomy.shapes else _TIMM_POSITIONS
    prefix = 1 if name == _TV_POSITIONS else anatomy.prefix_tokens
    if name not in state or name not in anatomy.shapes or prefix is None:
        return
    rows, arguments = state[name].shape[-2], ""
    if _lacks("cls_token", state, anatomy):
        arguments = "'class_token': False, 'global_pool': 'avg'"
    elif not _is_square(rows - prefix) and _is_square(rows) and name == _TIMM_POSITIONS:
        arguments = "'no_embed_class': True"
    elif _lacks("norm.weight", state, anatomy) and "fc_norm.weight" in state:
        arguments = "'global_pool': 'avg'"
    elif _lacks("fc_norm.weight", state, anatomy) and "norm.weight" in state:
        arguments = "'fc_norm': False"
    if arguments:
        raise WeightsError(
            f"{uri}: its tensors are those of a network that was built with other arguments, probably {arguments}: "
            f"save it with timm's save_for_hf(network, FOLDER, model_args={{{arguments}}}), and label with -m hf:FOLDER"
        )
    if not _is_square(rows - prefix):
        raise WeightsError(
            f"{uri}: {name} has {rows - prefix} positions of patches, which are no square: "
            "networks for inputs that are not square are not supported; train it with a square one"
        )


def _lacks(name: str, state: Mapping[str, torch.Tensor], anatomy: Anatomy) -> bool:
    return name in anatomy.shapes and name not in state


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _of_patches(num_patches: int, projection: torch.Tensor, told_by: str) -> InputSize | None:
    """The size of an input that is cut into a square of so many patches."""
    side = math.isqrt(max(0, num_patches))
    return InputSize(side * projection.shape[-1], told_by) if side and side * side == num_patches else None


def _window(table: torch.Tensor) -> int | None:
    """Side of the windows of a table of relative positions, which has (2w - 1)^2 rows."""
    side = math.isqrt(table.shape[0])
    return (side + 1) // 2 if side * side == table.shape[0] and side % 2 else None
