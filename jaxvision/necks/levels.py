"""Names of the levels that necks take ("c<k>") and return ("p<k>")."""

from collections.abc import Mapping


def check_names(neck: str, in_levels: tuple[str, ...], example: str = "c3") -> None:
    """Raises ValueError, in the name of `neck`, unless there are names of levels."""
    if not in_levels or any(not level[1:].isdigit() for level in in_levels):
        raise ValueError(f"{neck} got in_levels={in_levels}; expected names such as {example!r}, finest first")


def returned(in_levels: tuple[str, ...], extra: int = 0) -> tuple[str, ...]:
    """Names "p<k>" for each "c<k>", and those of `extra` levels beyond the last one."""
    last = int(in_levels[-1][1:])
    return (*(f"p{level[1:]}" for level in in_levels), *(f"p{last + i + 1}" for i in range(extra)))


def needed(neck: str, in_levels: tuple[str, ...], levels: Mapping[str, object]) -> tuple[str, ...]:
    """`in_levels`; raises ValueError, in the name of `neck`, where one of them is not among `levels`."""
    if any(level not in levels for level in in_levels):
        raise ValueError(
            f"{neck} needs the levels {', '.join(in_levels)} of its backbone, which returns "
            f"{', '.join(levels)}: set out_levels of the backbone, or in_levels of the neck"
        )
    return in_levels
