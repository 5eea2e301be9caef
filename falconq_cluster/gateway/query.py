"""Judging a query string by what the route declares.

What lives here: `Query`, and the reader of numbers, which headers have too.
Rules: a parameter that is not declared, or is there twice, is refused with its name; none can be read that isn't
declared. Bounds and choices are those of the declaration.
Must not know: routes, what a parameter is for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import parse_qsl

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.describing import NUMBER_MAX, Choice, Name, Number, Parameter, Time
from falconq_cluster.gateway.fields import SHOWN_CHARS_MAX, read_name, refuse, shown

QUERY_PARAMETERS_MAX = 20

_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Query:
    """The parameters of one query string, each at most once and all of them known."""

    def __init__(self, text: str, known: Sequence[Parameter]) -> None:
        self._known = known
        self._values: dict[str, str] = {}
        if not text:
            return
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=QUERY_PARAMETERS_MAX)
        except ValueError as error:
            message = f"the query string is not readable: it has more than {QUERY_PARAMETERS_MAX} parts or isn't UTF-8"
            raise FalconQError("bad_request", message) from error
        names = [parameter.name for parameter in known]
        for name, value in pairs:
            if name not in names:
                allowed = f"known here: {', '.join(names)}" if known else "there are none here"
                raise refuse(
                    name[:SHOWN_CHARS_MAX], f"parameter {shown(name)} is not known; {allowed}", code="unknown_field"
                )
            if name in self._values:
                raise refuse(name, f"parameter '{name}' is there more than once; give it one value")
            self._values[name] = value

    def _value(self, parameter: Parameter) -> str | None:
        assert parameter in self._known, f"parameter '{parameter.name}' is read here and not declared"
        return self._values.get(parameter.name)

    def text(self, parameter: Parameter) -> str | None:
        """The value as it came, None when it isn't there."""
        return self._value(parameter)

    def required_name(self, parameter: Name) -> str:
        """A valid name. Raises: bad_request when it isn't there, or isn't one."""
        value = self.name(parameter)
        if value is None:
            name = parameter.name
            text = f"parameter '{name}' is missing; add it to the query, for example ?{name}={parameter.example}"
            raise refuse(name, text)
        return value

    def name(self, parameter: Name) -> str | None:
        """A valid name, None when it isn't there. Raises: bad_request."""
        value = self._value(parameter)
        return None if value is None else read_name(value, parameter.name)

    def number(self, parameter: Number) -> int | None:
        """A whole number within bounds, None when it isn't there. Raises: bad_request."""
        value = self._value(parameter)
        return None if value is None else read_number(value, parameter)

    def number_or_default(self, parameter: Number) -> int:
        """A whole number within bounds. Raises: bad_request."""
        assert parameter.default is not None, f"parameter '{parameter.name}' has no default"
        number = self.number(parameter)
        return parameter.default if number is None else number

    def choice(self, parameter: Choice) -> str:
        """One of the choices, the first when it isn't there. Raises: bad_request."""
        choices = parameter.choices
        value = self._value(parameter)
        if value is None:
            return choices[0]
        if value not in choices:
            raise refuse(
                parameter.name,
                f"parameter '{parameter.name}' is {shown(value)}; it is one of {', '.join(choices)}",
            )
        return value

    def time_ms(self, parameter: Time) -> int | None:
        """An RFC 3339 time as milliseconds since 1970, None when it isn't there. Raises: bad_request."""
        name, value = parameter.name, self._value(parameter)
        if value is None:
            return None
        # A plus sign that wasn't encoded arrives as a space; no valid time has one there.
        return read_time_ms(value.replace(" ", "+"), name, shown_value=value)


def read_time_ms(text: str, name: str, *, shown_value: str | None = None) -> int:
    """An RFC 3339 time as milliseconds since 1970. Raises: bad_request."""
    if _RFC3339.fullmatch(text):
        try:
            return max(0, round(datetime.fromisoformat(text.upper()).timestamp() * 1000))
        except (ValueError, OverflowError):
            pass
    told = shown(text if shown_value is None else shown_value)
    raise refuse(name, f"'{name}' is {told}; write an RFC 3339 time such as 2026-01-31T12:00:00Z")


def read_number(value: str, parameter: Number) -> int:
    """A whole number within the parameter's bounds. Raises: bad_request."""
    name, least, most = parameter.name, parameter.least, parameter.most
    if _DIGITS.fullmatch(value) is None or not least <= int(value) <= most:
        limits = f"from {least} to {most}" if most < NUMBER_MAX else f"from {least} on"
        raise refuse(name, f"'{name}' is {shown(value)}; it is a whole number {limits}")
    return int(value)
