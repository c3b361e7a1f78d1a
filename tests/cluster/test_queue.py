"""What is made of the answers of Slurm's commands, which are stood in for; no Slurm is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from encdec_lightning.cluster import queue
from encdec_lightning.errors import UserError

Answers = Callable[..., list[tuple[str, ...]]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Sets what the next commands answer in the job 7; gives the list of those that are asked from then on."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(queue.shutil, "which", lambda name: f"/bin/{name}")

    def answers(out: str = "", err: str = "", code: int = 0) -> list[tuple[str, ...]]:
        asked: list[tuple[str, ...]] = []
        done = SimpleNamespace(stdout=out, stderr=err, returncode=code)
        monkeypatch.setattr(queue, "_asked", lambda *command: asked.append(command) or done)
        return asked

    return answers


def test_a_job_is_queued_again_unless_it_does_not_get_on(answers: Answers, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(queue.REQUEUES, "2")
    asked = answers()
    record = tmp_path / "slurm" / "idle"
    assert [queue.requeue(record, progress=False) for _ in range(3)] == ["the job 7 is queued again"] * 3
    assert asked == [("scontrol", "requeue", "7")] * 3
    assert "4 starts of the job have left no checkpoint" in queue.requeue(record, progress=False)
    assert len(asked) == 3 and not record.exists()
    queue.requeue(record, progress=False)
    queue.requeue(record, progress=True)
    assert record.read_text() == "" and len(asked) == 5


def test_a_job_is_queued_again_as_often_as_the_option_says(answers: Answers, tmp_path: Path, monkeypatch) -> None:
    asked = answers()
    monkeypatch.setenv(queue.REQUEUES, "2")
    for count in ("0", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        assert queue.requeue(tmp_path / "idle", progress=True) == "the job 7 is queued again"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    said = queue.requeue(tmp_path / "idle", progress=True)
    assert said == "the job was queued again 2 times, and slurm.requeues is 2" and len(asked) == 2


def test_what_slurm_answers_to_a_task_that_is_to_be_queued_again(answers: Answers, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(queue.REQUEUES, "2")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    asked = answers(err="no\nJob is pending execution", code=1)
    assert queue.requeue(tmp_path / "idle", progress=True) == "the job 9_3 is queued again"
    assert asked == [("scontrol", "requeue", "9_3")]
    answers(err="Access denied", code=1)
    assert queue.requeue(tmp_path / "idle", progress=True) == "the job cannot be queued again (Access denied)"


def test_the_jobs_that_wait_or_run(answers: Answers) -> None:
    answers(out="7\n8_1\n")
    assert queue.in_queue(["7", "8_1", "8_2"]) == {"7", "8_1"}


@pytest.mark.parametrize(
    ("told", "preempted"), [("PreemptTime=None", False), ("PreemptTime=2026-01-01T00:00:00", True), ("", False)]
)
def test_whether_a_job_is_preempted(told: str, preempted: bool, answers: Answers) -> None:
    answers(out=f"JobState=RUNNING {told} X=1")
    assert queue.is_preempted() is preempted


def test_the_largest_array_of_a_site(answers: Answers) -> None:
    answers(out="MaxArraySize            = 4\n")
    queue.check_array(4)
    with pytest.raises(UserError, match="at most 4"):
        queue.check_array(5)
