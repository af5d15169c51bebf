"""A pod plan in words and as plain data."""

import math
from typing import Any

from jaxvision.deploy.fitting import Memory
from jaxvision.deploy.plan import Plan
from jaxvision.deploy.roofline import Scale
from jaxvision.deploy.topology import GIB

SHOWN = 8
"""Kinds of collectives that are listed one by one."""


def lines(plan: Plan) -> list[str]:
    """Plain lines for the console."""
    height, width = plan.image_size
    canvas = f"{height}x{width} pixels" + (f", the first of {plan.canvases} canvases" if plan.canvases > 1 else "")
    parts = f" in {plan.accumulate} parts" if plan.accumulate > 1 else ""
    top = [
        f"{plan.topology.name}: {plan.topology.chips} chips, {plan.batch_per_chip} images per chip{parts}, "
        f"global batch {plan.batch:,}, {plan.precision}",
        f"{plan.parameters:,} parameters, {canvas}",
        f"compiled by {plan.compiler} in {plan.seconds:.0f} s; nothing was run",
        "",
        *_memory(plan.memory),
    ]
    if plan.changes or not plan.memory.fits:
        top += ["", "what to change:"]
        top += [f"  - {change.line()}" for change in plan.changes] or [f"  {_hopeless(plan.memory)}"]
    if plan.smaller is not None:
        top += ["", "the largest batch that was seen to fit:", *lines(plan.smaller)]
    if plan.work is None:
        return top
    return [*top, "", *_work(plan), "", *_scaling(plan.scaling)]


def _memory(memory: Memory) -> list[str]:
    total, limit = memory.total, memory.limit
    parts = (
        ("arguments (state and batch)", memory.arguments),
        ("temporaries", memory.temporaries),
        ("outputs beside them", memory.outputs),
        ("program", memory.program),
    )
    needed = "at least " if memory.refused else ""
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    return [
        f"memory of a chip: {needed}{total / GIB:.2f} of {limit / GIB:.2f} GiB ({100 * total / limit:.0f}%): {verdict}",
        *(f"  {name:28}{scaled(size, 'B'):>10}" for name, size in parts if size or not memory.refused),
    ]


def _hopeless(memory: Memory) -> str:
    fixed = (memory.total - memory.temporaries) / GIB
    return (
        f"nothing about the batch: the state alone takes {fixed:.2f} GiB of every chip, as data parallelism keeps "
        "all of it on each; take chips with more memory or a smaller model"
    )


def _work(plan: Plan) -> list[str]:
    work, line = plan.work, plan.roofline
    assert work is not None and line is not None
    chip, count = plan.topology.chip, sum(each.count for each in work.collectives)
    rows = (
        ("operations", scaled(work.flops, "FLOP"), f"at {chip.flops / 1e12:.0f} TFLOP/s (bf16 peak)", line.compute),
        ("memory traffic", scaled(work.traffic, "B"), f"at {chip.memory_bandwidth / 1e9:.0f} GB/s", line.memory),
        ("interconnect", scaled(sum(c.total for c in work.collectives), "B"), f"in {count} collectives", line.network),
    )
    found = [
        "one step on one chip:",
        *(f"  {name:16}{amount:>12}  {rate:32}{scaled(time, 's'):>10}" for name, amount, rate, time in rows),
        f"  bound by {line.bound}: at least {scaled(line.overlapped, 's')}, "
        f"{plan.batch / line.overlapped:,.0f} images/s on all chips",
    ]
    if work.loops[0]:
        found.append(f"  of {work.loops[0]} loops the bodies are counted once: long ones make a step longer")
    if work.collectives:
        found.append("collectives of a step (size of the arrays on each chip):")
    shown, rest = work.collectives[:SHOWN], work.collectives[SHOWN:]
    found += [f"  {c.count:4} x {c.operation:20}{scaled(c.size, 'B'):>10} over {c.group} chips" for c in shown]
    if rest:
        found.append(
            f"  {sum(c.count for c in rest):4} smaller ones, {scaled(sum(c.total for c in rest), 'B')} together"
        )
    return found


def _scaling(scales: tuple[Scale, ...]) -> list[str]:
    head = ("chips", "slice", "batch", "interconnect", "step", "images/s", "efficiency")
    rows = [head, *map(_cells, scales)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [
        "weak scaling, a model and not a measurement (chip and links take turns .. overlap):",
        *(f"  {line}" for line in aligned),
    ]


def _cells(scale: Scale) -> tuple[str, ...]:
    line = scale.roofline
    ends = (line.in_turns, line.overlapped)
    return (
        str(scale.topology.chips),
        scale.topology.name.partition(":")[2],
        f"{scale.batch:,}",
        scaled(line.network, "s"),
        " .. ".join(scaled(end, "s") for end in ends),
        " .. ".join(f"{rate:,.0f}" for rate in scale.rates),
        " .. ".join(f"{100 * share:.1f}%" for share in scale.efficiency),
    )


def scaled(value: float, unit: str) -> str:
    """Three digits and a prefix: 0.0123 s -> "12.3 ms", 3.2e12 FLOP -> "3.20 TFLOP"."""
    if not value:
        return f"0 {unit}"
    power = min(max(math.floor(math.log10(value) / 3 + 1e-9), -3), 5)
    if unit == "B" or unit == "FLOP":
        power = max(power, 0)
    number = value / 1000.0**power
    digits = 0 if number >= 99.95 or (power == 0 and number.is_integer()) else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {'nµm kMGTP'[power + 3].strip()}{unit}"


def to_json(plan: Plan) -> dict[str, Any]:
    """Plain data: bytes, operations and seconds of one chip and step."""
    memory = plan.memory
    told: dict[str, Any] = {
        "topology": plan.topology.name,
        "chips": plan.topology.chips,
        "batch_per_chip": plan.batch_per_chip,
        "global_batch": plan.batch,
        "accumulate": plan.accumulate,
        "precision": plan.precision,
        "image_size": list(plan.image_size),
        "parameters": plan.parameters,
        "compiler": plan.compiler,
        "compile_seconds": round(plan.seconds, 1),
        "memory": {
            "arguments": memory.arguments,
            "temporaries": memory.temporaries,
            "outputs": memory.outputs,
            "program": memory.program,
            "total": memory.total,
            "limit": memory.limit,
            "fits": memory.fits,
        },
    }
    if plan.changes:
        told["changes"] = [
            {"what": c.what, "option": c.option, "total": c.total, "limit": c.limit, "compiled": c.compiled}
            for c in plan.changes
        ]
    if plan.smaller is not None:
        told["smaller"] = to_json(plan.smaller)
    work, line = plan.work, plan.roofline
    if work is None or line is None:
        return told
    return told | {
        "flops": work.flops,
        "memory_traffic": work.traffic,
        "bytes_accessed": work.bytes_accessed,
        "loops": {"count": work.loops[0], "of_unknown_length": work.loops[1]},
        "collectives": [
            {"operation": c.operation, "count": c.count, "bytes": c.size, "chips": c.group} for c in work.collectives
        ],
        "roofline_model": {
            "compute_seconds": line.compute,
            "memory_seconds": line.memory,
            "interconnect_seconds": line.network,
            "bound": line.bound,
            "overlapped_seconds": line.overlapped,
            "in_turns_seconds": line.in_turns,
        },
        "scaling_model": [
            {
                "topology": scale.topology.name,
                "chips": scale.topology.chips,
                "global_batch": scale.batch,
                "interconnect_seconds": scale.roofline.network,
                "images_per_second": list(scale.rates),
                "efficiency": list(scale.efficiency),
            }
            for scale in plan.scaling
        ],
    }
