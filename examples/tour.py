"""A tour through the main commands: runs as a script, and opens as a notebook in VS Code, PyCharm and Jupytext.

    python examples/tour.py

Set INPUT, OUT and MODELS in the first cell to tour your own images.
"""

# %%
from pathlib import Path

import pyarrow.dataset as ds

from pipeline import calibrate, evaluate, export, label, plan, status, verify
from pipeline.sample_data import sample_data

DATA = sample_data()
INPUT = str(DATA / "shard-{000..001}.tar")  # or "photos/", "s3://bucket/prefix/", ...
OUT = Path("tour")
MODELS = {  # or just {"model": "resnet50,densenet121"}: ImageNet's networks need neither weights_dir nor labels
    "model": "shufflenet_v2_x0_5,mobilenet_v3_small",
    "weights_dir": DATA / "weights",
    "labels": DATA / "classes.txt",
}

# %% [markdown]
# Before a job: what is there, and (with `measure=True`) how long will it take?

# %%
forecast = plan(INPUT, measure=False, **MODELS)
print(f"plan: {forecast.units} shards with about {forecast.images} images")

# %% [markdown]
# Label. The same call again would go on where it stopped. `engine="inline"` runs in this process; without it, Ray runs
# on several GPUs, or on a cluster.

# %%
summary = label(INPUT, out=OUT / "labels", engine="inline", **MODELS)
print(f"label: {summary.labelled} labelled, {summary.quarantined} quarantined")
for reason, count in summary.quarantined_by_reason.items():
    print(f"  {count} {reason}")

# %% [markdown]
# One row per image; also every member's own opinion, and the SHA-256 of the image.

# %%
rows = ds.dataset(OUT / "labels" / "predictions").to_table()
for row in rows.sort_by("score").slice(0, 3).to_pylist():
    print(f"  {row['key']}: {row['class_name']}, score {row['score']:.2f}, agreement {row['agreement']:.1f}")

# %% [markdown]
# How far is it (also while it runs), and is every sample accounted for exactly once?

# %%
print(f"status: {status(OUT / 'labels').images} images, finished: {status(OUT / 'labels').finished}")
print(f"verify: {len(verify(OUT / 'labels').discrepancies)} discrepancies")

# %% [markdown]
# How often is it right? Truth comes from the samples' `.cls`, or from `truth="truth.csv"`.

# %%
found = evaluate(OUT / "labels")
for alias, accuracy in {**found.members, "consensus": found.consensus}.items():
    print(f"evaluate: {alias:<20} {accuracy.top1:.1%} of {found.images} right")

# %% [markdown]
# Scores order images; calibrated, they also say how often they are right. `label(..., calibration=...)` applies it.

# %%
fitted = calibrate(OUT / "labels", save=OUT / "calibration.json")
print(f"calibrate: temperature {fitted.temperature:.2f}")

# %% [markdown]
# Make a dataset of what the members agree on: `webdataset`, `imagefolder`, `csv` or `parquet`, with a dataset card.

# %%
dataset = export(OUT / "labels", to=OUT / "dataset", format="imagefolder", min_agreement=1, engine="inline")
print(f"export: {dataset.exported} of {dataset.labelled} images in {dataset.to}")
