from __future__ import annotations

import numpy as np

from common.messages import Item
from tokenizer_job.quality.samples import sample_prefixes
from tokenizer_job.quantizers.codebooks import ResidualCodebooks

MODEL = ResidualCodebooks(np.array([[[0.0], [100.0], [200.0]], [[0.0], [10.0], [20.0]]], np.float32))
SIDS = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [0, 2], [1, 0], [2, 2]], np.int32)
VECTORS = np.array([[101], [13], [9], [11], [20], [100], [220]], np.float32)
ITEMS = [Item(item_id=k, category="soap" if k in (1, 2) else "") for k in range(7)]


def test_the_largest_prefixes_come_first_with_their_most_central_items() -> None:
    found = sample_prefixes(MODEL, VECTORS, SIDS, ITEMS, prefixes=2, examples=2)
    assert [(prefix.codes, prefix.items) for prefix in found] == [((0,), 4), ((1,), 2)]
    assert [(child.codes, child.items) for child in found[0].children] == [((0, 1), 3), ((0, 2), 1)]
    central = [item.item_id for item in found[0].children[0].examples]
    assert central == [2, 3]  # 9 and 11 are both 1 away from 10: the earlier item first


def test_the_common_category_counts_items_that_have_one() -> None:
    first, second = sample_prefixes(MODEL, VECTORS, SIDS, ITEMS, prefixes=2)
    assert (first.category, first.category_share) == ("soap", 1.0)
    assert (second.category, second.category_share) == ("", 0.0)


def test_one_level_is_its_own_child() -> None:
    model = ResidualCodebooks(MODEL.codebooks[:1])
    found = sample_prefixes(model, VECTORS, SIDS[:, :1], ITEMS, prefixes=1)
    assert [child.codes for child in found[0].children] == [(0,)]
    assert len(found[0].children[0].examples) == 4


def test_an_appended_level_is_never_decoded() -> None:
    model = ResidualCodebooks(MODEL.codebooks[:1])
    found = sample_prefixes(model, VECTORS, SIDS, ITEMS, prefixes=1, children=1)
    assert found[0].children[0].codes == (0,)
