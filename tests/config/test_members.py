"""Member SPECs: their grammar, comma lists, and what is refused."""

from __future__ import annotations

import pytest

from pipeline.config.members import MemberRequest, parse_members
from pipeline.errors import ModelError


def member(alias: str, arch: str, weights: str | None = None, checkpoint: str | None = None, factor: float = 1.0):
    return MemberRequest(alias=alias, arch=arch, weights=weights, checkpoint=checkpoint, factor=factor)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("resnet18", member("resnet18", "resnet18")),
        (" resnet18 ", member("resnet18", "resnet18")),
        ("timm/xception41.tf_in1k", member("xception41.tf_in1k", "timm/xception41.tf_in1k")),
        ("big-1:timm/xception41*2", member("big-1", "timm/xception41", factor=2.0)),
        ("resnet18*.5", member("resnet18", "resnet18", factor=0.5)),
        ("resnet50@IMAGENET1K_V2*1e-1", member("resnet50", "resnet50", "IMAGENET1K_V2", factor=0.1)),
        ("resnet18=/w/k.pth", member("resnet18", "resnet18", checkpoint="/w/k.pth")),
        ("a:resnet18@V1=s3://b/k.pth*3", member("a", "resnet18", "V1", "s3://b/k.pth", 3.0)),
        ("resnet18=s3://b/k.pth", member("resnet18", "resnet18", checkpoint="s3://b/k.pth")),
        ("resnet18=file:///w/a:b@c=d.pth", member("resnet18", "resnet18", checkpoint="file:///w/a:b@c=d.pth")),
        ("resnet18=/w/epoch*loss=2.pth", member("resnet18", "resnet18", checkpoint="/w/epoch*loss=2.pth")),
        ("resnet18=/w/2*3/k.pth*4", member("resnet18", "resnet18", checkpoint="/w/2*3/k.pth", factor=4.0)),
        ("x:resnet18=C:k.pth", member("x", "resnet18", checkpoint="C:k.pth")),
    ],
)
def test_a_spec_is_parsed(spec: str, expected: MemberRequest):
    assert MemberRequest.parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no architecture"),
        ("a:", "no architecture"),
        ("=/w/k.pth", "no architecture"),
        ("*2", "no architecture"),
        ("timm/", "no architecture"),
        (":resnet18", "the alias is empty"),
        ("resnet18@", "the weights is empty"),
        ("resnet18@*2", "the weights is empty"),
        ("resnet18=", "the checkpoint is empty"),
        ("resnet18=*2", "the checkpoint is empty"),
        ("resnet18*", "the factor after \\* is not a number: ''"),
        ("resnet18*two", "the factor after \\* is not a number: 'two'"),
        ("resnet18*0", "the factor must be above 0"),
        ("resnet18*-1", "the factor must be above 0"),
        ("resnet18=/w/k.pth*nan", "the factor must be above 0"),
        ("resnet18*1e999", "the factor must be above 0"),
        ("my model:resnet18", "an alias is made of letters"),
        ("a:b:resnet18", "an alias is made of letters"),
        ("-a:resnet18", "an alias is made of letters"),
    ],
)
def test_a_malformed_spec_is_refused_by_name(spec: str, message: str):
    with pytest.raises(ModelError, match=message) as caught:
        MemberRequest.parse(spec)
    assert repr(spec) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_comma_lists_and_repeated_specs_add_up():
    members = parse_members(("resnet18, resnet34", "b:resnet18*2", ""))
    assert [(m.alias, m.arch) for m in members] == [
        ("resnet18", "resnet18"),
        ("resnet34", "resnet34"),
        ("b", "resnet18"),
    ]


def test_duplicate_aliases_and_no_members_are_refused():
    with pytest.raises(ModelError, match=r"two members are called 'resnet18': .* -m other:resnet18"):
        parse_members(("resnet18,resnet18=/w/k.pth",))
    with pytest.raises(ModelError, match="two members are called 'xception41'"):
        parse_members(("timm/xception41", "xception41:resnet18"))
    with pytest.raises(ModelError, match="no models"):
        parse_members((" , ",))
