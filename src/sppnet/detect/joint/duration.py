"""A time as a person writes it."""

import math
import re

from sppnet.errors import ConfigError

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def read_time(text: str) -> float:
    """Seconds of 90s, 10m, 1.5h or plain seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?) ?([smh]?)", text.strip())
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"time must be seconds, or such as 90s, 10m or 1h; got {text!r}")
    return seconds
