#!/usr/bin/env bash
# Hidden files tear webdataset's samples apart, but only where the tar holds a folder.
#
# Versions: webdataset 1.0.2, Python 3.11.2. Date: 2026-11.
# Tars written on a Mac hold a ._NAME beside many a NAME. At the root of the tar webdataset passes over them, so that
# one believes that it knows them. Below a folder d the pattern that cuts names at the first dot lets the key be "d/"
# and the field "_0001.jpg": a sample that nobody packed, and the sample in whose middle it lies ends there. An image
# comes without its label, and nothing is raised. One .DS_Store does it as well.
# Seen: root: one sample 0001 (cls, jpg). Folder: d/0001 (cls), d/ (_0001.jpg), d/0001 (jpg).
# Upstream: not found. webdataset#237 and #288 are about dots in names.
# Depends on it: pipeline/stages/read.py, whose keys follow webdataset but for this.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'webdataset==1.0.2'
HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import io
import sys
import tarfile

import webdataset


def samples(*names):
    path = f"{sys.argv[1]}/shard.tar"
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"7"))
    dataset = webdataset.WebDataset(path, shardshuffle=False)
    return [(each["__key__"], sorted(field for field in each if not field.startswith("__"))) for each in dataset]


root = samples("0001.cls", "._0001.jpg", "0001.jpg")
folder = samples("d/0001.cls", "d/._0001.jpg", "d/0001.jpg")
desktop = samples("d/0001.cls", "d/.DS_Store", "d/0001.jpg")
print("root:     ", root)
print("folder:   ", folder)
print(".DS_Store:", desktop)
if root != [("0001", ["cls", "jpg"])]:
    sys.exit("CHANGED: hidden files at the root are no longer passed over")
if folder == [("d/0001", ["cls", "jpg"])]:
    sys.exit("CHANGED: hidden files in a folder are passed over now, too")
if folder != [("d/0001", ["cls"]), ("d/", ["_0001.jpg"]), ("d/0001", ["jpg"])]:
    sys.exit("CHANGED: samples are cut in another way")
if len(desktop) != 3:
    sys.exit("CHANGED: .DS_Store cuts no sample")
print("still so: below a folder one sample is three")
PY
