"""What looks like a model's decoder blocks."""

from methods.model.blocks import find_blocks
from methods.model.families import FAMILIES


def test_module_lists_with_the_same_matrices_are_blocks(family, make):
    shapes = {
        name: tuple(t.shape)
        for name, t in make(family).state_dict().items()
        if ".experts." not in name
    }

    first = find_blocks(shapes)[0]

    assert first.path == FAMILIES[family].blocks
    assert first.length == 3
    assert set(first.linears) == {*FAMILIES[family].linears, *FAMILIES[family].dense}


def test_the_list_with_most_weights_comes_first():
    shapes = {f"tower.layers.{i}.fc.weight": (4, 4) for i in range(3)}
    shapes |= {f"text.layers.{i}.{x}.weight": (8, 8) for i in range(2) for x in ("up", "down")}
    assert [str(b) for b in find_blocks(shapes)] == [
        "text.layers (2 with up, down)",
        "tower.layers (3 with fc)",
    ]


def test_members_that_differ_are_no_blocks():
    assert find_blocks({"list.0.a.weight": (4, 4), "list.1.b.weight": (4, 4)}) == []
    assert find_blocks({"list.0.norm.weight": (4,), "list.1.norm.weight": (4,)}) == []
