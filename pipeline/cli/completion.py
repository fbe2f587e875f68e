"""Shell completion of values. It must be fast, so nothing here imports torch."""

from __future__ import annotations

import glob
import os


def complete_members(incomplete: str) -> list[str]:
    """Members for ``-m``: completes the architecture after the last comma or alias.

    The architectures are those of the families that shardlabel names, with all of torchvision's. The other thousand of
    timm would need an import of torch, which is too slow here.

    Args:
        incomplete: The text so far, for example ``resnet50,half:vit``.
    """
    from pipeline.models.families import families

    begun = 1 + max(incomplete.rfind(","), incomplete.rfind(":"))
    before, name = incomplete[:begun], incomplete[begun:]
    known = [architecture for family in families() for architecture in family.architectures]
    return [before + architecture for architecture in known if architecture.startswith(name)]


def complete_auto(incomplete: str) -> list[str]:
    """``auto``, for options that take it beside numbers."""
    return [word for word in ("auto",) if word.startswith(incomplete)]


def complete_classes(incomplete: str) -> list[str]:
    """``wordnet``, files of classes, and folders."""
    found = [path + "/" if os.path.isdir(path) else path for path in sorted(glob.glob(f"{glob.escape(incomplete)}*"))]
    files = [path for path in found if path.endswith(("/", ".csv", ".tsv", ".yaml", ".yml", ".json"))]
    return [word for word in ("wordnet",) if word.startswith(incomplete)] + files


def complete_groups(incomplete: str) -> list[str]:
    """Groups of WordNet."""
    from pipeline.taxonomy.wordnet import read_wordnet

    return [group.name for group in read_wordnet().groups if group.name.startswith(incomplete)]
