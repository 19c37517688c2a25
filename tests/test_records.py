"""Groups that went through a folder are the groups themselves."""

import json
from dataclasses import fields

import pytest
import torch

from irg_rl.errors import InputError
from irg_rl.records import (
    TENSORS,
    WORDS,
    for_looking,
    group_folders,
    load_groups,
    look_folder,
    save_groups,
    step_folder,
)
from irg_rl.trajectory import Group
from tests.learner.world import make_world


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("tokenizer"))
    drawn = world.sample(4)
    drawn[1].segments[:2] = drawn[0].segments[:2]  # siblings that share the first turn
    for trajectory in drawn:
        trajectory.rewards = {"verifier": [0.1 + 0.2, None, 1.0][: trajectory.turns]}
        trajectory.version, trajectory.digest = 3, "abc"
    drawn[2].segments[0].advantage = None
    return [Group(7, drawn[0].prompt, drawn[:2], 3), Group(9, drawn[0].prompt, drawn[2:], 3)]


def same(one, other) -> bool:
    return torch.equal(one, other) and one.dtype == other.dtype if isinstance(one, torch.Tensor) else one == other


def test_everything_comes_back_as_it_was(groups, tmp_path):
    save_groups(tmp_path / "step", groups)
    again = load_groups(tmp_path / "step")
    for group, copy in zip(groups, again, strict=True):
        assert (group.id, group.prompt, group.version) == (copy.id, copy.prompt, copy.version)
        for trajectory, its in zip(group.trajectories, copy.trajectories, strict=True):
            for name in ("prompt", "sample", "history", "stopped", "version", "digest", "law", "rewards"):
                assert getattr(trajectory, name) == getattr(its, name), name
            for segment, read in zip(trajectory.segments, its.segments, strict=True):
                assert type(segment) is type(read)
                assert all(same(getattr(segment, f.name), getattr(read, f.name)) for f in fields(segment))


def test_what_siblings_share_is_one_object_and_written_once(groups, tmp_path):
    save_groups(tmp_path / "step", groups)
    first, second = load_groups(tmp_path / "step")[0].trajectories
    assert first.segments[0] is second.segments[0] and first.segments[1] is second.segments[1]
    assert first.segments[2] is not second.segments[2]
    total = sum(len(t.segments) for group in groups for t in group.trajectories)
    assert len(json.loads((tmp_path / "step" / WORDS).read_text())["segments"]) == total - 2


def test_a_folder_is_replaced_whole(groups, tmp_path):
    place = step_folder(tmp_path, 3)
    save_groups(place, groups)
    save_groups(place, groups[:1])
    assert len(load_groups(place)) == 1
    assert [path.name for path in place.parent.iterdir()] == ["step-000003"]


@pytest.mark.parametrize("name", [WORDS, TENSORS])
def test_a_truncated_file_is_one_clear_error(groups, tmp_path, name):
    save_groups(tmp_path / "step", groups)
    file = tmp_path / "step" / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match="no readable groups"):
        load_groups(tmp_path / "step")


def test_another_format_is_refused(groups, tmp_path):
    save_groups(tmp_path / "step", groups)
    file = tmp_path / "step" / WORDS
    file.write_text(file.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(InputError, match="format 9, this version reads 1"):
        load_groups(tmp_path / "step")


def test_a_look_keeps_what_a_reader_sees_and_nothing_that_training_needs(groups, tmp_path):
    save_groups(look_folder(tmp_path, 10), for_looking(groups, 4, 2**20))
    again = load_groups(look_folder(tmp_path, 10))
    assert [group.id for group in again] == [7, 9]
    for group, copy in zip(groups, again, strict=True):
        for trajectory, its in zip(group.trajectories, copy.trajectories, strict=True):
            assert its.law is None and its.rewards == trajectory.rewards and its.stopped == trajectory.stopped
            for text, read in zip(trajectory.texts, its.texts, strict=True):
                assert (read.text, read.advantage, read.finished) == (text.text, text.advantage, text.finished)
            for image, read in zip(trajectory.images, its.images, strict=True):
                assert torch.equal(image.pixels, read.pixels) and read.advantage == image.advantage
                assert read.x.numel() == read.latent.numel() == read.mean.numel() == 0 and read.drawn is None
    first, second = again[0].trajectories
    assert first.segments[0] is second.segments[0] and first.segments[2] is not second.segments[2]


def test_a_look_leaves_the_groups_of_the_run_as_they_are(groups):
    before = groups[0].trajectories[0].images[0].x.clone()
    for_looking(groups, 4, 2**20)
    assert torch.equal(groups[0].trajectories[0].images[0].x, before) and groups[0].trajectories[0].law is not None


def test_a_look_has_as_many_groups_as_its_bytes_allow(groups):
    sizes = [
        sum(image.pixels.numel() for image in group.images)
        + sum(len(s.text.encode()) for s in group.segments if s.modality == "text")
        for group in groups
    ]
    assert [g.id for g in for_looking(groups, 4, sum(sizes))] == [7, 9]
    assert [g.id for g in for_looking(groups, 4, sum(sizes) - 1)] == [7]
    assert for_looking(groups, 4, sizes[0] - 1) == []
    assert [g.id for g in for_looking(groups, 1, 2**20)] == [7]


def test_training_from_the_folder_of_a_run_does_not_find_its_looks(groups, tmp_path):
    save_groups(look_folder(tmp_path, 10), for_looking(groups, 4, 2**20))
    with pytest.raises(InputError, match="no groups"):
        group_folders(tmp_path)
    save_groups(step_folder(tmp_path, 1), groups)
    assert group_folders(tmp_path) == [step_folder(tmp_path, 1)]
    assert group_folders(tmp_path / "looks") == [look_folder(tmp_path, 10)]
