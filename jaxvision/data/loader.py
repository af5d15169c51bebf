"""Batches of a source whose order is a function of (seed, epoch) and of nothing else.

Epoch e visits the samples in the order `permutation(seed, e)`; consecutive runs of `batch_size` of it are the global
batches, of which every process gathers its own slice, and the last partial batch is dropped. So the position of a run
in its data is the step alone: `train(start_step)` starts anywhere at the cost of one permutation, and any number of
processes sees the same batches.

In memory a batch is one gather, about 2 million 32x32 images per second on one CPU core, grey or RGB; behind
`prefetch`, placed on a CPU device, 70,000 to 160,000 in batches of 64 and 128 (`python -m experiments.benchmark
--config CONFIG --input`).
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from jaxvision.data.order import permutation, repeated_rows
from jaxvision.data.sources.memory import Source

Batch = dict[str, np.ndarray]
_OWN_KEYS = frozenset({"valid", "index", "position"})


@dataclasses.dataclass(frozen=True)
class Loader:
    """Batches of one source for one of several processes.

    A batch holds what the source gathers, whatever its keys, with a leading axis of `local_batch_size`, and

    - `valid` bool [b]: False for rows that only fill up the last batch of an evaluation;
    - `index` int32 [b]: the sample's row in the source;
    - `position` uint32 [b]: in training epoch * num_examples + place in the epoch's order (modulo 2**32), the
      randomness key of augmentation; in evaluation the row.

    Attributes:
      source: the data set.
      batch_size: samples per batch of all processes together.
      seed: chooses the orders; 0..2**64-1.
      process_index: which process this is.
      process_count: how many there are; it divides `batch_size`.
      repeats: times that an image is in a batch of training, each time augmented anew (see `repeated_rows`).
    """

    source: Source
    batch_size: int
    seed: int = 0
    process_index: int = 0
    process_count: int = 1
    repeats: int = 1

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: expected at least 1")
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(f"process_index is {self.process_index}: expected 0..{self.process_count - 1}")
        if not 1 <= self.repeats <= self.batch_size:
            raise ValueError(f"repeats is {self.repeats}: expected 1..{self.batch_size}, the batch_size")
        if not len(self.source):
            raise ValueError(f"source {self.source.name!r} holds no samples")
        if self.batch_size % self.process_count:
            below = self.batch_size // self.process_count * self.process_count
            above = below + self.process_count
            sizes = f"{below} and {above}" if below else f"{above}"
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by {self.process_count} processes; "
                f"the nearest that work: {sizes}"
            )

    @property
    def num_examples(self) -> int:
        return len(self.source)

    @property
    def local_batch_size(self) -> int:
        """Samples per batch of this process."""
        return self.batch_size // self.process_count

    @property
    def steps_per_epoch(self) -> int:
        """Full batches per epoch of training.

        Raises:
          ValueError: the batch is larger than the data set.
        """
        steps = self.num_examples // self.batch_size
        if not steps:
            raise ValueError(
                f"batch_size {self.batch_size} is larger than the {self.num_examples} training samples of "
                f"{self.source.name!r}; take at most {self.num_examples // self.process_count * self.process_count}"
            )
        return steps

    @property
    def evaluation_steps(self) -> int:
        """Batches of one evaluation, the last padded; equal for every process."""
        return -(-self.num_examples // self.batch_size)

    def position(self, step: int) -> int:
        """Of the first sample of a step (0-based) of training, see above; not modulo 2**32."""
        epoch, first = divmod(step, self.steps_per_epoch)
        return epoch * self.num_examples + first * self.batch_size

    def train(self, start_step: int = 0) -> Iterator[Batch]:
        """Endless batches from step `start_step` (0-based) on, in the order of each epoch."""
        if start_step < 0:
            raise ValueError(f"start_step is {start_step}: expected at least 0")
        return self._train(start_step, self.steps_per_epoch)

    def _train(self, start_step: int, steps_per_epoch: int) -> Iterator[Batch]:
        epoch, first = divmod(start_step, steps_per_epoch)
        while True:
            order = permutation(self.seed, epoch, self.num_examples)
            for step in range(first, steps_per_epoch):
                places = self._places(step)
                rows = repeated_rows(order, places, self.batch_size, self.repeats)
                yield self._batch(rows, epoch * self.num_examples + places, np.ones(len(places), bool))
            epoch, first = epoch + 1, 0

    def evaluate(self) -> Iterator[Batch]:
        """Every sample once, in the order of the source; the last one repeats, not `valid`, to fill the last batch."""
        for step in range(self.evaluation_steps):
            places = self._places(step)
            rows = np.minimum(places, self.num_examples - 1)
            yield self._batch(rows, rows, places < self.num_examples)

    def example_batch(self) -> Batch:
        """A batch of this structure, for initialisation and abstract evaluation: the first samples of the source."""
        rows = np.arange(self.local_batch_size) % self.num_examples
        return self._batch(rows, rows, np.ones(len(rows), bool))

    def example_batches(self) -> list[Batch]:
        """One of each shape that training yields."""
        return [self.example_batch()]

    def _places(self, step: int) -> Int[np.ndarray, " b"]:
        start = step * self.batch_size + self.process_index * self.local_batch_size
        return np.arange(start, start + self.local_batch_size)

    def _batch(
        self, rows: Int[np.ndarray, " b"], positions: Int[np.ndarray, " b"], valid: Bool[np.ndarray, " b"]
    ) -> Batch:
        samples = self.source.gather(rows)
        if clash := _OWN_KEYS & samples.keys():
            raise ValueError(f"source {self.source.name!r} gathers {sorted(clash)}, which the loader adds itself")
        return {
            **samples,
            "valid": valid,
            "index": rows.astype(np.int32),
            "position": (positions % 2**32).astype(np.uint32),
        }
