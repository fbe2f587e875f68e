"""The files beside a checkpoint that describe it, as timm and transformers write them."""

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
COMPANIONS = (CONFIG, PROCESSOR)
