"""Which generation a processor is of, where its name does not tell: `AMD EPYC` is four of them.

Family and model numbers as in the Linux kernel, arch/x86/include/asm/intel-family.h and
arch/x86/kernel/cpu/amd.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Family, first and last model.
_AMD = {
    (23, 0x00, 0x2F): "zen1",
    (23, 0x30, 0x4F): "zen2",
    (23, 0x50, 0x5F): "zen1",
    (23, 0x60, 0xAF): "zen2",
    (25, 0x00, 0x0F): "zen3",
    (25, 0x10, 0x1F): "zen4",
    (25, 0x20, 0x5F): "zen3",
    (25, 0x60, 0xAF): "zen4",
    (26, 0x00, 0x2F): "zen5",
    (26, 0x40, 0x4F): "zen5",
    (26, 0x60, 0x7F): "zen5",
}
# Of family 6.
_INTEL = {
    0x3F: "haswell", 0x4F: "broadwell", 0x56: "broadwell", 0x55: "skylake", 0x6A: "icelake",
    0x6C: "icelake", 0x8F: "sapphire_rapids", 0xCF: "emerald_rapids", 0xAD: "granite_rapids",
    0xAE: "granite_rapids", 0xAF: "sierra_forest",
}  # fmt: skip
_LATER = {"skylake": ((5, 7, "cascadelake"), (10, 11, "cooperlake"))}  # by stepping


def generation_of(processor: str, detail: Mapping[str, str | int]) -> str:
    """A word such as `zen4`; empty where the name has a number of its own, or nobody knows."""
    if re.search(r"\d", processor):
        return ""
    try:
        family, model, stepping = (int(detail[key]) for key in ("cpu_family", "model", "stepping"))
    except (KeyError, ValueError):
        return ""
    if "AMD" in processor:
        return next(
            (word for (f, low, high), word in _AMD.items() if f == family and low <= model <= high),
            "",
        )
    word = _INTEL.get(model, "") if "Intel" in processor and family == 6 else ""
    later = (name for low, high, name in _LATER.get(word, ()) if low <= stepping <= high)
    return next(later, word)
