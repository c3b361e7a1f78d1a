"""Secrets in options are refused, never shown, and nowhere on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from encdec_lightning.cli import check, prepare, train
from encdec_lightning.credentials import secret_in, without_secrets
from encdec_lightning.errors import UserError, reason

KEY = "hf_" + "a1B2" * 8
SECRETS = {  # option: value with a secret in it
    "task.train": "https://me:hunter2@example.org/train.jsonl",
    "task.validation": "https://example.org/v.jsonl?X-Amz-Signature=hunter2&x=1",
    "logger.wandb.api_key": "hunter2",
    "callbacks.mine.token": "hunter2",
    "model.encoder": f"/models/{KEY}",
}


@pytest.mark.parametrize(("option", "value"), SECRETS.items())
def test_a_secret_is_found_and_hidden(option: str, value: str) -> None:
    assert secret_in(option, value) is not None
    shown = str(UserError("option", value, "something else"))
    if option in ("task.train", "task.validation"):
        assert "hunter2" not in shown and "***" in shown
    assert KEY not in shown


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
    ],
)
def test_what_is_no_secret_stays(option: str, value: object) -> None:
    assert secret_in(option, value) is None
    assert without_secrets(str(value)) == str(value)


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
