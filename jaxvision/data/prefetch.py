"""Batches gathered and placed on the device ahead of their use, by a background thread."""

import atexit
import collections
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import jax  # noqa: F401  its exit handler, which clears the backends, must be registered before ours: last in, first out

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_CLOSE_SECONDS = 30.0


class Prefetch(Iterator[_Out], Generic[_In, _Out]):
    """Iterates over `place(item) for item in iterator`, up to `size` results ahead.

    An error of the iterator or of `place` is raised, with its traceback, where the missing result is asked for. Close
    it, or use it as a context manager; an object that is dropped, or left open when Python exits, closes itself.
    The items must not share memory with each other: a placed batch may be its numpy array.

    Attributes:
      wait_seconds: time that `next` has spent waiting so far; over the time of the run it is the input wait.
    """

    def __init__(self, iterator: Iterator[_In], place: Callable[[_In], _Out], size: int = 2):
        """Starts the thread. With size 0 there is none, and `next` does the work."""
        if size < 0:
            raise ValueError(f"prefetch size is {size}: expected 0 (no thread) or the number of batches ahead")
        self.wait_seconds = 0.0
        self._buffer: _Buffer[_In, _Out] = _Buffer(iterator, place, size)
        # The thread knows the buffer but not this object, which can therefore be collected.
        self._closer = weakref.finalize(self, self._buffer.close)
        _OPEN.add(self)

    def __iter__(self) -> "Prefetch[_In, _Out]":
        return self

    def __next__(self) -> _Out:
        start = time.perf_counter()
        try:
            return self._buffer.get()
        finally:
            self.wait_seconds += time.perf_counter() - start

    def __enter__(self) -> "Prefetch[_In, _Out]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops what is prepared and ends the thread; asking for more is an error."""
        self._closer()
        _OPEN.discard(self)


_OPEN: weakref.WeakSet[Prefetch] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """No thread may place a batch while the interpreter or a backend is torn down."""
    for open_iterator in list(_OPEN):
        open_iterator.close()


def prefetch(iterator: Iterator[_In], place: Callable[[_In], _Out], size: int = 2) -> Prefetch[_In, _Out]:
    """See `Prefetch`."""
    return Prefetch(iterator, place, size)


class _Buffer(Generic[_In, _Out]):
    """What the thread and its consumer share."""

    def __init__(self, iterator: Iterator[_In], place: Callable[[_In], _Out], size: int):
        self._iterator, self._place, self._size = iterator, place, size
        # Re-entrant (the default of Condition): the garbage collector may call `close` in the middle of a method.
        self._changed = threading.Condition()
        self._ready: collections.deque[_Out] = collections.deque()
        self._closed = False
        self._finished = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if size:
            self._thread = threading.Thread(target=self._run, name="jaxvision-prefetch", daemon=True)
            self._thread.start()

    def get(self) -> _Out:
        if self._thread is None and not self._closed:
            return self._placed(next(self._iterator))
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._finished or self._closed)
            if self._closed:
                raise RuntimeError("this prefetching iterator is closed")
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        thread = self._thread
        if thread is None:
            _close_iterator(self._iterator)
        elif thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS)
            if thread.is_alive():
                warnings.warn(f"the input thread is still busy after {_CLOSE_SECONDS:g} s and is left", stacklevel=2)

    def _run(self) -> None:
        try:
            while self._has_room():
                try:
                    item = next(self._iterator)
                except StopIteration:
                    return
                placed = self._placed(item)
                with self._changed:
                    if self._closed:
                        return
                    self._ready.append(placed)
                    self._changed.notify_all()
                del item, placed  # or the thread would hold one batch more while it waits
        except BaseException as error:  # raised again in the consumer
            self._error = error
        finally:
            _close_iterator(self._iterator)
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _placed(self, item: _In) -> _Out:
        try:
            return self._place(item)
        except StopIteration as error:  # would pass for the end of the data
            raise RuntimeError("StopIteration was raised while a batch was placed") from error

    def _has_room(self) -> bool:
        """Waits for a free place; False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._size)
            return not self._closed


def _close_iterator(iterator: Iterator) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
