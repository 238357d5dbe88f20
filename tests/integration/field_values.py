"""What the program `allfields` computes for its fields: every type, from a seed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from traces import Event

SEED_COUNT = 20
BASE = 0xF1E2D3C4B5A69788


def cut(value: int, bits: int, is_signed: bool) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if is_signed and value >> (bits - 1) else value


def elements(seed: int, bits: int, is_signed: bool = False, count: int = 4) -> list[int]:
    """As `fill_values` of allfields.c."""
    return [cut(BASE + 1000003 * seed + 257 * i, bits, is_signed) for i in range(count)]


SIGNED_ENUM = {
    -5: ["NEGATIVE"],
    -4: ["AFTER_NEGATIVE"],
    0: ["ZERO"],
    1: ["ONE"],
    13: ["TEENS"],
    16: ["TEENS"],
    19: ["TEENS"],
    20: ["TWENTY"],
    30: ['quote " and back\\slash'],
    99: [],
}
SIGNED_VALUES = list(SIGNED_ENUM)
UNSIGNED_VALUES = [0, 1, 100, 200, 4000000000, 2**64 - 1, 77]


def unsigned_labels(value: int) -> list[str]:
    labels = {0: ["FIRST"], 1: ["SECOND"], 2**64 - 1: ["ALL"]}
    return labels.get(value, ["LOTS"] if 100 <= value <= 4000000000 else [])


def expected_fields(name: str, seed: int) -> dict[str, Any]:
    def first(bits: int, is_signed: bool = False) -> int:
        return elements(seed, bits, is_signed)[0]

    text = f"seed {seed}"
    length = len(text) % 5
    match name:
        case "integers":
            sizes = {f"{sign}{bits}": first(bits, sign == "s") for bits in (8, 16, 32, 64) for sign in "su"}
            second = elements(seed, 64)[1]
            return sizes | {
                "plain_char": ord("s"),
                "boolean": first(8) & 1,
                "slong": cut(second, 64, True),
                "ulong_": second,
            }
        case "bases":
            return {
                "s8_hex": first(8, True),
                "u8_hex": first(8),
                "s16_hex": first(16, True),
                "u32_hex": first(32),
                "u64_hex": first(64),
                "u32_octal": first(32),
                "u8_binary": first(8),
                "pointer": first(64),
            }
        case "network":
            return {
                "net16": first(16),
                "snet32": first(32, True),
                "net32": first(32),
                "net64": first(64),
                "net16_hex": first(16),
                "net32_hex": first(32),
                "net64_hex": first(64),
            }
        case "floats":
            single = struct.unpack("f", struct.pack("f", 1.5 + seed))[0]
            return {"f32": single, "f64": -0.1 * (seed + 1)}
        case "strings":
            return {
                "text": text,
                "empty": "",
                "utf8": "grüß dich",
                "array_text": text,
                "_sequence_text_length": len(text),
                "sequence_text": text,
                "_sequence_text_empty_length": 0,
                "sequence_text_empty": "",
            }
        case "arrays":
            return {
                "a_s8": elements(seed, 8, True),
                "a_u8": elements(seed, 8),
                "a_s16": elements(seed, 16, True, 3),
                "a_u16": elements(seed, 16),
                "a_s32": elements(seed, 32, True),
                "a_u32": elements(seed, 32, count=1),
                "a_s64": elements(seed, 64, True),
                "a_u64": elements(seed, 64),
                "a_hex": elements(seed, 32),
                "a_net16": elements(seed, 16),
                "a_net32": elements(seed, 32),
                "a_net64_hex": elements(seed, 64),
            }
        case "sequences":
            values = {f"q_{sign}{bits}": elements(seed, bits, sign == "s") for bits in (8, 16, 32, 64) for sign in "su"}
            values |= {"q_hex": elements(seed, 32), "q_net16": elements(seed, 16)}
            values |= {"q_net32": elements(seed, 32), "q_net64_hex": elements(seed, 64)}
            expected: dict[str, Any] = {}
            for field, value in values.items():
                expected[f"_{field}_length"] = length
                expected[field] = value[:length]
            return expected
        case "enums":
            signed, unsigned = SIGNED_VALUES[seed % 10], UNSIGNED_VALUES[seed % 7]
            return {
                "e_int": {"value": signed, "labels": SIGNED_ENUM[signed]},
                "e_s8": {"value": signed, "labels": SIGNED_ENUM[signed]},
                "e_u8": {"value": unsigned & 255, "labels": unsigned_labels(unsigned & 255)},
                "e_u64": {"value": unsigned, "labels": unsigned_labels(unsigned)},
            }
        case "modelled":
            return {"u32": first(32)}
    return {}


def seeds_of(events: list[Event]) -> Iterator[tuple[int, Event]]:
    """Each event with its seed: how many of its name came before."""
    count: dict[str, int] = {}
    for event in events:
        yield count.setdefault(event.name, 0), event
        count[event.name] += 1
