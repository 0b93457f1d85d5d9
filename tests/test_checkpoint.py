"""Checkpoints: whole or not at all, of the same job or refused."""

import pytest
import torch

from fieldpress.fitting import load_checkpoint, save_checkpoint

ABOUT = {"budget": 100, "views": 7}


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "x.checkpoint"
    state = {"number": 3, "params": {"means": torch.rand(4, 3)}, "order": [2, 0]}
    save_checkpoint(path, state, ABOUT)
    found = load_checkpoint(path, ABOUT)
    assert found["number"] == 3
    assert found["order"] == [2, 0]
    assert torch.equal(found["params"]["means"], state["params"]["means"])
    assert [p.name for p in tmp_path.iterdir()] == ["x.checkpoint"]


def test_another_job_is_named(tmp_path):
    path = tmp_path / "x.checkpoint"
    save_checkpoint(path, {}, ABOUT)
    with pytest.raises(ValueError, match=r"views was 7, now 8"):
        load_checkpoint(path, {**ABOUT, "views": 8})


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_damage_is_one_line(tmp_path, cut):
    path = tmp_path / "x.checkpoint"
    save_checkpoint(path, {"a": torch.rand(9)}, ABOUT)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"x\.checkpoint: not a checkpoint"):
        load_checkpoint(path, ABOUT)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    path = tmp_path / "x.checkpoint"
    torch.save({"format": 1, "about": ABOUT, "state": Evil()}, path)
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_checkpoint(path, ABOUT)


def test_no_file_and_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none", ABOUT)
    with pytest.raises(ValueError, match="cannot write"):
        save_checkpoint(tmp_path / "none" / "x", {}, ABOUT)
