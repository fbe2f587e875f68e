"""A Ceph cluster of one monitor, one OSD in memory and one S3 gateway, on loopback, started in a few seconds.

It runs from Debian's packages, installed or unpacked by ``.ci/ceph``, as whoever runs the tests.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path

_CACHE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
UNPACKED = Path(os.environ.get("SHARDLABEL_CEPH") or Path(_CACHE) / "shardlabel" / "ceph")
ACCESS_KEY, SECRET_KEY = "AKTEST", "SKTEST"
_DEADLINE_S = 60.0

# What makes it start in seconds instead of minutes: no authentication between the daemons, elections and rounds of
# the monitor without waiting, one placement group per pool. No daemon of this cluster outlives it.
_SETTINGS = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
run dir = {home}
admin socket = {home}/$name.asok
log file = {home}/$name.log
pid file = {home}/$name.pid
crash dir = {home}
mon data = {home}/mon
osd data = {home}/osd
osd class dir = {libraries}/rados-classes
erasure code dir = {libraries}/ceph/erasure-code
plugin dir = {libraries}/ceph
osd objectstore = memstore
memstore device bytes = 2147483648
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
osd crush chooseleaf type = 0
osd crush initial weight = 1.0
paxos propose interval = 0.05
paxos min wait = 0.02
mon tick interval = 1
mon client hunt interval = 0.3
osd heartbeat interval = 1
mgr initial modules =
rgw enable apis = s3
rgw thread pool size = 32
rgw num rados handles = 1
rgw gc max objs = 7
rgw lc max objs = 3
rgw num control oids = 1
rgw usage max shards = 1
rgw data log num shards = 1
rgw md log max shards = 1
rgw dynamic resharding = false
rgw enable usage log = false
rgw run sync thread = false
"""


class CephUnavailable(Exception):  # noqa: N818 - as the project's own errors are named
    """Why there is no Ceph here."""


def find_ceph() -> Path:
    """The root directory that Ceph's programs are below.

    Raises:
        CephUnavailable: There are none.
    """
    for root in (UNPACKED, Path("/")):
        if all((root / "usr/bin" / name).exists() for name in ("ceph-mon", "ceph-osd", "radosgw")):
            return root
    raise CephUnavailable(f"Ceph is neither installed nor in {UNPACKED}: `make ceph` unpacks it there")


class Ceph:
    """A running cluster. Close it.

    Attributes:
        endpoint: URL of its S3 gateway.

    Raises:
        CephUnavailable: It does not start.
    """

    def __init__(self, root: Path, home: Path) -> None:
        self._home = home
        libraries = root / "usr/lib" / f"{os.uname().machine}-linux-gnu"
        self._environment = {
            **os.environ,
            "CEPH_CONF": str(home / "ceph.conf"),
            "LD_LIBRARY_PATH": f"{libraries}:{libraries}/ceph:{root}/lib/{libraries.name}",
            "PATH": f"{root}/usr/bin:{os.environ['PATH']}",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._fsid = str(uuid.uuid4())
        monitor, gateway = _free_ports(2)
        self.endpoint = f"http://127.0.0.1:{gateway}"
        settings = _SETTINGS.format(fsid=self._fsid, port=monitor, home=home, libraries=libraries)
        (home / "ceph.conf").write_text(settings)
        try:
            self._start(monitor, gateway)
        except (OSError, subprocess.SubprocessError) as error:
            self.close()
            said = (getattr(error, "stderr", None) or b"").decode(errors="replace")
            raise CephUnavailable(f"Ceph does not start: {error}: {said[-500:]}") from error

    def _start(self, monitor: int, gateway: int) -> None:
        for name in ("mon", "osd"):
            (self._home / name).mkdir()
        # a map that knows the one OSD already, so that nobody has to introduce it
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", f"[v2:127.0.0.1:{monitor}]", "monmap")
        self._run("osdmaptool", "--createsimple", "1", "osdmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--osdmap", "osdmap")
        self._daemon("ceph-mon", "-f", "-i", "a")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", str(uuid.uuid4()))
        self._daemon("ceph-osd", "-f", "-i", "0")
        keys = (f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self._run("radosgw-admin", "user", "create", "--uid=test", "--display-name=test", *keys)
        frontend = f"beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1"  # or each answer with a body takes 40 ms
        self._daemon("radosgw", "-f", "-n", "client.rgw", f"--rgw-frontends={frontend}")
        self._wait_for(gateway)

    def _run(self, *command: str) -> None:
        subprocess.run(
            command, cwd=self._home, env=self._environment, check=True, capture_output=True, timeout=_DEADLINE_S
        )

    def _daemon(self, *command: str) -> None:
        dying_with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with open(self._home / f"{command[0]}.out", "wb") as out:
            daemon = subprocess.Popen(
                [*dying_with_us, *command], cwd=self._home, env=self._environment, stdout=out, stderr=out
            )
        self._daemons.append(daemon)

    def _wait_for(self, port: int) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self._daemons):
                    raise
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        """Stop all daemons. What they held is gone."""
        for daemon in reversed(self._daemons):
            daemon.kill()
        for daemon in self._daemons:
            daemon.wait(10)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
