"""Configurations: the committed ones are valid, resolved ones read back, and a wrong field is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimn.config import ConfigError
from mimn.run_config import decode_config, read_config

CONFIGS = sorted((Path(__file__).parents[2] / "models/configs").glob("*.toml"))
MINIMAL = 'name = "x"\n[data]\ndescription = "dataset.toml"\n'


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_committed_configuration_resolves_to_itself(path: Path) -> None:
    config = read_config(path)
    again = decode_config(config.to_toml(), "resolved")
    assert again.to_toml() == config.to_toml()
    assert again.architecture == config.architecture
    assert (again.data, again.windows, again.training) == (config.data, config.windows, config.training)


def test_rows_of_one_table_differ_in_the_model_alone() -> None:
    for dataset in ("online_retail", "complete_journey", "movielens_100k"):
        # A ledger's rows are trials on longer windows, compared among themselves (models/plans/ledger.toml).
        found = [read_config(path) for path in CONFIGS if path.stem.startswith(dataset)]
        configs = [config for config in found if config.architecture.ledger is None]
        assert len({config.name for config in configs}) == len(configs)
        for config in configs:
            assert (config.data, config.windows) == (configs[0].data, configs[0].windows)
            assert config.architecture.embedding_dim == configs[0].architecture.embedding_dim
            assert config.architecture.head_units == configs[0].architecture.head_units


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "[training]\nlearning_rat = 1.0\n", r"unknown field `learning_rat`.*\$\.training"),
        (MINIMAL + "[training]\nlearning_rate = 'high'\n", r"float.*\$\.training\.learning_rate"),
        (MINIMAL + "[training]\nepochs = 0\n", "epochs must be at least 1"),
        (MINIMAL + "[windows]\nlength = 0\n", "length must be at least 1"),
        (MINIMAL + "[windows]\nmin_history = 300\n", r"min_history must be below length \(256\)"),
        (
            MINIMAL + "[windows]\nwithout = ['2017-11-23', '2017-11-16']\n",
            "without must be a first day and a later one",
        ),
        (MINIMAL + "[windows]\nwithout = ['2017-11-16']\n", r"length 2.*\$\.windows\.without"),
        (MINIMAL + "[model]\nslotz = 4\n", r"\[model\] unknown field slotz"),
        (MINIMAL + "[model]\nslots = 0\n", "slots must be at least 1"),
        (
            MINIMAL + "[model]\nvariant = 'dinn'\n",
            "variant must be one of paper, .*dnn, din, .*, delta, buckets .MIMN is paper., not 'dinn'",
        ),
        ('name = "x"\n[data]\ndataset = "synthetic"\n', r"unknown field `dataset` - at `\$\.data`"),
        (
            MINIMAL + "negatives_exclude = 'histroy'\n",
            r"'histroy' - at `\$\.data\.negatives_exclude`; it must be one of basket, history$",
        ),
        (
            MINIMAL + "samplings = ['popularity', 'recnet']\n",
            r"'recnet' - at `\$\.data\.samplings\[1\]`; it must be one of popularity, uniform, recent$",
        ),
        (MINIMAL + "samplings = ['recent']\n", r"samplings must be distinct and include 'popularity'.*\$\.data"),
        (
            MINIMAL + "[training]\nepochs = 'atuo'\n",
            r"'atuo' - at `\$\.training\.epochs`; it must be one of a whole number, auto$",
        ),
        (
            MINIMAL + "[model]\nvariant = 'pooling'\nmemory_induction = false\nutilization = false\n"
            "context_features = ['hour']\n",
            r"\[model\] context_features must be empty in a run, not \['hour'\]: describe the fields in dataset\.toml",
        ),
        (MINIMAL + "[colour]\n", "unknown field `colour`"),
        ('name = "x"\n', "missing required field `data`"),
        ("name = \n", "line 1"),
    ],
)
def test_a_wrong_configuration_is_refused_by_field(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        decode_config(text, "my.toml")
    assert str(refused.value).startswith("my.toml: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        read_config(tmp_path / "absent.toml")
