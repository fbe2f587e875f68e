#!/usr/bin/env bash
# Lightning's weight averaging stores the average as `state_dict`, and the raw weights under another key.
#
# Versions: pytorch-lightning 2.6.6, torch 2.15.0, numpy 2.4.6, Python 3.11.2. Some 1 GB. Date: 2026-11.
# timm's train.py and torchvision's reference scripts keep the raw weights under the usual key (state_dict, model), and
# the average beside it (state_dict_ema, model_ema). Lightning's EMAWeightAveraging does the opposite: when a checkpoint
# is saved, the average takes the place of the weights in state_dict, and the raw ones go to current_model_state. Who
# looks for "the one with ema in its name" finds none, and who loads state_dict to go on with raw weights gets others.
# Seen: after five steps of 1 current_model_state holds 5.0, state_dict less; averaging_state lies beside them.
# Upstream: as documented in the class; the difference between the tools is not.
# Depends on it: pipeline/checkpoints/choosing.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'pytorch-lightning==2.6.6' 'torch==2.15.0' 'numpy==2.4.6'
seen=$(cd "$work" && HOME=$work "$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import logging

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


class Counter(pl.LightningModule):
    """One weight, which each of five steps raises by 1."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        return -self.weight.sum()

    def on_train_batch_end(self, outputs, batch, index):
        if index == 4:  # while it trains: at its end Lightning puts the average into the network itself
            self.trainer.save_checkpoint("x.ckpt")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = pl.Trainer(accelerator="cpu", max_epochs=1, callbacks=[EMAWeightAveraging(decay=0.5)], **quiet)
trainer.fit(Counter(), torch.utils.data.DataLoader(torch.zeros(5, 1)))
saved = torch.load("x.ckpt", weights_only=False)
raw, average = saved["current_model_state"]["weight"].item(), saved["state_dict"]["weight"].item()
print(f"{raw:.1f} {average < raw} {'averaging_state' in saved}")
PYTHON
)
echo "raw weights in current_model_state, state_dict below them, averaging_state: $seen"
[ "$seen" = "5.0 True True" ] || { echo "CHANGED: state_dict is not the average any more, or the keys differ"; exit 1; }
echo "still so: state_dict holds the average"
