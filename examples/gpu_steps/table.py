"""The steps in their order: what each answers, where it is, and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run.

    Attributes:
        name: In the JSON file, and for ``--steps``.
        question: What it answers, in one line.
        where: ``module.function`` in this package.
        seconds: What it may take on a GPU, of 480 s for all; less or more in a shorter or longer run.
        apart: Whether it gets a process of its own, because it may leave a damaged one behind.
        environment: Variables of that process.
    """

    name: str
    question: str
    where: str
    seconds: float
    apart: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


STEPS = (
    # checks
    Step("machine", "which machine is it, and what do its memory and its bus carry?", "machine.describe", 12),
    Step("tf32", "is fp32 exact?", "device_checks.check_fp32", 10),
    Step(
        "tf32-asked",
        "is fp32 exact where the environment asks for TF32, as NVIDIA's containers do?",
        "device_checks.check_fp32",
        15,
        apart=True,
        environment={"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"},
    ),
    Step("rows", "has a job the rows of a CPU's, and the same rows twice?", "job_checks.check_rows", 60),
    Step("resume", "has a job that was killed and went on the same rows?", "job_checks.check_resume", 30),
    Step("load", "are recorded logits those of single kernels, under load?", "recordings.check_under_load", 20),
    Step("nvjpeg", "how far are nvJPEG's pixels from libjpeg's?", "decoding.check_nvjpeg", 15),
    Step("memory", "does a pass halve itself when memory runs out?", "device_checks.check_memory", 20, apart=True),
    Step("capture", "what does a failed capture leave behind?", "recordings.check_capture", 12, apart=True),
    # measures
    Step("decoding", "what do all cores decode, in threads and in processes?", "decoding.measure_decoding", 30),
    Step("job", "how near is a job with all members to what its device computes?", "jobs.measure_all", 75),
    Step("job-one", "how near is a job with the first member to what the cores decode?", "jobs.measure_first", 45),
    Step("forms", "what does each member compute, in which form?", "forward_rates.measure_forms", 60),
    Step("sizes", "what does a batch cost whose size was not seen before?", "forward_rates.measure_sizes", 20),
    Step("where", "where does the time of a job go?", "jobs.measure_where", 35),
    # what takes long comes last
    Step("memcheck", "does compute-sanitizer find a wrong access?", "job_checks.check_memory_use", 75, apart=True),
    Step("compiled", "what does torch.compile bring?", "forward_rates.measure_compiled", 90),
)

FULL_RUN_S = 480.0
