"""Recognizes secrets in text, by their names and by their form.

Used for text that is stored or shown, such as records, never for what a step gets. Hashes of commits and contents are
kept: a hexadecimal value is a secret only if its name says so.
"""

import itertools
import re
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

REDACTED = "<redacted>"

_SECRET_WORD = re.compile(r"(KEYS?|TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|CREDS|COOKIE|DSN)\d*$")
_WHOLE_WORDS = {"PAT", "PWD", "SALT"}
_LAST_WORDS = re.compile(r"(PASS|AUTH|SIGNATURE|SIG)\d*$")
_WHERE_IT_LIES = ("PATH", "FILE", "DIR")
_HARMLESS = {"PWD", "OLDPWD"}
_URLS_WITH_PASSWORDS = re.compile(
    r"(DATABASE|DB|REDIS|MONGO(DB)?|POSTGRES(QL)?|MYSQL|AMQP|BROKER|CONNECTION)_(URL|URI|STRING)$"
)


def looks_secret(name: str) -> bool:
    """Whether a name denotes a secret: HF_TOKEN, but not HF_TOKEN_PATH or MAX_TOKENS."""
    upper = name.upper().replace("-", "_")
    words = [word for word in upper.split("_") if word]
    if not words or upper in _HARMLESS or words[-1] in _WHERE_IT_LIES:
        return False
    named = any(_SECRET_WORD.search(word) or word in _WHOLE_WORDS for word in words)
    return named or bool(_LAST_WORDS.search(words[-1]) or _URLS_WITH_PASSWORDS.search(upper))


# The formats of services' tokens.
_SHAPES = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | \b(?:
      hf_[A-Za-z0-9]{20,}
    | gh[oprsu]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,}
    | sk-[\w-]{20,} | [rs]k_(?:live|test)_[A-Za-z0-9]{16,} | r8_[A-Za-z0-9]{30,}
    | (?:AKIA|ASIA)[A-Z0-9]{16}\b
    | AIza[\w-]{30,} | ya29\.[\w-]{20,}
    | xox[a-z]-[\w-]{10,} | SG\.[\w-]{16,}\.[\w-]{16,}
    | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{50,} | dop_v1_[0-9a-f]{40,}
    | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*
    )
    """,
    re.VERBOSE | re.DOTALL,
)
# One of these is in each of them: to look for them first takes a tenth of the time, in long texts without any.
_IN_SHAPES = (
    "-----BEGIN", "hf_", "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "glpat-", "sk-", "k_live_", "k_test_",
    "r8_", "AKIA", "ASIA", "AIza", "ya29.", "xox", "SG.", "npm_", "pypi-", "dop_v1_", "eyJ",
)  # fmt: skip
_USER_IN_URL = re.compile(r"(?<=://)(?:[^/\s:@'\"?#]*:[^/\s@'\"?#]+|[^/\s:@'\"?#]{20,})(?=@)")
_IN_QUERY = re.compile(r"([?&;]([\w.-]+)=)([^&;\s'\"#<>]+)")
_OF_SIGNATURES = ("x-amz-", "x-goog-")
_SIGNATURES = {"signature", "sig", "token", "access_token", "auth_token", "api_key", "apikey"}
# Signer, expiry and policy in signed URLs of AWS, CloudFront, Google and Azure.
_BESIDE_SIGNATURES = set(
    "awsaccesskeyid googleaccessid key-pair-id expires policy "
    "se sp sv sr st spr sip ske skt sks skv skoid sktid".split()
)
_AUTHORIZATION = re.compile(
    r"(?i)(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:bearer\s+|basic\s+|token\s+)?)([^\s'\",;]{6,})"
)
# NAME = "value", "name": "value", or NAME=value at the start of a line, as in shells, .env files and diffs.
_QUOTED = re.compile(
    r"""(?<![\w.-])([\w.-]{1,80})(["']?\s*(?::\s*\w+\s*)?[:=]\s*[rbf]?)(["'])((?:(?!\3)[^\n\\]|\\.){4,}?)\3"""
)
_BARE = re.compile(r"(?m)^([+-]?[ \t]*(?:export[ \t]+)?)([A-Za-z_][\w.-]*)(=|:[ \t]+)([^\s'\"(){}\[\],]{6,})[ \t]*$")
# password=... or token: ... in program output. A value of letters alone is usually a name in code.
_NAMED = re.compile(
    r"(?i)((?<![\w.])([\w-]*(?:password|passwd|passphrase|secret|api_?key|token))(?:=|:[ \t]+))"
    r"(?=[^\s'\"=,;()\[\]{}]*[0-9!?#$%^&*])([^\s'\"=,;()\[\]{}]{4,})"
)
_LONG_WORD = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9][A-Za-z0-9+/_-]{19,}={0,2}")
_PLACEHOLDER = re.compile(r"[<{$%*\[]|\s|^([A-Z]+(_[A-Z]+)+|x+|none|null|true|false|changeme)$|your[_-]")
_OF_TEXT = re.compile(
    r"(?i)(^|_)(pad|eos|bos|unk|sep|cls|mask|end|start|stop|image|special|chat|new|decoder|\w+_to)_tokens?$"
)


def has_token(text: str) -> bool:
    """Whether the text contains a token of a known service or a private key."""
    return any(map(text.__contains__, _IN_SHAPES)) and _SHAPES.search(text) is not None


def redacted(text: str) -> str:
    """The text with secrets replaced."""
    text = _SHAPES.sub(REDACTED, text)
    text = _USER_IN_URL.sub(REDACTED, text)
    text = _IN_QUERY.sub(lambda m: m[1] + REDACTED if _is_signature(m[2]) or is_secret(m[2], m[3]) else m[0], text)
    text = _AUTHORIZATION.sub(lambda m: m[1] + REDACTED, text)
    text = _QUOTED.sub(lambda m: f"{m[1]}{m[2]}{m[3]}{REDACTED}{m[3]}" if is_secret(m[1], m[4]) else m[0], text)
    text = _NAMED.sub(lambda m: m[1] + REDACTED if is_secret(m[2], m[3]) else m[0], text)
    text = _BARE.sub(lambda m: f"{m[1]}{m[2]}{m[3]}{REDACTED}" if is_secret(m[2], m[4]) else m[0], text)
    return _LONG_WORD.sub(lambda m: REDACTED if _is_random(m[0]) else m[0], text)


def is_secret(name: str, value: str) -> bool:
    """Whether a value is a secret: its name says so, and it is not something else, e.g. a tokenizer's token."""
    name = name.rpartition(".")[2]
    if not looks_secret(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)) or _OF_TEXT.search(name):
        return False
    if REDACTED in value or len(value) < 4 or _PLACEHOLDER.search(value):
        return False
    if re.search(r"(?i)pass|pwd|secret", name):
        return True  # chosen by people, so of any form
    if name.lower() in ("key", "keys", "token"):
        return len(value) >= 20 and value.isalnum() and any(map(str.isdigit, value))
    return len(value) >= 8 and any(map(str.isdigit, value))


def shown_value(name: str, value: object) -> object:
    """A value of a config or the environment, redacted for storage."""
    if not isinstance(value, str):
        return value
    return REDACTED if is_secret(name, value) else redacted(value)


def redacted_words(words: Iterable[str]) -> list[str]:
    """A command line with secrets replaced: `--api_key VALUE`, `--token=VALUE`, and those recognized by form."""
    found, secret = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if secret and not word.startswith("-"):
            found.append(REDACTED)
        elif equals and looks_secret(name.lstrip("-")):
            found.append(f"{name}={REDACTED}")
        else:
            found.append(redacted(word))
        secret = word.startswith("-") and not equals and looks_secret(word.lstrip("-"))
    return found


def without_signature(url: str) -> str:
    """A URL without user, password and signature, so that it only names its content."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    fields = parts.query.split("&")
    names = [field.partition("=")[0].lower() for field in fields]
    query, host = parts.query, parts.netloc.rpartition("@")[2]
    if any(map(_is_signature, names)):
        kept = (not _is_signature(name) and name not in _BESIDE_SIGNATURES for name in names)
        query = "&".join(itertools.compress(fields, kept))
    elif host == parts.netloc:
        return url
    return urlunsplit((parts.scheme, host, parts.path, query, parts.fragment))


def _is_signature(parameter: str) -> bool:
    return parameter.lower() in _SIGNATURES or parameter.lower().startswith(_OF_SIGNATURES)


def _is_random(word: str) -> bool:
    """Whether letters and digits look random. Names have longer runs of one kind of character."""
    characters = re.sub(r"[^A-Za-z0-9]", "", word)
    if len(characters) < max(20, 0.9 * len(word.rstrip("="))) or len(set(characters)) < 12:
        return False
    kinds = ["u" if c.isupper() else "l" if c.islower() else "d" for c in characters]
    changes = sum(a != b for a, b in itertools.pairwise(kinds)) / len(kinds)
    fewest = 1 if len(kinds) >= 32 and changes >= 0.45 else 3  # numbers in it; names have one or two
    return {"u", "l"} <= set(kinds) and changes >= 0.4 and len(re.findall(r"\d+", characters)) >= fewest
