"""What experiments share across projects, under Marin's names.

    sources               a path, glob or hub id -> its step; default_download
    hub_revisions         the commits that hub ids stand for
    instruction_datasets  chat datasets on the Hub, and how to read them; get_instruction_dataset
    preference_datasets   the same for preference pairs; get_preference_dataset
    training_data         tokenized datasets -> one LmDataConfig
    llama, qwen           model shapes and tokenizers
    scale                 MARIN_SFT_SCALE: runs the large experiments on a laptop
    simple_configs        SimpleSFTConfig and similar (conversion: checks that no field is dropped)
    defaults              default_tokenize, default_train, default_sft, default_dpo

Importing any of them loads nothing heavy.
"""
