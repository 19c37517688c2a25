"""Input that is nearly right: a valid value with a few parts replaced, and its text with a few bytes wrong."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

WORDS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    ["", "\0", "\ud800", "\x1b[31m", "\u2028", "..", "/etc", "~", "[/a]", "${oops}", "yes", "nan", "9" * 400, "<think>"]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 10**320, 1e308, -0.0])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """A copy of a nested value in which one to three parts are replaced, taken away or doubled."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return draw(VALUES)
        container, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "double", "wrap"]))
        if how == "replace":
            container[key] = draw(VALUES)
        elif how == "remove":
            del container[key]
        elif how == "wrap":
            container[key] = [container[key]]
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        else:
            container[draw(WORDS)] = copy.deepcopy(container[key])
    return value


def _places(value: Any):
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(inside):
        yield value, key
        yield from _places(inner)


@st.composite
def mutated_bytes(draw: st.DrawFn, valid: Any) -> bytes:
    """JSON of a mutated value; now and then cut, or with bytes put in."""
    value = draw(mutated(valid)) if draw(st.integers(0, 9)) else draw(VALUES)
    data = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", errors="surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        more = draw(st.binary(max_size=4) | st.sampled_from([b"\xef\xbb\xbf", b"[" * 5000, b"\r\n", b'"', b"NaN"]))
        data = data[:at] + more + data[at + draw(st.integers(0, 6)) :]
    return data
