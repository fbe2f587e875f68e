"""What follows a question mark in a member's SPEC, and commas in paths."""

from __future__ import annotations

import pytest

from pipeline.config.member_options import NORMALISATIONS, MemberOptions
from pipeline.config.members import MemberRequest, parse_members
from pipeline.config.settings import LabelConfig
from pipeline.errors import ModelError


@pytest.mark.parametrize(
    ("spec", "checkpoint", "options"),
    [
        ("r=f.pth?resize=256&crop=224", "f.pth", {"resize": 256, "crop": 224}),
        ("r=f.pth?interp=bicubic&fit=squash", "f.pth", {"interp": "bicubic", "fit": "squash"}),
        ("r=f.pth?mean=imagenet", "f.pth", dict(zip(("mean", "std"), NORMALISATIONS["imagenet"], strict=True))),
        ("r=f.pth?mean=0.5&std=0.1/0.2/0.3", "f.pth", {"mean": (0.5, 0.5, 0.5), "std": (0.1, 0.2, 0.3)}),
        ("r=f.pth?mean=clip&std=1", "f.pth", {"mean": NORMALISATIONS["clip"][0], "std": (1.0, 1.0, 1.0)}),
        ("r=f.pth?key=model_ema&ema=false", "f.pth", {"key": "model_ema", "ema": False}),
        ("googlenet=f.pth?transform_input=false", "f.pth", {"transform_input": False}),
        ("r=s3://b/k?.pth", "s3://b/k?.pth", {}),
        ("r=what?.pth?crop=64", "what?.pth", {"crop": 64}),
        ('r="a,b*2@c?crop=1.pth"', "a,b*2@c?crop=1.pth", {}),
        ('r="a,b.pth"?crop=64', "a,b.pth", {"crop": 64}),
        ("timm/x?crop=288", None, {"crop": 288}),
    ],
)
def test_options_follow_a_question_mark(spec, checkpoint, options):
    for text, factor in ((spec, 1.0), (f"{spec}*3", 3.0)):
        found = MemberRequest.parse(text)
        assert (found.checkpoint, found.factor, found.options) == (checkpoint, factor, MemberOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("krop=2", "unknown option 'krop'; did you mean crop?"),
        ("wanted=2", "unknown option 'wanted'; there are resize, crop,"),
        ("crop=0", "crop=0 cannot be; it takes a number of pixels"),
        ("crop=2.5", "crop=2.5 cannot be"),
        ("crop=", "crop has no value; it takes a number of pixels"),
        ("crop=2&crop=3", "crop is there twice"),
        ("interp=cubic", "interp=cubic cannot be; it takes nearest, bilinear, bicubic, lanczos"),
        ("mean=123.675", "mean=123.675 cannot be; it takes imagenet, inception, clip, none, or one or three numbers"),
        ("mean=0.1,0.2", "mean=0.1,0.2 cannot be"),
        ("std=0", "std=0 cannot be; it takes one or three numbers above 0"),
        ("mean=0.5", "mean without std; say both, or one of mean=imagenet, inception, clip, none"),
        ("std=0.5", "std without mean; say both"),
        ("ema=perhaps", "ema=perhaps cannot be; it takes true, false"),
    ],
)
def test_options_that_cannot_be_are_one_line(options, message):
    with pytest.raises(ModelError) as raised:
        parse_members((f"r=f.pth?{options}",))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "checkpoints"),
    [
        ("a=x.pth,b=y.pth", ["x.pth", "y.pth"]),
        ("a=x,1.pth,b=y.safetensors", ["x,1.pth", "y.safetensors"]),
        ('a="x,y",b', ["x,y", None]),
        ("a=x.pth?mean=0.4,0.5,0.6&std=1&crop=9*2,b", ["x.pth", None]),
        (["a=x,y.ckpt?crop=9", "b"], ["x,y.ckpt", None]),
        ("resnet18.a1_in1k,b", [None, None]),
    ],
)
def test_commas_separate_members_and_may_be_in_paths(model, checkpoints):
    config = LabelConfig(inputs=("in",), out="out", model=model)
    assert [member.checkpoint for member in config.members] == checkpoints
