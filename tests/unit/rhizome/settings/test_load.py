"""Settings: where values come from, which one wins, and how a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhizome.errors import SettingsError
from rhizome.settings.load import environment_copy, load_settings
from rhizome.settings.tree import Settings


def a_file(directory: Path, text: str) -> Path:
    path = directory / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(text: str | None = None, directory: Path | None = None, **more: dict[str, str]) -> str:
    """The message with which settings are refused."""
    file = a_file(directory, text) if directory is not None and text is not None else None
    with pytest.raises(SettingsError) as error:
        load_settings(file, **{"environment": {}, **more})
    assert error.value.advice
    return error.value.message


def test_nothing_given_means_the_defaults() -> None:
    assert load_settings(environment={}) == Settings()
    assert load_settings(environment={}, flags={"router.port": None}) == Settings()


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = a_file(tmp_path, "router: {port: 1, host: a, metrics_port: 1}\nname: file\n")
    settings = load_settings(
        file,
        environment={"RHIZOME_ROUTER__PORT": "2", "RHIZOME_ROUTER__METRICS_PORT": "2"},
        flags={"router.port": 3},
    )
    router = settings.router
    assert (router.port, router.metrics_port, router.host) == (3, 2, "a")
    assert settings.name == "file"


def test_the_environment_holds_yaml_scalars() -> None:
    settings = load_settings(
        environment={
            "RHIZOME_ROUTER__ALLOW_ANONYMOUS": "true",
            "RHIZOME_ROUTER__WORKERS": "[http://a:1, http://b:2]",
            "RHIZOME_ROUTER__SCHEDULING__SEED": "7",
            "OTHER_ROUTER__PORT": "9",
            "rhizome_router__port": "9",
        }
    )
    assert settings.router.allow_anonymous is True
    assert settings.router.workers == ("http://a:1", "http://b:2")
    assert settings.router.scheduling.seed == 7
    assert settings.router.port == Settings().router.port


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_settings(a_file(tmp_path, "# nothing\n"), environment={}) == Settings()


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("rooter: {port: 1}", "rooter", "router"),
        ("router: {prot: 1}", "router.prot", "port"),
        ("router: {scheduling: {polisy: cost}}", "router.scheduling.polisy", "policy"),
        ("models: [{name: m, source: s, worker: 1}]", "models.0.worker", "workers"),
        (
            "models: [{name: m, source: s, parallel: {tensors: 2}}]",
            "models.0.parallel.tensors",
            "tensor",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    tmp_path: Path, text: str, key: str, nearest: str
) -> None:
    message = refused(text, tmp_path)
    assert f"{key}: unknown setting" in message
    assert f"{nearest!r}" in message


def test_an_unknown_variable_is_named_too() -> None:
    message = refused(environment={"RHIZOME_ROUTER__POTR": "1"})
    assert "router.potr: unknown setting; the nearest known one is 'port'" in message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("router: {port: 70000}", "router.port"),
        ("router: {port: http}", "router.port"),
        ("router: {scheduling: {policy: best}}", "router.scheduling.policy"),
        ("models: [{name: m}]", "models.0.source"),
        ("models: [{name: m, source: s, workers: 3, scaling: {max_workers: 2}}]", "models.0"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(tmp_path: Path, text: str, key: str) -> None:
    assert f"  {key}: " in refused(text, tmp_path)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    message = refused("router: {port: x, prot: 1}\nlogs: {level: loud}", tmp_path)
    assert message.count("\n") == 3


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    text = "models: [{name: m, source: a}, {name: m, source: b}]"
    assert "two models share the name 'm'" in refused(text, tmp_path)


@pytest.mark.parametrize("text", ["- a\n", "just text", "a: [", "a: \x00"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    assert "settings.yaml" in refused(text, tmp_path)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(SettingsError, match=path.name):
            load_settings(path, environment={})
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SettingsError, match=r"latin\.yaml"):
        load_settings(tmp_path / "latin.yaml", environment={})


def test_a_refusal_does_not_show_a_secret() -> None:
    message = refused(environment={"RHIZOME_REDIS": "{url: {password: hunter22}}"})
    assert "redis.url" in message
    assert "hunter22" not in message


def test_secrets_are_not_shown_when_settings_are_printed() -> None:
    settings = load_settings(environment={"RHIZOME_REDIS__URL": "redis://:hunter22@host/0"})
    assert "hunter22" not in repr(settings)
    assert settings.redis.url is not None
    assert settings.redis.url.get_secret_value() == "redis://:hunter22@host/0"


def test_the_environment_is_copied_for_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHIZOME_ROUTER__PORT", "4242")
    copy = environment_copy()
    assert copy["RHIZOME_ROUTER__PORT"] == "4242"
    copy.clear()
    assert load_settings().router.port == 4242
