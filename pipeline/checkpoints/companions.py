"""Files beside a checkpoint: those that describe it, and those that tell what a folder is. torch is not needed."""

from collections.abc import Mapping

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
COMPANIONS = (CONFIG, PROCESSOR)

IN_ONE_FILE = "save it in one, save_pretrained(FOLDER, max_shard_size='100GB')"
DISTRIBUTED = (
    "a distributed checkpoint, which is a folder: "
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
)
ADAPTER = "an adapter (LoRA) that is not merged into the network: network.merge_and_unload(), then save its state dict"
# What a folder without a network in one file is, by the name of a file in it.
FOLDERS: Mapping[str, str] = {
    ".metadata": DISTRIBUTED,
    "model.safetensors.index.json": f"a network in several files: {IN_ONE_FILE}",
    "pytorch_model.bin.index.json": f"a network in several files: {IN_ONE_FILE}",
    "adapter_config.json": ADAPTER,
}
