"""The commits of hub ids in experiments, so that a name means the same bytes next year.

For another commit, write `org/name@revision`, or pass `revision=` if the function takes it.
"""

HUB_REVISIONS = {
    "Qwen/Qwen2.5-1.5B": "8faed761d45a263340a0528343f099c05c9a4323",
    "Qwen/Qwen3-14B": "40c069824f4251a91eefaf281ebe4c544efd3e18",
    "marin-community/marin-tokenizer": "a5ca45f2feb6c959bd87b81689aa7279b5bdcaa2",
    "meta-llama/Llama-3.1-8B": "d04e592bb4f6aa9cfee91e2e20afa771667e1d4b",
    "meta-llama/Llama-3.1-8B-Instruct": "0e9e39f249a16976918f6564b8830bc894c89659",
}

# Other names on the Hub of the same repository.
SAME_REPOSITORY = {
    "meta-llama/Meta-Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "stanford-crfm/marin-tokenizer": "marin-community/marin-tokenizer",
}

LATEST = "main"


def id_and_revision(hub_id: str) -> tuple[str, str]:
    """("org/name", revision) of "org/name" or "org/name@revision"; `LATEST` for a name without a pin."""
    name, _, revision = hub_id.partition("@")
    name = SAME_REPOSITORY.get(name, name)
    return name, revision or HUB_REVISIONS.get(name, LATEST)
