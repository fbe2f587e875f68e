"""A request to label, checked as far as it can be without torch, which takes seconds to load.

Names of networks, INPUT, OUT, files and credentials are looked at here. What depends on the content of checkpoints
comes later: whether they fit, and whether OUT belongs to the same job.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.members import HUGGING_FACE
from pipeline.config.settings import EnsembleConfig, LabelConfig
from pipeline.errors import OutputError, StorageError
from pipeline.inputs.find import Inputs, find_inputs
from pipeline.inputs.given_names import refuse_as_input
from pipeline.job.class_names import given_names
from pipeline.job.other_classes import check_member_columns
from pipeline.job.own_classes import check_own_classes
from pipeline.job.reuse import OlderOutput, open_older_output
from pipeline.models.known_names import shipped_names
from pipeline.models.locate import Locator
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage, join
from pipeline.trust.calibration import read_calibration


@dataclass(slots=True)
class LabelRequest:
    """A request that nothing is known against.

    Attributes:
        storage: How to reach what it names.
        ledger: Of its output.
        earlier: The ``job.json`` that OUT holds already.
        older: The output whose probabilities are reused.
        inputs: What INPUT stands for, until it is taken.
        other_classes: Aliases of the members that were trained on other classes.
    """

    storage: Storage
    ledger: Ledger
    earlier: Mapping[str, Any] | None
    older: OlderOutput | None
    inputs: Inputs | None
    other_classes: tuple[str, ...] = ()

    def take_inputs(self) -> Inputs:
        """Take what INPUT stands for, which is large, away from here; only once."""
        inputs, self.inputs = self.inputs, None
        assert inputs is not None
        return inputs


def open_request(config: LabelConfig) -> LabelRequest:
    """Check a request, cheapest first, and open what it names.

    Raises:
        RequestError: It is wrong; nothing was written.
    """
    check_names(config)
    storage = Storage(config.storage)
    ledger = Ledger(config.out, storage)
    refuse_as_input(config.inputs, ledger.out)
    earlier = ledger.owner()
    if ledger.out.startswith("s3://"):
        _check_bucket(ledger.out, storage)
    else:
        _check_writable(ledger.out)
    older = None if config.reuse is None else open_older_output(config.reuse, ledger, storage)
    inputs = find_inputs(config.inputs, storage, prune=config.prune, out=ledger.out)
    given_names(config.labels, storage)
    check_own_classes(config.classes, storage, config.keep)
    other_classes = check_member_columns(config, storage)
    if config.calibration is not None:
        read_calibration(config.calibration, storage)
    check_weights(config, storage)
    return LabelRequest(storage, ledger, earlier, older, inputs, other_classes)


def check_names(config: EnsembleConfig) -> None:
    """Check the names of networks and weights, as far as the list that ships tells.

    Raises:
        ModelError: A member is malformed, or unknown.
    """
    names = shipped_names()
    for member in config.members:
        architecture = None if names is None or member.arch == HUGGING_FACE else names.check(member.arch)
        if architecture is not None:
            architecture.choose(member.weights)


def check_weights(config: EnsembleConfig, storage: Storage) -> None:
    """Check that the weights of torchvision's networks are here, or can be downloaded. Nothing is read.

    Raises:
        WeightsError: They are not.
    """
    names, locator = shipped_names(), Locator(config.weights_dir, storage)
    for member in config.members:
        if member.arch == HUGGING_FACE:
            locator.check_folder(member)
            continue
        architecture = None if names is None else names.check(member.arch)
        if architecture is not None:
            locator.check(member, architecture, architecture.choose(member.weights))


def _check_bucket(out: str, storage: Storage) -> None:
    """Refuse an OUT on S3 that cannot be listed, as a job has to: its bucket is missing, or another's.

    Raises:
        OutputError: It cannot.
    """
    try:
        next(iter(storage.list(join(out, ""), any_order=True)), None)
    except StorageError as error:
        raise OutputError(str(error)) from error


def _check_writable(out: str) -> None:
    """Refuse a local OUT that certainly cannot be written.

    Raises:
        OutputError: The nearest folder that there is is none of this user's, or is no folder.
    """
    folder = out
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise OutputError(f"OUT cannot be written: {folder}: not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        error = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OutputError(f"OUT cannot be written: {folder}: {os.strerror(error)}")
