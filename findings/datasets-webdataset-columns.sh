#!/usr/bin/env bash
# datasets drops fields of a WebDataset shard from the sixth sample on, which it refuses in the first five.
#
# Versions: datasets 5.2.0, Python 3.11.2. Date: 2026-11.
# The columns are those of the first five samples of the first shard. If one of these five has other fields, loading
# fails and says so. If the sixth has, nothing is said: a field that is new is dropped, and one that is missing is None.
# So images of another extension behind the fifth sample are lost. Their rows stay, without an image.
# Seen: .png from the fifth sample on: ValueError. From the sixth on: 7 rows, column jpg only, two of them None.
# Upstream: datasets#6900 and #7055 ask for missing fields to be allowed; a field that is dropped was not found.
# Depends on it: pipeline/exporting/formats.py, whose tars hold images of one extension each.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'datasets==5.2.0' 'pillow==13.0.0'
HOME=$work HF_HUB_OFFLINE=1 "$work/venv/bin/python" - "$work" <<'PY'
import io
import sys
import tarfile
import tempfile

import datasets
from PIL import Image

work = sys.argv[1]
datasets.disable_progress_bars()


def load(*extensions):
    path = tempfile.mktemp(".tar", dir=work)
    with tarfile.open(path, "w") as tar:
        for number, extension in enumerate(extensions):
            file = io.BytesIO()
            Image.new("RGB", (8, 8)).save(file, "JPEG" if extension == "jpg" else "PNG")
            member = tarfile.TarInfo(f"{number:04}.{extension}")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)
    return datasets.load_dataset("webdataset", data_files=path, split="train", cache_dir=tempfile.mkdtemp(dir=work))


try:
    load("jpg", "jpg", "jpg", "jpg", "png", "png")
except ValueError as error:
    print("png from the fifth on:", str(error)[:140], "...")
else:
    sys.exit("CHANGED: other fields within the first five samples are accepted")

late = load("jpg", "jpg", "jpg", "jpg", "jpg", "png", "png")
columns = [name for name in late.column_names if not name.startswith("__")]
missing = [row["jpg"] is None for row in late]
print("png from the sixth on:", len(late), "rows, columns", columns, "without an image:", sum(missing))
if columns != ["jpg"] or missing != [False] * 5 + [True] * 2:
    sys.exit("CHANGED: fields behind the fifth sample are no longer dropped in silence")
print("still so: two of seven images are gone, and nothing was said")
PY
