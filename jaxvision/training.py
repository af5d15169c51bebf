"""`train` and `evaluate`: a config run in a workdir, which then holds everything that came of it.

config.json   the resolved config           checkpoints/   newest and best states
meta.json     classes, versions, devices    tensorboard/   the same numbers for TensorBoard
metrics.jsonl one record per line           *.png          curves, and pictures of the last evaluation: some of its
                                                           predictions, drawn beside the truth, are `predictions.png`
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxvision import config as configs
from jaxvision import errors, experiment, trees
from jaxvision.checking import read_sample
from jaxvision.data.check import check
from jaxvision.data.images import ImageError
from jaxvision.data.prefetch import Prefetch, prefetch
from jaxvision.engine import distributed
from jaxvision.engine.checkpoints import Checkpoints
from jaxvision.engine.debug import find_first_nan
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.hooks import Evaluate, Log, Profile, Save, scalar_values
from jaxvision.engine.lock import WorkdirLock
from jaxvision.engine.loop import Hooks, fit
from jaxvision.engine.progress import Progress
from jaxvision.engine.report import report_step
from jaxvision.engine.state import TrainState
from jaxvision.engine.writers import ConsoleWriter, JsonlWriter, TensorBoardWriter, Writers, read_records
from jaxvision.experiment import Experiment
from jaxvision.loading import find_weights, fit_variables
from jaxvision.pretrained.cards import card_of_file
from jaxvision.pretrained.keymaps import family_of
from jaxvision.pretrained.load import Pretrained, match, unbuilt_variables
from jaxvision.registry import hint

EXAMPLES_FILE = "predictions.png"
ROW, IN_ROWS, WIDE = 2.5, 6, 1280
"""Width of a picture by its height from which on it has a row of its own, how many have, and their width in pixels."""
SHORT_TABLE = 20
"""Parameters that are listed on the console; longer tables are in `parameters.txt`, their groups on the console."""


@dataclasses.dataclass(frozen=True)
class Room:
    """A workdir in use: where a run writes and what it says. Processes other than 0 write and say nothing."""

    run: Experiment
    workdir: epath.Path
    progress: Progress
    main: bool

    def write_description(self) -> None:
        """`config.json` and `meta.json`; says which keys differ from those that the run was started with."""
        if not self.main:
            return
        file = self.workdir / "config.json"
        if file.exists():
            before = configs.from_json(file.read_text())
            for line in _differences(configs.to_plain(before), configs.to_plain(self.run.config)):
                self.progress.say(f"note: the config of this workdir has changed: {line}")
        file.write_text(configs.to_json(self.run.config))
        data = self.run.data
        meta = {"class_names": list(data.class_names), "num_classes": data.num_classes, **experiment.environment()}
        meta |= {"pretrained": _origins(self.run.config.pretrained)}
        (self.workdir / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")

    def write_pictures(self, results: Mapping[str, Any], examples: Sequence[tuple[int, Any]]) -> None:
        """The curves so far, the task's pictures of these results, and those of single predictions."""
        if not self.main:
            return
        from jaxvision.visualization.curves import plot_curves  # matplotlib takes most of a second, and only at the end

        plot_curves(read_records(self.workdir / "metrics.jsonl"), self.workdir / "curves.png")
        for name, write in self.run.task.plots(results).items():
            write(self.workdir / name)
        write_examples(self.run, examples, self.workdir / EXAMPLES_FILE)

    def say_next(self) -> None:
        """Which commands come next."""
        self.progress.say(
            f"Next:\n  {_command('run')} --config {self.workdir} --mode eval\n"
            f"  {_command('predict')} --config {self.workdir} --input IMAGE --output predictions"
        )

    def check_data(self) -> None:
        """Says what can be known of the data without decoding them.

        Raises:
          SetupError: they cannot be trained with.
        """
        data, config = self.run.data, self.run.config

        def look() -> None:
            report = check(
                data.train.source, data.evaluation.source, full=False, max_instances=config.data.max_instances
            )
            for line in report.sentences(notes=False):
                self.progress.say(line)
            report.raise_errors(f"{_command('check')} --config {self.workdir}")
            _ = data.evaluation.evaluation_steps  # raises where the first evaluation would: no canvas holds an image

        distributed.on_main(look)


def train(config: Any, workdir: epath.PathLike) -> dict[str, Any]:
    """Trains to the end of the schedule, from the newest checkpoint of the workdir where there is one.

    Args:
      config: completed config.
      workdir: local folder or `gs://` path; created if needed.

    Returns:
      The results of the last evaluation; empty where the run was complete already or was stopped before one.
    """
    with distributed.naming_lost_hosts(), _opened(config, workdir) as (room, stack):
        run, progress = room.run, room.progress
        section = configs.section(config, "checkpoint")
        keep = {"best_metric": section.best_metric, "best_mode": section.best_mode}
        folder = room.workdir / "checkpoints"
        checkpoints = stack.enter_context(Checkpoints(folder, max_to_keep=section.max_to_keep, **keep))
        restored = checkpoints.restore(run.abstract_state())  # None for a fresh workdir
        state, extra, first = restored if restored is not None else (_initial_state(run, progress), {}, 0)
        progress.resume(first)
        if first >= run.total_steps or extra.get("ended"):
            reason = extra.get("ended") or f"{first} of {run.total_steps} steps are done"
            progress.say(f"This run is complete ({reason}). Another --workdir starts a new one.")
            room.say_next()
            return {}
        if first:
            progress.say(f"resuming from step {first} of {run.total_steps}")
        room.write_description()
        room.check_data()
        with progress.status("compiling the training step (the first time takes longest)", "compiled"):
            compiled = run.compile_train_step(state)
        for line in report_step(state, compiled.first, run.parallel.shares).lines():
            progress.say(line)
        step = find_first_nan(run.train_step, first) if config.log.debug_nans else compiled
        writers = stack.enter_context(_writers(room, first))
        batches = stack.enter_context(
            prefetch(run.data.train.train(first), run.parallel.place, run.config.data.prefetch)
        )
        hooks = _hooks(room, checkpoints, writers, batches)
        hooks.save.restore(extra)
        stack.callback(hooks.profile.close)
        stop = stack.enter_context(distributed.stop_on_signal())
        fit(state, step, batches, first_step=first, total_steps=run.total_steps, hooks=hooks, stop=stop)
        return hooks.evaluate.last[1] if hooks.evaluate.last is not None else {}


def evaluate(config: Any, workdir: epath.PathLike, checkpoint: str | None = None) -> dict[str, Any]:
    """Evaluates a checkpoint, says and draws the result and writes it to `evaluation.json`.

    Args:
      config: completed config.
      workdir: of the run whose newest checkpoint is taken; pictures and `evaluation.json` go there.
      checkpoint: a step, "best", or a path (see `loading.load_model`); None for the newest.

    Returns:
      {name: float or array} of all metrics.
    """
    devices = experiment.prepare(config)
    workdir = epath.Path(workdir)
    run = experiment.build(config, devices)
    main = jax.process_index() == 0
    progress = Progress(run.data.evaluation.evaluation_steps, batch_size=run.data.evaluation.batch_size, enabled=main)
    with errors.setup():
        variables, origin = _read_variables(run, checkpoint, workdir)
    variables = run.parallel.create(lambda tree: tree, variables)
    progress.say(f"evaluating {origin} on {run.data.evaluation.num_examples:,} samples")
    with progress:
        evaluator = run.evaluator()
        results = _evaluate(run, evaluator, variables, on_batch=lambda count: progress.update(count))
    for line in run.task.summary(results):
        progress.say(line)
    if main:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "evaluation.json").write_text(json.dumps({"weights": origin, **scalar_values(results)}, indent=2))
        for name, write in run.task.plots(results).items():
            write(workdir / name)
        write_examples(run, evaluator.examples, workdir / EXAMPLES_FILE)
    return results


def write_examples(run: Experiment, examples: Sequence[tuple[int, Any]], path: epath.Path) -> None:
    """One picture of predictions for evaluation samples, each drawn by the task beside its truth.

    Args:
      examples: (index, prediction), see `Evaluator.examples`.
    """
    from jaxvision.visualization.canvas import save_picture
    from jaxvision.visualization.sheets import contact_sheet

    pictures, titles = [], []
    for index, prediction in sorted(examples, key=lambda example: example[0]):
        try:
            sample = read_sample(run.data.evaluation.source, index)
            pictures.append(run.task.draw(sample, prediction))
        except ImageError:
            continue  # the loader has reported it
        except NotImplementedError:  # a task of a user's own need not draw
            return
        titles.append(str(sample.get("file", f"sample {index}")).rpartition("/")[2])
    if not pictures:
        return
    if min(picture.shape[1] / picture.shape[0] for picture in pictures) > ROW:
        sheet = contact_sheet(pictures[:IN_ROWS], titles[:IN_ROWS], columns=1, largest=WIDE)
    else:
        sheet = contact_sheet(pictures, titles)
    save_picture(sheet, path)


def _initial_state(run: Experiment, progress: Progress) -> TrainState:
    """A fresh state with the weights that `pretrained` names, for the whole model or for parts of it."""
    state, pretrained = run.create(), run.config.pretrained
    for part in run.task.parts:
        if part not in (pretrained or {}):
            progress.say(f"note: pretrained.{part} is not set: the weights of the {part} are random")
    if pretrained is None:
        return state
    wanted = trees.flatten(state.variables())
    beside = {part: _names_of_part(part, wanted) for part in run.task.parts}
    taken = {name for names in beside.values() for name in names.values()}
    own = {name: leaf for name, leaf in wanted.items() if name not in taken}
    parts = [*sorted({name.split("/")[1] for name in own}), *beside]
    values: dict[str, Any] = {}
    for part, path in pretrained.items():
        if part != "model" and part not in parts:
            raise configs.ConfigError(f"pretrained.{part}: {hint(part, ['model', *parts])}")
        with errors.setup():
            if part in beside:
                inner = {name: wanted[outer] for name, outer in beside[part].items()}
                found = _read_beside(run, part, path, inner, progress)
                found = dataclasses.replace(found, values={beside[part][k]: v for k, v in found.values.items()})
            else:
                found = _read_part(run, part, path, own, progress)
        for line in found.notes:
            progress.say(line)
        values |= {name: np.asarray(value, wanted[name].dtype) for name, value in found.values.items()}

    def replace(state: TrainState, values: dict[str, Any]) -> TrainState:
        variables = state.variables()
        leaves = [values.get(name, leaf) for name, leaf in trees.flatten(variables).items()]
        return state.with_variables(jax.tree.unflatten(jax.tree.structure(variables), leaves))

    return run.parallel.create(replace, state, values)


def _origins(pretrained: Mapping[str, str] | None) -> dict[str, dict[str, Any]]:
    """Part -> the weights that it starts from, with the hash of their card where they have one."""
    cards = {part: find_weights(path, None).find_card() for part, path in (pretrained or {}).items()}
    return {part: {"weights": (pretrained or {})[part], "card": card and card.hash} for part, card in cards.items()}


def _read_part(run: Experiment, part: str, path: str, wanted: Mapping[str, Any], progress: Progress) -> Pretrained:
    """Weights of a workdir, a checkpoint, a file of any published kind, or a weight card."""
    file, origin = find_weights(path, None).load(ema=run.config.evaluation.use_ema, say=progress.say)
    family = family_of(getattr(run.task, "model", run.task))
    parts = None if part == "model" else (part,)
    images = jax.ShapeDtypeStruct((1, *run.data.image_size, run.data.channels), np.float32)
    backbone = getattr(getattr(run.task, "model", None), "backbone", None)
    unbuilt = unbuilt_variables(backbone, images) if part == "backbone" else ()
    card = card_of_file(origin)
    return match(file, card, wanted, family, None, parts=parts, unbuilt=unbuilt, what=f"starting from {origin}")


def _names_of_part(part: str, wanted: Mapping[str, Any]) -> dict[str, str]:
    """Names of a part's variables as its model has them -> where they stand among the task's (see `Task.parts`)."""
    params = {name.replace(f"/{part}/", "/", 1): name for name in wanted if name.startswith(f"params/{part}/")}
    return params | {name.partition("/")[2]: name for name in wanted if name.startswith(f"{part}/")}


def _read_beside(run: Experiment, part: str, path: str, wanted: Mapping[str, Any], progress: Progress) -> Pretrained:
    """All weights of one of `Task.parts`; it is not trained, so a classifier of other classes is an error."""
    file, origin = find_weights(path, None).load(ema=run.config.evaluation.use_ema, say=progress.say)
    what = f"the {part} from {origin}"
    found = match(file, card_of_file(origin), wanted, family_of(run.task.parts[part]), None, new_head=False, what=what)
    if found.fresh:
        raise errors.SetupError(f"{what} has other classes than the data: {', '.join(found.fresh)} do not fit")
    return found


def _read_variables(
    run: Experiment, checkpoint: str | None, workdir: epath.Path | None = None
) -> tuple[dict[str, Any], str]:
    """Weights in the structure of the experiment's model, as numpy arrays, and where they come from."""
    loaded, origin = find_weights(checkpoint, workdir).load(ema=run.config.evaluation.use_ema)
    preprocess = experiment.build_preprocess(run.config, train=False)
    shape = (*run.data.image_size, run.data.channels)
    return jax.device_get(fit_variables(run.task, preprocess, shape, loaded, origin)), origin


@contextlib.contextmanager
def _opened(config: Any, workdir: epath.PathLike) -> Iterator[tuple[Room, contextlib.ExitStack]]:
    """Joins the other processes, builds the experiment and owns the workdir within the block."""
    devices = experiment.prepare(config)
    distributed.check_same_everywhere(
        {"the config": configs.facts(config) | {"--workdir": str(workdir)}, "the code": code_facts()}
    )
    main, path = jax.process_index() == 0, epath.Path(workdir)
    run = experiment.build(config, devices)
    with contextlib.ExitStack() as stack:
        batch_size = config.data.batch_size
        progress = stack.enter_context(
            Progress(run.total_steps, batch_size=batch_size, steps_per_epoch=run.steps_per_epoch, enabled=main)
        )
        lock = WorkdirLock(path)
        distributed.on_main(lock.acquire)
        stack.callback(lock.release)
        if lock.taken_over:
            progress.say(lock.taken_over)
        if main:
            facts = experiment.environment()
            progress.say(f"jaxvision {facts['jaxvision']}, jax {facts['jax']}, {facts['devices']}, workdir {path}")
            progress.say(
                f"{run.data.train.num_examples:,} training and {run.data.evaluation.num_examples:,} evaluation samples"
            )
            table = run.bundle.table
            progress.say(str(table) if len(table.rows) <= SHORT_TABLE else table.summary())
            (path / "parameters.txt").write_text(f"{table}\n")
        yield Room(run, path, progress, main), stack


def _writers(room: Room, first: int) -> Writers:
    if not room.main:
        return Writers()
    resume = first if first else -1
    chosen = [ConsoleWriter(room.progress.say), JsonlWriter(room.workdir / "metrics.jsonl", resume)]
    if room.run.config.log.tensorboard:
        chosen.append(TensorBoardWriter(room.workdir / "tensorboard", resume))
    return Writers(chosen)


def _hooks(room: Room, checkpoints: Checkpoints, writers: Writers, batches: Prefetch) -> Hooks:
    run, config, progress = room.run, room.run.config, room.progress
    shown: list[Mapping[str, float]] = []

    def write(step: int, kind: str, values: dict[str, float]) -> None:
        writers.scalars(step, values, kind=kind, epoch=run.epoch(step))

    def advance(step: int, values: Mapping[str, float]) -> None:
        new = shown[-1:] != [values] and bool(values)
        shown[:] = [values]
        progress.update(step, _for_the_bar(values) if new else None, wait_seconds=batches.wait_seconds)

    def save(step: int, state: TrainState, extra: dict[str, Any], results: dict[str, float] | None) -> None:
        writers.flush()
        checkpoints.save(step, state, extra={**extra, "class_names": list(run.data.class_names)}, metrics=results)

    evaluator, early = run.evaluator(), configs.section(config, "schedule").early_stopping

    def run_evaluation(state: TrainState) -> dict[str, Any]:
        with progress.status("evaluating"):
            return _evaluate(run, evaluator, state.variables(ema=config.evaluation.use_ema))

    def finish(step: int, state: TrainState, reason: str | None) -> None:
        checkpoints.wait()
        writers.flush()
        _conclude(room, step, reason, evaluation.last, evaluator.examples)

    log = Log(
        write=write,
        advance=advance,
        every=config.log.every_steps,
        total_steps=run.total_steps,
        batch_size=config.data.batch_size,
        input_wait=lambda: batches.wait_seconds,
        samples=run.samples,
        objectives=tuple(objective.name for objective in run.task.objectives),
    )
    stopping = dict(early) if early is not None else {}
    every = run.every(configs.section(config, "evaluation"))
    evaluation = Evaluate(run_evaluation, write, log, every, run.total_steps, **stopping)
    first_profiled, profiled = (room.main and config.log.profile_steps) or (None, 0)
    saving = configs.section(config, "checkpoint")
    best = {"best_metric": saving.best_metric, "best_mode": saving.best_mode}
    return Hooks(
        profile=Profile(str(room.workdir / "profile"), first_profiled, profiled),
        log=log,
        evaluate=evaluation,
        save=Save(save, log, evaluation, run.every(saving), run.total_steps, **best),
        finish=finish,
    )


def _conclude(
    room: Room,
    step: int,
    reason: str | None,
    last: tuple[int, dict[str, Any]] | None,
    examples: Sequence[tuple[int, Any]],
) -> None:
    """Says what the run reached and what comes next."""
    say = room.progress.say
    room.progress.close()
    if reason is not None:
        say(f"{reason} after step {step} of {room.run.total_steps}")
    if reason is not None and reason.startswith("stopped"):
        say("The same command resumes from here.")
        return
    if last is not None:
        room.write_pictures(last[1], examples)
        for line in room.run.task.summary(last[1]):
            say(line)
        say(f"pictures, curves, checkpoints and metrics are in {room.workdir}")
    room.say_next()


def _evaluate(
    run: Experiment, evaluator: Evaluator, variables: Mapping[str, Any], on_batch: Callable[[int], None] | None = None
) -> dict[str, Any]:
    with prefetch(run.data.evaluation.evaluate(), run.parallel.place, run.config.data.prefetch) as batches:
        return evaluator(variables, batches, on_batch or (lambda count: None))


def _for_the_bar(values: Mapping[str, float]) -> dict[str, float]:
    """The loss and the task's own metrics, the loss first; speed and input wait have their own place on the bar."""
    hidden = ("images_per_second", "input_wait", "grad_norm")
    names = sorted(values, key=lambda name: (name == "learning_rate", "loss" not in name))
    return {name: values[name] for name in names if name.rpartition("/")[2] not in hidden}


def code_facts() -> dict[str, str]:
    """Versions and a checksum of each file of the library: equal on hosts that run the same code."""
    folder = Path(experiment.__file__).parent
    facts = experiment.environment()
    versions = {name: str(facts[name]) for name in ("python", *experiment.VERSIONS)}
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*.py"))}
    sums = {f"jaxvision/{name}": hashlib.sha256(content).hexdigest()[:12] for name, content in files.items()}
    return {**versions, "local devices": str(jax.local_device_count()), **sums}


def _command(name: str) -> str:
    """What a person types for a command: in a checkout, or where the package is installed."""
    installed = (Path(experiment.__file__).parent / "experiments").exists()
    return f"jaxvision {name}" if installed else f"python -m experiments.{name}"


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif before != after:
        yield f"{path}: {before!r} -> {after!r}"
