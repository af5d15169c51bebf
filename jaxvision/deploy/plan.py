"""The plan for a TPU pod: a config's train step compiled for a topology that need not be there.

    plan = make_plan(config.load("resnet50_imagenet"), "v5e:16x16", batch_per_chip=128)
    print("\\n".join(report.lines(plan)))

The program is the one that a pod would run: the engine's step under `jit(shard_map)` over all chips, compiled by the
TPU compiler (libtpu, the extra `tpu`). Memory, operations and collectives are facts about it; times follow from them by
the model in `roofline`, and are no measurements. No data set is read (`shapes`).

What the compiler counts, and what is counted here: operations are the compiler's, with bodies of loops once, times
`schedule.accumulate`, whose loop holds nearly the whole step. Traffic is the smaller of two upper bounds: the
compiler's "bytes accessed", which includes the on-chip memory, and what the operations read and write outside of it.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxvision import config as configs
from jaxvision import errors, experiment
from jaxvision.deploy import fitting, hlo
from jaxvision.deploy.fitting import Change, Memory
from jaxvision.deploy.hlo import Collective
from jaxvision.deploy.roofline import Roofline, Scale, roofline, scaling
from jaxvision.deploy.shapes import shape_data
from jaxvision.deploy.topology import GIB, Topology, compiler_version, devices_of, parse_topology
from jaxvision.engine.parallel import Parallel, check_batch_size
from jaxvision.errors import SetupError

ATTEMPTS = 3
"""Smaller batches that are compiled after a step that does not fit."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What one chip does in a step that was compiled.

    Attributes:
      flops: operations; a multiply-add is two.
      traffic: bytes between the chip and its memory.
      bytes_accessed: the compiler's count, on-chip memory included.
      collectives: of the step.
      loops: how many there are, and how many are of a length that the program does not tell.
    """

    flops: float
    traffic: float
    bytes_accessed: float
    collectives: tuple[Collective, ...]
    loops: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step on a slice of a pod.

    Attributes:
      topology: the slice.
      batch_per_chip: images of a chip and update.
      image_size: height and width of the canvas; of several the first.
      canvases: how many there are.
      precision: compute dtype of the config.
      accumulate: parts of the batch, one after the other.
      parameters: of the model.
      memory: of a chip.
      work: None where the compiler refused the program.
      compiler: its name and version.
      seconds: that compiling took.
      changes: what would make it fit, where it does not.
      smaller: the plan of a smaller batch that fits, where this one does not.
    """

    topology: Topology
    batch_per_chip: int
    image_size: tuple[int, int]
    canvases: int
    precision: str
    accumulate: int
    parameters: int
    memory: Memory
    work: Work | None
    compiler: str
    seconds: float
    changes: tuple[Change, ...] = ()
    smaller: "Plan | None" = None

    @property
    def batch(self) -> int:
        """Images of an update on all chips."""
        return self.batch_per_chip * self.topology.chips

    @property
    def roofline(self) -> Roofline | None:
        if self.work is None:
            return None
        return roofline(self.work.flops, self.work.traffic, self.work.collectives, self.topology)

    @property
    def scaling(self) -> tuple[Scale, ...]:
        """The same batch per chip on slices from one chip to 256."""
        if self.work is None:
            return ()
        work = self.work
        return scaling(work.flops, work.traffic, work.collectives, self.topology, self.batch_per_chip)


def make_plan(
    config: Any,
    topology: str | Topology,
    *,
    batch_per_chip: int | None = None,
    try_changes: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compiles a config's train step for a topology, and a smaller batch where it does not fit.

    Args:
      config: completed.
      topology: "v5e:16x16".
      batch_per_chip: in place of `data.batch_size` over the chips.
      try_changes: compiles what would make a step fit, in place of estimates.
      say: gets a line before each compilation, which takes a minute or more for a large model.

    Raises:
      SetupError: no TPU compiler, an unknown topology, a batch that does not split over the chips.
    """
    slice_ = parse_topology(topology) if isinstance(topology, str) else topology
    devices = Parallel("shard_map", devices_of(slice_))
    config = with_batch(config, slice_, batch_per_chip)
    plan = compile_plan(config, slice_, devices, say)
    if plan.memory.fits:
        return plan
    found = fitting.changes(
        plan.memory,
        slice_,
        batch_per_chip=plan.batch_per_chip,
        accumulate=plan.accumulate,
        precision=plan.precision,
        model=configs.to_plain(config.model),
    )
    if try_changes:
        found = tuple(_tried(change, config, slice_, devices, say) for change in found)
    return dataclasses.replace(plan, changes=found, smaller=_smaller(plan, config, devices, say))


def with_batch(config: Any, topology: Topology, batch_per_chip: int | None) -> Any:
    """The config with the batch of a plan.

    Raises:
      SetupError: it does not split over the chips.
    """
    overrides = [("data.eval_batch_size", "None")] if config.data.eval_batch_size is not None else []
    if batch_per_chip is not None:
        if batch_per_chip < 1:
            raise SetupError(f"batch_per_chip is {batch_per_chip}: expected at least 1")
        overrides.append(("data.batch_size", str(batch_per_chip * topology.chips)))
    config = configs.apply_overrides(config, overrides)
    try:
        check_batch_size(config.data.batch_size, topology.chips, config.schedule.accumulate)
    except ValueError as error:
        raise SetupError(
            f"{error}. {topology.name} has {topology.chips} chips: give each its images by --batch-per-chip, "
            "or set --config.data.batch_size"
        ) from error
    return config


def compile_plan(config: Any, topology: Topology, devices: Parallel, say: Callable[[str], None]) -> Plan:
    """Compiles one step. Where the compiler refuses it for want of memory, the plan has its figure and no `work`."""
    configs.import_extensions(config.imports)
    with errors.setup():
        data = shape_data(config)
    run = experiment.build(config, devices, data)
    state, batches = run.abstract_state(), run.data.train.example_batches()
    batch = devices.abstract_batch(batches[0])
    per_chip = config.data.batch_size // topology.chips
    say(f"compiling {per_chip} images per chip for {topology.name} ({config.precision}) ...")
    begun = time.perf_counter()
    limit = round(topology.chip.memory_gib * GIB)
    work = None
    lowered = run.train_step().lower(state, batch)
    try:
        with never_cached():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        share = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)) // topology.chips
        held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.replace(rng=None)))
        refused = fitting.refusal(str(error), held + share, limit)
        if refused is None:
            raise
        memory = refused
    else:
        memory, work = _memory(compiled, limit), _work(compiled, topology.chips, config.schedule.accumulate)
    leaves = jax.tree.leaves((state.params, state.frozen))
    return Plan(
        topology=topology,
        batch_per_chip=per_chip,
        image_size=tuple(batches[0]["image"].shape[1:3]) if "image" in batches[0] else tuple(config.data.image_size),
        canvases=len(batches),
        precision=config.precision,
        accumulate=config.schedule.accumulate,
        parameters=sum(leaf.size for leaf in leaves),
        memory=memory,
        work=work,
        compiler=compiler_version(),
        seconds=time.perf_counter() - begun,
    )


@contextlib.contextmanager
def never_cached() -> Iterator[None]:
    """Compiled programs are not kept: they could be read only where they can run."""
    key = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, key)
    jax.config.update(key, math.inf)
    try:
        yield
    finally:
        jax.config.update(key, before)


def _memory(compiled: Any, limit: int) -> Memory:
    stats = compiled.memory_analysis()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
        limit=limit,
    )


def _work(compiled: Any, chips: int, accumulate: int) -> Work:
    costs, program = compiled.cost_analysis(), hlo.parse(compiled.as_text())
    accessed = costs.get("bytes accessed", 0.0)
    return Work(
        flops=costs.get("flops", 0.0) * accumulate,
        traffic=min(accessed, program.traffic()) * accumulate,
        bytes_accessed=accessed * accumulate,
        collectives=program.collectives(chips),
        loops=program.loops(),
    )


def _smaller(plan: Plan, config: Any, devices: Parallel, say: Callable[[str], None]) -> Plan | None:
    """The plan of the largest batch that is estimated to fit, or of half of it, or of a quarter, if one fits."""
    batch = fitting.largest_batch(plan.memory, plan.batch_per_chip, plan.accumulate)
    batch = min(batch, plan.batch_per_chip // 2)
    for _ in range(ATTEMPTS):
        if batch < plan.accumulate or batch < 1:
            return None
        smaller = compile_plan(with_batch(config, plan.topology, batch), plan.topology, devices, say)
        if smaller.memory.fits:
            return smaller
        batch //= 2
    return None


def _tried(change: Change, config: Any, topology: Topology, devices: Parallel, say: Callable[[str], None]) -> Change:
    """The change with the compiler's figure, where it is one of the config."""
    if not change.option.startswith("--config."):
        return change
    path, _, value = change.option.removeprefix("--config.").partition("=")
    memory = compile_plan(configs.apply_overrides(config, [(path, value)]), topology, devices, say).memory
    return dataclasses.replace(change, total=memory.total, compiled=True)
