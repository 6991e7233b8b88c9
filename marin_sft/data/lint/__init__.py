"""What is wrong with rows: the step `lint`, and what `marin-sft lint` and reports show of it."""
