"""The memory of this machine's GPUs, read from nvidia-smi without using a GPU.

A card is a physical GPU. In MIG mode it is divided into slices, each of which programs see as a GPU of its own.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from lxml import etree

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)


class _UnknownMemoryError(Exception):
    """Why the memory of a GPU is unknown."""


@dataclass(frozen=True)
class _Card:
    """A physical GPU."""

    uuid: str
    gib: dict[int, float | None]
    """The memory of each slice by its number in the card; of a card that is not divided, its memory at number 0. None
    if nvidia-smi does not report it."""


def smallest_gpu_gib(num_gpus: int, seconds: float = 60) -> float | str:
    """Return the memory in GiB of the smallest of the ``num_gpus`` GPUs that Ray counts here, or why it is unknown.

    These are the first ones that CUDA_VISIBLE_DEVICES lists. nvidia-smi may take ``seconds`` to answer.
    """
    try:
        cards = _read_cards(_ask(seconds, "-q", "-x"))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(str(number) for number in range(num_gpus)))
        names = [name.strip() for name in visible.split(",")][:num_gpus]
        slices = _slice_uuids(_ask(seconds, "-L")) if any(name.startswith("MIG-") for name in names) else {}
        sizes = [gib for name in names for gib in _sizes(name, cards, slices)]
    except _UnknownMemoryError as error:
        return str(error)
    known = [gib for gib in sizes if gib is not None]
    return min(known) if len(known) == len(sizes) else "nvidia-smi reports no memory (N/A), as of a unified memory"


def _sizes(name: str, cards: list[_Card], slices: dict[str, tuple[str, int]]) -> list[float | None]:
    """Return the memory of what an entry of CUDA_VISIBLE_DEVICES may stand for.

    CUDA numbers unlike cards by speed unless told to follow the bus, as nvidia-smi does: a number may be any of them.
    Of a divided card that is given by its number or id, a program gets one of the slices.
    """
    if name.isdecimal() and int(name) < len(cards):
        alike = len({gib for card in cards for gib in card.gib.values()}) == 1
        by_bus = alike or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        chosen = [cards[int(name)]] if by_bus else cards
    elif name.startswith("MIG-"):
        # The beginning of an id is enough for CUDA, if no other id begins so.
        found = [place for uuid, place in slices.items() if uuid.startswith(name)]
        chosen = [
            _Card(card.uuid, {number: card.gib.get(number)})
            for owner, number in found
            for card in cards
            if card.uuid == owner
        ]
    else:
        chosen = [card for card in cards if name.startswith("GPU-") and card.uuid.startswith(name)]
    if not chosen or (len(chosen) > 1 and not name.isdecimal()):
        raise _UnknownMemoryError(
            f"GPU {name!r:.80}, which CUDA_VISIBLE_DEVICES names or Ray counts, is none of nvidia-smi's {len(cards)}"
        )
    if empty := [card.uuid for card in chosen if not card.gib]:
        raise _UnknownMemoryError(f"{empty[0]:.80} is in MIG mode and has no MIG device")
    return [gib for card in chosen for gib in card.gib.values()]


def _ask(seconds: float, *options: str) -> str:
    """Return what nvidia-smi prints."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise _UnknownMemoryError("nvidia-smi is not on PATH")
    process = subprocess.Popen(
        [tool, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # Not awaited: a process that hangs in the driver cannot be killed either.
        process.kill()
        raise _UnknownMemoryError(f"nvidia-smi does not answer within {seconds:g} s") from None
    if process.returncode:
        reason = next((line for line in (output + errors).splitlines() if line.strip()), "no message")
        raise _UnknownMemoryError(f"nvidia-smi fails with exit code {process.returncode}: {reason.strip():.200}")
    return output


def _read_cards(answer: str) -> list[_Card]:
    """Return the cards in ``nvidia-smi -q -x``, in the order of the bus."""
    try:
        root = etree.fromstring(answer.encode(), _PARSER)
    except etree.XMLSyntaxError as error:
        raise _UnknownMemoryError("nvidia-smi's answer is not XML") from error
    return [_read_card(card) for card in root.findall("gpu")]


def _read_card(card: etree._Element) -> _Card:
    uuid = card.findtext("uuid", "").strip()
    if card.findtext("mig_mode/current_mig", "").strip() != "Enabled":
        return _Card(uuid, {0: _gib(card)})
    slices = card.findall("mig_devices/mig_device")
    return _Card(uuid, {int(one.findtext("index", "0")): _gib(one) for one in slices})


def _gib(element: etree._Element) -> float | None:
    """Return the memory of a card or slice in GiB. That of a card in MIG mode is the whole card's."""
    size = re.fullmatch(r"(\d+) MiB", element.findtext("fb_memory_usage/total", "").strip())
    return int(size[1]) / 1024 if size else None


def _slice_uuids(answer: str) -> dict[str, tuple[str, int]]:
    """Return card and number of each slice by its id, from ``nvidia-smi -L``: the XML of some drivers has no ids."""
    slices: dict[str, tuple[str, int]] = {}
    card = ""
    for line in answer.splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)", line):
            card = match[1]
        elif match := re.match(r"\s+MIG .*\bDevice +(\d+): \(UUID: (MIG-[^)]+)\)", line):
            slices[match[2]] = (card, int(match[1]))
    return slices
