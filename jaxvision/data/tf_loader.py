"""Batches of a source of files: decoded, cropped, resized and padded by worker threads.

The order, the slices of the processes and the positions are those of `data.loader.Loader`, so any step is reached at
once and the state of the data is the step alone. tf.data schedules the workers and decodes JPEG files, of which only
the window that is needed; numpy and Pillow do the rest, so that a sample is that of `data.prepare` but for
TensorFlow's JPEG decoder. Files that are not plain JPEG (`data.jpeg`) are decoded by `read_image`. Where TensorFlow is
not installed a thread pool does the same with `read_image` alone, more slowly.

An image that cannot be decoded is an error that names the file: leaving it out would change the order of all others.
`python -m experiments.check` finds all of them beforehand.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxvision.data import pipeline
from jaxvision.data.loader import Loader
from jaxvision.data.order import bucket_of, permutation, repeated_rows
from jaxvision.data.original import original_canvases
from jaxvision.data.pipeline import Job, OpenBatch, Recipe
from jaxvision.data.samples import SampleSource
from jaxvision.data.table import Table
from jaxvision.data.transforms.view import Size, View, compose, split_forms
from jaxvision.errors import SetupError

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TfLoader(Loader):
    """Batches of samples of any size on a canvas, for one of several processes.

    A batch is that of `data.collate`, with the `valid`, `index` and `position` of `data.loader.Loader`.

    Attributes:
      source: the data set; files of a `Table` are decoded as described above, other sources give arrays.
      transforms: host transforms, the geometric ones first.
      image_size: height and width of the canvas.
      channels: 1 or 3.
      max_instances: rows of `targets`; what is more is left out, with one warning.
      buckets: canvases of training, one of which each step has: a function of (seed, step), and so the same on every
        host. The samples of a step are fitted into its canvas. Empty: always `image_size`.
      eval_buckets: canvases of evaluation, of which each sample lies on the one that shows it largest; a batch has one
        canvas. Empty: always `image_size`.
      original_buckets: canvases of label maps at their original size, in evaluation: batches then have
        `semantic_original`, each sample's on the smallest canvas that holds it; a batch has one. Empty: none have it.
      workers: threads; None is the number of cores that this process may use.
      training: whether objects that are hardly to be seen are left out (`data.prepare.MIN_SIDE`).
    """

    source: SampleSource  # type: ignore[assignment]
    transforms: tuple[Any, ...] = ()
    image_size: Size = (224, 224)
    channels: int = 3
    max_instances: int = 100
    buckets: tuple[Size, ...] = ()
    eval_buckets: tuple[Size, ...] = ()
    original_buckets: tuple[Size, ...] = ()
    workers: int | None = None
    training: bool = True

    def __post_init__(self):
        super().__post_init__()
        split_forms(self.transforms)
        if self.channels not in (1, 3):
            raise SetupError(f"channels is {self.channels}: images have 1 channel (grey) or 3 (RGB)")
        for size in (self.image_size, *self.buckets, *self.eval_buckets, *self.original_buckets):
            if len(size) != 2 or min(size) < 1:
                raise SetupError(f"a canvas is {size}: expected (height, width) of at least 1 pixel")
        if self.original_buckets and "semantic" not in self.source.annotations:
            raise SetupError(
                f"original_buckets is {self.original_buckets}, canvases of label maps at their original size, but "
                f"{self.source.name!r} has no semantic maps: leave it empty"
            )
        if self.max_instances < 1:
            raise SetupError(f"max_instances is {self.max_instances}: expected at least 1")
        if self.workers is not None and self.workers < 1:
            raise SetupError(f"workers is {self.workers}: expected at least 1, or None for one per core")

    @property
    def threads(self) -> int:
        """How many workers there are."""
        return self.workers or _cores()

    def canvas(self, step: int) -> Size:
        """The canvas of a step of training."""
        return self.buckets[bucket_of(self.seed, step, len(self.buckets))] if self.buckets else self.image_size

    def _train(self, start_step: int, steps_per_epoch: int) -> Iterator[Batch]:
        order = functools.lru_cache(maxsize=2)(lambda epoch: permutation(self.seed, epoch, self.num_examples))

        def open_batch(number: int) -> OpenBatch:
            step = start_step + number
            epoch, within = divmod(step, steps_per_epoch)
            places = self._places(within)
            positions = epoch * self.num_examples + places
            rows = repeated_rows(order(epoch), places, self.batch_size, self.repeats)
            return OpenBatch(rows, positions, self.canvas(step), self.channels)

        for batch in self._made(open_batch, None):
            yield self._finished(batch, np.ones(len(batch.rows), bool))

    @property
    def evaluation_steps(self) -> int:
        """Batches of one evaluation; equal for every process."""
        return len(self._evaluation)

    def evaluate(self) -> Iterator[Batch]:
        """Every sample once, bucket by bucket, in each in the order of the source.

        Of each bucket the last sample repeats, not `valid`, to fill its last batch.
        """
        first = self.process_index * self.local_batch_size
        places = np.arange(first, first + self.local_batch_size)

        def open_batch(number: int) -> OpenBatch:
            canvas, original, rows = self._evaluation[number]
            own = rows[np.minimum(places, len(rows) - 1)]
            return OpenBatch(own, own, canvas, self.channels, original)

        for number, batch in enumerate(self._made(open_batch, self.evaluation_steps)):
            yield self._finished(batch, places < len(self._evaluation[number][2]))

    @functools.cached_property
    def _evaluation(self) -> list[tuple[Size, Size | None, Int[np.ndarray, " b"]]]:
        """Canvas, canvas of the original and rows of each batch of all processes; the last one of a pair of canvases
        may have fewer rows."""
        needed = len(self.eval_buckets) > 1 or self.original_buckets
        sizes = list(pipeline.sizes(self._recipe.light)) if needed else []
        none = np.zeros(self.num_examples, np.int64)
        shown = self._eval_buckets_of(sizes) if len(self.eval_buckets) > 1 else none
        original = original_canvases(sizes, self.original_buckets, self._name) if self.original_buckets else none
        batches = []
        for i, canvas in enumerate(self.eval_buckets or (self.image_size,)):
            for j, of_original in enumerate(self.original_buckets or (None,)):
                rows = np.flatnonzero((shown == i) & (original == j))
                starts = range(0, len(rows), self.batch_size)
                batches += [(canvas, of_original, rows[k : k + self.batch_size]) for k in starts]
        return batches

    def _eval_buckets_of(self, sizes: list[Size]) -> Int[np.ndarray, " n"]:
        """The bucket that shows each sample largest, the first of several."""
        geometric, _ = split_forms(self.transforms)

        def bucket_for(size: Size) -> int:
            views = [View.whole(size, canvas) for canvas in self.eval_buckets]
            steps = [compose(view, {}, geometric, np.random.default_rng(0))[0].step for view in views]
            return int(np.argmin([x * y for x, y in steps]))

        known = functools.cache(bucket_for)
        return np.array([known(size) for size in sizes])

    def _name(self, row: int) -> str:
        """What messages call a sample."""
        return self.source.file(row) if isinstance(self.source, Table) else f"{self.source.name} {row}"

    def example_batch(self) -> Batch:
        """A batch of this structure, for initialisation and abstract evaluation: the first sample, repeated."""
        return self._example(self.canvas(0))

    def example_batches(self) -> list[Batch]:
        """One on every canvas that training has."""
        return [self._example(canvas) for canvas in dict.fromkeys(self.buckets or (self.image_size,))]

    def _example(self, canvas: Size) -> Batch:
        rows = np.zeros(self.local_batch_size, np.int64)
        batch = OpenBatch(rows, rows, canvas, self.channels)
        pipeline.run(self._recipe, self._recipe.light, batch, 0)
        batch.repeat_first()
        return self._finished(batch, np.ones(len(rows), bool))

    @property
    def _recipe(self) -> Recipe:
        geometric, of_pixels = split_forms(self.transforms)
        return Recipe(self.source, geometric, of_pixels, self.seed, self.channels, self.max_instances, self.training)

    def _made(self, open_batch: Callable[[int], OpenBatch], count: int | None) -> Iterator[OpenBatch]:
        """Batches 0, 1, ... (`count` of them; None is no end), each written by the workers."""
        crew = _Crew(self._recipe, self.local_batch_size, open_batch)
        tf = import_tensorflow() if isinstance(self.source, Table) else None
        run = _run_threads if tf is None else functools.partial(_run_tf, tf)
        warned = False
        for batch in run(crew, count, self.threads):
            if batch.dropped and not warned:
                self._warn(batch)
                warned = True
            yield batch

    def _finished(self, batch: OpenBatch, valid: Bool[np.ndarray, " b"]) -> Batch:
        return {
            **batch.result(),
            "valid": valid,
            "index": batch.rows.astype(np.int32),
            "position": (batch.positions % 2**32).astype(np.uint32),
        }

    def _warn(self, batch: OpenBatch) -> None:
        place, count = next(iter(sorted(batch.dropped.items())))
        warnings.warn(
            f"{self.source.name}: sample {int(batch.rows[place])} has {self.max_instances + count} objects, of which "
            f"max_instances={self.max_instances} are kept; set data.max_instances higher to train on all",
            stacklevel=2,
        )


class _Crew:
    """What the workers of one iteration share. Job n is sample n % size of batch n // size."""

    def __init__(self, recipe: Recipe, size: int, open_batch: Callable[[int], OpenBatch]):
        self.recipe, self.size = recipe, size
        self.errors: dict[int, BaseException] = {}
        self._light = recipe.light
        self._open_batch = open_batch
        self._lock = threading.Lock()
        self._batches: dict[int, OpenBatch] = {}
        self._jobs: dict[int, Job] = {}

    def run(self, n: int) -> None:
        """The whole of a job, without TensorFlow."""
        pipeline.run(self.recipe, self._light, self._batch(n // self.size), n % self.size)

    def begin(self, n: int) -> tuple[bytes, np.ndarray, np.ndarray] | None:
        """Bytes of a JPEG file, the window to decode and the number of the ratio, from 1; None if it is decoded."""
        job = pipeline.begin(self.recipe, self._light, self._batch(n // self.size), n % self.size, tensorflow=True)
        self._jobs[n] = job
        if job.encoded is None:
            return None
        encoded, job.encoded = job.encoded, None
        return encoded, np.array(job.window, np.int32), np.array(1 + pipeline.RATIOS.index(job.ratio), np.int32)

    def finish(self, n: int, pixels: np.ndarray) -> None:
        pipeline.finish(self.recipe, self._jobs.pop(n), pixels if pixels.size else None)

    def take(self, number: int) -> OpenBatch:
        """A batch that is complete; it is forgotten."""
        with self._lock:
            return self._batches.pop(number)

    def raise_first(self, number: int) -> None:
        """Raises the error of the first job that failed before batch `number`."""
        failed = [n for n in self.errors if n < number * self.size]
        if failed:
            raise self.errors[min(failed)]

    def damaged(self) -> BaseException | None:
        """Why a job failed that was begun and not finished."""
        rows = [int(job.batch.rows[job.place]) for _, job in sorted(self._jobs.items())]
        return pipeline.find_damaged(self.recipe.source, rows)

    def _batch(self, number: int) -> OpenBatch:
        with self._lock:
            if number not in self._batches:
                self._batches[number] = self._open_batch(number)
            return self._batches[number]


def _run_threads(crew: _Crew, count: int | None, workers: int) -> Iterator[OpenBatch]:
    jobs = iter(range(count * crew.size)) if count is not None else itertools.count()
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers, "jaxvision-input") as pool:
        try:
            for number in itertools.count() if count is None else range(count):
                for _ in range(crew.size):
                    while len(pending) < 2 * workers and (job := next(jobs, None)) is not None:
                        pending.append(pool.submit(crew.run, job))
                    pending.popleft().result()
                yield crew.take(number)
        finally:
            for future in pending:
                future.cancel()


def _run_tf(tf: Any, crew: _Crew, count: int | None, workers: int) -> Iterator[OpenBatch]:
    jobs = 2**62 if count is None else count * crew.size
    with tf.device("CPU"):
        batches = iter(_dataset(tf, crew, jobs, workers))
    for number in itertools.count() if count is None else range(count):
        try:
            next(batches)
        except tf.errors.OpError as error:
            crew.raise_first(number + 1)
            cause = crew.damaged()
            if cause is None:
                raise
            raise cause from error
        crew.raise_first(number + 1)
        yield crew.take(number)


def _dataset(tf: Any, crew: _Crew, jobs: int, workers: int) -> Any:
    """Does the jobs; its elements say how many are done."""

    nothing = b"", np.zeros(4, np.int32), np.zeros((), np.int32)

    def begin(n: np.ndarray) -> tuple[bytes, np.ndarray, np.ndarray]:
        # An exception would reach the other side of TensorFlow as text only, and be logged on the way.
        try:
            return crew.begin(int(n)) or nothing
        except BaseException as error:
            crew.errors[int(n)] = error
            return nothing

    def finish(n: np.ndarray, pixels: np.ndarray) -> np.bool_:
        try:
            if int(n) not in crew.errors:
                crew.finish(int(n), pixels)
        except BaseException as error:
            crew.errors[int(n)] = error
        return np.bool_(True)

    def job(n: Any) -> Any:
        encoded, window, how = tf.numpy_function(begin, [n], [tf.string, tf.int32, tf.int32])
        decode = functools.partial(
            tf.io.decode_and_crop_jpeg, encoded, window, channels=3, dct_method="INTEGER_ACCURATE"
        )
        branches = [lambda: tf.zeros([0, 0, 3], tf.uint8)]
        branches += [functools.partial(decode, ratio=ratio) for ratio in pipeline.RATIOS]
        pixels = tf.switch_case(tf.ensure_shape(how, []), branches)
        return tf.ensure_shape(tf.numpy_function(finish, [n, pixels], tf.bool), [])

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.range(jobs).map(
        tf.autograph.experimental.do_not_convert(job), num_parallel_calls=workers, deterministic=True
    )
    return dataset.batch(crew.size).with_options(options)


@functools.cache
def import_tensorflow() -> Any:
    """The module, quiet and kept off GPUs and TPUs, which are JAX's; None where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError:
        return None
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # there is none on macOS and Windows
        return os.cpu_count() or 1
