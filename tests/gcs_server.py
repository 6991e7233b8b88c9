"""Google Cloud Storage for tests: its JSON API on loopback, in memory, with preconditions, and with faults on demand.

    with GcsServer() as server:
        server.create_bucket("bucket")
        os.environ["STORAGE_EMULATOR_HOST"] = server.url       # gcsfs, google-cloud-storage
        os.environ["TENSORSTORE_GCS_HTTP_URL"] = server.url    # TensorStore
        with server.failing(Fault.LOST, lambda request: request.method == "POST") as hit:
            ...

Left out: access control, object versions, compose, batches, storage classes.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import email.parser
import email.policy
import enum
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


class Fault(enum.Enum):
    """What goes wrong with a request."""

    REFUSED = "answered 503, nothing done"
    UNAUTHORIZED = "answered 401, nothing done"
    LOST = "done, answered 503"
    DROPPED = "done, the connection closed without an answer"
    STALE = "a listing without the newest object"


@dataclass(frozen=True)
class Request:
    """A request as faults see it. `name` is the object's, where the request is about one."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    bucket: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredObject:
    data: bytes
    generation: int
    resource: dict[str, Any]


@dataclass
class Upload:
    """A resumable upload: its conditions are checked when it ends, as when it begins."""

    bucket: str
    resource: dict[str, Any]
    query: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    answer: Answer | None = None


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = _json({"error": {"code": status, "message": message}}, status)


class GcsServer:
    """The buckets and the server in front of them. One lock: every request is atomic."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, StoredObject]] = {}
        self.fault: Callable[[Request], Fault | None] = lambda request: None
        self.requests: list[Request] = []
        self._uploads: dict[str, Upload] = {}
        self._generations = itertools.count(1_700_000_000_000_000)
        self._fault_of_this: Fault | None = None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"gcs": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> GcsServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def create_bucket(self, name: str) -> None:
        self.buckets.setdefault(name, {})

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Write an object from within: `fault` may call it, to let something happen just before a request."""
        self._insert(bucket, {"name": name}, data, {})

    @contextlib.contextmanager
    def failing(self, fault: Fault, when: Callable[[Request], bool], times: int = 1) -> Iterator[list[Request]]:
        """The first `times` requests that `when` picks go wrong; yields the list of those that did."""
        hit: list[Request] = []

        def decide(request: Request) -> Fault | None:
            if len(hit) >= times or not when(request):
                return None
            hit.append(request)
            return fault

        before, self.fault = self.fault, decide
        try:
            yield hit
        finally:
            self.fault = before

    def answer(self, request: Request) -> Answer | None:
        """Do what the request asks; None: hang up."""
        with self._lock:
            route, names = _route(request)
            request = dataclasses.replace(request, bucket=next(iter(names), None), name=_object_name(request, names))
            self.requests.append(request)
            fault = self._fault_of_this = self.fault(request)
            if fault is Fault.REFUSED:
                return Refused(503, "try again").answer
            if fault is Fault.UNAUTHORIZED:
                return Refused(401, "who are you?").answer
            try:
                answer = route(self, request, *names)
            except Refused as refused:
                answer = refused.answer
        if fault is Fault.DROPPED:
            return None
        return Refused(503, "try again").answer if fault is Fault.LOST else answer

    # One method a route. `names` are the groups of its pattern, unquoted.

    def _buckets(self, request: Request) -> Answer:
        if request.method == "POST":
            self.create_bucket(name := json.loads(request.body)["name"])
            return _json(_bucket(name))
        return _json({"kind": "storage#buckets", "items": [_bucket(name) for name in sorted(self.buckets)]})

    def _bucket(self, request: Request, bucket: str) -> Answer:
        objects = self._objects(bucket)
        if request.method == "DELETE":
            if objects:
                raise Refused(409, "The bucket you tried to delete is not empty.")
            del self.buckets[bucket]
            return Answer(204)
        return _json(_bucket(bucket))

    def _list(self, request: Request, bucket: str) -> Answer:
        objects = self._objects(bucket)
        query = request.query
        start, end = query.get("startOffset", ""), query.get("endOffset")
        names = [n for n in objects if n.startswith(query.get("prefix", "")) and n >= start and (not end or n < end)]
        if self._fault_of_this is Fault.STALE and names:
            names.remove(max(names, key=lambda name: objects[name].generation))
        entries = _grouped(names, query.get("prefix", ""), query.get("delimiter"))
        if token := query.get("pageToken"):
            entries = [entry for entry in entries if entry[0] > token]
        page = entries[: int(query.get("maxResults", 1000))]
        listing: dict[str, Any] = {"kind": "storage#objects"}
        if items := [objects[name].resource for name, is_prefix in page if not is_prefix]:
            listing["items"] = items
        if prefixes := [name for name, is_prefix in page if is_prefix]:
            listing["prefixes"] = prefixes
        if len(page) < len(entries):
            listing["nextPageToken"] = page[-1][0]
        return _json(listing)

    def _object(self, request: Request, bucket: str, name: str) -> Answer:
        stored = self._objects(bucket).get(name)
        _check(request.query, stored, reading=request.method == "GET")
        if stored is None or request.query.get("generation", str(stored.generation)) != str(stored.generation):
            raise Refused(404, f"No such object: {bucket}/{name}")
        if request.method == "DELETE":
            del self.buckets[bucket][name]
            return Answer(204)
        if request.method == "PATCH":
            changed = {**stored.resource, **json.loads(request.body)}
            self.buckets[bucket][name] = stored = StoredObject(stored.data, stored.generation, changed)
        if request.query.get("alt") == "media":
            return _media(stored, request.headers.get("range"))
        return _json(stored.resource)

    def _copy(self, request: Request, bucket: str, name: str, verb: str, to_bucket: str, to_name: str) -> Answer:
        source = self._objects(bucket).get(name)
        if source is None:
            raise Refused(404, f"No such object: {bucket}/{name}")
        resource = {key: source.resource[key] for key in ("contentType", "metadata") if key in source.resource}
        copied = self._insert(to_bucket, {**resource, "name": to_name}, source.data, request.query)
        if verb == "copyTo":
            return copied
        size = str(len(source.data))
        done = {"kind": "storage#rewriteResponse", "done": True, "objectSize": size, "totalBytesRewritten": size}
        return _json({**done, "resource": json.loads(copied.body)})

    def _upload(self, request: Request, bucket: str) -> Answer:
        if upload_id := request.query.get("upload_id"):
            return self._continue(request, upload_id)
        kind = request.query["uploadType"]
        if kind == "media":
            content_type = request.headers.get("content-type", "application/octet-stream")
            resource = {"name": request.query["name"], "contentType": content_type}
            return self._insert(bucket, resource, request.body, request.query)
        if kind == "multipart":
            resource, data = _multipart(request)
            return self._insert(bucket, resource, data, request.query)
        resource = {"name": request.name, **json.loads(request.body or b"{}")}
        resource.setdefault("contentType", request.headers.get("x-upload-content-type", "application/octet-stream"))
        _check(request.query, self._objects(bucket).get(resource["name"]))
        upload_id = str(next(self._generations))
        self._uploads[upload_id] = Upload(bucket, resource, request.query)
        return Answer(200, headers={"Location": f"{self.url}{request.path}?uploadType=resumable&upload_id={upload_id}"})

    def _continue(self, request: Request, upload_id: str) -> Answer:
        """`Content-Range: bytes 0-99/*`, `bytes 100-149/150`, `bytes */150` (how far?); none: all of it."""
        if upload_id not in self._uploads:
            raise Refused(404, "No such upload")
        if request.method == "DELETE":
            del self._uploads[upload_id]
            return Answer(499)
        upload = self._uploads[upload_id]
        if upload.answer is not None:
            return upload.answer  # asked again because the first answer got lost
        match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", request.headers.get("content-range", ""))
        start, total = match.groups() if match else ("0", "*")
        if start is not None:
            upload.data[int(start) :] = request.body
        if match and (total == "*" or len(upload.data) < int(total)):
            return Answer(308, headers={"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {})
        upload.answer = self._insert(upload.bucket, upload.resource, bytes(upload.data), upload.query)
        return upload.answer

    def _insert(self, bucket: str, given: dict[str, Any], data: bytes, query: dict[str, str]) -> Answer:
        objects = self._objects(bucket)
        _check(query, objects.get(given["name"]))
        generation = next(self._generations)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        resource = {
            "contentType": "application/octet-stream",
            **given,
            "kind": "storage#object",
            "id": f"{bucket}/{given['name']}/{generation}",
            "bucket": bucket,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(data)),
            "timeCreated": moment,
            "updated": moment,
            "etag": str(generation),
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "crc32c": base64.b64encode(google_crc32c.Checksum(data).digest()).decode(),
        }
        objects[given["name"]] = StoredObject(data, generation, resource)
        return _json(resource)

    def _objects(self, bucket: str) -> dict[str, StoredObject]:
        if bucket not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.buckets[bucket]


_ROUTES: list[tuple[re.Pattern[str], Callable[..., Answer]]] = [
    (re.compile(r"/storage/v1/b"), GcsServer._buckets),
    (re.compile(r"/storage/v1/b/([^/]+)"), GcsServer._bucket),
    (re.compile(r"/storage/v1/b/([^/]+)/o"), GcsServer._list),
    (re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/(rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)"), GcsServer._copy),
    (re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)"), GcsServer._object),
    (re.compile(r"/upload/storage/v1/b/([^/]+)/o"), GcsServer._upload),
]


def _route(request: Request) -> tuple[Callable[..., Answer], list[str]]:
    for pattern, route in _ROUTES:
        if match := pattern.fullmatch(request.path):
            return route, [unquote(group) for group in match.groups()]
    return _unknown, []


def _unknown(server: GcsServer, request: Request) -> Answer:
    raise Refused(404, f"{request.method} {request.path}: not served here")


def _object_name(request: Request, names: list[str]) -> str | None:
    if len(names) > 1:
        return names[1]
    if request.query.get("uploadType") == "multipart":
        return _multipart(request)[0]["name"]
    return request.query.get("name")


def _check(query: dict[str, str], stored: StoredObject | None, reading: bool = False) -> None:
    """Conditions on generations; 0 stands for "there is none"."""
    generation = str(stored.generation) if stored else "0"
    if query.get("ifGenerationMatch", generation) != generation:
        raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
    if query.get("ifGenerationNotMatch") == generation:
        raise Refused(304 if reading else 412, "At least one of the pre-conditions you specified did not hold.")


def _grouped(names: list[str], prefix: str, delimiter: str | None) -> list[tuple[str, bool]]:
    """Names, those with the delimiter after the prefix cut behind it and marked as prefixes; sorted, each once."""
    if not delimiter:
        return [(name, False) for name in sorted(names)]
    cut = ((name, name.find(delimiter, len(prefix))) for name in names)
    return sorted({(name, False) if at < 0 else (name[: at + len(delimiter)], True) for name, at in cut})


def _media(stored: StoredObject, wanted: str | None) -> Answer:
    size = len(stored.data)
    headers = {
        "Content-Type": stored.resource["contentType"],
        "Accept-Ranges": "bytes",
        "x-goog-generation": str(stored.generation),
        "x-goog-metageneration": stored.resource["metageneration"],
        "x-goog-stored-content-length": str(size),
        "x-goog-hash": f"crc32c={stored.resource['crc32c']},md5={stored.resource['md5Hash']}",
    }
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if not match or match[0] == "bytes=-":
        return Answer(200, stored.data, headers)
    first = int(match[1]) if match[1] else max(0, size - int(match[2]))
    last = min(size, int(match[2]) + 1) if match[1] and match[2] else size
    if first >= last:
        return Answer(416, headers={"Content-Range": f"bytes */{size}"})
    return Answer(206, stored.data[first:last], {**headers, "Content-Range": f"bytes {first}-{last - 1}/{size}"})


def _multipart(request: Request) -> tuple[dict[str, Any], bytes]:
    """The two parts of a multipart/related body. Split by hand: a MIME parser may change the line ends of the data."""
    head = f"Content-Type: {request.headers['content-type']}\n\n"
    boundary = email.parser.Parser(policy=email.policy.HTTP).parsestr(head, headersonly=True).get_boundary()
    mark = b"--" + boundary.encode()
    start = request.body.index(mark) + len(mark)
    middle = request.body.index(b"\n" + mark, start)
    end = request.body.rindex(b"\n" + mark + b"--")
    resource = re.split(rb"\r?\n\r?\n", request.body[start:middle], maxsplit=1)[1]
    data = re.split(rb"\r?\n\r?\n", request.body[middle + 1 + len(mark) : end], maxsplit=1)[1]
    # Where lines end in CRLF, the one before the closing boundary belongs to the boundary.
    return json.loads(resource), data[:-1] if request.body[start : start + 2] == b"\r\n" else data


def _bucket(name: str) -> dict[str, Any]:
    return {"kind": "storage#bucket", "id": name, "name": name, "location": "US", "storageClass": "STANDARD"}


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class _Handler(BaseHTTPRequestHandler):
    gcs: GcsServer
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement
    wbufsize = -1

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        answer = self.gcs.answer(Request(self.command, parts.path, query, headers, body))
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        body = b"" if answer.status in (204, 304) else answer.body
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Tests' output is not the place for it."""
