"""What is accepted without effect, what is refused by name, and the rules of all spellings."""

import re

import jax
import pytest
import transformers

import marin_sft as ed
from marin_sft import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from marin_sft.errors import ConfigError, UserError
from marin_sft.trainers import TrainResult
from marin_sft.trainers.settings import Dialect
from marin_sft.trl import LoraConfig
from tests.seeds.planned import directories, planned, planned_by

MODEL = "Qwen/Qwen3-14B"
TEXTS = [{"text": "one"}, {"text": "two"}]
PAIRS = [{"prompt": "hi", "chosen": "ho", "rejected": "no"}]


def easydel(model=MODEL, rows=TEXTS, **settings):
    return planned(SFTTrainer(arguments=SFTConfig(**settings), model=model, train_dataset=rows))


def loaded(**settings):
    return ed.AutoEasyDeLModelForCausalLM.from_pretrained(MODEL, **settings)


IDLE = {
    "num_of_sequences": 1024,
    "chars_per_token": 3.6,
    "dataset_num_proc": 4,
    "dataset_batch_size": 1000,
    "dataloader_num_workers": 2,
    "padding_value": 0,
    "label_pad_token_id": -100,
    "eval_packing": True,
    "process_zero_is_admin": True,
    "auto_shard_states": True,
    "verbose": True,
    "low_mem_usage": True,
    "use_data_collator": True,
    "use_data_collactor": True,
    "remove_unused_columns": True,
    "is_fine_tuning": True,
    "init_tx": True,
    "remove_ckpt_after_load": True,
    "resume_if_possible": True,
}


def test_what_has_no_effect_is_no_part_of_a_training_and_said_in_one_line(capsys):
    plain = directories(easydel().trainer.steps)
    capsys.readouterr()
    assert directories(easydel(**IDLE).trainer.steps) == plain
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "without effect" in line]
    for name in IDLE:
        assert f"{name} (" in line
    handle = loaded(
        auto_shard_model=True,
        config_kwargs={"freq_max_position_embeddings": 4096, "mask_max_position_embeddings": 4096,
                       "kv_cache_quantization_method": ed.EasyDeLQuantizationMethods.NONE,
                       "decode_attn_mechanism": "vanilla"},
    )  # fmt: skip
    assert directories(easydel(handle).trainer.steps) == plain
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "without effect" in line]
    for name in ("auto_shard_model", "freq_max_position_embeddings", "kv_cache_quantization_method"):
        assert f"{name} (" in line


def test_how_a_tokenizer_would_pad_is_no_part_of_a_training(published):
    found = []
    for side in ("left", "right"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(published.models[MODEL], padding_side=side)
        arguments = {"arguments": SFTConfig(), "model": MODEL, "train_dataset": TEXTS}
        found.append(directories(SFTTrainer(processing_class=tokenizer, **arguments).steps))
    tokenizer.chat_template = "{{ messages }}"
    assert found[0] == found[1] != directories(SFTTrainer(processing_class=tokenizer, **arguments).steps)


QUANTISED = "there is no quantised training"
REFUSED = {
    "NF4": (lambda: loaded(quantization_method=ed.EasyDeLQuantizationMethods.NF4), QUANTISED),
    "A8BIT": (lambda: loaded(quantization_method=ed.EasyDeLQuantizationMethods.A8BIT), QUANTISED),
    "quantization_mode": (lambda: SFTConfig(quantization_mode="nf4"), QUANTISED),
    "load_in_8bit": (lambda: loaded(load_in_8bit=True), QUANTISED),
    "load_in_4bit": (lambda: SFTConfig(load_in_4bit=True), "bf16=True, use_lora=True"),
    "fp16 and bf16": (lambda: easydel(fp16=True, bf16=True), "expected one of them"),
    "z_loss": (lambda: pairs(loss_config=ed.LossConfig(z_loss=0.1)), "the loss of DPO has no such term"),
    "divide_weight_sum": (lambda: ed.LossConfig(divide_weight_sum=True), "mean over the trained tokens"),
    "reduction": (lambda: ed.LossConfig(reduction="sum"), "mean over the trained tokens"),
    "normalizing": (lambda: ed.LossConfig(loss_normalizing_factor=2.0), "mean over the trained tokens"),
    "custom_scheduler": (lambda: SFTConfig(custom_scheduler=lambda step: 1.0), "has no stable text"),
    "sparsify_module": (lambda: SFTConfig(sparsify_module=True), "no such training"),
    "pruning_module": (lambda: SFTConfig(pruning_module=object()), "no such training"),
    "aux_loss_enabled": (lambda: SFTConfig(aux_loss_enabled=True), "no such training"),
    "step_start_point": (lambda: SFTConfig(step_start_point=3), "resume_from_checkpoint"),
    "force_step_start_point": (lambda: SFTConfig(force_step_start_point=3), "resume_from_checkpoint"),
    "data_collator": (lambda: SFTTrainer(MODEL, train_dataset=TEXTS, data_collator=len), "formatting_func"),
    "SKEW": (lambda: easydel(optimizer=ed.EasyDeLOptimizers.SKEW), "'skew': it is neither in Levanter nor in Optax"),
    "QUAD": (lambda: easydel(optimizer=ed.EasyDeLOptimizers.QUAD), "'quad': it is neither in Levanter nor in Optax"),
    "a function of rows elsewhere": (
        lambda: SFTTrainer(MODEL, train_dataset="x/y", formatting_func=str).steps,
        "formatting_func: expected rows in memory",
    ),
    "ep": (lambda: easydel(loaded(sharding_axis_dims=(1, 1, 2, 1, -1))), "ep"),
    "RING": (lambda: easydel(attn_mechanism=ed.AttentionMechanisms.RING), "'ring' is not supported"),
    "BLOCKWISE": (lambda: easydel(attn_mechanism=ed.AttentionMechanisms.BLOCKWISE), "'blockwise' is not supported"),
    "paged": (lambda: easydel(attn_mechanism=ed.AttentionMechanisms.PAGED_ATTENTION), "is not supported"),
    "streaming": (lambda: easydel(rows=(row for row in TEXTS)), "rows without an end"),
    "trainer.model": (lambda: easydel().trainer.model, "weights are not in this process"),
    "auto_shard_model": (lambda: loaded(auto_shard_model=False), "auto_shard_model = False is not supported"),
    "resume_if_possible": (lambda: SFTConfig(resume_if_possible=False), "--force_run"),
    "precision": (lambda: loaded(precision=jax.lax.Precision.HIGHEST), "jax.lax.Precision.DEFAULT"),
    "partition axis": (lambda: ed.PartitionAxis(kv_head_axis="sp"), "expected 'tp'"),
    "misspelt": (lambda: ed.SFTTrianer, "did you mean 'SFTTrainer'"),
    "model.config": (lambda: loaded().config, "the model is not in this process"),
    "too short": (
        lambda: easydel(loaded(config_kwargs={"mask_max_position_embeddings": 64})),
        "max_length = 4096, but config_kwargs limits positions to 64",
    ),
    "eval_strategy": (lambda: easydel(eval_strategy="epoch"), "eval_strategy = 'epoch' is not supported"),
    "save_strategy": (lambda: easydel(save_strategy="epoch"), "save_strategy = 'epoch' is not supported"),
}


def pairs(**settings):
    return planned(DPOTrainer(arguments=DPOConfig(**settings), model=MODEL, train_dataset=PAIRS))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name_with_what_to_use_instead(name):
    make, message = REFUSED[name]
    with pytest.raises((UserError, AttributeError), match=re.escape(message)):
        make()


def test_what_is_refused_may_be_left_off():
    """Configs written out in full say None and False."""
    off = {"custom_scheduler": None, "sparsify_module": False, "load_in_4bit": False, "step_start_point": None}
    assert directories(easydel(**off).trainer.steps) == directories(easydel().trainer.steps)
    assert ed.LossConfig() and pairs(loss_config=ed.LossConfig(z_loss=0.0))


def test_the_state_of_a_result_is_refused_by_name():
    result = TrainResult([], {}, "/models/mine", "/store/hf/mine", 1, 0.5)
    with pytest.raises(AttributeError, match="output_dir = '/models/mine'"):
        print(result.state)


def test_several_machines_of_torchrun_are_refused(desk):
    environment = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}
    done = desk.run("python -m marin_sft.scripts.finetune.sft --repo_id x/y --dataset_name x/y", **environment)
    assert done.code == 2 and "several machines are a Ray cluster" in done.told


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: SFTConfig(max_length=8, max_sequence_length=16), ("max_length = 8", "max_sequence_length = 16")),
        (lambda: SFTConfig(logging_steps=1, log_steps=2), ("logging_steps = 1", "log_steps = 2")),
        (lambda: SFTConfig(dataset_kwargs={"packing": True}, packing=False), ("packing = False", "packing = True")),
        (
            lambda: planned_by("--data_path x/y --max_length 8 --max_seq_length 16", Dialect.TRL),
            ("max_length = 8", "max_seq_length = 16"),
        ),
        (
            lambda: easydel(total_batch_size=8, per_device_train_batch_size=4),
            ("total_batch_size = 8", "per_device_train_batch_size = 4"),
        ),
        (
            lambda: pairs(max_length=100, max_prompt_length=40, max_completion_length=40),
            ("max_prompt_length = 40", "max_completion_length = 40", "max_length = 100"),
        ),
        (lambda: easydel(warmup_steps=3, warmup_ratio=0.1), ("warmup_steps = 3", "warmup_ratio = 0.1")),
        (lambda: easydel(bf16=True, dtype="float32"), ("bf16 = True", "dtype = float32")),
        (lambda: easydel(do_eval=True, no_eval=True), ("do_eval", "no_eval")),
        (lambda: SFTTrainer(SFTConfig(data_path="x/y"), train_dataset=TEXTS), ("train_dataset", "data_path")),
        (
            lambda: SFTTrainer(args=SFTConfig(model_name_or_path="x/y"), model=MODEL, train_dataset=TEXTS),
            ("model", "model_name_or_path"),
        ),
        (
            lambda: SFTTrainer(MODEL, train_dataset=TEXTS, tokenizer="x/y", processing_class="x/z"),
            ("tokenizer", "processing_class"),
        ),
        (
            lambda: SFTTrainer(
                MODEL, args=SFTConfig(processor_repo_id="x/y"), train_dataset=TEXTS, processing_class="x/z"
            ),
            ("processing_class", "processor_repo_id"),
        ),
        (
            lambda: DPOTrainer(
                MODEL, args=DPOConfig(reference_model_repo_id="x/y"), train_dataset=PAIRS, ref_model="x/z"
            ),
            ("ref_model", "reference_model_repo_id"),
        ),
        (
            lambda: planned(
                SFTTrainer(MODEL, args=SFTConfig(lora_r=4), train_dataset=TEXTS, peft_config=LoraConfig(r=8))
            ),
            ("peft_config", "lora_r"),
        ),
        (
            lambda: easydel(loss_config=ed.LossConfig(z_loss=0.1), z_loss_weight=0.2),
            ("z_loss_weight = 0.1", "z_loss_weight = 0.2"),
        ),
        (lambda: easydel(use_wandb=False, report_to="wandb"), ("use_wandb = False", "report_to")),
        (lambda: SFTTrainer(args=SFTConfig(), arguments=SFTConfig(), model=MODEL), ("args", "arguments")),
    ],
)
def test_two_spellings_that_disagree_are_both_named(make, names):
    with pytest.raises(ConfigError) as raised:
        make()
    for name in names:
        assert name in str(raised.value)


def test_two_spellings_that_agree_are_one():
    assert easydel(max_length=64, max_sequence_length=64).mixture.seq_len == 64
    assert easydel(per_device_train_batch_size=4).training.train_batch_size == 4
    assert pairs(max_length=100, max_prompt_length=40).mixture.max_completion_length == 60


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SFTConfig(learning_rat=1), "unknown setting 'learning_rat': did you mean learning_rate"),
        (lambda: SFTConfig(learning_rate="2e-5"), "expected a finite number, got a string: remove the quotes"),
        (lambda: SFTConfig(learning_rate=float("nan")), "expected a finite number"),
        (lambda: SFTConfig(packing="yes"), "expected True or False"),
        (lambda: SFTConfig(num_train_epochs=True), "expected a finite number"),
        (lambda: SFTConfig(beta=0.1), "expected DPOConfig"),
        (lambda: SFTConfig(dtype="float16"), "expected float32 or bfloat16"),
        (lambda: DPOConfig(packing=True), "has no meaning for pairs"),
        (lambda: loaded(dtpye="float32"), "unknown argument 'dtpye'; did you mean 'dtype'?"),
        (lambda: ed.EasyDeLBaseConfigDict(attn_mechanisms="auto"), "did you mean 'attn_mechanism'?"),
        (lambda: SFTTrainer(MODEL, train_datasets=TEXTS), "did you mean 'train_dataset'?"),
        (lambda: SFTTrainer(MODEL), "got no data"),
        (lambda: SFTTrainer(args=SFTConfig(), train_dataset=TEXTS), "got no model"),
        (lambda: SFTTrainer(MODEL, args=DPOConfig, train_dataset=TEXTS), "got settings of type type"),
        (lambda: easydel(rows=[]), "got no rows"),
        (lambda: easydel(rows={"train": TEXTS, "test": TEXTS}), "expected the rows of one of them: data['train']"),
        (lambda: easydel(dataset_split="train[:10%]"), "only datasets on the hub have such parts"),
        (lambda: easydel(rows=["one"]), "row 0 is a str; expected a dictionary"),
        (lambda: easydel(rows=[{"text": object()}]), "row 0 cannot be kept as JSON"),
    ],
)
def test_mistakes_are_told_with_what_was_expected(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_a_mistake_in_a_script_is_one_paragraph(desk):
    desk.write("mine.py", "from marin_sft import SFTConfig\n\nSFTConfig(learning_rat=1)\n")
    done = desk.run("python mine.py")
    assert done.code == 2 and done.told.startswith("error: SFTConfig: unknown setting 'learning_rat'")
    assert "mine.py:3" in done.told and "Traceback" not in done.told
    assert "Traceback" in desk.run("python mine.py --debug").told


def test_adapters_that_nobody_switched_on_are_said():
    plan = planned_by("--data_path x/y --lora_r 8")
    assert "without effect here: lora_r (use_lora=True trains adapters)" in plan.notes


def test_the_same_rows_are_the_same_training():
    again = [dict(row) for row in TEXTS]
    assert directories(easydel().trainer.steps) == directories(easydel(rows=again).trainer.steps)
    assert directories(easydel().trainer.steps) != directories(easydel(rows=[*TEXTS, {"text": "three"}]).trainer.steps)


@pytest.mark.parametrize("by_batch", [True, False])
def test_a_formatting_func_counts_by_its_texts(by_batch):
    def of_batch(batch):
        return [f"User: {prompt}\nAssistant: {answer}" for prompt, answer in zip(batch["p"], batch["a"], strict=True)]

    rows = [{"p": "one", "a": "two"}, {"p": "three", "a": "four"}]
    func = of_batch if by_batch else lambda row: f"User: {row['p']}\nAssistant: {row['a']}"

    def trainer(func, rows):
        return SFTTrainer(arguments=SFTConfig(), model=MODEL, train_dataset=rows, formatting_func=func)

    written = [{"text": text} for text in of_batch({"p": ["one", "three"], "a": ["two", "four"]})]
    found = planned(trainer(func, rows))
    assert directories(found.trainer.steps) == directories(
        easydel(rows=written, dataset_text_field="text").trainer.steps
    )
    with pytest.raises(ConfigError, match="formatting_func answered with a int"):
        planned(trainer(lambda row: 7, rows))
