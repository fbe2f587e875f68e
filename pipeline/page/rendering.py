"""Rendering of templates to self-contained HTML.

Names, keys and messages come from inputs. All values of a template go through :func:`_escape`: control characters and
marks of writing direction become escapes there, and Jinja escapes HTML. The pages' content security policy forbids
every request, and every script but one that ships with this package.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

import jinja2
from markupsafe import Markup

from pipeline.text.safe import printable

_BEHIND_SIGNS = re.compile(r"(?<=[_/.-])(?=[^_/.0-9-])")


def render(template: str, script: str = "", **values: object) -> bytes:
    """A page as one HTML file, UTF-8.

    Args:
        template: Name of a template of this package.
        script: Name of a script of this package: the only one that the page may run, known by its hash.
        **values: Its values, besides ``style``, ``script`` and ``script_hash``.
    """
    folder = files("pipeline.page")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_escape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["soft"] = _break_after_signs
    style = Markup(folder.joinpath("style.css").read_text("utf-8"))  # noqa: S704 - ships with this module
    if script:
        code = folder.joinpath(script).read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        values |= {"script": Markup(code), "script_hash": f"sha256-{digest}"}  # noqa: S704 - likewise
    return environment.get_template(template).render(style=style, **values).encode("utf-8")


def _escape(value: object) -> object:
    """Text with control characters as escapes; markup made for the page stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _break_after_signs(text: str) -> Markup:
    """Text that may be wrapped after ``_ / . -``, which join the words of a name."""
    return Markup("<wbr>").join(printable(piece) for piece in _BEHIND_SIGNS.split(text))
