"""Packed batches -> train state -> checkpoint.

    sft, dpo, reference   the bodies of the steps, with JAX; their configs are in sft_config and dpo_config
    train_config          the config of all training: the settings of its parts, the data, the base model
    length, devices       parts with the settings they declare. More parts: evaluation_settings, checkpoints,
                          metrics/reporting, optimization/{optimizer_specs, schedule_settings, trainable} (lora_config)
    train_run             a config and an objective -> a trained model
    objective             the interface of what is trained: sft.SFTObjective, dpo.DPOObjective
    loop                  the steps of a run: train_step, stops, checkpoints, exports, validation
    loss                  of documents: next tokens (lm_head, neftune)
    dpo_losses            of pairs: one number each (dpo_formulas, dpo_loss_types)
    pair_loss             of pairs: from a model and a batch (completions, token_logps, references, synced_reference)
    predicted_memory      what a step will take on each device (predicting, target, short_products, nearest_settings)
    levanter_trainer      how Levanter's trainer, mesh and precision are set up
    models/               a Hugging Face directory -> a model, and back; adapters
    optimization/         optimizers, schedules, freezing
    metrics/              what is measured, and the trackers
    attention/            which attention is computed where, and its kernels
    lm_head               hidden states -> log-probabilities of targets, by each device for its own (target_logps)
    cpu/                  what else is computed differently on one CPU

Importing this package, or a config from it, imports no JAX.
"""
