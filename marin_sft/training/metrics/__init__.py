"""What is measured during a run, and where it goes: `metrics.jsonl`, trackers, the progress bar."""
