"""What counts as a secret in text, and what of ordinary code does not."""

import base64
import random
import string
from pathlib import Path

import pytest

from marin_sft.redaction import (
    REDACTED,
    has_token,
    is_secret,
    looks_secret,
    redacted,
    redacted_words,
    without_signature,
)

ROOT = Path(__file__).parents[1]
RANDOM = random.Random(0)


def letters(count, alphabet=string.ascii_letters + string.digits):
    return "".join(RANDOM.choices(alphabet, k=count))


def test_names_of_secrets():
    secret = [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "OPENAI_APIKEY",
        "hf_token",
        "TOKEN_2",
    ]
    secret += "DB_PASS PGPASS MY_PWD GITHUB_PAT NPM_AUTH GOOGLE_CREDENTIALS DATABASE_URL API_KEYS api-key X_SIG".split()
    harmless = ["HF_TOKEN_PATH", "MAX_TOKENS", "TOKENIZERS_PARALLELISM", "KEYBOARD", "HOME", "SECRET_FILE"]
    harmless += ["PWD", "OLDPWD", "PATH", "PYTHONPATH", "AUTH_MODE", "HF_HOME", "BASE_URL", "AUTHOR", "PATCH"]
    assert [name for name in secret if not looks_secret(name)] == []
    assert [name for name in harmless if looks_secret(name)] == []


HEX = letters(40, "0123456789abcdef")
SHAPES = [
    f"hf_{letters(34)}",
    f"ghp_{letters(36)}",
    f"github_pat_{letters(22)}_{letters(59)}",
    f"glpat-{letters(20)}",
    f"sk-proj-{letters(48)}",
    f"sk-ant-api03-{letters(90)}",
    f"AKIA{letters(16, string.ascii_uppercase + string.digits)}",
    f"AIza{letters(35)}",
    f"xoxb-{letters(12, string.digits)}-{letters(24)}",
    f"npm_{letters(36)}",
    f"eyJ{letters(30)}.eyJ{letters(60)}.{letters(43)}",
    letters(48),
    base64.b64encode(RANDOM.randbytes(48)).decode(),
]


@pytest.mark.parametrize("secret", SHAPES)
@pytest.mark.parametrize("line", ["x = '{}'", "+{}", "  run --with={} now", "# {}", '{{"a": ["{}"]}}'])
def test_what_has_the_form_of_a_secret(line, secret):
    assert redacted(line.format(secret)) == line.format(REDACTED)


@pytest.mark.parametrize(
    "line, secret",
    [
        ('+WANDB_API_KEY = "{}"', HEX),
        ("export WANDB_API_KEY={}", HEX),
        ('wandb.login(key="{}")', HEX),
        ("password = 'hunter{}'", "2"),
        ('{{"password": "{}"}}', "correct-horse"),
        ("+DB_PASS={}", "swordfish"),
        ("api_key: {}", "abcd-1234"),
        ('client_secret: str = "{}"', "geheim"),
        ("https://me:{}@example.com/x", "p4ss"),
        ("https://{}@example.com/x", letters(24, "abcdef0123456789")),
        ("postgres://u:{}@db/x", "secret"),
        ("https://x.s3.amazonaws.com/a.jsonl?X-Amz-Date=1&X-Amz-Signature={}", "abc"),
        ("Authorization: Bearer {}", "abcdefgh"),
    ],
)
def test_what_stands_next_to_a_name(line, secret):
    text = redacted(line.format(secret))
    assert secret not in text.replace("hunter", "") and REDACTED in text


@pytest.mark.parametrize(
    "token",
    [
        *SHAPES[:-2],
        *(f"gh{kind}_{letters(36)}" for kind in "oprsu"),
        *(f"{kind}k_{mode}_{letters(24)}" for kind in "rs" for mode in ("live", "test")),
        f"r8_{letters(37)}",
        f"ASIA{letters(16, string.ascii_uppercase)}",
        f"ya29.{letters(40)}",
        f"SG.{letters(22)}.{letters(43)}",
        f"pypi-{letters(80)}",
        f"dop_v1_{letters(64, '0123456789abcdef')}",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_token_of_a_service_is_found_in_text(token):
    assert (
        has_token(token) and has_token(f"it is\n'{token}', they say") and not has_token(token[:6] + " " + token[8:12])
    )


def test_a_private_key_goes_whole():
    key = "+-----BEGIN RSA PRIVATE KEY-----\n+" + "\n+".join(letters(64) for _ in range(20))
    assert redacted(f"a\n{key}\n+-----END RSA PRIVATE KEY-----\n+b") == f"a\n+{REDACTED}\n+b"
    assert redacted(f"a\n{key}") == f"a\n+{REDACTED}", "a diff that was cut"


def test_ordinary_code_stays():
    """All of the package, and what often looks alike."""
    for path in (*ROOT.glob("marin_sft/**/*.py"), *ROOT.glob("experiments/**/*.py"), ROOT / "README.md"):
        text = path.read_text()
        assert redacted(text) == text, path
    for line in (
        f"revision = '{HEX}'",
        f"sha256 = '{letters(64, '0123456789abcdef')}'",
        "pad_token='<|endoftext|>', eos_token='<|im_end_2|>'",
        "token = tokenizer.encode(text1)[0]",
        "max_tokens=512, stop_token='Answer1: x'",
        "for key in keys: config[key] = value1",
        "key='layer_12.weight'",
        "api_key=os.environ['API_KEY_1']",
        "API_KEY=${API_KEY_1}",
        "id: 123e4567-e89b-12d3-a456-426614174000",
        "model = 'meta-llama/Llama-3.1-8B-Instruct'",
        "class Qwen2MoeForSequenceClassificationV2Test2(Base1):",
        "ssh://git@github.com/org/name",
        "https://example.com/a?page=2&key_=3",
    ):
        assert redacted(line) == line


def test_command_lines():
    words = ["x.py", "--api_key", "abc", "--token=abc", "--name", "n", "--passphrase", "--flag", f"hf_{'a1' * 12}"]
    hidden = ["x.py", "--api_key", REDACTED, f"--token={REDACTED}", "--name", "n", "--passphrase", "--flag", REDACTED]
    assert redacted_words(words) == hidden


def test_values_of_configs():
    assert is_secret("apiKey", "abcd1234") and is_secret("openai.api_key", "abcd1234")
    assert not is_secret("pad_token", "abcd1234") and not is_secret("api_key", "") and not is_secret("x", "abcd1234")


@pytest.mark.parametrize(
    "url, name",
    [
        (
            "https://b.s3.amazonaws.com/a%20b.jsonl?versionId=3&X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Signature=S",
            "https://b.s3.amazonaws.com/a%20b.jsonl?versionId=3",
        ),
        (
            "https://storage.googleapis.com/b/a?X-Goog-Algorithm=A&X-Goog-Signature=S",
            "https://storage.googleapis.com/b/a",
        ),
        ("https://b.s3.amazonaws.com/a?AWSAccessKeyId=A&Signature=S&Expires=1", "https://b.s3.amazonaws.com/a"),
        (
            "https://x.blob.core.windows.net/c/a?sv=2022&st=1&se=2&sr=b&sp=r&sig=S%3D",
            "https://x.blob.core.windows.net/c/a",
        ),
        ("https://h/a?token=T&part=2", "https://h/a?part=2"),
        ("https://me:pw@h:80/a?x=1#f", "https://h:80/a?x=1#f"),
        ("https://h/a?expires=1&key=k&b=", "https://h/a?expires=1&key=k&b="),
        ("https://h/a?", "https://h/a?"),
        ("gs://b/a@b#1", "gs://b/a@b#1"),
        ("rows.jsonl?sig=1", "rows.jsonl?sig=1"),
    ],
)
def test_urls_without_what_signs_them(url, name):
    assert without_signature(url) == name == without_signature(name)
