from methods.contract.errors import first_line


def test_a_fault_without_words_has_the_name_of_its_class():
    assert [first_line(ValueError(text)) for text in ("why\nmore", "\nwhy", "", "\n")] == [
        "why",
        "why",
    ] + 2 * ["ValueError"]
