"""README says what the recordings say, to the letter."""

import pytest

from helpers.comparisons import made_collapse
from moeviz.experiments import readme
from moeviz.experiments.cures import SETTINGS


@pytest.mark.parametrize("name", readme.PARTS)
def test_the_parts_that_are_written_are_those_of_now(name):
    text = readme.README.read_text(encoding="utf-8")
    assert readme.renewed(text, name, readme.part(name)) == text


def test_a_part_is_put_between_its_markers_alone():
    text = "a\n<!-- cures: made by python -m moeviz.experiments.readme -->\nold\n<!-- end -->\nb\n"
    assert readme.renewed(text, "cures", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="no markers of the part 'race'"):
        readme.renewed(text, "race", "new")


def test_every_setting_whose_loss_may_be_compared_is_a_row():
    table = readme.cures_table(made_collapse(losses={"hash": -0.25}))
    rows = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("| ")}
    assert {*rows} == {*SETTINGS} - {"nothing, warm restarts"} | {"setting", "-"}
    wanted = "| hash | 0 of 3 | 1.0 ± 0.0 | 5.0 ± 0.0 | -0.250 (-0.250 to -0.250), lower |"
    assert rows["hash"].startswith(wanted) and "\n\n3 seeds, 300 steps." in table
