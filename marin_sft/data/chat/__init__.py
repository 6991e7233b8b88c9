"""What a row holds -> token ids and the mask of trained tokens."""
