"""What a machine has to offer: the kernel's own figure, and the limits of control groups, old and new."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.machine import available_memory_bytes, cache_folder, cpu_name, has_bfloat16, num_local_cpus

GB = 1 << 30


def machine(root: Path, groups: str, **files: str) -> Path:
    """A ``/proc`` and a ``/sys`` of a machine with 8 GB available."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\nSwapFree: 0 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_this_machine_has_memory_and_cpus():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = available_memory_bytes()
    assert found is not None
    assert 0 < found < total
    assert 1 <= num_local_cpus() <= (os.cpu_count() or 1)


def test_without_limits_the_kernels_figure_counts(tmp_path):
    assert available_memory_bytes(machine(tmp_path, "0::/user.slice\n")) == 8 * GB


def test_nobody_says(tmp_path):
    assert available_memory_bytes(tmp_path) is None


@pytest.mark.parametrize(("limit", "expected"), [("max", 8 * GB), (str(3 * GB), 2 * GB), (str(64 * GB), 8 * GB)])
def test_version_2_counts_cached_files_as_free(tmp_path, limit, expected):
    files = {
        "job/memory.max": limit + "\n",
        "job/memory.current": f"{2 * GB}\n",
        "job/memory.stat": f"anon {GB}\nactive_file 5\ninactive_file {GB}\n",
    }
    assert available_memory_bytes(machine(tmp_path, "0::/job\n", **files)) == expected


def test_a_group_is_bound_by_those_above_it(tmp_path):
    files = {
        "job/memory.max": f"{3 * GB}\n",
        "job/memory.current": f"{2 * GB}\n",
        "job/step/memory.max": "max\n",
        "job/step/memory.current": "0\n",
    }
    assert available_memory_bytes(machine(tmp_path, "0::/job/step/task\n", **files)) == GB


def test_in_a_container_the_groups_root_is_what_is_mounted(tmp_path):
    files = {"memory.max": f"{2 * GB}\n", "memory.current": f"{GB}\n"}
    assert available_memory_bytes(machine(tmp_path, "0::/kubepods/pod7\n", **files)) == GB


@pytest.mark.parametrize(("limit", "expected"), [(9223372036854771712, 8 * GB), (4 * GB, 3 * GB)])
def test_version_1(tmp_path, limit, expected):
    groups = "9:cpu,cpuacct:/\n4:memory:/batch\n1:name=systemd:/\n"
    files = {
        "memory/batch/memory.limit_in_bytes": f"{limit}\n",
        "memory/batch/memory.usage_in_bytes": f"{2 * GB}\n",
        "memory/batch/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB}\n",
    }
    assert available_memory_bytes(machine(tmp_path, groups, **files)) == expected


def test_a_group_over_its_limit_has_nothing_left(tmp_path):
    files = {"memory.max": f"{GB}\n", "memory.current": f"{2 * GB}\n"}
    assert available_memory_bytes(machine(tmp_path, "0::/\n", **files)) == 0


def test_whether_the_cpu_has_bfloat16(tmp_path):
    def cpu(line):
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nmodel name\t: x bf16 y\n{line}\n\nprocessor\t: 1\n")
        return has_bfloat16(tmp_path)

    assert not has_bfloat16(tmp_path)
    assert cpu("flags\t\t: fpu avx512f avx512_bf16 sse")
    assert cpu("flags\t\t: fpu amx_bf16")
    assert cpu("Features\t: fp asimd bf16")
    assert not cpu("flags\t\t: fpu avx512f avx2")


def test_measurements_are_kept_where_the_user_keeps_caches_and_not_there_by_tests(monkeypatch, tmp_path):
    assert Path.home() not in cache_folder().parents or Path(__file__).parent.parent in cache_folder().parents
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "shardlabel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/shardlabel"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("processor\t: 0\nmodel name\t: One\n\nprocessor\t: 1\nmodel name\t: Two\n", "One"),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n", "0x41 0xd40"),
        ("processor\t: 0\n", ""),
    ],
)
def test_cpus_have_names(tmp_path, lines, expected):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(lines)
    assert cpu_name(tmp_path) == expected
