"""Where the file of a weight card lies: in `$JAXVISION_WEIGHTS`, in the cache, or on the publisher's server."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from jaxvision.errors import SetupError
from jaxvision.pretrained.cards import WeightCard

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30


def cache_folder() -> Path:
    """Where downloads are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "jaxvision" / "weights"


def locate(card: WeightCard, say: Callable[[str], None] = lambda line: None) -> Path:
    """The local file of a card, downloaded to the cache if it is nowhere.

    Args:
      say: is told of a download.

    Raises:
      SetupError: it is not here and cannot be downloaded: names the URL and where to put the file; or the download is
        not the file that the card names (its SHA-256 differs).
    """
    own = os.environ.get("JAXVISION_WEIGHTS")
    places = [Path(own) / card.file] if own else []
    places.append(cache_folder() / card.file)
    for place in places:
        if place.is_file():
            return place
    say(f"downloading {card.url}")
    try:
        return _download(card, places[-1])
    except OSError as error:  # urllib's errors are OSErrors
        looked = " and ".join(str(place) for place in places)
        raise SetupError(
            f"the weights {card.name} are not here ({looked}) and cannot be downloaded ({error}): "
            f"fetch {card.url} and put it to {places[0]}"
        ) from None


def _download(card: WeightCard, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    digest = hashlib.sha256()
    try:
        request = urllib.request.Request(card.url, headers={"User-Agent": "jaxvision"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response, partial.open("wb") as file:
            while chunk := response.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
        if not digest.hexdigest().startswith(card.hash):
            raise SetupError(
                f"{card.url} gave a file whose SHA-256 begins with {digest.hexdigest()[:8]} instead of {card.hash}: "
                "the download was cut off or the file was replaced"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
