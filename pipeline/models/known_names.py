"""The names of networks and weights that ship with the project, so that a wrong one is refused before torch is loaded.

They are those of the pinned torchvision and timm. Where others are installed, the list says nothing, and the libraries
are asked later. ``python -m pipeline.models.known_names`` writes it again.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from pipeline.errors import ModelError

TIMM_PREFIX = "timm/"
LIBRARIES = ("torchvision", "timm")
_FILE = Path(__file__).with_name("known_names.json")
_NUM_SUGGESTIONS = 6


@dataclass(frozen=True, slots=True)
class KnownWeights:
    """Published weights of torchvision, as far as they are known without it.

    Attributes:
        name: ``IMAGENET1K_V2`` and the like.
        url: Where they are downloaded from.
        hub_id: None: they are not on the Hugging Face hub.
    """

    name: str
    url: str
    hub_id: None = None

    @property
    def file_name(self) -> str:
        """Name of their file when downloaded."""
        return PurePosixPath(urlsplit(self.url).path).name


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def file_name(self) -> str: ...


Weights = TypeVar("Weights", bound=_Named)


class PublishesWeights(Generic[Weights]):
    """What an architecture has published.

    Attributes:
        name: Its name.
        published: Its published weights, the default first.
    """

    __slots__ = ()

    name: str
    published: tuple[Weights, ...]

    def choose(self, name: str | None) -> Weights:
        """Choose published weights by name, or the default.

        Raises:
            ModelError: There are no weights of that name.
        """
        if name is None:
            return self.published[0]
        for entry in self.published:
            if entry.name.lower() == name.lower():
                return entry
        raise ModelError(unknown_weights(self.name, name, [entry.name for entry in self.published]))

    def matching(self, file_name: str) -> Weights | None:
        """Find the published weights whose file has this name; None if there are none."""
        return next((entry for entry in self.published if entry.file_name == file_name), None)


@dataclass(frozen=True, slots=True)
class KnownArchitecture(PublishesWeights[KnownWeights]):
    """An architecture of torchvision, as far as it is known without it.

    Attributes:
        name: Its name.
        published: Its published weights, the default first.
    """

    name: str
    published: tuple[KnownWeights, ...]

    @property
    def short_name(self) -> str:
        """Its name."""
        return self.name

    def has_namesake_for(self, file_name: str) -> bool:
        """False: that is a question for timm's."""
        return False


@dataclass(frozen=True, slots=True)
class KnownNames:
    """The names of all networks.

    Attributes:
        torchvision: The architectures of torchvision, by name.
        timm: The names of timm's architectures, without prefix.
        renamed: The names that timm has given up, and what they are called now.
    """

    torchvision: Mapping[str, KnownArchitecture]
    timm: Sequence[str]
    renamed: Mapping[str, str]

    def check(self, name: str) -> KnownArchitecture | None:
        """Check the name of an architecture, and find it if it is torchvision's.

        Raises:
            ModelError: It is unknown; the message lists similar names.
        """
        if not name.startswith(TIMM_PREFIX):
            if name not in self.torchvision:
                raise ModelError(unknown_name(name, tuple(self.torchvision), self.timm, self.renamed))
            return self.torchvision[name]
        short = name.removeprefix(TIMM_PREFIX)
        if short not in self.renamed and short.partition(".")[0] not in self.timm:
            raise ModelError(unknown_name(name, tuple(self.torchvision), self.timm, self.renamed))
        return None


@functools.cache
def shipped_names() -> KnownNames | None:
    """The names that ship; None where other versions of the libraries are installed."""
    content = json.loads(_FILE.read_text())
    if any(content["versions"][library] != version(library) for library in LIBRARIES):
        return None
    return KnownNames(
        {
            name: KnownArchitecture(name, tuple(KnownWeights(*entry) for entry in weights.items()))
            for name, weights in content["torchvision"].items()
        },
        content["timm"],
        content["renamed"],
    )


def unknown_name(name: str, torchvision: Sequence[str], timm: Sequence[str], renamed: Mapping[str, str]) -> str:
    """Message for an unknown name: suggests names of the same spelling first, then similar ones.

    Args:
        name: As it was given.
        torchvision: All names of torchvision.
        timm: All names of timm, without prefix.
        renamed: Names that timm has given up, and their successors.
    """
    short = name.removeprefix(TIMM_PREFIX).lower()
    ours = () if name.startswith(TIMM_PREFIX) else torchvision
    found: list[str] = []
    if short:
        alike = re.compile("[-_. ]*".join(re.escape(letter) for letter in re.sub(r"[-_. ]", "", short)))
        current = renamed.get(short)
        found += [known for known in ours if alike.fullmatch(known)]
        found += [TIMM_PREFIX + known for known in timm if known == current or alike.fullmatch(known)]
        found += [known for known in ours if short in known]
        found += difflib.get_close_matches(short, ours, n=4, cutoff=0.75)
        found += [TIMM_PREFIX + known for known in sorted(timm, key=len) if short in known]
        if not found:
            found += [TIMM_PREFIX + known for known in difflib.get_close_matches(short, timm, n=4, cutoff=0.75)]
    near = list(dict.fromkeys(found))[:_NUM_SUGGESTIONS]
    hint = f"did you mean {', '.join(near)}?" if near else "`shardlabel models` lists what there is"
    return f"unknown model {name!r}; {hint}"


def unknown_weights(architecture: str, name: str, known: Sequence[str]) -> str:
    """Message for weights that an architecture does not have.

    Args:
        architecture: Its name.
        name: The name that was given.
        known: The names of its weights.
    """
    short = architecture.removeprefix(TIMM_PREFIX).split(".")[0]
    how = f"; other weights are part of the name: {TIMM_PREFIX}{short}.TAG"
    return f"{architecture} has no weights called {name!r}; it has {', '.join(known)}" + (
        how if architecture.startswith(TIMM_PREFIX) else ""
    )


def collect_names() -> dict[str, object]:
    """The names that the installed libraries have, as they ship. Loads both."""
    from pipeline.models.catalog import find, torchvision_names
    from pipeline.vision import timm_package

    timm = timm_package()
    return {
        "versions": {library: version(library) for library in LIBRARIES},
        "torchvision": {
            name: {entry.name: entry.url for entry in find(name).published} for name in torchvision_names()
        },
        "timm": timm.list_models(),
        "renamed": dict(timm.models.get_deprecated_models()),
    }


if __name__ == "__main__":
    _FILE.write_text(json.dumps(collect_names(), indent=0) + "\n")
