"""`python -m marin_sft.scripts.finetune.sft` and `.dpo`: EasyDeL's command lines."""
