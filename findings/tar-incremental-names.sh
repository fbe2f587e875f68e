#!/usr/bin/env bash
# A shard packed with GNU tar's --listed-incremental has other keys in Python than in tar itself.
#
# Versions: GNU tar 1.34, Python 3.11.2 (its tarfile), webdataset 1.0.2. Date: 2026-11.
# With -g, GNU tar writes the old GNU header, in which bytes 345 to 356 are the time of last access. tarfile takes them
# for ustar's name prefix, whatever the header's magic says. So each name begins with an octal number. Files of one
# sample that were read at different times get different keys and fall apart, and the next backup has other keys again.
# Nothing is raised.
# Seen: tar -t lists ./0001.cls and ./0001.jpg; webdataset gives two samples of one field each,
# 14524734400/./0001 and 14524734462/./0001.
# Upstream: cpython#155629 (open) shows it of a header made by hand, without the everyday option that writes it.
# Depends on it: pipeline/stages/tar_headers.py, which takes the prefix only where the magic is that of ustar.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'webdataset==1.0.2'

mkdir "$work/images"
printf 'a picture' > "$work/images/0001.jpg"
printf '7' > "$work/images/0001.cls"
touch -a -d @1700000000 "$work/images/0001.cls"
touch -a -d @1700000050 "$work/images/0001.jpg"
tar --listed-incremental="$work/snapshot" --sort=name -cf "$work/incremental.tar" -C "$work/images" .
tar --sort=name -cf "$work/plain.tar" -C "$work/images" .
echo "tar -t, incremental:" "$(tar -tf "$work/incremental.tar" | tr '\n' ' ')"

HOME=$work "$work/venv/bin/python" - "$work" <<'PY'
import sys

import webdataset


def samples(name):
    dataset = webdataset.WebDataset(f"{sys.argv[1]}/{name}.tar", shardshuffle=False)
    return [(each["__key__"], sorted(field for field in each if field[0] != "_")) for each in dataset]


plain, incremental = samples("plain"), samples("incremental")
print("webdataset, plain:      ", plain)
print("webdataset, incremental:", incremental)
if plain != [("./0001", ["cls", "jpg"])]:
    sys.exit("CHANGED: a plain tar is not one sample")
if incremental == plain:
    sys.exit("CHANGED: the access time is no longer taken for a part of the name")
octal = [f"{1700000000 + seconds:o}/./0001" for seconds in (0, 50)]
if incremental != [(octal[0], ["cls"]), (octal[1], ["jpg"])]:
    sys.exit("CHANGED: names are wrong in another way")
print("still so: keys begin with the access time, and the sample is in two pieces")
PY
