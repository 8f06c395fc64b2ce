from pathlib import Path

from rhizome.settings.dump import settings_tree, settings_yaml
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings

FLAGS = {
    "redis.url": "redis://:hunter22@127.0.0.1:6379/0",
    "router.api_keys": ["rzk-secret"],
    "router.port": 8123,
    "models": [{"name": "m", "source": "demo:llama", "workers": 2}],
}


def asked() -> Settings:
    return load_settings(environment={}, flags=FLAGS)


def test_secrets_are_masked_unless_they_are_to_be_revealed() -> None:
    shown = settings_yaml(asked())
    assert "hunter22" not in shown
    assert "rzk-secret" not in shown
    revealed = settings_tree(asked(), reveal_secrets=True)
    assert revealed["redis"]["url"] == FLAGS["redis.url"]


def test_what_was_written_reads_as_the_same_settings(tmp_path: Path) -> None:
    for defaults in (True, False):
        file = tmp_path / "settings.yaml"
        file.write_text(settings_yaml(asked(), reveal_secrets=True, defaults=defaults))
        assert load_settings(file, environment={}) == asked()


def test_without_defaults_only_differences_are_written() -> None:
    tree = settings_tree(asked(), defaults=False)
    assert tree["router"] == {"port": 8123, "api_keys": ["***"]}
    assert "controller" not in tree
