"""What a method may follow: it says so itself, and capabilities imply the rest."""

from dataclasses import dataclass

import pytest

from methods.contract.errors import UserError
from methods.contract.info import Adds, Chain, Does, Link, MethodInfo, Removes, Rule
from methods.contract.pattern import Pattern
from methods.contract.rules import (
    CalibratedBy,
    GroupsOnly,
    SameBlocks,
    SameOutputs,
    SingleWeights,
    TurnsBasis,
    WholeGroups,
    refusal,
)


def link(name, does=Does.PRUNES, trains=False, settings=None, **fields):
    return Link(name, name, MethodInfo(does=does, **fields), settings or {}, trains)


def chain(*links):
    out = Chain()
    for each in links:
        out = out.then(each)
    return out


def remover(axis):
    removes, settings = (Removes(axis, ("few", "share")),), {"share": "25%", "few": None}
    return link("cut", Does.REMOVES, removes=removes, settings=settings)


PRUNER = link("prune")
ADDS = {"does": Does.ADDS, "adds": Adds("rank", rounded="int")}
TERM = link("term", **ADDS, settings={"rank": 16})
ROUNDED = link("term", **ADDS, settings={"rank": "10%", "int": "int4"})
TRAINER = link("train", Does.KEEPS_MASK | Does.REFINES)
TURNER = link("turn", Does.KEEPS_FUNCTION, rules=(TurnsBasis("all"),), settings={"all": True})
HIDDEN = link("train", Does.KEEPS_MASK, trains=True, settings={"hidden": 1.0})
SAME = link("same", rules=(SameBlocks(),))
OUTPUTS = link("outputs", Does.KEEPS_MASK, rules=(SameOutputs(),))


@pytest.mark.parametrize(
    ("links", "pattern", "beside", "own"),
    [
        ((), "dense", "", None),
        ((link("control", Does.CONTROL), TURNER), "dense", "", ""),
        ((PRUNER, TRAINER), "", "", ""),
        ((remover("units"),), "cut 25%", "", "cut 25%"),
        ((remover("units"), TRAINER), "cut 25%", "", "cut 25%"),
        ((remover("units"), PRUNER, TRAINER), "", "", ""),
        ((PRUNER, TERM), "", " + r16", ""),
        ((PRUNER, ROUNDED), "", " + 10%", ""),
    ],
)
def test_a_chain_knows_its_pattern(links, pattern, beside, own):
    made = chain(*links)
    assert (made.pattern, made.beside) == (pattern, beside)
    assert own is None or made.own_pattern == own


@pytest.mark.parametrize(
    ("links", "own", "why"),
    [
        ((PRUNER,), TURNER, "turn must come before pruning"),
        ((TURNER,), TRAINER, "train needs a pruned model"),
        ((TURNER, PRUNER), TRAINER, None),
        ((PRUNER,), remover("units"), "cut must come first"),
        ((TURNER,), remover("units"), None),
        ((PRUNER, TERM), PRUNER, "use it before term, term:from=prune"),
        ((PRUNER, TERM), TRAINER, None),
        ((PRUNER, ROUNDED), TRAINER, "train would change the factors that term has rounded"),
        ((remover("blocks"),), HIDDEN, "cut removes blocks: leave hidden out"),
        ((remover("channels"),), HIDDEN, "cut removes channels: leave hidden out"),
        ((remover("heads"),), HIDDEN, None),
        ((remover("heads"),), SAME, "and cut changes them: use recon or retrain in place of same"),
        ((remover("blocks"),), OUTPUTS, None),
        ((remover("channels"),), OUTPUTS, "cut removes channels: use retrain in place of outputs"),
        ((PRUNER, TURNER), SAME, "put turn first, prune:from=turn"),
        ((TURNER, PRUNER), SAME, None),
    ],
)
def test_capabilities_and_rules_say_what_a_method_may_follow(links, own, why):
    reason = refusal(own, chain(*links))
    assert (reason is None) == (why is None)
    assert why is None or why in reason


@dataclass(frozen=True)
class Alone(Rule):
    """A rule of an author."""

    def follows(self, own, chain):
        return f"{own.name} runs alone" if chain.links else None


def test_an_author_can_write_a_rule():
    own = link("alone", rules=(Alone(),))
    assert refusal(own, Chain()) is None
    assert refusal(own, chain(PRUNER)) == "alone runs alone"


def test_a_rule_limits_patterns_and_needs():
    own = link("mine", settings={"block": 128, "file": ""})

    GroupsOnly().takes(own, Pattern.parse("2:4"))
    GroupsOnly(unless="file").takes(link("mine", settings={"file": "x"}), Pattern.parse("50%"))
    WholeGroups("block").takes(own, Pattern.parse("2:4"))
    with pytest.raises(UserError, match="mine needs an n:m pattern"):
        GroupsOnly(unless="file").takes(own, Pattern.parse("50%"))
    with pytest.raises(UserError, match="or mine:block=N with a multiple of 3"):
        WholeGroups("block").takes(own, Pattern.parse("2:3"))
    SingleWeights().takes(own, Pattern.parse("2:4"))
    with pytest.raises(UserError, match="mine keeps or removes single weights, and pairs:4:8"):
        SingleWeights().takes(own, Pattern.parse("pairs:4:8"))
    assert CalibratedBy(("steps", "pca")).waives({"steps": 0}) == ("calibration",)
    assert CalibratedBy(("steps", "pca")).waives({"pca": True}) == ()
