"""The house keeps its plan: the order of its modules, their size, the measures of its notebooks.

What does not meet a limit yet has a row in plan.json with its value, and cannot get worse.
"""
import pytest
from measures import (AT_LEAST, LIMITS, ORDER, backward_imports, cells_of, columns, exceptions,
                      is_title, measure, modules, notebooks, within)

MEASURED, KNOWN = measure(), exceptions()


def test_each_module_has_its_place_in_the_order():
    "No module is missing in the order, and none stands in it twice"
    assert len(set(ORDER)) == len(ORDER)
    assert not {path.stem for path in modules()} - set(ORDER)


def test_modules_import_only_what_stands_before_them():
    "No import runs against the order, but those in plan.json"
    assert set(backward_imports()) <= set(KNOWN["imports"])


@pytest.mark.parametrize("kind", LIMITS)
def test_nothing_is_beyond_its_limit(kind):
    "Or no further than the exception in plan.json"
    known = KNOWN.get(kind, {})
    worse = {name: value for name, value in MEASURED[kind].items()
             if not within(kind, name, value, known.get(name))}
    word = "at least" if kind in AT_LEAST else "at most"
    assert not worse, f"{kind} must be {word} {LIMITS[kind]}, or its exception: {worse}"


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_begins_with_its_title_and_one_promise(path):
    "The first cell is a heading and a quoted line"
    assert is_title(cells_of(path)[0])


@pytest.mark.parametrize("line, width", [
    ("x"*90 + " # " + "y"*20, 90),
    ("x"*90 + " # " + "y"*40, 133),
    ("x"*101 + " # y", 101),
    (" # " + "y"*100, 103)])
def test_a_trailing_comment_may_stand_beyond_column_100(line, width):
    "It may if the line ends by column 120, and there is code before it"
    assert columns(line) == width
