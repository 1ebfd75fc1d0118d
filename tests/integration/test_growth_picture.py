"""The picture and the table of growth."""

SCRIPT = "growth_picture"


def test_both_say_the_bars(script):
    svg, table = script.growth_picture(), script.growth()
    for command, (bar, what) in script.BARS.items():
        assert f"dotted: {bar} s, the bar for {what}" in svg
        assert f"| `bench {command}` of {what}, seconds of CPU | {bar} |" in table
    assert svg.count(": stopped</title>") == 2, "the older report ended at its limit, cold and warm"
