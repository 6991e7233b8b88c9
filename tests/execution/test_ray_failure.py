from marin_sft.execution.ray_failure import shown_by_ray
from marin_sft.execution.step_state import Failure


def test_a_failure_says_who_failed_why_and_where():
    failure = Failure("ValueError: on purpose\n", "/home/me/exp.py:7 in read: raise ValueError()", "Traceback ...")
    assert shown_by_ray("documents/chats", failure) == (
        "documents/chats: ValueError: on purpose\nat /home/me/exp.py:7 in read"
    )
    assert shown_by_ray("documents/chats", None) == "documents/chats"


def test_what_is_long_is_cut_so_that_ray_keeps_who_failed_and_where():
    """Ray keeps 500 bytes from the end, and puts the name of the exception before the text."""
    failure = Failure("ValueError: " + "é" * 1000, "/long" * 100 + "/exp.py:7 in read: raise ValueError()", "")
    shown = shown_by_ray("documents/chats", failure)
    assert len(shown.encode()) + len("marin_sft.execution.ray_backend.StepFailed: ") <= 500
    error, place = shown.splitlines()
    assert error.startswith("documents/chats: ValueError: éé") and error.endswith("é ...")
    assert place.startswith("at ... ") and place.endswith("/long/exp.py:7 in read")
