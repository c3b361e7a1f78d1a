"""Secrets in options are refused, never shown, and nowhere on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from encdec_lightning.cli import check, prepare, train
from encdec_lightning.credentials import secret_in, secrets_of, without_secrets
from encdec_lightning.errors import UserError, reason
from encdec_lightning.launch.processes import keep_traceback
from encdec_lightning.run import Run

KEY = "hf_" + "a1B2" * 8
SECRETS = {  # option: value with a secret in it
    "task.train": "https://me:hunter2@example.org/train.jsonl",
    "task.validation": "https://example.org/v.jsonl?X-Amz-Signature=hunter2&x=1",
    "logger.wandb.api_key": "hunter2",
    "callbacks.mine.token": "hunter2",
    "model.encoder": f"/models/{KEY}",
    "task.test": "https://hunter2@example.org/x.jsonl",
    "task.a": "https://example.org/x#access_token=hunter2",
    "task.b": "https://example.org/x?auth=hunter2",
    "task.c": "https://example.org/x?key=hunter2hunter2hunter2",
    "task.d": "git+https://hunter2@example.org/x",
    "data.a": "github_pat_" + "a1B2" * 8,
    "data.b": "sk-proj-" + "a1B2" * 10,
    "data.c": "xoxb-123456789-abcdefghij",
    "data.d": "ASIAIOSFODNN7EXAMPLE",
    "data.e": "Bearer a1B2a1B2a1B2",
    "data.f": "-----BEGIN RSA PRIVATE KEY-----\na1B2",
    "logger.a.secretAccessKey": "hunter2",
    "logger.a.api-key": "hunter2",
    "logger.a.private_key": "hunter2",
    "logger.a.headers.Authorization": "hunter2",
    "logger.a.pwd": "hunter2",
}


@pytest.mark.parametrize(("option", "value"), SECRETS.items())
def test_a_secret_is_found_and_hidden(option: str, value: str) -> None:
    assert secret_in(option, value) is not None
    for shown in (
        str(UserError(option, value, "something else")),
        str(UserError("x", 1, f"it was {option}={value} here")),
    ):
        assert "hunter2" not in shown and "a1B2" not in shown and "***" in shown


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("task.train", "https://example.org/a.jsonl?download=true"),
        ("task.train", "ssh://me@example.org/a.jsonl"),
        ("task.train", "s3://bucket/key=1/token/a.jsonl"),
        ("data.batch_tokens", 100),
        ("task.monitor", "val/token_accuracy"),
        ("model.encoder", "org/hf_model"),
        ("logger.wandb.project", "secrets"),
        ("model.encoder", "/models/sk-slovak-bert-base-uncased-v2-and-more"),
        ("task.train", "https://example.org/a.jsonl?key=1&code=en"),
        ("task.train", f"hub:a/b@{'0123456789abcdef' * 2}01234567:c:train"),
        ("task.monitor_mode", "max"),
        ("callbacks.a.mask_token", 5),
        ("callbacks.a.key", "val/loss"),
        ("callbacks.a.author", "me"),
    ],
)
def test_what_is_no_secret_stays(option: str, value: object) -> None:
    assert secret_in(option, value) is None
    assert without_secrets(str(value)) == str(value)


def test_what_the_environment_holds_is_hidden_and_no_option(monkeypatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "0123456789abcdef")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    assert secret_in("logger.mine.text", "x-0123456789abcdef") == "a key"
    assert without_secrets("it refuses 0123456789abcdef") == "it refuses ***"
    assert without_secrets("a") == "a"


def test_passwords_of_numbers_and_in_lists() -> None:
    assert secret_in("logger.a.password", 123456) == "a secret"
    assert secrets_of({"a": {"passwords": 1, "token": ["hunter2"], "b": [{"c": "https://a:b@c"}]}}) == {
        "a.token": "a secret",
        "a.b.0.c": "a password",
    }


@pytest.mark.parametrize(
    "line",
    ["logger.csv.password=hunter2", "callbacks.best.api_key=hunter2", "pasword.token=hunter2", "seed={token=hunter2"],
)
def test_an_option_that_is_wrong_for_another_reason_is_not_shown(line, files: tiny.Files, in_tmp: Path, capsys) -> None:
    assert train.main([*files.overrides("debug=step"), line]) == 2
    said = capsys.readouterr()
    assert said.err and "hunter2" not in said.err + said.out


def test_a_traceback_is_kept_without(tmp_path: Path) -> None:
    try:
        raise OSError("cannot open https://me:hunter2@example.org/x")
    except OSError as error:
        kept = keep_traceback(Run.create(tmp_path / "run", {}, "abc"), error)
    assert "OSError: cannot open https://***@example.org/x" in kept.read_text()


def test_no_file_of_a_run_holds_what_is_in_the_environment(files: tiny.Files, in_tmp: Path, monkeypatch) -> None:
    """wandb writes down the command and the options, in text and in its own format."""
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2x" * 5)
    more = ["logger=wandb", "logger.wandb.offline=true", "task.metrics=[exact_match]", "folder=run"]
    assert train.main(files.overrides("debug=step", *more)) == 0
    written = [file for file in in_tmp.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in written)
    assert not [file for file in written if b"hunter2" in file.read_bytes()]


def test_percent_signs_are_hidden_with_the_rest() -> None:
    assert without_secrets("https://a/b?sig=x%2Fy%3D&n=1") == "https://a/b?sig=***&n=1"


def test_a_librarys_error_is_cleaned_too() -> None:
    assert "hunter2" not in reason(OSError("cannot open https://me:hunter2@example.org/x"))


@pytest.mark.parametrize("command", [train, check, prepare])
def test_commands_refuse_secrets_and_keep_none(files: tiny.Files, in_tmp: Path, capsys, command) -> None:
    given = [each for each in files.overrides("debug=step") if not each.startswith(("task.train", "folder="))]
    secret = [f"task.train={SECRETS['task.train']}", "logger=wandb", "+logger.wandb.api_key=hunter2"]
    assert command.main([*given, *secret]) == 2
    said = capsys.readouterr()
    assert "task.train is '***': it holds a password" in said.err
    assert "logger.wandb.api_key is '***': it holds a secret" in said.err
    assert "hunter2" not in said.err + said.out
    assert not any(b"hunter2" in file.read_bytes() for file in in_tmp.rglob("*") if file.is_file())


def test_cfg_shows_no_secret(files: tiny.Files, in_tmp: Path, capsys) -> None:
    assert (
        train.main(
            [*files.overrides("debug=step"), "--cfg", "callbacks.mine={_target_: lightning.Callback, token: hunter2}"]
        )
        == 2
    )
    assert "hunter2" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "text", ["x" * 300_000, "x.-" * 100_000, "http" * 80_000, "x://" + "a" * 200_000, "a@" * 100_000]
)
def test_long_texts_take_no_time_to_speak_of(text):
    """Minutes, where a pattern is tried from each letter of a word anew."""
    assert secret_in("task.train", text) is None
    assert without_secrets(text) == text


def test_folders_that_a_shell_keeps_in_the_environment_are_no_secrets(tmp_path, monkeypatch):
    """PWD is where a user works: paths in it are in most options."""
    key = tmp_path / "account.json"
    key.write_text("{}")
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("OLDPWD", "/somewhere/that/is/gone")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv("DATABASE_PWD", "hunter2hunter2")
    monkeypatch.setenv("MY_TOKEN", "/aGVsbG8gd29ybGQ/no+path")
    for text in (f"{tmp_path}/train.jsonl", str(key), "/somewhere/that/is/gone/run"):
        assert secret_in("task.train", text) is None and without_secrets(text) == text
    assert secret_in("task.train", "/aGVsbG8gd29ybGQ/no+path") == "a key"
    assert secret_in("task.train", "/home/me/hunter2hunter2") == "a key"
