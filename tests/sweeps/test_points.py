"""Which points a sweep has, what they are called, and what is refused."""

import re

import pytest

from marin_sft.errors import ConfigError
from marin_sft.execution.graph import build_graph
from marin_sft.execution.resources import CpuConfig
from marin_sft.execution.step import ExecutorStep
from marin_sft.recipes.defaults import default_sft
from marin_sft.recipes.simple_configs import SimpleSFTConfig
from marin_sft.steps import Between, Halving, OptunaSearch, RandomSearch, dpo, mixture, sweep
from marin_sft.sweeps.points import names_of, points_of
from marin_sft.training.lora_config import LoraConfig

RATES = Between(1e-5, 1e-2, log=True)


def plan(parts, over, base=None, **options):
    return sweep(base or parts.train(), over, **{"name": "s", "metric": "validation/loss", **options})


def test_a_grid_has_all_combinations_in_order(parts):
    found = plan(parts, {"learning_rate": [1e-5, 0.001], "weight_decay": [0.0, 0.1], "lr_schedule": ["wsd"]})
    assert list(found.points) == [
        "lr=1e-5_wd=0.0_lr_schedule=wsd",
        "lr=1e-5_wd=0.1_lr_schedule=wsd",
        "lr=0.001_wd=0.0_lr_schedule=wsd",
        "lr=0.001_wd=0.1_lr_schedule=wsd",
    ]
    config = found.trained["lr=0.001_wd=0.1_lr_schedule=wsd"].config
    assert (config.learning_rate, config.weight_decay, config.lr_schedule) == (0.001, 0.1, "wsd")


def test_all_points_share_their_inputs(parts):
    found = plan(parts, {"learning_rate": [1e-5, 1e-4, 1e-3]}, seeds=2)
    names = [node.name for node in build_graph([found.table, found.best()])]
    assert len(names) == 3 + 6 + 2 and len(set(names)) == len(names)
    assert [step.config.seed for step in found.trained.values()] == [0, 1] * 3
    (rate,) = plan(parts, {"learning_rate": [1e-5]}, base=parts.train(learning_rate=1.0)).trained.values()
    own = parts.train(learning_rate=1e-5)
    assert build_graph([rate]).roots[0].fingerprint == build_graph([own]).roots[0].fingerprint


def test_a_list_of_points(parts):
    points = [{"learning_rate": 1e-5, "num_train_steps": 3}, {"num_train_steps": 6, "learning_rate": 1e-4}]
    assert list(plan(parts, points).points) == ["lr=1e-5_steps=3", "lr=0.0001_steps=6"]


def test_draws_are_the_same_again_and_the_first_of_more():
    over = {"learning_rate": RATES, "warmup": Between(1, 9), "lr_schedule": ["cosine", "wsd"]}
    few, many = (points_of("s", over, RandomSearch(points=n, seed=1)) for n in (5, 20))
    assert many[:5] == few and len({str(point) for point in many}) == 20
    assert all(1e-5 <= p["learning_rate"] <= 1e-2 and p["warmup"] in range(1, 10) for p in many)
    assert points_of("s", over, RandomSearch(points=5, seed=2)) != few
    below = sum(p["learning_rate"] < 3.16e-4 for p in points_of("s", over, RandomSearch(points=400)))
    assert 160 < below < 240, "half of the draws are below the middle of the logarithms"
    whole = {"warmup": [1, 2, 3], "lr_schedule": ["cosine", "wsd"]}
    drawn = points_of("s", whole, RandomSearch(points=6))
    assert len({str(point) for point in drawn}) == 6


def test_a_function_may_vary_what_other_steps_depend_on(parts):
    def train(weight, **settings):
        blend = mixture("m", parts.tokens, weights={"a": weight}, seq_len=32, shuffle=False)
        step = parts.train(**settings)
        return ExecutorStep(step.name, config=type(step.config)(**{**vars(step.config), "mixture": blend}))

    found = plan(parts, {"weight": [1, 2], "learning_rate": [1e-4]}, base=train)
    assert [node.name for node in build_graph([found.table])].count("mixtures/m") == 2
    assert list(found.trained) == ["weight=1_lr=0.0001", "weight=2_lr=0.0001"]


def test_recipes_and_preferences_are_varied_like_steps(parts):
    settings = SimpleSFTConfig(
        resources=CpuConfig(),
        train_batch_size=4,
        num_train_steps=6,
        model_name_or_path=parts.base,
        max_seq_len=32,
        steps_per_eval=3,
    )
    found = plan(parts, {"learning_rate": [1e-4, 1e-3]}, base=default_sft("r", parts.tokens["a"], None, settings))
    made = [step.config for step in found.trained.values()]
    assert [config.hf_exports.card.hyperparameters["learning_rate"] for config in made] == [1e-4, 1e-3]
    pairs = ExecutorStep("mixtures/pairs", config=mixture("m", parts.tokens, weights={"a": 1}, seq_len=32).config)
    fields = {"train_batch_size": 4, "num_train_steps": 6, "learning_rate": 1e-4, "steps_per_eval": 3}
    base = dpo("d", mixture=pairs, base_model=parts.base, **fields)
    found = plan(parts, {"beta": [0.1, 0.5], "loss_type": ["sigmoid", "ipo"]}, base=base)
    assert list(found.points)[0] == "beta=0.1_loss_type=sigmoid"
    names = [node.name for node in build_graph([found.table])]
    assert sum(name.startswith("reference_logprobs/") for name in names) == 1, "all points share it"
    with pytest.raises(
        ConfigError, match="over has 'precision', on which the reference of 'checkpoints/d_seed0' depends"
    ):
        plan(parts, {"precision": ["fp32"]}, base=base)


def test_adapters_are_varied_by_either_name(parts):
    base = parts.train(lora=LoraConfig(r=2, alpha=4))
    for name in ("lora.r", "lora_r"):
        found = plan(parts, {name: [4, 8]}, base=base)
        assert list(found.trained) == ["lora.r=4", "lora.r=8"]
        assert [step.config.lora.r for step in found.trained.values()] == [4, 8]


def test_names_are_legal_short_and_different():
    values = ["a b/c", {"x": 0.5, "y": 1}, None, True, (0.9, 0.95), -1e-7, 1e20, "a b|c", "x" * 300, "x" * 301]
    names = names_of([{"loss_type": value} for value in values])
    assert len(set(names)) == len(values) and all(len(name) <= 100 for name in names)
    assert all(ExecutorStep(f"checkpoints/s/{name}", print, {}) for name in names)
    assert names[1:7] == [f"loss_type={t}" for t in ("x0.5-y1", "none", "true", "0.9-0.95", "-1e-7", "1e20")]
    assert re.fullmatch(r"loss_type=a-b-c-[0-9a-f]{6}", names[0]) and names[0] != names[7]


def test_names_do_not_depend_on_the_other_points():
    few, many = ([{"learning_rate": rate} for rate in rates] for rates in ([1e-3], [1e-4, 1e-3, 1e-2]))
    assert names_of(few)[0] == names_of(many)[1]


def test_halving_counts():
    assert Halving().counts(8) == [8, 4, 2] and Halving().counts(1) == [1, 1, 1]
    assert Halving(rungs=(0.1, 0.3, 1), keep=1 / 3).counts(27) == [27, 9, 3]


def test_rungs_are_shares_of_one_training(parts):
    found = plan(parts, {"learning_rate": [1e-4, 1e-3, 1e-2, 1e-1]}, halving=Halving())
    names = [step.name.rpartition("/")[2] for step in found.trained.values()]
    assert names == ["lr=0.0001", "lr=0.001", "lr=0.01", "lr=0.1", "rung2_1", "rung2_2", "rung3_1"]
    configs = [getattr(step.config, "training", step.config) for step in found.trained.values()]
    assert [config.stop_after for config in configs] == [0.25] * 4 + [0.5] * 2 + [None]
    assert {config.num_train_steps for config in configs} == {6}


GRID = {"learning_rate": [1e-4]}


@pytest.mark.parametrize(
    ("over", "options", "said"),
    [
        ({}, {}, "over = {}; expected lists of values by setting"),
        ([], {}, "over = []; expected at least one point"),
        ("learning_rate", {}, "over = 'learning_rate'; expected lists of values by setting"),
        ({"learning_rate": []}, {}, "over['learning_rate'] = []; expected at least one value"),
        ({"learning_rate": 1e-4}, {}, "over['learning_rate'] = 0.0001; expected a list of values"),
        ({"lr_schedule": "wsd"}, {}, "over['lr_schedule'] = 'wsd'; expected a list of values"),
        ({"learning_rate": [1e-4, 0.0001]}, {}, "over['learning_rate']: 0.0001 is there 2 times; expected it once"),
        (
            [{"learning_rate": 1.0}, {"warmup": 1}],
            {},
            "over[1] and over[0] do not set the same: ['learning_rate', 'war",
        ),
        ([{"learning_rate": 1.0}] * 2, {}, "is there 2 times"),
        (
            {"learning_rat": [1.0]},
            {},
            "no setting of the training 'checkpoints/base_seed0'; did you mean 'learning_rate'?",
        ),
        ({"max_steps": [1]}, {}, "no setting of the training 'checkpoints/base_seed0'; use num_train_steps"),
        ({"weights": [{"a": 1}]}, {}, "give sweep() a function from settings to a step"),
        ({"beta": [0.1]}, {}, "over has 'beta', which is no setting of the training"),
        ({"steps_per_log": [1]}, {}, "over has 'steps_per_log', which cannot change the result"),
        ({"lora.r": [4]}, {}, "'checkpoints/base_seed0' trains no adapter; give it lora=LoraConfig(...)"),
        ({"lora.r": [4], "lora_r": [8]}, {}, "one setting under two names"),
        ({"warmup": [1, 50]}, {}, "with warmup=50: SFTConfig.warmup = 50"),
        ({"learning_rate": [-1.0]}, {}, "with learning_rate=-1.0: SFTConfig.learning_rate = -1.0: expected a number"),
        ({"learning_rate": RATES}, {}, "a grid needs the values; expected a list of them, or search=RandomSearch"),
        ([{"warmup": 1}], {"search": RandomSearch(points=1)}, "over lists the points, and search = RandomSearch"),
        (GRID, {"search": RandomSearch(points=2)}, "but the lists have only 1 combinations"),
        (GRID, {"metric": "score"}, "whether a high or a low score is good is not known; give direction="),
        (GRID, {"direction": "up"}, "direction = 'up': expected 'max' or 'min'"),
        (GRID, {"seeds": [1, 1]}, "seeds = [1, 1]; expected a number of seeds, or a list of different ones"),
        (GRID, {"seeds": 0}, "seeds = 0; expected a number of seeds"),
        ({"seed": [0, 1]}, {"seeds": 2}, "over has 'seed', and seeds = 2; expected one of both"),
        (GRID, {"seeds": 2, "halving": Halving()}, "seeds = 2 with Halving"),
        ({"num_train_steps": [4, 6]}, {"halving": Halving()}, "a decay whose length differs is another schedule"),
        (GRID, {"halving": Halving(), "base": lambda **s: None}, "with a function as base; expected a step"),
        (GRID, {"halving": Halving(), "search": OptunaSearch(points=2)}, "expected one of both: each decides"),
        (
            {"learning_rate": [0.1, -1.0, 1.0]},
            {"search": OptunaSearch(points=2)},
            "learning_rate = -1.0: expected a num",
        ),
        (
            {"lora": [LoraConfig(r=1, alpha=1)]},
            {"search": OptunaSearch(points=2)},
            "expected numbers, texts, lists or mappings",
        ),
        (GRID, {"base": 3}, "base = 3; expected a step that sft() or dpo() has made, or a function"),
        (GRID, {"base": ExecutorStep("tokenized/mine", print, {})}, "got the step 'tokenized/mine'"),
        (GRID, {"base": lambda learning_rte: None}, "which the function does not take; did you mean 'learning_rte'?"),
        (
            GRID,
            {"base": lambda learning_rate: None},
            "the function, with learning_rate=0.0001: expected a step that sft",
        ),
        (GRID, {"evaluations": {"answers": lambda n, m: None}, "metric": "answers"}, "one figure of that evaluation"),
        (GRID, {"evaluations": {"answers": lambda n, m: None}}, "answers: expected a function that returns a step"),
        (GRID, {"evaluations": {"answers": lambda n, m: None}, "metric": "answer/acc"}, "did you mean 'answers'?"),
        (GRID, {"metric": "answers/exact_match"}, "metric = 'answers/exact_match': no such evaluation"),
        (
            GRID,
            {"metric": "validation/rewards/accuracies"},
            "is a figure of dpo(), but 'checkpoints/s/lr=0.0001' is an",
        ),
        (GRID, {"metric": 5}, "metric = 5; expected the name of a figure"),
        (GRID, {"name": 5}, "name = 5; expected a text"),
        (GRID, {"halving": True}, "halving = True; expected Halving(...) or None"),
        (GRID, {"search": "random"}, "search = 'random'; expected RandomSearch(...), OptunaSearch(...) or None"),
        (GRID, {"evaluations": [1]}, "evaluations = [1]; expected functions by name"),
        (GRID, {"evaluations": {"a": 5}}, "evaluations['a'] = 5; expected a function from a name and a model"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(parts, over, options, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        plan(parts, over, **options)


def test_a_training_that_never_evaluates_is_refused_before_it_trains(parts):
    base = parts.train(steps_per_eval=None)
    with pytest.raises(
        ConfigError, match="'checkpoints/s/lr=0.0001' does not evaluate while it trains; give it steps_"
    ):
        plan(parts, GRID, base=base)
    assert plan(parts, GRID, base=base, metric="loss").trained
    assert plan(parts, GRID, base=parts.train(steps_per_eval=None, do_eval=True)).trained


def test_a_function_that_leaves_a_setting_unused_is_refused(parts):
    """Else the table would tell differences that do not exist."""
    over = {"learning_rate": [1e-4, 1e-3], "train_batch_size": [4, 2]}
    with pytest.raises(ConfigError, match="the same training for 'lr=0.0001_batch=4' and 'lr=0.0001_batch=2'"):
        plan(parts, over, base=lambda learning_rate, **_: parts.train(learning_rate=learning_rate))
    assert len(plan(parts, over, base=parts.train).trained) == 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Between(2, 1), "expected two numbers, the lower one first"),
        (lambda: Between(0, 1, log=True), "expected numbers above 0"),
        (lambda: RandomSearch(points=0), "RandomSearch.points = 0: expected a whole number, at least 1"),
        (lambda: OptunaSearch(points=2, at_once=True), "OptunaSearch.at_once = True"),
        (lambda: Halving(rungs=(0.5, 0.25, 1)), "at least two shares of the training that rise to 1"),
        (lambda: Halving(rungs=(0.5,)), "at least two shares"),
        (lambda: Halving(keep=1), "expected the share of points that go on"),
        (lambda: RandomSearch(point=3), "RandomSearch has no field 'point': did you mean 'points'?"),
    ],
)
def test_searches_refuse_what_is_none(make, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make()


def test_best_by_another_metric(parts):
    like = {"validation_answers": lambda name, model: ExecutorStep(name, print, {"model": model})}
    assert plan(parts, GRID, evaluations=like).best().config.metric == "validation/loss"
    found = plan(parts, GRID)
    assert found.best().config.metric == "validation/loss"
    assert (found.best("loss").config.metric, found.best("loss").config.direction) == ("loss", "min")
    with pytest.raises(ConfigError, match="direction='max' without metric; expected both"):
        found.best(direction="max")


def test_each_point_adds_the_same_to_a_plan(parts):
    """So that a thousand points are planned in a time proportional to them."""
    sizes = []
    for count in (10, 20):
        found = plan(parts, {"learning_rate": [n * 1e-5 for n in range(1, count + 1)]})
        graph = build_graph([found.table, found.best()])
        sizes.append((len(graph.nodes), sum(len(node.inputs) for node in graph)))
    (nodes, edges), (more_nodes, more_edges) = sizes
    assert more_nodes - nodes == 10 and more_edges - edges == 10 * (2 + 2 + 1)
