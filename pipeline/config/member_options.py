"""What a member's SPEC says after a question mark: its preprocessing, and which tensors of its checkpoint to take."""

from __future__ import annotations

import difflib
import math
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.errors import ModelError

Channels = tuple[float, float, float]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["short", "squash"]
Activation = Literal["relu", "gelu", "silu", "tanh", "leaky_relu", "hardswish", "none"]

# Mean and standard deviation of the channels, RGB, on the range 0-1, by the name that they go by.
NORMALISATIONS: dict[str, tuple[Channels, Channels]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_MOST_PIXELS = 4096
_MOST_NORMALISED = 2.0  # of a mean or deviation; those on the range 0-255 are above


def _parse_channels(value: Any) -> Any:  # noqa: ANN401 - what a user wrote, or the parsed value
    """Three numbers from ``0.5``, ``0.485,0.456,0.406`` or the same with slashes."""
    if not isinstance(value, str):
        return value
    numbers = [float(part) for part in value.replace("/", ",").split(",")]
    if len(numbers) not in {1, 3} or not all(math.isfinite(number) for number in numbers):
        raise ValueError
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


_Pixels = Annotated[int, Field(ge=1, le=_MOST_PIXELS)]
_Numbers = Annotated[Channels, BeforeValidator(_parse_channels)]

_FORMS = {
    "resize": f"a number of pixels, 1 to {_MOST_PIXELS}",
    "crop": f"a number of pixels, 1 to {_MOST_PIXELS}",
    "interp": ", ".join(get_args(Interpolation)),
    "fit": ", ".join(get_args(Fit)),
    "mean": f"{', '.join(NORMALISATIONS)}, or one or three numbers on the range 0-1: 0.485,0.456,0.406",
    "std": "one or three numbers above 0, on the range 0-1: 0.229,0.224,0.225",
    "ema": "true, false",
    "transform_input": "true, false",
    "head": ", ".join(get_args(Activation)),
    "key": "the name of a dict in the file: state_dict, model_ema",
}


class MemberOptions(BaseModel):
    """What a SPEC says after a question mark: ``FILE?resize=256&crop=224&mean=imagenet``. None: nothing.

    Attributes:
        resize: Length of the shorter side after resizing (with ``fit`` squash, of both), pixels.
        crop: Side of the central square, pixels.
        interp: Interpolation of the resize.
        fit: ``short`` keeps the aspect ratio, ``squash`` does not.
        mean, std: Per channel, RGB, on the range 0-1.
        key: Where the tensors lie in the file.
        ema: Whether to take averaged weights.
        transform_input: Of GoogLeNet and Inception v3: whether they normalise their input to [-1, 1].
        head: The activation between the linear layers of a head that is not the architecture's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: _Pixels | None = None
    crop: _Pixels | None = None
    interp: Interpolation | None = None
    fit: Fit | None = None
    mean: _Numbers | None = None
    std: _Numbers | None = None
    key: Annotated[str, Field(min_length=1)] | None = None
    ema: bool | None = None
    transform_input: bool | None = None
    head: Activation | None = None


def parse_options(text: str, spec: str) -> MemberOptions:
    """Parse ``resize=256&crop=224``. A mean that is named brings its standard deviation along; one in numbers needs it.

    Args:
        text: The options; may be empty.
        spec: The whole SPEC, for messages.

    Raises:
        ModelError: One is unknown, is there twice, or its value cannot be.
    """
    values: dict[str, Any] = {}
    for word in text.split("&") if text else ():
        name, equals, value = word.partition("=")
        if name not in MemberOptions.model_fields:
            near = difflib.get_close_matches(name, MemberOptions.model_fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(MemberOptions.model_fields)}"
            raise ModelError(f"model {spec!r}: unknown option {name!r}; {hint}")
        if name in values:
            raise ModelError(f"model {spec!r}: {name} is there twice")
        if not equals or not value:
            raise ModelError(f"model {spec!r}: {name} has no value; it takes {_FORMS[name]}")
        values[name] = value
    if values.get("mean") in NORMALISATIONS:
        values["mean"], std = NORMALISATIONS[values["mean"]]
        values.setdefault("std", std)
    try:
        options = MemberOptions(**values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise ModelError(f"model {spec!r}: {name}={values[name]} cannot be; it takes {_FORMS[name]}") from None
    for name, numbers, least in (("mean", options.mean, -1.0), ("std", options.std, 0.0)):
        if numbers is not None and not all(least < number <= _MOST_NORMALISED for number in numbers):
            raise ModelError(f"model {spec!r}: {name}={values[name]} cannot be; it takes {_FORMS[name]}")
    if (options.mean is None) != (options.std is None):
        given, missing = ("mean", "std") if options.std is None else ("std", "mean")
        raise ModelError(
            f"model {spec!r}: {given} without {missing}; say both, or one of mean={', '.join(NORMALISATIONS)}"
        )
    return options
