"""The description of a run: what it says at each end."""

import dataclasses
from pathlib import Path

import pytest

from facenet.tasks import job, page
from facenet.tracking.facts import RunFacts
from facenet.tracking.store import NOTE

PLAN = "plan\n  data         144 images\n  fingerprint  abc\n  batch        24 images a step\n  lr           0.001"


class Tags(dict):
    def tag(self, name, value):
        self[name] = value

    def close(self):
        self["closed"] = True


@pytest.fixture
def facts(tmp_path):
    params = {"backbone": "mobilenet_v1", "loss": "ce", "data": "folder", "optimizer": "adam", "schedule": "constant"}
    note = page.begun(params, PLAN, "facenet-train data.root=s3://me:hunter2@host", "git 0123456789ab")
    return RunFacts("n", tmp_path, {}, "", {}, {NOTE: note}, {}, select="lfw/accuracy")


def test_it_says_what_is_trained_and_how_to_repeat_it(facts):
    note = facts.tags[NOTE]
    assert note.startswith("**mobilenet_v1** with **ce** on **folder**") and "- batch: 24 images a step" in note
    assert (
        "fingerprint" not in note
        and "hunter2" not in note
        and "Repeat it: `facenet-train data.root=s3://***@host`\n" in note
    )
    assert note.endswith("Code: git 0123456789ab")


def test_at_the_end_it_says_what_came_of_it_and_what_to_type(facts):
    tags = Tags()
    (facts.run_dir / "lfw.json").write_text('{"num_pairs": 600}')
    with page.of_run(tags, facts) as result:
        result.update(
            {"metrics": {"lfw/accuracy": 0.9, "lfw/threshold": 1.25, "epoch": 3.0}, "checkpoint": "/x/best.pt"}
        )
    note = tags[NOTE]
    assert note.startswith("**lfw/accuracy 0.9000** (95 % interval 0.8734 – 0.9215), in epoch 3") and note.endswith(
        facts.tags[NOTE]
    )
    assert "\nTest it: `facenet-evaluate checkpoint=/x/best.pt`\n" in note
    assert "\nUse it: `facenet.load('/x/best.pt')`\n" in note and "\nThreshold: 1.2500; nearer" in note
    assert f"facenet-train resume={facts.run_dir}" in note and tags["closed"]


@pytest.mark.parametrize(("total", "key"), [(10, "max_steps"), (16, "epochs")])
def test_a_run_goes_on_by_what_ended_it(facts, total, key):
    tags, plan = Tags(), {"total_steps": total, "steps_per_epoch": 8, "epochs": 2}
    with page.of_run(tags, dataclasses.replace(facts, plan=plan)) as result:
        result.update({"metrics": {"epoch": 2.0}, "checkpoint": "/x/last.pt"})
    assert f"resume={facts.run_dir} trainer.{key}=N resume_changed=true" in tags[NOTE]
    told = job.summary({"metrics": {}, "checkpoint": "x"}, facts.run_dir, None, longer=page.longer_than(plan))
    assert f"resume={facts.run_dir} trainer.{key}=N resume_changed=true" in told


@pytest.mark.parametrize("error", [ValueError("no such device: tcp://a:hunter2@b"), KeyboardInterrupt()])
def test_a_run_that_did_not_finish_says_why_and_goes_on(facts, error):
    tags = Tags()
    (facts.run_dir / "checkpoints").mkdir()
    (facts.run_dir / "checkpoints" / "last.pt").touch()
    with pytest.raises(type(error)), page.of_run(tags, facts):
        raise error
    told = "no such device: tcp://***@b" if isinstance(error, ValueError) else "**Stopped**"
    assert told in tags[NOTE] and "hunter2" not in tags[NOTE]
    assert f"facenet-train resume={facts.run_dir}" in tags[NOTE]


def test_a_test_names_the_run_that_trained_and_takes_no_checkpoints_word_for_markdown():
    run_id = "0123456789abcdef" * 2
    note = page.of_test("/x/best.pt", run_id, "facenet-evaluate checkpoint=/x/best.pt")
    assert f"facenet-runs show {run_id}" in note and "/x/best.pt" in note
    assert "[click](http://evil)" not in page.of_test("/x/best.pt", "[click](http://evil)", "c")


def test_a_description_that_is_too_long_keeps_what_to_type(facts):
    class Tags(dict):
        tag = dict.__setitem__

        def close(self):
            pass

    tags = Tags()
    with pytest.raises(ValueError), page.of_run(tags, dataclasses.replace(facts, tags={NOTE: "x" * 7990})):
        raise ValueError("y" * 50)
    assert (
        tags[NOTE].startswith("**Failed**") and "the same command begins anew" in tags[NOTE] and len(tags[NOTE]) < 500
    )


def test_no_line_of_the_page_is_wider_than_its_column():
    """A block of code does not wrap there, and pushes what stands beside it out of the window."""
    note = page.stopped(Path("/x"), f"CUDA error: {'an illegal memory access ' * 8}\nsecond line")
    block = note.partition("```\n")[2].partition("\n```")[0]
    assert max(map(len, block.splitlines())) <= 60 and block.endswith("\nsecond line")
    assert " ".join(block.split()) == f"CUDA error: {'an illegal memory access ' * 8}second line"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("facenet-train a=1", "`facenet-train a=1`"),
        ("facenet-train 'a=`b``c'", "``` facenet-train 'a=`b``c' ```"),
        ("facenet-train 'a=b\nc'", "\n```\nfacenet-train 'a=b\nc'\n```"),
    ],
)
def test_a_command_is_code_whatever_is_in_it(command, shown):
    assert page.as_code(command) == shown
