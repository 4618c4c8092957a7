"""Presets, files and the checks of every value."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from config_samples import configs
from hypothesis import HealthCheck, given, settings

from sccagn_scale._errors import InputError
from sccagn_scale.config import Config

HINTS = get_type_hints(Config)
CHOICES = [name for name, hint in HINTS.items() if get_origin(hint) is Literal]
LISTS = ("n_hidden", "n_fanout")
NUMBERS = [name for name, hint in HINTS.items() if {int, float} & {hint, *get_args(hint)} and name not in LISTS]
MAY_BE_NONE = [name for name, hint in HINTS.items() if type(None) in get_args(hint)]

TOO_SMALL: dict[str, float] = {
    "min_cells_frac": -0.01,
    "min_genes_frac": -0.01,
    "target_sum": 0.0,
    "n_top_genes": 1,
    "n_comps": 0,
    "n_neighbors": 1,
    "n_latent": 0,
    "phi": -0.1,
    "n_heads": 0,
    "n_attended": 0,
    "nu": 0.0,
    "tau": 0.0,
    "weight_clustering": -1e-9,
    "weight_reconstruction": -1.0,
    "weight_adversarial": -1.0,
    "resolution": 0.0,
    "n_init": 0,
    "mixture_shrinkage": 0.0,
    "anchor_share": -0.1,
    "learning_rate": 0.0,
    "discriminator_learning_rate": 0.0,
    "batch_size": 1,
    "pretrain_batch_size": 1,
    "pretrain_steps": -1,
    "joint_steps": -1,
    "patience": 0,
    "tolerance": -0.1,
    "settle_epochs": 0,
}
TOO_LARGE = {"min_cells_frac": 1.1, "min_genes_frac": 1.1, "phi": 1.1, "anchor_share": 1.1, "tolerance": 1.1}


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_defaults_are_the_default_preset() -> None:
    assert Config() == Config.preset("default")


def test_the_paper_preset_is_the_published_setting() -> None:
    paper = Config.preset("paper")
    assert (paper.input_rep, paper.graph_rep) == ("genes", "genes")
    assert (paper.min_cells_frac, paper.min_genes_frac, paper.n_top_genes) == (0.01, 0.01, 2000)
    assert paper.n_neighbors == 11  # the ten of the paper and the cell itself
    assert paper.prune
    assert (paper.n_hidden, paper.n_latent, paper.n_heads, paper.phi) == ((100, 200, 200), 8, 4, 0.5)
    assert (paper.conv, paper.fusion) == ("gcn", "attention")
    assert (paper.n_attended, paper.batch_size) == (None, None)  # all cells, as the whole graph is the batch
    assert (paper.nu, paper.tau) == (1.0, 0.5)
    assert (paper.weight_clustering, paper.weight_reconstruction, paper.weight_adversarial) == (1e-4, 0.5, 0.5)
    assert (paper.learning_rate, paper.discriminator_learning_rate) == (1e-3, 2e-4)
    assert paper.anchor_share == 0
    assert (paper.init, paper.whiten, paper.joint_steps) == ("mixture", False, 10)


def test_an_unknown_preset_is_told_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"`config` .* 'default', 'paper'; it is 'papr'"):
        Config.preset("papr")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [{"n_latent": 8}, ["paper"], 3])
def test_what_is_neither_config_nor_name_is_told(value: Any) -> None:
    with pytest.raises(InputError, match="`config` must be a Config or one of"):
        Config.preset(value)


@pytest.mark.parametrize("name", ["discriminator", "attention_scope", "n_anchors", "pretrain_adversarial"])
def test_a_setting_that_is_not_there_is_told_with_those_that_are(name: str) -> None:
    for attempt in (lambda: Config(**{name: 1}), lambda: dataclasses.replace(Config(), **{name: 1})):
        with pytest.raises(InputError, match=rf"^`Config` has an unknown name '{name}'; the names are input_kind, .*"):
            attempt()
    with pytest.raises(InputError, match=r"^`Config` has an unknown name 'n_latents'; did you mean 'n_latent'\?"):
        Config(n_latents=8)  # type: ignore[call-arg]


def test_the_settings_are_in_the_signature() -> None:
    assert list(inspect.signature(Config).parameters) == [field.name for field in dataclasses.fields(Config)]


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().n_latent = 16  # type: ignore[misc]


def test_replacing_checks_again() -> None:
    assert dataclasses.replace(Config(), n_latent=16).n_latent == 16
    with pytest.raises(InputError, match="`n_latent` must be at least 1; it is 0"):
        dataclasses.replace(Config(), n_latent=0)


def test_every_number_has_its_bounds_tested() -> None:
    assert sorted(TOO_SMALL) == sorted(NUMBERS)


@pytest.mark.parametrize(("name", "value"), [*TOO_SMALL.items(), *TOO_LARGE.items()])
def test_a_number_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^`{name}` must be .*; it is {value}"):
        Config(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_at_the_bound_that_is_told_is_taken(name: str) -> None:
    with pytest.raises(InputError) as caught:
        Config(**{name: TOO_SMALL[name]})
    told = re.search(r"above (0)|(?:at least|between) ([\d.e-]+)", str(caught.value))
    assert told is not None
    above, least = told.groups()
    bound = math.nextafter(0, 1) if above else float(least)
    value = int(bound) if bound.is_integer() else bound
    assert getattr(Config(**({"n_heads": 1} | {name: value})), name) == bound


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_fraction_may_be_one(name: str) -> None:
    assert getattr(Config(**{name: 1.0}), name) == 1


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["3", True, [3], math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^`{name}` must be a (finite |whole )?number; it is "):
        Config(**{name: value})


@pytest.mark.parametrize("name", [name for name in NUMBERS if {int} & {HINTS[name], *get_args(HINTS[name])}])
def test_a_count_is_a_whole_number(name: str) -> None:
    with pytest.raises(InputError, match=f"^`{name}` must be a whole number; it is 2.5"):
        Config(**{name: 2.5})


def test_a_whole_number_serves_where_a_number_is_meant() -> None:
    config = Config(nu=2, target_sum=10_000)  # type: ignore[arg-type]
    assert (config.nu, config.target_sum) == (2.0, 10_000.0)
    assert type(config.nu) is type(config.target_sum) is float


def test_degrees_of_freedom_are_the_latent_dimensions(tmp_path: Path) -> None:
    assert Config().degrees_of_freedom == Config().n_latent
    for config in (
        Config(n_latent=8),
        dataclasses.replace(Config(), n_latent=8),
        Config.from_toml(write(tmp_path, "n_latent = 8")),
    ):
        assert config.nu is None
        assert config.degrees_of_freedom == 8
        assert type(config.degrees_of_freedom) is float


def test_degrees_of_freedom_that_are_given_stay(tmp_path: Path) -> None:
    assert Config(n_latent=8, nu=2.5).degrees_of_freedom == 2.5
    assert Config.from_toml(write(tmp_path, "n_latent = 8\nnu = 3")).degrees_of_freedom == 3
    assert Config.from_toml(write(tmp_path, 'nu = "none"'), Config.preset("paper")).degrees_of_freedom == 8
    assert Config.from_toml(write(tmp_path, 'batch_size = "none"')).batch_size is None
    assert dataclasses.replace(Config.preset("paper"), n_latent=16).degrees_of_freedom == 1


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_taken_and_another_is_told_with_them(name: str) -> None:
    for choice in get_args(HINTS[name]):
        assert getattr(Config(**{name: choice}), name) == choice
    with pytest.raises(InputError, match=f"^`{name}` must be one of '{get_args(HINTS[name])[0]}', .*; it is 'other'"):
        Config(**{name: "other"})


@pytest.mark.parametrize("name", HINTS)
def test_none_is_taken_only_where_it_means_something(name: str) -> None:
    if name in MAY_BE_NONE:
        assert getattr(Config(**{name: None}), name) is None
    else:
        with pytest.raises(InputError, match=f"^`{name}` must be "):
            Config(**{name: None})


@pytest.mark.parametrize("name", ["prune", "whiten", "round_clusters"])
def test_a_switch_is_true_or_false(name: str) -> None:
    with pytest.raises(InputError, match=f"^`{name}` must be true or false; it is 1"):
        Config(**{name: 1})


@pytest.mark.parametrize("value", [(100, 200), (100, 200, 100), (0, 200, 200), (100, -1, -1), (1.5, 2, 2), 100, "abc"])
def test_hidden_widths_fit_the_graph_network(value: Any) -> None:
    with pytest.raises(InputError, match=r"^`n_hidden` must be "):
        Config(n_hidden=value)


@pytest.mark.parametrize("value", [(), (0,), (10, -1), (1.5,), (True,), 10, "abc", {10: 1}])
def test_fan_outs_are_counts(value: Any) -> None:
    with pytest.raises(InputError, match=r"^`n_fanout` must be "):
        Config(n_fanout=value)


def test_fan_outs_are_as_many_as_hops(tmp_path: Path) -> None:
    assert Config(n_fanout=[5]).n_fanout == (5,)  # type: ignore[arg-type]
    assert Config.from_toml(write(tmp_path, "n_fanout = [15, 10, 5]")).n_fanout == (15, 10, 5)


def test_heads_divide_the_latent_dimensions_where_there_is_attention() -> None:
    with pytest.raises(InputError, match=r"`n_latent` must be a multiple of `n_heads`; they are 6 and 4"):
        Config(n_latent=6, n_heads=4)
    assert Config(n_latent=6, n_heads=4, fusion="add").n_latent == 6


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    path = write(
        tmp_path, '# a run\nn_latent = 16\nfusion = "concat"\nn_hidden = [50, 60, 60]\nprune = false\ntau = 1\n'
    )
    config = Config.from_toml(path)
    assert config == Config(n_latent=16, fusion="concat", n_hidden=(50, 60, 60), prune=False, tau=1.0)
    based = Config.from_toml(str(path), Config.preset("paper"))
    assert based == dataclasses.replace(
        Config.preset("paper"), n_latent=16, fusion="concat", n_hidden=(50, 60, 60), prune=False, tau=1.0
    )


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert Config.from_toml(write(tmp_path, "")) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_latents = 8", "unknown name 'n_latents'; did you mean 'n_latent'?"),
        ("xyzzy = 8", "unknown name 'xyzzy'; the names are input_kind, "),
        ("discriminator = false", "unknown name 'discriminator'; the names are input_kind, "),
        ('loader = "full"', "`loader` must be one of 'partition', 'neighbor'; it is 'full'"),
        ("[train]\npatience = 3", "unknown name 'train'"),
        ("n_latent = 0", "`n_latent` must be at least 1; it is 0"),
        ('n_latent = "8"', "`n_latent` must be a whole number; it is '8'"),
        ("n_latent = 8.5", "`n_latent` must be a whole number; it is 8.5"),
        ("tau = nan", "`tau` must be a finite number; it is nan."),
        ("learning_rate = 1e300", "`learning_rate` must be a finite number; it is 1e+300, which float32 cannot hold."),
        ("n_hidden = [1, 2]", "`n_hidden` must be 3 whole numbers"),
        ("n_latent = ", "is not a TOML file"),
        ("n_latent = 8\nn_latent = 8", "is not a TOML file"),
        (b"\xff\xfe", "is not a TOML file"),
    ],
)
def test_what_a_file_has_wrong_is_told(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Config.from_toml(write(tmp_path, text))
    assert message in str(caught.value)


def test_assignments_change_what_they_name() -> None:
    texts = ["n_latent=16", "fusion = concat", "conv='gat'", "n_hidden=[50, 60, 60]", "prune=false", "tau=1", "nu=none"]
    config = Config(n_latent=16, fusion="concat", conv="gat", n_hidden=(50, 60, 60), prune=False, tau=1.0)
    assert Config.from_assignments(texts) == config
    assert Config.from_assignments(["n_latent=16", "n_latent=32"]).n_latent == 32
    assert Config.from_assignments([], Config.preset("paper")) == Config.preset("paper")
    assert Config.from_assignments(["nu=none"], Config.preset("paper")) == Config(
        **{**dataclasses.asdict(Config.preset("paper")), "nu": None}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_latent", "must have the form NAME=VALUE, as in n_neighbors=30; one is 'n_latent'"),
        ("n_latent=", "must have the form NAME=VALUE"),
        ("=8", "must have the form NAME=VALUE"),
        ("n_latents=8", "`assignments` has an unknown name 'n_latents'; did you mean 'n_latent'?"),
        ("attention_scope=full", "`assignments` has an unknown name 'attention_scope'; the names are input_kind, "),
        ("loader=full", "`loader` must be one of 'partition', 'neighbor'; it is 'full'"),
        ("n_heads=0", '`n_heads` must be at least 1 (with `fusion` = "add" there is no attention); it is 0'),
        ("n_latent=0", "`n_latent` must be at least 1; it is 0"),
        ("n_latent=eight", "`n_latent` must be a whole number; it is 'eight'"),
        ("prune=False", "`prune` must be true or false; it is 'False'"),
        ("conv=lstm", "`conv` must be one of 'gcn', 'gat', 'sage'; it is 'lstm'"),
        ("n_hidden=[1, 2]", "`n_hidden` must be 3 whole numbers"),
    ],
)
def test_what_an_assignment_has_wrong_is_told(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Config.from_assignments([text])
    assert message in str(caught.value)


def as_toml(value: Any, quote: str) -> str:
    if value is None or isinstance(value, str):
        return f"{quote}{value or 'none'}{quote}"
    return str(value).lower() if isinstance(value, bool) else str(list(value) if isinstance(value, tuple) else value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configs(), configs())
def test_any_settings_come_back_from_texts_files_and_json(tmp_path: Path, config: Config, base: Config) -> None:
    values = dataclasses.asdict(config)
    assert Config.from_assignments([f"{name}={as_toml(value, '')}" for name, value in values.items()], base) == config
    lines = [f"{name} = {as_toml(value, chr(34))}" for name, value in values.items()]
    assert Config.from_toml(write(tmp_path, "\n".join(lines)), base) == config
    assert Config(**json.loads(json.dumps(values))) == config


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`config` '.*none\.toml' cannot be read: No such file"):
        Config.from_toml(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read"):
        Config.from_toml(tmp_path)


def test_every_setting_is_described_to_help() -> None:
    described = inspect.getdoc(Config).split("Parameters\n----------\n")[1].split("\n\n")[0].splitlines()
    assert [line for line in described if not line.startswith(" ")] == [
        field.name for field in dataclasses.fields(Config)
    ]
    assert sum(line.startswith("    ") for line in described) >= len(dataclasses.fields(Config))


def test_numbers_may_be_numpys() -> None:
    config = Config(n_neighbors=np.int64(20), resolution=np.float32(0.5), n_hidden=tuple(np.array([50, 60, 60])))
    assert config == Config(n_neighbors=20, resolution=0.5, n_hidden=(50, 60, 60))
    assert {type(config.n_neighbors), type(config.n_hidden[0])} == {int}
    assert type(config.resolution) is float


def test_what_is_too_large_to_be_written_is_refused() -> None:
    for name, value in (("n_top_genes", 2**63), ("tau", 10**400), ("batch_size", 10**30)):
        with pytest.raises(InputError, match=f"`{name}` must be below 2⁶³"):
            Config(**{name: value})  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"`{name}` must be"):
            Config.from_assignments([f"{name}={value}"])
    with pytest.raises(InputError, match="`n_comps` must be a whole number"):
        Config.from_assignments(["n_comps=" + "9" * 5000])
    with pytest.raises(InputError, match="`n_fanout` must be"):
        Config.from_assignments(["n_fanout=" + "[" * 2000])


def test_one_assignment_has_one_setting() -> None:
    with pytest.raises(InputError, match="`assignments` must have one NAME=VALUE each"):
        Config.from_assignments(["n_neighbors=30\nn_latent=8"])


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("n_neighbors = 30\n", encoding="utf-8-sig")
    assert Config.from_toml(tmp_path / "a.toml").n_neighbors == 30
    (tmp_path / "b.toml").write_text("n_neighbors = " + "9" * 5000)
    with pytest.raises(InputError, match="is not a TOML file"):
        Config.from_toml(tmp_path / "b.toml")
