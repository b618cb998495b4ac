from __future__ import annotations

import pytest
import torch

from difflab.nets.text import SmallText

WORDS = ("a", "red", "blue", "circle")


@pytest.fixture(scope="module")
def network() -> SmallText:
    torch.manual_seed(0)
    return SmallText(words=WORDS, width=16, depth=2, heads=2, length=6, targets={"colour": 3, "kind": 2}).eval()


def test_words_become_their_numbers_after_a_beginning(network):
    table, unknown = network.numbered(["a red circle", "A Blue, red. circle", ""])
    assert table.tolist() == [[1, 2, 3, 5, 0, 0], [1, 2, 4, 3, 5, 0], [1, 0, 0, 0, 0, 0]]
    assert unknown == []


def test_words_it_does_not_know_are_named_in_order(network):
    table, unknown = network.numbered(["a circle", "a dog and a cat"])
    assert unknown == ["dog", "and", "cat"]
    assert table[1].tolist() == [1, 2, 2, 0, 0, 0]


def test_what_is_longer_than_it_reads_is_cut(network):
    table, unknown = network.numbered(["a red a blue a circle a dog"])
    assert table.tolist() == [[1, 2, 3, 2, 4, 2]]
    assert unknown == ["dog"]


def test_padding_does_not_matter(network):
    table, _ = network.numbered(["a red circle"])
    whole, cut = network(table), network(table[:, :4])
    torch.testing.assert_close(whole.tokens[:, :4], cut.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.mean, cut.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.mean, whole.tokens[:, :4].mean(1), rtol=1e-4, atol=1e-5)
    for name, logits in whole.answers.items():
        torch.testing.assert_close(logits, network.heads[name](whole.mean))


def test_a_sentence_does_not_see_its_neighbours(network):
    table, _ = network.numbered(["a red circle", "circle", "a blue circle a red"])
    whole = network(table)
    for i in range(3):
        alone = network(table[i : i + 1])
        torch.testing.assert_close(alone.tokens[0], whole.tokens[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.mean[0], whole.mean[i], rtol=1e-4, atol=1e-5)


def test_order_of_words_matters(network):
    one, other = network(network.numbered(["a red blue", "a blue red"])[0]).mean
    assert not torch.allclose(one, other, atol=1e-4)
