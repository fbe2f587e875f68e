"""Batches: crops that many threads put into one piece of memory, used again and again."""

from __future__ import annotations

import threading

import torch

from pipeline.models.preprocessing import Geometry, crop
from pipeline.stages.crop import Batch, BatchPool, new_crops

GEOMETRIES = (Geometry(40, 32), Geometry(24, 24, "bicubic"))


def pictures(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 50 + 3 * at, 70), generator=generator).to(torch.uint8) for at in range(number)]


def test_each_picture_is_in_its_slot_in_any_order():
    batch, some = Batch(new_crops(GEOMETRIES, 8, pinned=False)), pictures(8)
    threads = [threading.Thread(target=batch.put, args=(slot, some[slot])) for slot in (5, 2, 7, 0, 1, 6, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    packed = batch.packed(range(8))
    for geometry in GEOMETRIES:
        assert torch.equal(packed[geometry], torch.stack([crop(picture, geometry) for picture in some]))


def test_slots_without_a_picture_are_closed_up_in_order():
    batch, some = Batch(new_crops(GEOMETRIES, 8, pinned=False)), pictures(8)
    sound = [1, 2, 4, 7]
    for slot in sound:
        batch.put(slot, some[slot])
    packed = batch.packed(sound)
    for geometry in GEOMETRIES:
        assert torch.equal(packed[geometry], torch.stack([crop(some[slot], geometry) for slot in sound]))


def test_a_batch_is_used_again_when_it_was_handed_back():
    pool = BatchPool(lambda: Batch(new_crops(GEOMETRIES, 2, pinned=False)))
    first, second = pool.take(), pool.take()
    assert first is not second
    pool.give(first)
    assert pool.take() is first
