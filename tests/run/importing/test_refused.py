"""What cannot be imported is refused by file, line and key, with what to use instead; the rest is noted."""

import json
import re
from pathlib import Path

import pytest

from marin_sft.errors import UserError
from marin_sft.run import command
from marin_sft.run.importing.tools import import_config

AXOLOTL = """base_model: org/model
datasets:
  - path: org/data
    type: alpaca
learning_rate: 2e-5
micro_batch_size: 1
"""
LLAMA_FACTORY = """model_name_or_path: org/model
stage: sft
finetuning_type: full
dataset: org/data
dataset_dir: ONLINE
"""
TORCHTUNE = """model:
  _component_: torchtune.models.llama3_2.llama3_2_1b
checkpointer:
  checkpoint_dir: /nowhere/model
dataset:
  _component_: torchtune.datasets.alpaca_dataset
optimizer:
  _component_: torch.optim.AdamW
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def imported(text):
    Path("config.yaml").write_text(text)
    return import_config("config.yaml", "mine.py")


def refusal(text):
    with pytest.raises(UserError) as caught:
        imported(text)
    return str(caught.value)


def notes(text):
    return [str(note) for note in imported(text).draft.sorted_notes()]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("load_in_8bit: true", "config.yaml:7: load_in_8bit: true: nothing is trained on quantised weights here"),
        ("load_in_4bit: true", "bfloat16 weights"),
        ("adapter: qlora", "config.yaml:7: adapter: qlora: expected lora; nothing is trained on quantised weights"),
        ("rl: kto", "config.yaml:7: rl: kto: no such training here; expected one of dpo, ipo, simpo"),
        ("rl: grpo", "expected one of dpo, ipo, simpo, or SFT"),
        ("reward_model: true", "reward models are not supported; rl: dpo trains on pairs"),
        ("optimizer: adamw_torch_fuse", "did you mean 'adamw_torch_fused'?"),
        ("lr_scheduler: one_cycle", "expected one of linear, cosine"),
        ("sequence_len: long", "config.yaml:7: sequence_len: got long; expected a number"),
        ("sample_packing: 3", "config.yaml:7: sample_packing: got 3; expected true or false"),
        ("excess_length_strategy: cut", "expected one of drop, truncate, raise"),
        ("warmup_steps: -3", "config.yaml: SFTConfig.warmup = -3: expected"),
        ("weight_decay: -1", "config.yaml:7: weight_decay: SFTConfig.weight_decay = -1: expected at least 0"),
        ("adapter: lora\nlora_r: 0\nlora_alpha: 8", "config.yaml:8: lora_r: LoraConfig.r = 0: expected above 0"),
        ("adapter: lora", "no lora_r; expected one, as axolotl does"),
        ("adapter: lora\nlora_r: 8\nlora_alpha: 8\nlora_target_modules: [lm_head]", "lm_head"),
        ("micro_batch_size: 2", "config.yaml:7: micro_batch_size is there twice, first in line 6"),
    ],
)
def test_of_axolotl(line, said):
    assert said in refusal(f"{AXOLOTL}{line}\n")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("alpacca", "datasets[0].type: alpacca: not known here; expected one of alpaca"),
        ("alpacca", "did you mean 'alpaca'?"),
        ("context_qa.load_v2", "expected one of alpaca, chat_template, completion"),
    ],
)
def test_a_type_of_rows_that_is_not_known(kind, said):
    assert said in refusal(AXOLOTL.replace("alpaca", kind))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("quantization_bit: 4", "config.yaml:6: quantization_bit: 4: nothing is trained on quantised weights here"),
        ("use_galore: true", "no such optimizer"),
        ("stage: kto", "is there twice"),
        ("optim: sgd", "expected one that is: adamw_torch"),
        ("mix_strategy: all", "expected one of concat, interleave_under, interleave_over"),
        ("streaming: true", "streamed datasets are not supported"),
        ("per_device_train_batch_size: 1.5", "got 1.5; expected a whole number"),
    ],
)
def test_of_llama_factory(line, said):
    assert said in refusal(f"{LLAMA_FACTORY}{line}\n")


def test_stages_and_kinds_of_llama_factory():
    assert "stage: ppo: no such training here; expected one of sft, dpo" in refusal(LLAMA_FACTORY.replace("sft", "ppo"))
    freeze = LLAMA_FACTORY.replace("full", "freeze")
    assert "config.yaml:3: finetuning_type: freeze: expected lora or full" in refusal(freeze)
    pairs = LLAMA_FACTORY.replace("stage: sft", "stage: dpo\npref_loss: orpo")
    assert "config.yaml:3: pref_loss: orpo: no such loss here" in refusal(pairs)
    assert "stage: dpo expects pairs, with ranking: true" in refusal(LLAMA_FACTORY.replace("sft", "dpo"))


def test_datasets_of_llama_factory_are_looked_for():
    text = LLAMA_FACTORY.replace("dataset_dir: ONLINE\n", "")
    assert "config.yaml:4: dataset: expected dataset_info.json" in refusal(text) and " in data or " in refusal(text)
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(json.dumps({"mine": {"file_name": "a.json"}, "rated": {"kto_tag": "x"}}))
    assert "mien: not in data/dataset_info.json; did you mean 'mine'?" in refusal(text.replace("org/data", "mien"))
    assert "KTO is not supported" in refusal(text.replace("org/data", "rated"))
    images = {"mine": {"file_name": "a.json", "columns": {"images": "images"}}}
    Path("data/dataset_info.json").write_text(json.dumps(images))
    assert "models with images are not supported" in refusal(text.replace("org/data", "mine"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("llama3_2.llama3_2_1b", "llama3_2.qlora_llama3_2_1b", "config.yaml:2: model._component_: torchtune.models"),
        ("torch.optim.AdamW", "torch.optim.SGD", "torch.optim.SGD: no such optimizer here; expected one of"),
        ("torch.optim.AdamW", "torch.optim.SGD", "; did you mean"),
        ("alpaca_dataset", "alpacca_dataset", "did you mean 'alpaca_dataset'?"),
        ("alpaca_dataset", "preference_dataset", "expected one of alpaca_dataset"),
        (
            "/nowhere/model",
            "${base}/model",
            "checkpointer.checkpoint_dir: got ${base}/model; expected keys of this file",
        ),
        ("optimizer:", "quantizer: {_component_: x.Y}\noptimizer:", "there is no quantised training"),
        (
            "optimizer:",
            "loss: {_component_: torchtune.rlhf.loss.RSOLoss}\noptimizer:",
            "expected one of DPOLoss, SimPO",
        ),
    ],
)
def test_of_torchtune(old, new, said):
    assert said in refusal(TORCHTUNE.replace(old, new))


def test_a_file_of_no_known_tool():
    said = refusal("learning_rate: 3\nmodel: x\n")
    assert "base_model (axolotl), _component_ (torchtune), or model_name_or_path with stage" in said
    assert "its keys are learning_rate, model" in said
    assert "expected a mapping" in refusal("- a\n- b\n")
    assert "not YAML" in refusal("a: [1\n")


def test_files_and_directories(capsys):
    Path("config.yaml").write_text(AXOLOTL)
    assert command.main(["import", "confg.yaml", "-o", "mine.py"]) == 2
    assert "there is no such file; did you mean" in capsys.readouterr().err
    assert command.main(["import", "config.yaml", "-o", "experiments/mine.py"]) == 2
    assert "there is no experiments" in capsys.readouterr().err
    Path("mine.py").write_text("mine")
    assert command.main(["import", "config.yaml", "-o", "mine.py"]) == 2
    assert "is there already; give another -o, or --force" in capsys.readouterr().err
    assert Path("mine.py").read_text() == "mine"
    assert command.main(["import", "config.yaml", "-o", "mine.py", "--force"]) == 0
    assert "executor_main" in Path("mine.py").read_text()


def test_a_refused_config_leaves_no_file(capsys):
    Path("config.yaml").write_text(f"{AXOLOTL}load_in_4bit: true\n")
    assert command.main(["import", "config.yaml", "-o", "mine.py"]) == 2
    assert capsys.readouterr().err.startswith("error: config.yaml:7: load_in_4bit: true: ")
    assert not Path("mine.py").exists()


def test_unknown_keys_are_named_with_their_line():
    found = notes(AXOLOTL + "learnin_rate_floor: 1\n")
    assert any(note.startswith("learnin_rate_floor: 1: not a key of axolotl that is known here") for note in found)
    found = [str(note) for note in imported(AXOLOTL.replace("    type", "    typ: x\n    type")).draft.sorted_notes()]
    assert any(re.match(r"datasets\[0\].typ: x: not a key .*; did you mean 'type'\?; left out", note) for note in found)
    assert any(note.line == 3 + 1 for note in imported(AXOLOTL.replace("    type", "    typ: x\n    type")).draft.notes)


def test_what_the_file_does_not_say_is_said():
    found = notes(AXOLOTL)
    assert any("DEVICES = 1" in note for note in found) and any("3% of the steps" in note for note in found)
    assert any("seed (not given): 0; torchtune takes another" in note for note in notes(TORCHTUNE))
    assert any("torchtune has no limit" in note for note in notes(TORCHTUNE))


def test_an_adapter_to_go_on_from_says_its_own_rank():
    lora = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\nlora_model_dir: out\n"
    assert imported(AXOLOTL + lora).draft.lora == {"adapter_path": "out"}
    text = LLAMA_FACTORY.replace("full", "lora") + "adapter_name_or_path: out\n"
    assert imported(text).draft.lora == {"adapter_path": "out"}


def test_a_chat_template_that_no_dataset_uses():
    assert any(
        note.startswith("chat_template: chatml: not used") for note in notes(AXOLOTL + "chat_template: chatml\n")
    )
    chats = AXOLOTL.replace("alpaca", "chat_template") + "chat_template: chatml\n"
    assert not any("chat_template" in note for note in notes(chats))


def test_plugins_that_only_save_memory_have_no_effect():
    names = ["axolotl.integrations.liger.LigerPlugin", "mine.Plugin"]
    draft = imported(AXOLOTL + f"plugins: {json.dumps(names)}\n").draft
    assert "plugins: left out: mine.Plugin" in map(str, draft.notes)
    draft = imported(AXOLOTL + f"plugins: {json.dumps(names[:1])}\n").draft
    assert draft.without_effect == ["plugins"] and not any("plugin" in str(note) for note in draft.notes)


def test_half_precision_is_bfloat16():
    assert any(note.startswith("fp16: true: trained in bfloat16") for note in notes(AXOLOTL + "fp16: true\n"))
    assert imported(LLAMA_FACTORY + "fp16: true\n").draft.training.get("precision", "bf16") == "bf16"


def test_the_defaults_of_each_tool():
    axolotl = imported(AXOLOTL).draft
    assert (axolotl.seq_len, axolotl.mixture["pack"], axolotl.training["lr_schedule"]) == (512, False, "cosine")
    assert axolotl.training["num_train_epochs"] == 1 and axolotl.training["warmup"] == 0.03
    factory = imported(LLAMA_FACTORY).draft
    assert (factory.seq_len, factory.micro_batch, factory.training["learning_rate"]) == (2048, 8, 5e-5)
    assert (factory.training["num_train_epochs"], factory.training["lr_schedule"]) == (3, "linear")
    assert (factory.training["warmup"], factory.training["precision"]) == (0, "fp32")
    tune = imported(TORCHTUNE).draft
    assert (tune.training["learning_rate"], tune.training["weight_decay"]) == (1e-3, 0.01)
    assert (tune.training["lr_schedule"], tune.training["max_grad_norm"], tune.micro_batch) == ("constant", None, 1)


def test_steps_go_before_epochs_where_they_do_in_the_tool():
    draft = imported(AXOLOTL + "max_steps: 7\nnum_epochs: 3\n").draft
    assert draft.training["num_train_steps"] == 7 and "num_train_epochs" not in draft.training
    draft = imported(LLAMA_FACTORY + "max_steps: -1\nnum_train_epochs: 2\n").draft
    assert draft.training["num_train_epochs"] == 2 and "num_train_steps" not in draft.training


def test_losses_of_axolotl():
    """SimPO is TRL's CPOTrainer there, which adds the NLL of the chosen answers unless cpo_alpha is 0."""
    pairs = AXOLOTL.replace("alpaca", "chatml.intel")
    assert imported(pairs + "rl: simpo\n").draft.training["loss_type"] == {"simpo": 1.0, "sft": 1.0}
    assert imported(pairs + "rl: simpo\ncpo_alpha: 0\n").draft.training["loss_type"] == "simpo"
    assert imported(pairs + "rl: ipo\n").draft.training["loss_type"] == "ipo"
    assert imported(pairs + "rl: dpo\nrpo_alpha: 0.5\n").draft.training["loss_type"] == {"sigmoid": 1.0, "sft": 0.5}


def test_a_setting_that_is_left_out_is_named_with_ours():
    (note,) = [note for note in imported(AXOLOTL + "loraplus_lr_ratio: 16\n").draft.notes if note.line]
    assert (note.line, str(note)) == (7, "loraplus_lr_ratio: 16: left out; A and B have the same learning rate")


def test_a_setting_that_pairs_do_not_have():
    draft = imported(AXOLOTL.replace("alpaca", "chatml.intel") + "rl: dpo\nneftune_noise_alpha: 5\n").draft
    assert "neftune_noise_alpha: left out; DPO has no such setting" in map(str, draft.notes)


ORIGINAL = "original_max_position_embeddings"
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
AXOLOTL_ROPES = {
    "linear": ("rope_scaling: {type: linear, factor: 2.0}\n", {"rope_type": "linear", "factor": 2.0}),
    "of the model": (
        f"overrides_of_model_config:\n  rope_scaling: {{rope_type: yarn, factor: 4, {ORIGINAL}: 8192}}\n",
        {"rope_type": "yarn", "factor": 4, ORIGINAL: 8192},
    ),
}


@pytest.mark.parametrize(("text", "rope_scaling"), AXOLOTL_ROPES.values(), ids=AXOLOTL_ROPES)
def test_positions_scaled_by_axolotl(text, rope_scaling):
    draft = imported(AXOLOTL + text).draft
    assert draft.training["rope_scaling"] == rope_scaling
    assert not any("rope" in str(note) or "overrides" in str(note) for note in draft.notes)


def test_what_axolotl_scales_otherwise_is_said():
    draft = imported(AXOLOTL + "rope_scaling: {type: dynamic, factor: 2.0}\n").draft
    assert "rope_scaling" not in draft.training
    assert any(note.startswith("rope_scaling: left out; it changes nothing up to") for note in map(str, draft.notes))
    others = "overrides_of_model_config:\n  rope_theta: 5e5\n"
    assert "overrides_of_model_config.rope_theta: 500000.0: left out; change the model's config.json first" in notes(
        AXOLOTL + others
    )
    said = refusal(AXOLOTL + "rope_scaling: {type: yarn}\n")
    assert said.startswith("config.yaml:7: rope_scaling: SFTConfig.rope_scaling = {'rope_type': 'yarn'}: expected fac")
    assert "expected a mapping" in refusal(AXOLOTL + "rope_scaling: yarn\n")


@pytest.mark.parametrize(
    ("kind", "config", "rope_scaling"),
    [
        ("yarn", {}, {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 512}),
        ("linear", {}, {"rope_type": "linear", "factor": 4.0}),
        ("yarn", {"rope_scaling": {"type": "yarn", ORIGINAL: 99}}, {"rope_type": "yarn", "factor": 21.0, ORIGINAL: 99}),
        ("llama3", {}, {"rope_type": "llama3", "factor": 4.0, ORIGINAL: 512, **LLAMA_3}),
        ("yarn", {"max_position_embeddings": 2048}, None),
        ("dynamic", {}, None),
    ],
)  # fmt: skip
def test_positions_scaled_by_llama_factory(kind, config, rope_scaling):
    """By how many times cutoff_len (2048) is longer than the model, which is looked at."""
    Path("org/model").mkdir(parents=True)
    Path("org/model/config.json").write_text(json.dumps({"max_position_embeddings": 512, **config}))
    draft = imported(LLAMA_FACTORY + f"rope_scaling: {kind}\n").draft
    assert draft.training.get("rope_scaling") == rope_scaling
    assert ("rope_scaling" in draft.without_effect) == ("max_position_embeddings" in config)


def test_llama_factory_scales_positions_by_a_model_that_is_not_here():
    (note,) = [note for note in notes(LLAMA_FACTORY + "rope_scaling: yarn\n") if note.startswith("rope_scaling")]
    assert note.startswith("rope_scaling: yarn: left out, as the model is not here; if it was made for N tokens, fewer")
    assert f'rope_scaling={{"rope_type": "yarn", "factor": 2048 / N rounded up, "{ORIGINAL}": N}}' in note
