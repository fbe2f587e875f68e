"""The job predicts what the published preprocessing and the plain network predict, for every family.

``python tests/models/parity.py`` prints the figures behind these tests as a table.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from models.parity import (
    MAX_ERROR,
    MEDIAN_ERROR,
    TABLE,
    Seeded,
    compare,
    inputs_of,
    job_probabilities,
    logits_of,
    other_filter,
    photographs,
    photographs_in,
    published_transform,
    write_shard,
)
from torchvision import models as tv

from pipeline.models.catalog import find
from pipeline.models.preprocessing import crop
from pipeline.stages.decode import decode

# What takes seconds an image, or half a gigabyte; the slow test runs them.
LARGE = """
    inception_v3
    vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn timm/xception41
    resnet152 resnext101_32x8d resnext101_64x4d densenet161 densenet201
    efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_m efficientnet_v2_l
""".split()
# The blocks of a sibling in SMALL, only more or wider ones; the slow test runs them, too.
DEEPER = """
    resnet34 resnet101 densenet169 shufflenet_v2_x1_0 shufflenet_v2_x1_5 mnasnet0_75 mnasnet1_3 efficientnet_b2
""".split()
SMALL = [arch for arch in TABLE if arch not in {*LARGE, *DEEPER}]
NUM_GROUPS = 2  # of members that share a job; taken in turns, so that families and input sizes mix
# Published with another recipe than the default.
OTHER_WEIGHTS = [("resnet50", "IMAGENET1K_V1"), ("mobilenet_v2", "IMAGENET1K_V1"), ("efficientnet_b1", "IMAGENET1K_V1")]
FOUR = ("grey.jpg", "tiny.jpg", "panorama.jpg", "lying.jpg")  # what networks are fitted to
NUM_LABELLED = 3  # of them by networks that share a job
TWO_EACH = {"batch_size": 2}  # so that both cores of a small machine have work


def own(arch):
    return arch.removeprefix("timm/")


class Run:
    """Some architectures in one ensemble: the references, and the predictions of one job, for the first pictures."""

    def __init__(self, archs, images, folder, num_labelled=None):
        with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            seeded = list(pool.map(lambda arch: Seeded(arch, images.values(), num_labelled), archs))
        self.seeded = {item.arch: item for item in seeded}
        members = list(archs)
        for item in seeded:
            item.save(folder)
            members += [f"other_{arch}:{arch}@{weights}" for arch, weights in OTHER_WEIGHTS if arch == item.arch]
        shard = write_shard(folder / "shard.tar", dict(itertools.islice(images.items(), num_labelled)))
        self.job = job_probabilities(
            shard, folder / "out", members, precision="fp32", weights_dir=str(folder), **TWO_EACH
        )


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """For an architecture, the run that it is in: shared with others of SMALL, or its own."""
    runs = {}
    images = {name: data for name, data in photographs().items() if name in FOUR}

    def get(arch):
        archs = tuple(SMALL[SMALL.index(arch) % NUM_GROUPS :: NUM_GROUPS]) if arch in SMALL else (arch,)
        if archs not in runs:
            num_labelled = NUM_LABELLED if arch in SMALL else None
            runs[archs] = Run(archs, images, tmp_path_factory.mktemp("parity"), num_labelled)
        return runs[archs]

    return get


def assert_it_could_fail(found):
    """Predictions differ between pictures, with some certainty: a network without knowledge gives 0.001."""
    assert found.best > 0.03
    assert found.distinct >= 2


@pytest.mark.parametrize("arch", sorted(SMALL, key=lambda arch: SMALL.index(arch) % NUM_GROUPS))
def test_the_job_predicts_what_the_published_way_predicts(run_of, arch):
    run = run_of(arch)
    expected = run.seeded[arch].probabilities()
    found = compare(run.job[own(arch)], expected)
    assert found.holds, found
    assert_it_could_fail(found)


@pytest.mark.parametrize(("arch", "weights"), OTHER_WEIGHTS)
def test_weights_requested_by_name_bring_their_own_recipe(run_of, arch, weights):
    run = run_of(arch)
    found = compare(run.job[f"other_{arch}"], run.seeded[arch].probabilities(weights))
    assert found.holds, found
    assert not compare(run.job[f"other_{arch}"], run.seeded[arch].probabilities()).holds


WRONG = [
    ("resnet50", {"resize_size": 256}),
    ("resnet18", {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}),
    ("densenet121", other_filter("densenet121")),
    pytest.param("inception_v3", {"crop_size": 224, "resize_size": 256}, marks=pytest.mark.slow),
    ("timm/legacy_xception", {"crop_pct": 0.875}),
    ("timm/legacy_xception", {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
    ("timm/legacy_xception", {"interpolation": "bilinear"}),
    ("efficientnet_b0", other_filter("efficientnet_b0")),
    ("efficientnet_b1", {"crop_size": 224}),
    ("efficientnet_b3", {"resize_size": 300}),
    ("efficientnet_v2_s", {"resize_size": 438}),
]


@pytest.mark.parametrize(("arch", "changes"), WRONG, ids=str)
def test_a_wrong_recipe_fails(run_of, arch, changes):
    """By a factor of two at least, so that what passes above is right and not lucky."""
    run = run_of(arch)
    found = compare(run.job[own(arch)], run.seeded[arch].probabilities(**changes))
    assert found.largest > 2 * MAX_ERROR, found
    assert found.median > 2 * MEDIAN_ERROR, found


@pytest.mark.parametrize("arch", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_the_inputs_of_both_inceptions_are_transformed(run_of, arch):
    run = run_of(arch)
    network = run.seeded[arch].network
    assert network.transform_input
    network.transform_input = False
    try:
        found = compare(run.job[arch], run.seeded[arch].probabilities())
    finally:
        network.transform_input = True
    assert found.largest > 2 * MAX_ERROR, found


@pytest.mark.slow
@pytest.mark.parametrize("arch", [*LARGE, *DEEPER])
def test_the_job_predicts_what_the_published_way_predicts_for_large_networks(arch, tmp_path):
    images = {name: data for name, data in photographs().items() if name in FOUR}
    run = Run([arch], images, tmp_path)
    found = compare(run.job[own(arch)], run.seeded[arch].probabilities())
    assert found.holds, found
    assert_it_could_fail(found)
    wrong = compare(run.job[own(arch)], run.seeded[arch].probabilities(**other_filter(arch)))
    assert not wrong.holds, wrong


# -- every published recipe, without networks ------------------------------------------------------------


def recipes():
    """Each recipe that something of the table was published with, once."""
    found = {}
    for arch in TABLE:
        entries = [] if arch.startswith("timm/") else tv.get_model_weights(arch)
        for name in [None, *(entry.name for entry in entries if entry.meta["categories"])]:  # a classifier
            found.setdefault(find(arch).choose(name).recipe, (arch, name))
    return sorted(found.values(), key=str)


@functools.lru_cache(maxsize=16)
def pixels(data):
    return decode(data).pixels_CHW


@pytest.mark.parametrize(("arch", "weights"), recipes(), ids=str)
def test_every_recipe_gives_the_published_inputs(arch, weights):
    """Pixel for pixel: no more than two grey levels apart, and nearly all the same."""
    images = list(photographs().values())
    recipe = find(arch).choose(weights).recipe
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std))
    crops = torch.stack([crop(pixels(data), recipe.geometry) for data in images])
    expected = inputs_of(images, published_transform(arch, weights))
    levels = (expected * std + mean) * 255 - crops
    assert levels.abs().max() < 2.01
    assert (levels.abs() < 0.01).float().mean() > 0.99


# -- trained weights --------------------------------------------------------------------------------------

TRAINED = {"squeezenet1_0": "squeezenet1_0-imagenet.pth", "mobilenet_v2": "mobilenet_v2-imagenet.pth"}


@pytest.fixture(scope="module")
def labelled(request, tmp_path_factory):
    """Jobs by trained members on the samples that ship with the project, or on real photographs, by precision."""
    done = {}

    def get(data, precision):
        if (data, precision) not in done:
            if data == "sample_data":
                folder = request.getfixturevalue("sample_data")
                inputs, members = folder, ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"]
                options = {"weights_dir": str(folder / "weights"), "labels": str(folder / "classes.txt"), "limit": 208}
            else:
                folder = request.getfixturevalue("shared")
                inputs, options = folder / "data" / "shards", {}
                members = [f"{arch}@IMAGENET1K_V1={folder / 'weights' / name}" for arch, name in TRAINED.items()]
            out = tmp_path_factory.mktemp("trained") / "out"
            done[data, precision] = job_probabilities(inputs, out, members, precision=precision, **options)
        return done[data, precision]

    return get


@pytest.mark.parametrize("precision", ["auto", pytest.param("mixed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("data", ["sample_data", pytest.param("shared", marks=pytest.mark.slow)])
def test_low_precision_keeps_the_top_1_of_trained_members(labelled, data, precision):
    exact, cheap = labelled(data, "fp32"), labelled(data, precision)
    for alias, probs_BK in exact.items():
        assert len(probs_BK) >= 200
        kept = compare(cheap[alias], probs_BK).top1
        assert kept >= 0.995, f"{alias}: {kept:.2%}"


@pytest.mark.slow
@pytest.mark.parametrize("arch", TRAINED)
def test_trained_members_predict_what_the_published_way_predicts_for_300_photographs(labelled, shared, arch):
    images = [data for path in sorted((shared / "data" / "shards").glob("*.tar")) for data in photographs_in(path)]
    network = tv.get_model(arch, weights=None).eval()
    network.load_state_dict(torch.load(shared / "weights" / TRAINED[arch], weights_only=True))
    transform = published_transform(arch, "IMAGENET1K_V1")
    expected = torch.cat([logits_of(network, inputs_of([data], transform)) for data in images]).softmax(dim=1)
    found = compare(labelled("shared", "fp32")[arch], expected)
    assert found.holds, found
    assert found.top1 >= 0.995, found
