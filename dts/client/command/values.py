"""Values of the command line's options: what a word may be, and what it means."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

import msgspec

from dts.client.command.plot import check_path
from dts.client.formats import TemplateFormat
from dts.client.rows import RowFormat
from dts.errors import ConfigError, InvalidInput
from dts.model.units import parse_bytes, parse_seconds


def positive_int(text: str) -> int:
    """A whole number above 0."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """A number of seconds, also with a unit such as 5m."""
    try:
        seconds = parse_seconds(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error
    if seconds < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return seconds


def byte_count(text: str) -> int:
    """A number of bytes, also with a unit such as 2GiB."""
    try:
        return parse_bytes(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error


def position(text: str) -> int:
    """The number of a byte, from 0."""
    return 0 if text == "0" else positive_int(text)


def name_list(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def json_object(text: str) -> dict[str, object]:
    """A JSON object."""
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not an object, such as {{"lang": "en"}}')
    return value


def moment(text: str) -> float:
    """A time: seconds since the epoch, an ISO date, or +SECONDS from now."""
    try:
        if text.startswith("+"):
            return time.time() + float(text[1:])
        return datetime.fromisoformat(text).timestamp() if "-" in text[1:] else float(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 2026-12-24T18:00, or +3600") from error


def template(text: str) -> str:
    """A format that can be filled in."""
    try:
        text.encode()
        TemplateFormat(text)
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{text!a} is not valid UTF-8") from error
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error
    return text


def field_list(text: str) -> list[str]:
    """Names of fields that rows can have."""
    try:
        return list(RowFormat(name.strip() for name in text.split(",") if name.strip()).fields)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error


def picture(path: str) -> str:
    """The name of a file for a picture."""
    try:
        return check_path(path)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def priority(text: str) -> int:
    """A priority: 0 to 9, of which 9 goes first."""
    if len(text) != 1 or text not in "0123456789":
        raise argparse.ArgumentTypeError(f"{text!r} is not a priority: write 0 to 9, 9 goes first")
    return int(text)


def weight(text: str) -> float:
    """A share beside other runs: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
