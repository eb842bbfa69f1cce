"""Convert XML elements to plain text: markup is dropped, powers and formulas stay readable, Unicode is in NFC."""

import re
import unicodedata
from typing import Any

# libxml2 passes on the text of untrusted files unchanged; control characters never have a meaning in an abstract.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"[+\-\u2212\u2013]?\d")
_MATHML = "{http://www.w3.org/1998/Math/MathML}"
_RELATIONS = frozenset("=<>≤≥≠≈≃≅∼~±×→←⇒∈∝")


def clean(raw: str) -> str:
    """Return ``raw`` in NFC, without control characters and with white space collapsed."""
    if not raw.isprintable():  # white space other than spaces, or control characters
        raw = " ".join(_CONTROL.sub(" ", raw).split())
    elif "  " in raw or raw[:1] == " " or raw[-1:] == " ":
        raw = " ".join(raw.split())
    return raw if raw.isascii() else unicodedata.normalize("NFC", raw)


def text(element: Any) -> str:
    """Return the cleaned text inside ``element``, which may be None. ``_inline`` converts its inline markup."""
    if element is None:
        return ""
    return clean(_inline(element) if len(element) else element.text or "")


def _inline(element: Any) -> str:
    """Return the text inside ``element`` with inline markup converted.

    ``H<sub>2</sub>O`` becomes H2O and ``cm<sup>2</sup>`` becomes cm2. ``10<sup>-3</sup>`` becomes 10^-3, because 10-3
    means something else. An unexpanded entity or a comment adds nothing.
    """
    pieces = [element.text or ""]
    last = pieces[0][-1:]  # last character so far; joining the pieces to get it is far too slow with a million powers
    for child in element:
        tag = child.tag
        piece = ""
        if tag == "sup":
            power = _inline(child).strip()
            piece = f"^{power}" if is_power(last, power) else power
        elif tag == f"{_MATHML}math":
            formula = _formula(child).strip()
            piece = (f" {formula}" if last.isalnum() else formula) + (" " if (child.tail or "")[:1].isalnum() else "")
        elif isinstance(tag, str):
            piece = _inline(child)
        piece += child.tail or ""
        pieces.append(piece)
        last = piece[-1:] or last
    return "".join(pieces)


def is_power(before: str, raised: str) -> bool:
    """Return whether raised text is a power of a number: it is a number, and the character ``before`` it a digit."""
    return before.isdigit() and bool(_NUMBER.match(raised))


def _formula(node: Any) -> str:
    """Return presentation MathML on one line: ``R^2``, ``x_i``, ``(a+b)/c``, ``sqrt(x)``."""
    tag = node.tag.removeprefix(_MATHML) if isinstance(node.tag, str) else ""
    operands = [_formula(child) for child in node if isinstance(child.tag, str)]
    if tag in ("mi", "mn", "mo", "mtext", "ms") or not operands:
        token = " ".join((node.text or "").split())
        return f" {token} " if tag == "mo" and token in _RELATIONS else token
    match tag, operands:
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
            return f"sqrt({''.join(operands)})"
        case "mfenced", _:
            return node.get("open", "(") + ", ".join(operands) + node.get("close", ")")
        case "semantics", _:  # the others repeat the first for machines
            return operands[0]
    return "".join(operands)


def _add_parentheses(operand: str) -> str:
    operand = operand.strip()
    return operand if len(operand) == 1 or re.fullmatch(r"[-+\u2212]?[\w.]*|\(.*\)", operand) else f"({operand})"
