from marin_sft import progress


def test_reports_reach_the_listener_and_nobody_else():
    heard = []
    progress.report(1, 2)
    with progress.listening(heard.append):
        progress.report(120, 400, "steps", loss=1.3201, tokens_per_second=5100.4)
        progress.report(3)
    progress.report(4)
    assert [news.text() for news in heard] == ["120/400 steps  loss 1.32  tokens/s 5,100", "3"]
