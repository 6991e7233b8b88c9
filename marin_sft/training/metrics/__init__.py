"""What is measured of a run, and where it goes: `metrics.jsonl`, trackers, the progress bar."""
