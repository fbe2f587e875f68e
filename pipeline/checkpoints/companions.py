"""The files beside a checkpoint that describe it, as timm and transformers write them."""

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
COMPANIONS = (CONFIG, PROCESSOR)

# What is done with a network that lies in parts.
GATHER_PARTS = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
SAVE_IN_ONE = "save it in one, save_pretrained(FOLDER, max_shard_size='100GB')"
MERGE_ADAPTER = (
    "an adapter (LoRA) that is not merged into the network: network.merge_and_unload(), then save its state dict"
)
# What a folder without one file of weights is, by a file in it.
FOLDERS_OF_PARTS = {
    ".metadata": f"a distributed checkpoint: {GATHER_PARTS}",
    "model.safetensors.index.json": f"a network in several files: {SAVE_IN_ONE}",
    "pytorch_model.bin.index.json": f"a network in several files: {SAVE_IN_ONE}",
    "adapter_config.json": MERGE_ADAPTER,
    "zero_to_fp32.py": "a DeepSpeed checkpoint: python zero_to_fp32.py . FILE, in the folder",
}
