"""Results are a line at a prompt and a table in a notebook."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel

from pipeline.text.result import Result


@dataclass(frozen=True, slots=True, repr=False)
class Counted(Result):
    out: str
    images: int
    rate: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inner: object = None


class Fitted(Result, BaseModel):
    temperature: float
    truths: int = 0


def test_the_line_leaves_out_what_says_nothing_and_counts_collections():
    assert repr(Counted("o", 0)) == "Counted(out='o', images=0)"
    shown = Counted("o", 12345, 1 / 3, {"empty": 2}, ("a", "b"), Counted("i", 1))
    assert (
        repr(shown) == "Counted(out='o', images=12345, rate=0.3333, reasons={'empty': 2}, notes=<2>, inner=<Counted>)"
    )
    assert repr(Fitted(temperature=0.5)) == "Fitted(temperature=0.5)"


def test_a_long_line_is_cut_between_fields_and_no_name_is_obeyed():
    long = repr(Counted("o" * 300, 1, notes=("x",)))
    assert len(long) <= 160
    assert long.endswith("o, ...)")
    assert "\x1b" not in repr(Counted("\x1b[2J", 1))


def test_the_table_has_all_fields_nested_ones_too_and_escapes():
    shown = Counted("<b>", 12345, 0.25, {"empty": 2000}, tuple(map(str, range(30))), Counted("i", 7))._repr_html_()
    assert "&lt;b&gt;" in shown
    assert ">12,345<" in shown
    assert ">2,000<" in shown
    assert shown.count("<table>") == 3
    assert "and 20 more" in shown
    assert ">temperature<" in Fitted(temperature=2.0)._repr_html_()
