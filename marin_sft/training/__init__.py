"""Packed batches -> train state -> checkpoint.

    sft, dpo, reference   what the steps do, with JAX; their configs are in sft_config and dpo_config
    train_config          what all training is told: the settings of its parts, the data, the base model
    length, devices       parts with the settings they declare; so are evaluation_settings, checkpoints,
                          metrics/reporting, optimization/{optimizer_specs, schedule_settings, trainable} (lora_config)
    train_run             a config and an objective -> a trained model
    objective             what a loss has to offer: sft.SFTObjective, dpo.DPOObjective
    loop                  the steps of a run: train_step, stops, checkpoints, exports, validation
    loss                  of documents: next tokens (target_logps, neftune)
    dpo_losses            of pairs: one number each (dpo_formulas, dpo_loss_types)
    pair_loss             of pairs: from a model and a batch (completions, token_logps, references, synced_reference)
    levanter_trainer      Levanter's trainer, mesh and precision as they are set up here
    models/               a Hugging Face directory -> a model, and back; adapters
    optimization/         optimizers, schedules, what is frozen
    metrics/              what is measured, and the trackers
    cpu/                  what is computed in another way on one CPU

Importing this package, or a config from it, imports no JAX.
"""
