"""What the attributes of a data set may be, in one sentence where they are not."""

from collections.abc import Sequence


def check_choices(source: object, **choices: Sequence) -> None:
    """Each attribute is one of its choices.

    Raises:
      ValueError: one is not; its name, the choices and its value.
    """
    for name, allowed in choices.items():
        if getattr(source, name) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, not {getattr(source, name)!r}")


def check_at_least(source: object, **bounds: float) -> None:
    """Each attribute is its bound or more.

    Raises:
      ValueError: one is less; its name, the bound and its value.
    """
    for name, least in bounds.items():
        if getattr(source, name) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(source, name)}")
