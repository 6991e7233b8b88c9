"""Mistakes that newcomers make, and what they are told: what was got, what was expected, where, and what to do next.

Those of experiments are made as in an experiment's file, and planned with `--dry_run`: exit code 2, and nothing runs.
"""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from experiments.simple_sft_config import SimpleSFTConfig
from marin_sft import CpuConfig, GpuConfig, executor_main
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.step_configs import TokenizeConfig, TrainTokenizerConfig
from marin_sft.data.tokenize import tokenize as run_tokenize
from marin_sft.data.train_tokenizer import train_tokenizer
from marin_sft.errors import ConfigError, DataError, UserError
from marin_sft.recipes.defaults import default_sft, default_tokenize
from marin_sft.run import command
from marin_sft.steps import download, evaluate, export, mixture, sft, tokenize
from marin_sft.trainers.commands import help_text, parse
from marin_sft.trainers.configs import SFTConfig
from marin_sft.trainers.settings import Dialect
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.model_directory import write_tensors

ROWS = [
    {"messages": [{"role": "user", "content": f"q {i} what"}, {"role": "assistant", "content": f"a {i}"}]}
    for i in range(60)
]
SHAPE = LlamaConfig(max_seq_len=64, hidden_dim=64, intermediate_dim=128, num_layers=2, num_heads=4, num_kv_heads=2)
FULL_PATH = r"'/.*/"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project: chats, a tokenizer, a model as far as planning looks at it, and some that are broken."""
    import numpy as np

    root = tmp_path_factory.mktemp("project")
    for name in ("data.jsonl", "test.jsonl"):
        write(root / name, ROWS)
    train_tokenizer(TrainTokenizerConfig((f"{root}/data.jsonl",), vocab_size=300, output_path=f"{root}/tok"))
    model = root / "model"
    shutil.copytree(root / "tok", model)
    shape = {"num_hidden_layers": 2, "max_position_embeddings": 512, "vocab_size": 300}
    (model / "config.json").write_text(json.dumps({"model_type": "llama", **shape}))
    write_tensors(str(model), {"lm_head.weight": np.zeros((300, 8), np.float32)})
    for name in ("no_config", "truncated", "gpt2", "other_tokenizer", "few_tokens"):
        shutil.copytree(model, root / name)
    (root / "no_config/config.json").unlink()
    weights = (model / "model.safetensors").read_bytes()
    (root / "truncated/model.safetensors").write_bytes(weights[:3000])
    edit(root / "gpt2/config.json", lambda config: config.update(model_type="gpt2"))
    edit(root / "few_tokens/config.json", lambda config: config.update(vocab_size=200))
    edit(root / "other_tokenizer/tokenizer.json", turned_round)
    edit(root / "few_tokens/tokenizer.json", lambda stored: stored["model"]["vocab"].popitem())
    (root / "no_tokenizer").mkdir()
    shutil.copy(model / "config.json", root / "no_tokenizer")
    shutil.copytree(root / "tok", root / "no_template")
    (root / "no_template/chat_template.jinja").unlink(missing_ok=True)
    edit(root / "no_template/tokenizer_config.json", lambda config: config.pop("chat_template", None))
    return root


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setattr("sys.argv", ["mine.py", "--dry_run", "--prefix", f"{made}/store"])
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return made


def write(path: Path, rows: list) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def edit(file: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def turned_round(stored: dict) -> None:
    vocabulary = stored["model"]["vocab"]
    ids = sorted(vocabulary.values())
    stored["model"]["vocab"] = dict(zip(vocabulary, reversed(ids), strict=True))


def tokens(rows="data.jsonl", **options):
    return tokenize("mine", rows, **{"tokenizer": "tok", **options})


def blend(tokenized=None, **options):
    return mixture("mine", {"mine": tokenized or tokens()}, **{"weights": {"mine": 1}, "seq_len": 64, **options})


def trained(data=None, without=(), **options):
    usual = {"base_model": "model", "learning_rate": 1e-3, "train_batch_size": 4, "num_train_epochs": 1}
    settings = {name: value for name, value in {**usual, **options}.items() if name not in without}
    return sft("mine", mixture=data or blend(), **settings)


def simple(**options):
    usual = {"train_batch_size": 4, "num_train_steps": 3, "resources": CpuConfig(), "model_name_or_path": "model"}
    return SimpleSFTConfig(**{**usual, **options})


def by_default(config):
    return default_sft("mine", tokens(), None, config)


ASKED = "expected an existing file or directory, or a glob.*, got"
MISTAKES = {
    # Paths and ids.
    "01": (
        lambda: tokens("dat.jsonl"),
        r"train_paths\[0\]: " + f"{ASKED} {FULL_PATH}dat.jsonl'; did you mean '.*data.js",
    ),
    "02": (lambda: trained(base_model="modle"), f"config.base_model: {ASKED} .*; did you mean '.*/model'"),
    "03": (lambda: tokens(tokenizer="tokk"), f"config.tokenizer: {ASKED} .*; did you mean '.*/tok'"),
    "04": (
        lambda: tokens(tokenizer="Qwen/Qwen3-0.6B"),
        r"download\(name, hf_tokenizer_id='Qwen/Qwen3-0.6B'\), or give it to default_tokenize",
    ),
    "04, rows": (
        lambda: tokens("org/rows"),
        r"download\(name, hf_dataset_id='org/rows'\), or give it to default_tokenize",
    ),
    "05": (
        lambda: trained(base_model="Qwen/Qwen3-0.6B"),
        r"download\(name, hf_model_id='Qwen/Qwen3-0.6B'\), or give it to default_sft, which takes ids",
    ),
    "45": (lambda: trained(base_model="~/models/m"), f"{ASKED} '(?!~).*/models/m'"),
    "54": (lambda: by_default(simple(model_name_or_path="modle")), "base model 'modle'; .*; did you mean '.*model'"),
    "55": (lambda: default_tokenize("x", "dat.jsonl", "tok"), "did you mean '.*data.jsonl'"),
    "58": (
        lambda: default_tokenize("x", "test.jsonl", "tok"),
        "'test.jsonl', which is called test .* is_validation=True",
    ),
    # What is on disk.
    "11": (
        lambda: trained(blend(seq_len=4096)),
        r"max_position_embeddings = 512 .* rows of 4096 tokens; expected at most 512 \(seq_len of mixture",
    ),
    "m1": (lambda: trained(base_model="no_config"), r"no config.json in 'no_config' \(it has .*model.safetensors"),
    "m3": (
        lambda: trained(base_model="truncated"),
        r"truncated/model.safetensors \(3,000 bytes\): .* tells of 9,600 bytes of tensors.* copy or download it again",
    ),
    "m4": (lambda: trained(base_model="gpt2"), "model_type 'gpt2': expected one of llama, mistral, qwen2"),
    "m6": (
        lambda: tokens(tokenizer="no_tokenizer"),
        r"no tokenizer in 'no_tokenizer' \(found \['config.json'\]\); expected",
    ),
    "m7": (
        lambda: trained(base_model="other_tokenizer"),
        r"another tokenizer than the base model's \(other_tokenizer\): .* Tokenize with the base model's tokenizer",
    ),
    "m7, size": (
        lambda: trained(base_model="few_tokens"),
        "tokenizer has 300 tokens, expected at most vocab_size = 200",
    ),
    "24": (
        lambda: trained(lora=LoraConfig(r=8, alpha=16, target_modules=["q_prj"])),
        "target_modules = .*q_prj.* expected some of q_proj, k_proj",
    ),
    "24, adapter": (
        lambda: trained(lora=LoraConfig(adapter_path="tok")),
        "adapter_path = 'tok': no adapter_config.json and no adapter_model.safetensors there .it has .*tokenizer.json",
    ),
    "t2": (
        lambda: trained(train_batch_size=8, per_device_parallelism=3),
        "train_batch_size = 8: expected a multiple .* per_device_parallelism x devices = 3 x 1; change one of the two",
    ),
    "t2, accumulation": (
        lambda: trained(resources=GpuConfig(gpu_count=4), gradient_accumulation_steps=2),
        "train_batch_size = 4: expected a multiple of 4 data-parallel devices x gradient_accumulation_steps = 2",
    ),
    "t2, mesh": (
        lambda: trained(resources=GpuConfig(gpu_count=4), mesh={"sequence": 3}),
        "sft 'mine': mesh = .*sequence=3.*: expected sizes whose product is 4, the devices of a slice",
    ),
    "t2, mesh and batch": (
        lambda: trained(resources=GpuConfig(gpu_count=16), mesh={"tensor": 2}),
        "train_batch_size = 4: expected a multiple of the 8 data-parallel devices",
    ),
    "t2, mesh and model": (
        lambda: trained(resources=GpuConfig(gpu_count=4), mesh={"tensor": 4}, expected_model=SHAPE),
        "tensor = 4 does not divide the base model's num_key_value_heads = 2; expected a divisor",
    ),
    "t2, mesh and rows": (
        lambda: trained(resources=GpuConfig(gpu_count=5), mesh={"sequence": 5}),
        "sequence = 5 does not divide rows of 64 tokens; expected a divisor",
    ),
    "t2, attention": (
        lambda: trained(resources=GpuConfig(), attention_backend="splash"),
        r"attention_backend = 'splash': runs on tpu only, and the resources of the step are GpuConfig\(\.\.\.\)",
    ),
    # Data and mixtures.
    "19": (
        lambda: blend(weights={"mien": 1}),
        r"differ in \['mien'\]: .* the components \['mine'\]; .*did you mean 'mine'",
    ),
    "20, several": (
        lambda: mixture("x", {"a": tokens(), "b": tokens()}, seq_len=64),
        "mixture 'x': 2 components and no weights; expected weights={'a': 1, 'b': 1}",
    ),
    "21": (lambda: blend(weights={"mine": -1}), r"weights\['mine'\]=-1.0; expected a finite number of at least 0"),
    "26": (lambda: blend(tokens(format="chat")), r"format='chat'; expected a format, e.g. ChatLmDatasetFormat\("),
    "27": (lambda: ChatLmDatasetFormat(shape="alpacca"), "shape='alpacca'; .*did you mean 'alpaca'"),
    "28": (lambda: ChatLmDatasetFormat(train_on="assistants"), "train_on='assistants'; .*did you mean 'assistant'"),
    "32": (lambda: blend(seq_len="512"), "seq_len='512'; expected a whole number"),
    "34": (lambda: trained("mixtures/mine"), r"sft 'mine': mixture.*expected .* step that mixture\("),
    "34, export": (lambda: export("x", "sft/mine"), r"export 'x': trained.*expected .* step that sft\(.*\) or dpo\("),
    "40": (
        lambda: mixture("mine", {"mine": tokens()}, max_seq_length=64),
        r"mixture\(\) has no argument 'max_seq_length': seq_len is",
    ),
    # Settings of training.
    "06": (
        lambda: trained(learning_rate="1e-5"),
        "learning_rate = '1e-5': expected a finite number, .*remove the quotes",
    ),
    "07": (lambda: trained(learning_rte=1), "no field 'learning_rte': did you mean 'learning_rate'"),
    "08": (lambda: trained(train_batch_size="8"), "train_batch_size = '8': .*: remove the quotes$"),
    "10": (lambda: trained(without=["num_train_epochs"]), "neither num_train_epochs nor num_train_steps; expected"),
    "12": (lambda: blend(seq_len=0), "seq_len=0; expected a whole number, at least 2"),
    "13": (lambda: trained(train_batch_size=0), "train_batch_size = 0: expected at least 1"),
    "14": (lambda: trained(lr_schedule="cosin"), "one of constant, linear, cosine.*; did you mean 'cosine'"),
    "15": (lambda: trained(optimizer="adam"), "did you mean 'adamw'"),
    "16": (lambda: trained(precision="fp16"), "precision = 'fp16': expected bf16: float16 needs"),
    "18": (
        lambda: trained(per_device_train_batch_size=4),
        "use train_batch_size, which counts the examples of a whole step: .*per_device_parallelism is how many",
    ),
    "23": (lambda: trained(lora={"r": 8}), r"expected LoraConfig or None, as in LoraConfig\(.*from marin_sft.training"),
    "25": (lambda: LoraConfig(r=0, alpha=1), "LoraConfig.r = 0: expected above 0"),
    "29": (
        lambda: trained(without=["learning_rate"]),
        "SFTConfig: 'learning_rate' is missing; it has no default: learning_rate=",
    ),
    "31": (lambda: trained(learning_rate=float("nan")), "learning_rate = nan: expected a finite number"),
    "36": (lambda: export("mine", trained(), dtype="bf16"), "dtype = 'bf16': expected .*; bf16 is 'bfloat16'"),
    "37": (lambda: export("mine", trained(), dtype="float8"), "expected one of float32, bfloat16, float16, or None$"),
    "38": (lambda: trained(warmup="3%"), "warmup = '3%': expected a finite number; 3% is 0.03"),
    "41": (lambda: trained(mesh={"dta": 2}), "mesh = {'dta': 2}: expected .*; did you mean 'data'"),
    "42": (
        lambda: trained(attention_backend="flash_attention_2"),
        "expected None, or one of default, tokamax, nvte",
    ),
    "43": (lambda: trained(trackers="wandb"), r"as in \(WandbConfig\(project='mine'\),\), from marin_sft"),
    "44": (lambda: trained(save_steps=100), "use steps_per_checkpoint for states .* steps_per_hf_export for models"),
    **{
        f"44, {name}": ((lambda name=name: trained(**{name: 1})), f"no field '{name}': .*{ours}")
        for name, ours in {
            "warmup_ratio": "warmup, a fraction",
            "max_seq_length": "seq_len=",
            "num_epochs": "num_train_epochs",
            "micro_batch_size": "train_batch_size",
            "lr_scheduler_type": "lr_schedule, which falls to .* min_lr_ratio=0",
            "fp16": "precision='bf16'",
            "packing": "pack=False",
            "peft_config": "lora=LoraConfig",
            "report_to": "trackers=",
            "load_in_4bit": "no quantized training",
        }.items()
    },
    # Calls of steps, and Marin's config.
    "22": (
        lambda: executor_main(steps=tokens()),
        r"expected a list of steps, got the step 'tokenized/mine'.*write steps=\[...\]",
    ),
    "33": (lambda: trained(resources={"gpu": 1}), "expected CpuConfig, GpuConfig or TpuPodConfig"),
    "35": (lambda: "hf/mine", r"steps\[0\]: expected an ExecutorStep, got str"),
    "tokenise": (
        lambda: tokens(tokeniser="tok"),
        r"tokenize\(\) has no argument 'tokeniser': did you mean 'tokenizer'",
    ),
    "over_lenght": (lambda: blend(over_lenght="drop"), "did you mean 'over_length'"),
    "hf_modelid": (lambda: download("x", hf_modelid="a/b"), "did you mean 'hf_model_id'"),
    "max_new_token": (
        lambda: evaluate("x", "model", {"a": "data.jsonl"}, max_new_token=3),
        "'max_new_tokens' is missing; is it 'max_new_token'?",
    ),
    "temprature": (
        lambda: evaluate("x", "model", {"a": "data.jsonl"}, max_new_tokens=3, temprature=1),
        "did you mean 'temperature'",
    ),
    "50": (
        lambda: simple(resources=None),
        "resources=None, tpu_type=None; expected exactly one of them, e.g. tpu_type",
    ),
    "51": (lambda: simple(model_name_or_path=None), "expected one model to start from, e.g. model_name_or_path="),
    "52": (
        lambda: simple(train_batchsize=4),
        "SimpleSFTConfig has no field 'train_batchsize': did you mean 'train_batch",
    ),
    "52, steps": (lambda: simple(num_steps=4), "no field 'num_steps': did you mean 'num_train_steps'"),
    "53": (lambda: simple(learning_rate="1e-3"), "learning_rate = '1e-3': .*remove the quotes"),
    "56": (lambda: simple(int8=True), "int8=True; expected False: there is no int8 training"),
    "57": (
        lambda: by_default(simple(resources=None, tpu_type="v4-7x", max_seq_len=64)),
        "tpu_type: got 'v4-7x', expected .*\"v4-8\"",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_experiment(mistake, project, capsys):
    make, said = MISTAKES[mistake]
    try:
        with redirect_stdout(StringIO()):
            executor_main(steps=[make()])
        pytest.fail("nothing was said")
    except UserError as error:  # which ends a script with exit code 2 and one paragraph, see test_errors.py
        message = str(error)
    except SystemExit as ended:
        assert ended.code == 2
        message = capsys.readouterr().err.removeprefix("error: ").rstrip()
    assert re.search(said, message), message
    assert "\n" not in message and "Traceback" not in message and not (project / "store").exists()


@pytest.mark.parametrize(
    "make", [lambda: mixture("mine", {"mine": tokens()}, seq_len=64), lambda: trained(gradient_accumulation_steps=4)]
)
def test_what_was_refused_and_is_no_mistake(make, project):
    """A component alone needs no weight (20); accumulation has a setting of its own (17)."""
    with redirect_stdout(StringIO()):
        assert executor_main(steps=[make()]).plan.items


def test_training_on_fewer_gpus_than_asked_for_is_told():
    """30: a step of GPUs that runs in this process trains on what there is, and says so."""
    from marin_sft.execution.resources import lacking_here

    (line,) = lacking_here(GpuConfig(gpu_count=10_000))
    assert "GPU" in line


def renamed(key):
    return [{key: row["messages"]} for row in ROWS]


def with_role(role):
    return [{"messages": [{**row["messages"][0], "role": role}, row["messages"][1]]} for row in ROWS]


BAD_ROWS = {
    "d1": (
        renamed("mesages"),
        ["60 of 60", ":1: unknown_format: 'mesages': did you mean 'messages'?", 'Line 1 is: {"mesag'],
    ),
    "d2": (
        with_role("usr"),
        [":1: unknown_role: messages[0] has the role 'usr'", "; if it means 'user', say role_map={'usr': 'user'}"],
    ),
    "d5": (
        [{"messages": row["messages"][:1]} for row in ROWS],
        ["no_assistant_turn: roles ['user']; expected an assistant"],
    ),
    "d7": ([*ROWS, *renamed("mesages")[:8]], ["8 of 68", "d7.jsonl:61: unknown_format", "raise max_dropped"]),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_used(case, project):
    """Told with file, line, the row, why, and the command that shows more; dropped.jsonl stays."""
    rows, said = BAD_ROWS[case]
    data = write(project / f"{case}.jsonl", rows)
    with pytest.raises(DataError) as raised:
        run_tokenize(TokenizeConfig((data,), "tok", output_path=f"{project}/{case}"))
    message = str(raised.value)
    assert all(part in message for part in (*said, data, f"marin-sft preview --data {data} --tokenizer tok")), message
    kept = [json.loads(line) for line in (project / case / "dropped.jsonl").read_text().splitlines()]
    assert kept[0]["file"] == f"{case}.jsonl" and kept[0]["row"].startswith("{")


def test_columns_of_other_names(project):
    """d6, and the preview command of a format that says something."""
    (project / "d6.csv").write_text("question,reply\n" + "a,b\n" * 9)
    with pytest.raises(DataError, match=re.escape("is it 'reply'? Then say columns={'answer': 'reply'}")):
        run_tokenize(TokenizeConfig((f"{project}/d6.csv",), "tok", output_path=f"{project}/d6"))
    format = ChatLmDatasetFormat(columns={"messages": "turns"}, role_map={"bot": "assistant"}, drop_system=True)
    with pytest.raises(DataError) as raised:
        run_tokenize(TokenizeConfig((f"{project}/d6.csv",), "tok", format, output_path=f"{project}/d6"))
    command_line = re.search(r"`marin-sft (preview .*)`", str(raised.value))
    assert command_line is not None
    words = shlex.split(command_line.group(1))
    assert words[-6:] == [
        *("--columns", "messages=turns", "--role_map", "bot=assistant"),
        *("--format_options", '{"drop_system": true}'),
    ]
    assert command.main(words) == 1  # it runs, and finds the same


def test_an_empty_file(project, capsys):
    """d4 and c6."""
    data = write(project / "empty.jsonl", [])
    with pytest.raises(DataError, match=r"train_paths, .*empty.jsonl: .*there were no rows.; expected at least one"):
        run_tokenize(TokenizeConfig((data,), "tok", output_path=f"{project}/empty"))
    assert command.main(["preview", "--data", data, "--tokenizer", "tok"]) == 1
    assert "empty.jsonl: no rows; expected at least one" in capsys.readouterr().err


def test_one_broken_line(project, capsys):
    """d3: the step runs, and says where the row is kept."""
    data = write(project / "d3.jsonl", [*ROWS, "{oops"])
    run_tokenize(TokenizeConfig((data,), "tok", output_path=f"{project}/d3"))
    assert f"1 of 61 rows dropped (invalid_json: 1); see {project}/d3/dropped.jsonl" in capsys.readouterr().err


def test_a_tokenizer_without_a_template(project):
    """m5."""
    told = r"no chat template in the tokenizer '.*no_template', .* Set format.chat_template \(marin-sft sft: --\w+ FILE"
    with pytest.raises(ConfigError, match=told) as caught:
        run_tokenize(TokenizeConfig((f"{project}/data.jsonl",), f"{project}/no_template", output_path=f"{project}/m5"))
    flags = re.findall(r"--\w+ [A-Z]+", str(caught.value))
    given = parse(" ".join(flags).split(), SFTConfig, "marin-sft sft").config.values(Dialect.OURS)
    assert (given["chat_template"], given["tokenizer"]) == ("FILE", "NAME"), "flags that there are"
    assert "--chat_template TEXT" in help_text(False, Dialect.OURS, "marin-sft sft", everything=False)


def test_previews_that_cannot_be_made(project, capsys):
    """c4: a local tokenizer of a slightly other name; c5: of a file all of whose rows are bad."""
    assert command.main(["preview", "--data", "data.jsonl", "--tokenizer", "./tokk"]) == 2
    assert "did you mean 'tok'?" in capsys.readouterr().err
    data = write(project / "c5.jsonl", renamed("mesages"))
    assert command.main(["preview", "--data", data, "--tokenizer", "tok"]) == 1
    assert "rows can be used (unknown_format: 60)" in capsys.readouterr().err
