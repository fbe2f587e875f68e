"""What a shell offers at TAB beyond commands, options and choices. Nothing here waits for torch."""

from __future__ import annotations


def members(incomplete: str) -> list[str]:
    """Members for ``-m``: the architecture behind the last comma or alias.

    They are those of the families that shardlabel names, all of torchvision's among them. timm's other thousand would
    take an import of torch, which is too slow for a key.

    Args:
        incomplete: The word so far, ``resnet50,half:vit``, say.
    """
    from pipeline.models.families import families

    begun = 1 + max(incomplete.rfind(","), incomplete.rfind(":"))
    before, name = incomplete[:begun], incomplete[begun:]
    known = [architecture for family in families() for architecture in family.architectures]
    return [before + architecture for architecture in known if architecture.startswith(name)]


def auto(incomplete: str) -> list[str]:
    """The one word that an option takes beside numbers."""
    return [word for word in ("auto",) if word.startswith(incomplete)]
