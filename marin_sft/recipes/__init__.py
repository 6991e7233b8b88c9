"""What experiments of several projects share, under Marin's names.

    sources               a path, glob or hub id -> the step that it stands for; default_download
    hub_revisions         the commits that hub ids stand for
    instruction_datasets  chat datasets of the Hub and how to read them; get_instruction_dataset
    preference_datasets   the same for preference pairs; get_preference_dataset
    training_data         tokenized datasets -> one LmDataConfig
    llama, qwen           model shapes and tokenizers
    scale                 MARIN_SFT_SCALE: the large experiments on a laptop
    simple_configs        SimpleSFTConfig and its like (conversion: none of their fields is dropped)
    defaults              default_tokenize, default_train, default_sft, default_dpo

Importing any of them loads nothing heavy.
"""
