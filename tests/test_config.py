"""Configuration errors name the dotted field, what was expected, what is there and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from duotok import config
from duotok.tokenizer import TokenizerConfig
from duotok.training.stages import load_config

CONFIGS = Path(config.__file__).parent / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_config_loads_and_opens_with_its_command(path):
    is_stage = "stage" in config.read(path)
    load_config(path) if is_stage else config.load(path, TokenizerConfig)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ") and "duotok" in text[:400]


def test_dump_reads_back():
    made = config.load(CONFIGS / "tiny" / "tokenizer.yaml", TokenizerConfig, ["windows.batch_size=3", "model.heads.masks=true"])
    assert made.windows.batch_size == 3 and made.model.heads.masks is True
    import yaml

    assert config.parse(TokenizerConfig, yaml.safe_load(config.dump(made))) == made


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model": {"trunk": {"widht": 3}}}, "source: model.trunk.widht: expected one of front_blocks, back_blocks, block, .*; "
                                              "got an unknown key; correct or remove it"),
        ({"modle": {}}, "source: modle: expected one of format_version, trained, windows, model"),
        ({"windows": {"batch_size": "many"}}, "source: windows.batch_size: .*valid integer.*; got 'many'; correct this value"),
        ({"windows": 3}, "source: windows: .*; got 3"),
        ({"windows": {"batch_size": 0}}, "source: windows: expected .*batch_size >= 1; got 625, 750 and 0"),
        ({"model": {"mel": {"spec": {"scale": "bark"}}}}, "source: model.mel.spec.scale: .*'htk' or 'slaney'.*; got 'bark'"),
        ([1], "source: values: .*; got"),
    ],
)  # fmt: skip
def test_errors_name_field_value_and_remedy(data, message):
    with pytest.raises(config.ConfigError, match=message) as error:
        config.parse(TokenizerConfig, data, "source")
    assert "\n" not in str(error.value)


def test_bad_overrides_and_files(tmp_path):
    path = CONFIGS / "tokenizer.yaml"
    with pytest.raises(config.ConfigError, match="expected key=value; got 'windows'"):
        config.load(path, TokenizerConfig, ["windows"])
    with pytest.raises(config.ConfigError, match="expected the path to a field"):
        config.load(path, TokenizerConfig, ["model.trunk.front_blocks.more=1"])
    with pytest.raises(config.ConfigError, match=r"windows.batchsize: expected one of window_frames"):
        config.load(path, TokenizerConfig, ["windows.batchsize=1"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(config.ConfigError, match=r"broken.yaml: expected YAML; got .*; correct the file"):
        config.load(broken, TokenizerConfig)
