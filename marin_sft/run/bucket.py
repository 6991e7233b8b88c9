"""Where a bucket is."""

from __future__ import annotations

import contextlib
from urllib.parse import urlsplit

_MULTI_REGIONS = {"us": ("us-", "northamerica-"), "eu": ("europe-",), "asia": ("asia-",)}


def bucket_region(prefix: str) -> str | None:
    """The region of the bucket of a gs:// or s3:// URL, or None if that is not known."""
    import fsspec

    parts = urlsplit(prefix)
    with contextlib.suppress(Exception):  # without the right to look at the bucket itself, say
        if parts.scheme in ("gs", "gcs"):
            filesystem = fsspec.filesystem("gs")
            return str(filesystem.call("GET", "b/{}", parts.netloc, json_out=True)["location"]).lower()
        if parts.scheme in ("s3", "s3a"):
            answer = fsspec.filesystem("s3").call_s3("get_bucket_location", Bucket=parts.netloc)
            return answer["LocationConstraint"] or "us-east-1"
    return None


def same_region(bucket: str, node: str) -> bool:
    """Whether a node is in the region of a bucket, which may be one of several regions of a continent."""
    return node == bucket or node.startswith(_MULTI_REGIONS.get(bucket, ("?",)))
