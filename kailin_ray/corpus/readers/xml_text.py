"""Text of XML elements as a person would type it: markup dropped, powers and formulas kept readable, Unicode in NFC."""

import re
import unicodedata
from typing import Any

# libxml2 hands text of untrusted files through as it is; these never carry meaning in an abstract.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"[+\-\u2212\u2013]?\d")
_MATHML = "{http://www.w3.org/1998/Math/MathML}"
_RELATIONS = frozenset("=<>≤≥≠≈≃≅∼~±×→←⇒∈∝")


def clean(raw: str) -> str:
    """``raw`` in NFC, control characters dropped, white space collapsed."""
    if not raw.isprintable():  # white space other than blanks, or control characters
        raw = " ".join(_CONTROL.sub(" ", raw).split())
    elif "  " in raw or raw[:1] == " " or raw[-1:] == " ":
        raw = " ".join(raw.split())
    return raw if raw.isascii() else unicodedata.normalize("NFC", raw)


def text(element: Any) -> str:
    """All text inside ``element``, which may be None, its inline markup read as by ``_inline``; cleaned."""
    if element is None:
        return ""
    return clean(_inline(element) if len(element) else element.text or "")


def _inline(element: Any) -> str:
    """``H<sub>2</sub>O`` is H2O and ``cm<sup>2</sup>`` cm2, but ``10<sup>-3</sup>`` is 10^-3, as 10-3 is another thing.

    An entity that was not expanded, and a comment, give nothing.
    """
    read = [element.text or ""]
    last = read[0][-1:]  # of all that is read: to join it for this each time would take for ever with a million powers
    for child in element:
        tag = child.tag
        part = ""
        if tag == "sup":
            power = _inline(child).strip()
            part = f"^{power}" if last.isdigit() and _NUMBER.match(power) else power
        elif tag == f"{_MATHML}math":
            formula = _formula(child).strip()
            part = (f" {formula}" if last.isalnum() else formula) + (" " if (child.tail or "")[:1].isalnum() else "")
        elif isinstance(tag, str):
            part = _inline(child)
        part += child.tail or ""
        read.append(part)
        last = part[-1:] or last
    return "".join(read)


def _formula(node: Any) -> str:
    """Presentation MathML on one line: ``R^2``, ``x_i``, ``(a+b)/c``, ``sqrt(x)``."""
    tag = node.tag.removeprefix(_MATHML) if isinstance(node.tag, str) else ""
    parts = [_formula(child) for child in node if isinstance(child.tag, str)]
    if tag in ("mi", "mn", "mo", "mtext", "ms") or not parts:
        token = " ".join((node.text or "").split())
        return f" {token} " if tag == "mo" and token in _RELATIONS else token
    match tag, parts:
        case "msup" | "mover", [base, power]:
            return f"{base}^{_add_parentheses(power)}" if tag == "msup" else base + power
        case "msub", [base, index]:
            return f"{base}_{_add_parentheses(index)}"
        case "msubsup", [base, index, power]:
            return f"{base}_{_add_parentheses(index)}^{_add_parentheses(power)}"
        case "mfrac", [above, below]:
            return f"{_add_parentheses(above)}/{_add_parentheses(below)}"
        case "mroot", [base, degree]:
            return f"{_add_parentheses(base)}^(1/{degree})"
        case "msqrt", _:
            return f"sqrt({''.join(parts)})"
        case "mfenced", _:
            return node.get("open", "(") + ", ".join(parts) + node.get("close", ")")
        case "semantics", _:  # what follows the first is the same once more, for machines
            return parts[0]
    return "".join(parts)


def _add_parentheses(part: str) -> str:
    part = part.strip()
    return part if len(part) == 1 or re.fullmatch(r"[-+\u2212]?[\w.]*|\(.*\)", part) else f"({part})"
