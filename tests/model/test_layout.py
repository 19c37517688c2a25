"""Layouts: positions, visibility and experts of chains and trees."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from irg_rl.model.layout import Kind, Layout, Tokens, Visibility


def _tokens(layout: Layout, block: int) -> slice:
    b = layout.blocks[block]
    return slice(b.offset, b.offset + b.tokens)


def test_the_worked_example_of_a_refined_image():
    """Appendix A of the reference at full size: 40, 300 and 600 text tokens, a 1024 x 1024 image."""
    row = Layout()
    prompt = row.add(Kind.TEXT, 40)
    think1 = row.add(Kind.TEXT, 300, prompt)
    clean = row.add(Kind.CLEAN, 4096, think1)
    vit = row.add(Kind.VIT, 4900, clean)
    think2 = row.add(Kind.TEXT, 600, vit)
    noise = row.add(Kind.NOISE, 4096, think2)
    assert [row.blocks[b].start for b in (prompt, think1, clean, vit, think2, noise)] == [0, 42, 344, 345, 346, 948]
    assert row.tokens == 14_044
    positions = row.positions()
    assert positions[_tokens(row, think2)].tolist() == list(range(346, 948))
    assert positions[_tokens(row, noise)].unique().tolist() == [948]


@pytest.mark.parametrize(("kind", "moved"), [(Kind.TEXT, 7), (Kind.CLEAN, 1), (Kind.VIT, 1), (Kind.NOISE, 0)])
def test_what_follows_a_block_moves_by_a_text_in_tokens_by_an_image_by_one_and_by_noise_not_at_all(kind, moved):
    """Change: the noise of an image moved what follows it. At inference nothing does: the clean image takes its
    place."""
    row = Layout()
    block = row.blocks[row.add(kind, 5, row.add(Kind.TEXT, 3))]
    assert (block.start, block.next_position) == (5, 5 + moved)


def test_boundary_tokens_of_images_belong_to_the_understanding_expert():
    row = Layout()
    text = row.add(Kind.TEXT, 1)
    row.add(Kind.NOISE, 2, row.add(Kind.VIT, 1, row.add(Kind.CLEAN, 2, text)))
    assert Tokens([row]).is_latent.astype(int).tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0]


def test_nothing_may_continue_a_noise_block():
    row = Layout()
    noise = row.add(Kind.NOISE, 4, row.add(Kind.TEXT, 2))
    with pytest.raises(ValueError, match="NOISE"):
        row.add(Kind.TEXT, 2, noise)


def test_a_parent_must_stand_in_the_row():
    with pytest.raises(ValueError, match="parent 3"):
        Layout().add(Kind.TEXT, 2, 3)


def test_siblings_share_a_prefix_but_not_each_other():
    row = Layout()
    prompt = row.add(Kind.TEXT, 3)
    left, right = row.add(Kind.TEXT, 2, prompt), row.add(Kind.TEXT, 5, prompt)
    visible = row.visibility()
    assert row.blocks[left].start == row.blocks[right].start == 5
    assert visible[_tokens(row, right), _tokens(row, prompt)].all()
    assert not visible[_tokens(row, right), _tokens(row, left)].any()


def test_a_last_image_history_skips_the_images_between():
    """A refined image re-parented on the first think text: reflection 2 sees it, but not image 1 or reflection 1."""
    row = Layout()
    think = row.add(Kind.TEXT, 4, row.add(Kind.TEXT, 2))
    first = row.add(Kind.VIT, 2, row.add(Kind.CLEAN, 2, think))
    reflection1 = row.add(Kind.TEXT, 3, first)
    second = row.add(Kind.VIT, 2, row.add(Kind.CLEAN, 2, think))
    reflection2 = row.add(Kind.TEXT, 3, second)
    visible = row.visibility()[_tokens(row, reflection2)]
    assert visible[:, _tokens(row, think)].all() and visible[:, _tokens(row, second)].all()
    assert not visible[:, _tokens(row, first)].any() and not visible[:, _tokens(row, reflection1)].any()
    assert row.blocks[reflection1].start == row.blocks[reflection2].start


@st.composite
def _rows(draw) -> Layout:
    row = Layout()
    for index in range(draw(st.integers(1, 8))):
        parents = [None] + [i for i in range(index) if row.blocks[i].kind is not Kind.NOISE]
        row.add(draw(st.sampled_from(Kind)), draw(st.integers(0, 4)), draw(st.sampled_from(parents)))
    return row


@settings(max_examples=60, deadline=None)
@given(_rows())
def test_a_token_sees_its_ancestors_and_its_own_block(row):
    """The rule itself, token by token, against the vectorised masks; nothing outside a noise block sees into it."""
    owner = [b for b, block in enumerate(row.blocks) for _ in range(block.tokens)]
    lineages = []
    for index, block in enumerate(row.blocks):
        lineages.append({index} | (set() if block.parent is None else lineages[block.parent]))
    visible = row.visibility()
    for query in range(row.tokens):
        for key in range(row.tokens):
            own = owner[query] == owner[key]
            causal = row.blocks[owner[query]].kind is Kind.TEXT
            expected = (not causal or key <= query) if own else owner[key] in lineages[owner[query]]
            assert visible[query, key] == expected
            assert own or row.blocks[owner[key]].kind is not Kind.NOISE or not visible[query, key]


@settings(max_examples=20, deadline=None)
@given(st.lists(_rows(), min_size=1, max_size=4))
def test_padding_sees_itself_alone_and_is_seen_by_no_one(rows):
    dense = Visibility.of(rows).dense()
    for row, visible in zip(rows, dense):
        assert torch.equal(visible[: row.tokens, : row.tokens], row.visibility())
        assert not visible[: row.tokens, row.tokens :].any() and not visible[row.tokens :, : row.tokens].any()
        assert visible[row.tokens :, row.tokens :].all()
