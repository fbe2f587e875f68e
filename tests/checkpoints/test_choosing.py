"""Which tensors of a trainer's file are taken, and what is said of it."""

from __future__ import annotations

import re

import pytest
import torch
from trainer_files import (
    averaged_model,
    averages_of_parameters,
    choose,
    ema_pytorch,
    lightning,
    lightning_averaged,
    mmengine_averaged,
    network,
    own_averaged,
    parameters,
    timm_train,
    torchvision_train,
)

from pipeline.checkpoints import averages
from pipeline.errors import WeightsError


def is_seed(found, seed: int) -> bool:
    wanted = network(seed)
    return found.state.keys() == wanted.keys() and all(torch.equal(found.state[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("make", "average", "raw"),
    [
        (timm_train, "state_dict_ema", "state_dict"),
        (torchvision_train, "model_ema.module", "model"),
        (lightning_averaged, "state_dict.net", "current_model_state.net"),
        (ema_pytorch, "ema.ema_model", "model"),
        (mmengine_averaged, "state_dict", "ema_state_dict.module"),
        (own_averaged, "ema_state_dict.module", "state_dict"),
    ],
)
def test_averaged_weights_are_taken_and_said(make, average, raw):
    found = choose(make())
    assert is_seed(found, 1)
    assert found.key == average
    assert f"its averaged weights are taken ({average}" in found.notes[0]
    assert found.notes[0].endswith("; FILE?ema=false takes the raw ones")
    assert ("Lightning" in found.notes[0]) == (make is lightning_averaged)
    assert ("MMEngine" in found.notes[0]) == (make is mmengine_averaged)

    other = choose(make(), ema=False)
    assert is_seed(other, 0)
    assert other.key == raw
    assert not any("averaged" in note for note in other.notes)
    assert is_seed(choose(make(), key=raw), 0)
    assert is_seed(choose(make(), ema=True), 1)


@pytest.mark.parametrize("place", averages_of_parameters())
def test_averaged_parameters_get_the_buffers_of_the_raw_network(place):
    content = averages_of_parameters()[place]
    raw = "state_dict.model" if place == "state_dict.model_ema" else "state_dict"
    for options in ({}, {"ema": True}, {"key": place}):
        found = choose(content, **options)
        assert found.key == place
        assert f"its averaged weights are taken ({place}; its buffers are those of {raw})" in found.notes[0]
        wanted = network(0) | parameters(1)
        assert found.state.keys() == wanted.keys()
        assert all(torch.equal(found.state[name], value) for name, value in wanted.items())
    assert is_seed(choose(content, ema=False), 0)


SHORT = {name: value for name, value in parameters(1).items() if name != "conv1.weight"}


@pytest.mark.parametrize(
    ("place", "beside", "why"),
    [
        ("ema", {"ema": SHORT}, r"it lacks 1 tensor of the network \(conv1.weight\)"),
        ("ema", {"ema": {**parameters(1), "x": torch.ones(2)}}, r"it has tensors that the network has not \(x\)"),
        ("ema", {"ema": parameters(1) | {"bn1.weight": torch.ones(9)}}, r"other sizes than the network's \(bn1.weight"),
        ("ema.shadow_params", {"ema": {"shadow_params": list(SHORT.values())}}, "a list of 2 tensors without names"),
        ("opt.0.ema", {"opt": [{"ema": tuple(parameters(1).values())}]}, "in the order of an optimizer"),
        ("ema", {"ema": torch.nn.Linear(2, 2)}, "it is a network in a pickle .*, whose code is not run; save its"),
    ],
)
def test_an_average_that_is_not_used_is_said(place, beside, why):
    content = {"model": network(0), **beside}
    found = choose(content)
    assert is_seed(found, 0)
    assert len(found.notes) == 1
    assert re.match(rf"the average under {place} is not used: .*{why}", found.notes[0])
    with pytest.raises(WeightsError, match=rf"ema=true, but the average under {place} cannot be used: .*{why}"):
        choose(content, ema=True)
    with pytest.raises(WeightsError, match=f"what lies under {place} cannot be used: "):
        choose(content, key=place)
    assert choose(content, ema=False).notes == choose(content, key="model").notes == ()


def test_counters_of_averages_and_moments_of_optimizers_are_no_average():
    moments = {"state": {"exp_avg": [torch.ones(2, 2)]}, "ema": {"loss": torch.ones(3)}, "swa_n": torch.ones(1)}
    assert choose({"model": network(0), "optimizer": moments}).notes == ()


def test_an_average_that_is_not_there():
    with pytest.raises(WeightsError, match=r"x.pth: ema=true, but it has no averaged weights, only state_dict$"):
        choose({"state_dict": network()}, ema=True)
    with pytest.raises(WeightsError, match=r"ema=false, but it has no raw weights, only model_ema"):
        choose({"model_ema": network()}, ema=False)


def test_an_averaged_model_is_one_by_its_count():
    assert is_seed(choose(averaged_model(), ema=True), 1)
    assert is_seed(choose({"model": network(0), "other": averaged_model()}), 1)
    with pytest.raises(WeightsError, match=r"ema=false, but it has no raw weights, only module"):
        choose(averaged_model(), ema=False)


def test_a_loss_in_the_network_itself_is_passed_over():
    found = choose(network() | {"criterion.weight": torch.ones(4)})
    assert is_seed(found, 0)
    assert found.notes == ("passed over beside its weights: criterion.weight",)


@pytest.mark.parametrize("content", [{"a": {"b": {"c": {"d": network()}}}}, {"models": [network()]}])
def test_tensors_that_are_not_looked_for_are_not_denied(content):
    with pytest.raises(WeightsError, match=r"its tensors lie in lists or too deep .*, below (a|models); save"):
        choose(content)


WRAPPERS = "net network weights params module ema teacher student model_state generator checkpoint best".split()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_any_wrapper_will_do(wrapper):
    found = choose({wrapper: network(), "epoch": 3})
    assert is_seed(found, 0)
    assert found.notes == (f"its weights are those under {wrapper}",)


USUAL_PREFIXES = ["", *"module. model. _orig_mod. module._orig_mod. _orig_mod.module. _fsdp_wrapped_module.".split()]


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_usual_wrappers_and_prefixes_need_no_note(wrapper):
    for prefix in USUAL_PREFIXES:
        found = choose({wrapper: {prefix + name: value for name, value in network().items()}})
        assert is_seed(found, 0)
        assert found.notes == ()


PREFIXES = "net. backbone. encoder. network. timm_model. model.net. module.backbone.model. a.b.c.d.".split()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_will_do(prefix):
    found = choose({prefix + name: value for name, value in network().items()})
    assert is_seed(found, 0)
    assert found.notes == (f"its weights are those under {prefix[:-1]}",)


def test_what_wrappers_insert_into_names_is_left_out():
    inserted = {name.replace(".", "._checkpoint_wrapped_module.", 1): value for name, value in network().items()}
    assert is_seed(choose(inserted), 0)


def test_what_lies_beside_the_network_is_passed_over_and_said():
    found = choose(lightning())
    assert is_seed(found, 0)
    assert found.notes == (
        "its weights are those under state_dict.net",
        "passed over beside its weights: criterion.weight",
    )


def test_what_profilers_and_averages_add_is_left_out():
    counted = network() | {"total_ops": torch.ones(1), "conv1.total_params": torch.ones(1), "n_averaged": torch.ones(1)}
    assert is_seed(choose(counted), 0)


def test_several_networks_are_listed_and_one_can_be_named():
    both = {"student": network(0), "teacher": network(1)}
    with pytest.raises(
        WeightsError, match=r"2 networks in it fit, under student, teacher: say which, FILE\?key=student"
    ):
        choose(both)
    assert is_seed(choose(both, key="teacher"), 1)
    sides = {"a": network(0), "b": network(1)}
    nested = {"state_dict": {f"{side}.{name}": value for side in sides for name, value in sides[side].items()}}
    assert is_seed(choose(nested, key="state_dict.b"), 1)
    with pytest.raises(WeightsError, match=r"has no tensors under the key 'c'; there are "):
        choose(nested, key="c")


def test_the_same_network_twice_is_no_question():
    assert is_seed(choose({"best": network(), "last": network()}), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fc.weight_orig": "fc.weight", "fc.weight_mask": None},
            "a network under pruning: torch.nn.utils.prune.remove",
        ),
        ({"fc.weight_orig": "fc.weight", "fc.weight_u": None, "fc.weight_v": None}, "a network with spectral_norm"),
        ({"fc.weight_g": None, "fc.weight_v": "fc.weight"}, "a network whose weights are computed from others"),
        ({"fc.parametrizations.weight.original0": "fc.weight"}, "a network whose weights are computed from others"),
        (
            {"fc.base_layer.weight": "fc.weight", "fc.lora_A.default.weight": None},
            r"an adapter \(LoRA\) that is not merged",
        ),
        (
            {"fc._packed_params.dtype": None, "fc.scale": "fc.weight", "fc.zero_point": None},
            "a quantised network: save",
        ),
    ],
)
def test_a_network_in_another_form_is_named(change, message):
    state = network()
    for name, old in change.items():
        state[name] = state.pop(old) if old else torch.ones(1)
    with pytest.raises(WeightsError, match=f"^x.pth: {message}") as raised:
        choose(state)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.pth",
            {"state": {0: {"m": torch.ones(1)}}, "param_groups": [{"lr": 1}]},
            "the state of an optimizer, not of a network",
        ),
        ("model-00001-of-00002.bin", {"conv1.weight": torch.ones(1)}, "file 1 of 2 of one network"),
        (
            "x.pth",
            {"module": {"a": torch.ones(1)}, "ds_version": "0.19", "zero_stage": 3},
            "a part of a DeepSpeed ZeRO checkpoint",
        ),
    ],
)
def test_a_part_of_a_checkpoint_is_named(name, content, message):
    with pytest.raises(WeightsError, match=message):
        choose(content, name)


def test_what_lies_in_many_places_is_looked_at_once(monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        averages, "_inside", lambda value, inside=averages._inside: looked_at.append(value) or inside(value)
    )
    nested = {"x": 1}
    for _ in range(6):
        nested = {f"k{place}": nested for place in range(30)}
    assert choose({"state_dict": network(), "more": nested}).key == "state_dict"
    assert len(looked_at) < 20
