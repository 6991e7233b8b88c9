"""EasyDeL's `ed.utils`. Scripts use its logger."""

from __future__ import annotations

import logging
import sys


def get_logger(name: str) -> logging.Logger:
    """A logger that prints to stderr from level INFO on, with time and name."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
