"""JSON files that grow item by item: lists of any length in constant memory, complete whenever they are closed."""

import json
from typing import Any

from etils import epath


class JsonList:
    """A file that holds a list, or an object whose last key is one; each item takes a line.

        with JsonList("results.json") as rows:
            rows.add({"score": 0.5})

    Args:
      path: is overwritten; its folder must exist.
      head: what stands before the list; with it the file is an object.
      key: of the list in that object.
    """

    def __init__(self, path: epath.PathLike, head: dict[str, Any] | None = None, key: str = "") -> None:
        self.path = epath.Path(path)
        self.count = 0
        self._end = "]\n" if head is None else "]}\n"
        self._stream: Any = self.path.open("w")
        before = (
            "" if head is None else "".join(f"{json.dumps(name)}: {_text(value)},\n" for name, value in head.items())
        )
        self._stream.write("[" if head is None else f"{{{before}{json.dumps(key)}: [")

    def add(self, item: Any) -> None:
        """Appends an item."""
        self._stream.write(("," if self.count else "") + "\n" + _text(item))
        self.count += 1

    def close(self) -> None:
        """Ends the file; may be called again."""
        if not self._stream.closed:
            self._stream.write("\n" + self._end)
            self._stream.close()

    def __enter__(self) -> "JsonList":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
