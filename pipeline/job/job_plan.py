"""The plan of a job in OUT: what was planned before, and what this run adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.config.settings import LabelConfig
from pipeline.errors import InputError, OutputError, StorageError
from pipeline.inputs.changes import ChangedInputs, Changes
from pipeline.inputs.find import Inputs, find_inputs
from pipeline.inputs.plan import Plan
from pipeline.job.part_sizes import PartSizes
from pipeline.job.retrying import find_to_retry
from pipeline.job.unread_images import retry_unread_images
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage


def write_plan(ledger: Ledger, storage: Storage, fingerprint: str, add: Callable[[Plan], None]) -> Plan:
    """Read the plan in OUT, add to it, and write it back.

    Args:
        ledger: Of the output.
        storage: How to reach inputs and output.
        fingerprint: Of the job.
        add: Adds units to a plan. Called again, with a new plan, when another run of the job has added to it meanwhile.
    """
    while True:
        plan = Plan(ledger, storage, fingerprint)
        add(plan)
        if plan.replaced:
            # before the plan drops them: after a kill in between, no part is left that is in no plan
            ledger.remove_success()
            ledger.remove_units(plan.replaced)
        if plan.write():
            return plan


def plan_inputs(
    config: LabelConfig,
    ledger: Ledger,
    storage: Storage,
    inputs: Inputs,
    changes: ChangedInputs,
    sizes: PartSizes | None = None,
    reasons: Sequence[str] = (),
) -> tuple[Plan, Changes]:
    """Plan the units of a label job, and settle what has become of those that were planned before.

    Args:
        config: The job's inputs, and its limit.
        ledger: Of the output.
        storage: How to reach inputs and output.
        inputs: What was found.
        changes: Settles what the plan finds changed.
        sizes: Chooses the size of parts for new units; None for that of the job.
        reasons: Of quarantine (``--retry``): shards with such damage are labelled again.

    Raises:
        InputError: The inputs cannot be listed, or hold no samples.
        OutputError: OUT cannot be used.
    """
    fingerprint = changes.fingerprint
    found: list[Inputs] = [inputs]
    settled: list[Changes] = []

    def find_again() -> Inputs:
        return find_inputs(config.inputs, storage, prune=config.prune, out=ledger.out)

    def add(plan: Plan) -> None:
        try:
            ledger.check_owner(fingerprint)
        except StorageError as error:
            raise OutputError(f"OUT cannot be used: {error}") from error
        try:
            plan.add(found.pop() if found else find_again(), config.limit, config.images)
        except StorageError as error:
            raise InputError(f"the inputs cannot be listed: {error}") from error
        retry_unread_images(plan, ledger, storage, fingerprint)
        if reasons:
            plan.replaced |= find_to_retry(ledger, plan.units, plan.progress, fingerprint, reasons).damaged
        if not plan.units:
            raise InputError("no samples were found in the inputs")
        settled.append(changes.settle(plan))
        if sizes is not None:
            sizes.choose(plan, storage, config.images)

    return write_plan(ledger, storage, fingerprint, add), settled[-1]
